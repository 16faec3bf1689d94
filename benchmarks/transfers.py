"""How fast `memcpy` moves bytes between two processes of one host, next to the C floor, in one run.

    python benchmarks/transfers.py [--json NAME] [--quick]

Two processes, default settings of the provider. Each row is the median of interleaved rounds: ours and the floor take
turns on the same memory, which is the peer's region as this process maps it. The peer sleeps meanwhile. Every row's
bytes are compared by the peer.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any

import measure
import numpy as np

import rdmatensor as rt

KIB, MIB = 1024, 1024 * 1024
SIZES = [64, 4 * KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB]
REGION = 256 * MIB + 2 * MIB
MANY, MANY_SIZE = 10_000, 256


def peer(url: str) -> None:
    """The passive side: publishes a region and answers with digests of what lies in it."""
    with rt.Device(url) as device:
        region = device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        device.publish("target", region)
        listener = device.listen("127.0.0.1:0")
        print(listener.address, flush=True)
        channel = listener.accept(timeout=30)
        for line in sys.stdin:
            print(hashlib.sha256(region[: int(line)].view()).hexdigest(), flush=True)
        channel.close()


class Bench:
    """The active side: a source region, the peer's region, and the floor on the same memory."""

    def __init__(self, url: str) -> None:
        self.peer = measure.Peer(__file__, url)
        self.device = rt.Device(url)
        self.channel = self.device.connect(self.peer.hear(), timeout=30)
        self.remote = self.channel.lookup("target", timeout=30)
        self.source = self.device.region(REGION)
        self.source.span.array((REGION,), np.uint8)[:] = np.random.default_rng(1).integers(0, 256, REGION, np.uint8)
        self.floor = measure.floor_library()
        self.here = self.source.address
        self.there = np.frombuffer(self.remote.view(), np.uint8).ctypes.data  # the peer's region as mapped here
        self.flag = self.there + REGION - 64  # on a cache line of its own, in the peer's memory

    def verified(self, size: int) -> bool:
        """Whether the peer has the source's first bytes, after a fresh WRITE of changed ones."""
        view = self.source.span.array((REGION,), np.uint8)
        view[:size] ^= 0x5A
        self.channel.memcpy(self.remote[:size], self.source[:size])
        self.peer.tell(str(size))
        return self.peer.hear() == hashlib.sha256(self.source[:size].view()).hexdigest()

    def row(self, mode: str, size: int, seconds: float, floor: float, **more: Any) -> dict[str, Any]:
        return {
            "mode": mode,
            "provider": self.device.provider,
            "bytes": size,
            "us": seconds * 1e6,
            "gbytes_per_s": size / seconds / 1e9,
            "floor_us": floor * 1e6,
            "ratio_to_floor": seconds / floor,
            "verified": self.verified(size),
            **more,
        }

    def sizes(self, quick: bool) -> list[dict[str, Any]]:
        rows = []
        there, here, flag = self.there, self.here, self.flag
        for size in SIZES[:5] if quick else SIZES:
            count = max(1, min(20_000, 256 * MIB // size // (4 if quick else 1)))
            rounds = 9 if size >= MIB else 15
            to, source = self.remote[:size], self.source[:size]
            memcpy = self.channel.memcpy
            write, read = self.channel.prepare(to, source), self.channel.prepare(source, to)

            def floor_write(size: int = size, count: int = count) -> float:
                return self.floor.floor_copies(there, here, size, flag, count) / count / 1e9

            def floor_read(size: int = size, count: int = count) -> float:
                return self.floor.floor_copies(here, there, size, flag, count) / count / 1e9

            medians = measure.interleaved(
                {
                    "floor write": floor_write,
                    "write": lambda: measure.per_call(lambda: memcpy(to, source), count),  # noqa: B023
                    "write, prepared": lambda: measure.per_call(write, count),  # noqa: B023
                    "floor read": floor_read,
                    "read": lambda: measure.per_call(lambda: memcpy(source, to), count),  # noqa: B023
                    "read, prepared": lambda: measure.per_call(read, count),  # noqa: B023
                },
                rounds,
            )
            for mode, seconds in medians.items():
                if not mode.startswith("floor"):
                    rows.append(self.row(mode, size, seconds, medians[f"floor {mode[:5].rstrip(',').strip()}"]))
        return rows

    def many(self) -> list[dict[str, Any]]:
        to = [self.remote[at : at + MANY_SIZE] for at in range(0, MANY * MANY_SIZE, MANY_SIZE)]
        source = [self.source[at : at + MANY_SIZE] for at in range(0, MANY * MANY_SIZE, MANY_SIZE)]
        pairs = list(zip(to, source, strict=True))
        prepared = self.channel.prepare_many(pairs)
        there, here, flag = self.there, self.here, self.flag
        medians = measure.interleaved(
            {
                "floor": lambda: self.floor.floor_many(there, here, MANY_SIZE, flag, MANY) / 1e9,
                "memcpy_many": lambda: measure.per_call(lambda: self.channel.memcpy_many(pairs), 1),
                "memcpy_many, prepared": lambda: measure.per_call(prepared, 1),
            },
            15,
        )
        total = MANY * MANY_SIZE
        return [
            self.row(mode, total, seconds, medians["floor"], copies=MANY, copies_per_s=MANY / seconds)
            for mode, seconds in medians.items()
            if mode != "floor"
        ]

    def arena(self) -> list[dict[str, Any]]:
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
    lines = [("mode", "bytes", "us", "GB/s", "floor us", "time / floor", "verified")]
    for row in rows:
        if "floor_us" in row:
            name = row["mode"] + (f" x {row['copies']}" if "copies" in row else "")
            lines.append(
                (name, str(row["bytes"]), f"{row['us']:.2f}", f"{row['gbytes_per_s']:.2f}", f"{row['floor_us']:.2f}",
                 f"{row['ratio_to_floor']:.2f}", "yes" if row["verified"] else "NO")
            )  # fmt: skip
    text = measure.table(lines)
    for row in rows:
        if "copies_per_s" in row:
            text += f"\n{row['mode']}: {row['copies_per_s'] / 1e6:.2f} million copies a second"
        if row["mode"].startswith("allocate"):
            text += f"\n{row['mode']}: {row['us']:.3f} us a pair"
        if row["mode"] == "growth":
            text += f"\nresident memory grew by {row['grown_bytes']} bytes over {row['transfers']} transfers"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="shm://")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes")
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    bench = Bench(arguments.url)
    rows = bench.sizes(arguments.quick) + bench.many() + bench.arena()
    rows += bench.growth(100_000 if arguments.quick else 1_000_000)
    bench.close()
    print(show(rows))
    if arguments.json:
        print(f"written to {measure.write(arguments.json, rows)}")


if __name__ == "__main__":
    main()
