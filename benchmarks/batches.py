"""Measurements beside `rdmatensor bench`: many small copies in one call, the arena, and whether memory grows.

    python benchmarks/batches.py [--json NAME] [--quick]

Two processes of one host; ours and the C floor take turns on the same memory, which is the peer's region as this
process maps it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import measure
import numpy as np

import rdmatensor as rt
from rdmatensor.bench import native

MANY, MANY_SIZE = 10_000, 256
REGION = 4 << 20
FLAG = REGION - 64  # on a cache line of its own, in the peer's memory


def peer(url: str) -> None:
    """The passive side: publishes a region and says whether it holds what was sent."""
    with rt.Device(url) as device:
        region = device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        device.publish("target", region)
        listener = device.listen("127.0.0.1:0")
        print(listener.address, flush=True)
        channel = listener.accept(timeout=30)
        for line in sys.stdin:
            expected = np.random.default_rng(int(line)).integers(0, 256, MANY * MANY_SIZE, np.uint8)
            same = np.array_equal(region[: MANY * MANY_SIZE].array(), expected)
            print("yes" if same else "no", flush=True)
        channel.close()


class Batches:
    """The active side."""

    def __init__(self, url: str) -> None:
        self.peer = measure.Peer(__file__, url)
        self.device = rt.Device(url)
        self.channel = self.device.connect(self.peer.hear(), timeout=30)
        self.remote = self.channel.lookup("target", timeout=30)
        self.source = self.device.region(REGION)

    def verified(self, seed: int) -> bool:
        """Whether the peer holds the bytes of this seed."""
        self.peer.tell(str(seed))
        return self.peer.hear() == "yes"

    def fill(self, seed: int) -> None:
        bytes_ = np.random.default_rng(seed).integers(0, 256, MANY * MANY_SIZE, np.uint8)
        self.source[: MANY * MANY_SIZE].array()[:] = bytes_

    def many(self) -> list[dict[str, Any]]:
        """10,000 copies of 256 bytes in one call, beside as many memcpy with a release store after each."""
        to = [self.remote[at : at + MANY_SIZE] for at in range(0, MANY * MANY_SIZE, MANY_SIZE)]
        source = [self.source[at : at + MANY_SIZE] for at in range(0, MANY * MANY_SIZE, MANY_SIZE)]
        pairs = list(zip(to, source, strict=True))
        prepared = self.channel.prepare_many(pairs)
        there = np.frombuffer(self.remote.view(), np.uint8).ctypes.data
        here = self.source.address
        medians = measure.interleaved(
            {
                "floor": lambda: native.floor_many(there, here, MANY_SIZE, MANY, there + FLAG),
                "memcpy_many": lambda: measure.per_call(lambda: self.channel.memcpy_many(pairs), 1),
                "memcpy_many, prepared": lambda: measure.per_call(prepared, 1),
            },
            15,
        )
        rows = []
        for seed, mode in enumerate(("memcpy_many", "memcpy_many, prepared"), 1):
            self.fill(seed)
            self.channel.memcpy_many(pairs) if seed == 1 else prepared()
            rows.append(
                {
                    "mode": mode,
                    "provider": self.device.provider,
                    "bytes": MANY * MANY_SIZE,
                    "copies": MANY,
                    "us": medians[mode] * 1e6,
                    "copies_per_s": MANY / medians[mode],
                    "floor_us": medians["floor"] * 1e6,
                    "ratio_to_floor": medians[mode] / medians["floor"],
                    "verified": self.verified(seed),
                }
            )
        return rows

    def arena(self) -> list[dict[str, Any]]:
        """Allocating and freeing a block: through Python, freed and collected; in C, of one size and of many."""
        allocate = self.source.allocate

        def freed() -> None:
            allocate(4096).free()

        def collected() -> None:
            allocate(4096)

        in_c = measure.arena_library()
        medians = measure.interleaved(
            {
                "allocate and free()": lambda: measure.per_call(freed, 20_000),
                "allocate and collect": lambda: measure.per_call(collected, 20_000),
                "allocate and free in C, one size": lambda: in_c.arena_one_size(100_000),
                "allocate and free in C, random sizes among 1024 blocks": lambda: in_c.arena_random(100_000),
            },
            9,
        )
        return [{"mode": mode, "provider": self.device.provider, "us": 1e6 * time} for mode, time in medians.items()]

    def growth(self, count: int) -> list[dict[str, Any]]:
        """Resident memory before and after many transfers of every kind."""
        to, source = self.remote[:64], self.source[:64]
        prepared = self.channel.prepare(to, source)

        def mixed(rounds: int) -> None:
            for _ in range(rounds):
                self.channel.memcpy(to, source)
                prepared()
                self.channel.memcpy_async(to, source).wait()
                self.channel.memcpy(source, to)

        mixed(count // 40)
        before = measure.resident_bytes()
        mixed(count // 4)
        grown = measure.resident_bytes() - before
        return [{"mode": "growth", "provider": self.device.provider, "transfers": count, "grown_bytes": grown}]

    def close(self) -> None:
        self.channel.close()
        self.peer.close()
        self.device.close()


def show(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if "copies" in row:
            lines.append(
                f"{row['mode']}: {row['copies_per_s'] / 1e6:.2f} million copies of {MANY_SIZE} B a second, "
                f"{row['ratio_to_floor']:.2f} times the floor's time, bytes {'checked' if row['verified'] else 'WRONG'}"
            )
        elif row["mode"] == "growth":
            lines.append(f"resident memory grew by {row['grown_bytes']} bytes over {row['transfers']} transfers")
        else:
            lines.append(f"{row['mode']}: {row['us']:.3f} us a pair")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="shm://")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--quick", action="store_true", help="fewer transfers")
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    batches = Batches(arguments.url)
    rows = batches.many() + batches.arena() + batches.growth(100_000 if arguments.quick else 1_000_000)
    batches.close()
    print(show(rows))
    if arguments.json:
        print(f"written to {measure.write(arguments.json, rows)}")


if __name__ == "__main__":
    main()
