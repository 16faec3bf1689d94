"""Two processes exchange NumPy arrays both ways by one-sided WRITEs, check every byte, and say what moved and how fast.

    python examples/exchange.py                  starts the second process itself, over the best provider present
    python examples/exchange.py --url shm://     over a given one

Each side has a region with an inbox that the peer may write to. An array is written there directly, then a sequence
number, for which the receiver waits; the receiver then reads the inbox itself, not a copy of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import rdmatensor as rt

ARRAYS = [  # shape, dtype, how often it goes back and forth
    ((16,), "float32", 200),
    ((64, 64), "float16", 200),
    ((512, 512), "float32", 50),
    ((3, 1024, 1024), "uint8", 30),
    ((4096, 2048), "float64", 6),
]
LARGEST = max(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype, _ in ARRAYS)
TIMEOUT_S = 30


def content(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray[Any, Any]:
    """Random bytes as an array, NaNs and all; both sides can make both sides' arrays."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(nbytes), dtype).reshape(shape)


class Side:
    """One of the two processes: memory of its own, and the way into the other's."""

    def __init__(self, device: rt.Device, channel: rt.Channel, name: str, peer: str) -> None:
        self.channel = channel
        region = device.region(2 * LARGEST + (1 << 20), access=rt.Access.REMOTE_WRITE)
        self.outbox, self.inbox = region.allocate(LARGEST), region.allocate(LARGEST)
        self.number, self.arrived = region.allocate(8), region.allocate(8)
        self.arrived.array(-1, np.uint64)[0] = 0
        device.publish(f"{name} inbox", self.inbox)
        device.publish(f"{name} arrived", self.arrived)
        self.peer_inbox = channel.lookup(f"{peer} inbox", timeout=TIMEOUT_S)
        self.peer_arrived = channel.lookup(f"{peer} arrived", timeout=TIMEOUT_S)
        self.sent = self.received = 0

    def sender(self, nbytes: int) -> Callable[[], float]:
        """Binds outbox to inbox; the function it gives writes the array, then its number, and returns the seconds."""
        write = self.channel.prepare_many(
            [(self.peer_inbox[:nbytes], self.outbox[:nbytes]), (self.peer_arrived, self.number)]
        )
        number = self.number.array(-1, np.uint64)

        def put() -> float:
            self.sent += 1
            number[0] = self.sent
            begin = time.perf_counter()
            write()
            return time.perf_counter() - begin

        return put

    def take(self, expected: np.ndarray[Any, Any]) -> None:
        """Waits for the peer's array and compares it, byte for byte, in the place where it arrived."""
        self.received += 1
        self.channel.wait_word(self.arrived, self.received, timeout=TIMEOUT_S)
        got = self.inbox[: expected.nbytes].array(expected.shape, expected.dtype)
        if got.tobytes() != expected.tobytes():
            raise SystemExit(f"array {self.received} ({expected.dtype} {expected.shape}) arrived damaged")

    def exchange(self, first: bool) -> list[float]:
        """Sends every array back and forth; returns the median seconds per array and sends of this side."""
        medians = []
        for seed, (shape, dtype, rounds) in enumerate(ARRAYS):
            mine, theirs = content(shape, dtype, 2 * seed + first), content(shape, dtype, 2 * seed + (not first))
            self.outbox[: mine.nbytes].array(shape, dtype)[...] = mine
            put = self.sender(mine.nbytes)
            seconds = []
            for _ in range(rounds):
                if first:
                    seconds.append(put())
                self.take(theirs)
                if not first:
                    seconds.append(put())
            medians.append(median(seconds))
        return medians


def run_peer(url: str, address: str) -> None:
    """The second process: connects, exchanges, reports on its standard output."""
    with rt.Device(url) as device, device.connect(address, timeout=TIMEOUT_S) as channel:
        seconds = Side(device, channel, "second", "first").exchange(first=False)
        print(json.dumps(seconds), flush=True)
        sys.stdin.read()  # until the first process is done with the channel


def why(device: rt.Device, url: str) -> str:
    """Why this provider was taken: what is wrong with those that auto:// would rather have."""
    if url != "auto://":
        return "as asked"
    refused = [f"{provider}:// cannot be used here: {reason}" for provider, reason in device.why.items()]
    return "; ".join(refused) or "the first choice of auto://"


PLACED_BY = {"shm": ", as one copy by the sender", "verbs": ", by the RDMA device"}


def report(channel: rt.Channel, there: list[float], back: list[float]) -> None:
    """Prints the table and the counters behind it."""
    print(f"\n{'array':<26}{'bytes':>12}{'first to second':>26}{'second to first':>26}   checked")
    for (shape, dtype, rounds), *seconds in zip(ARRAYS, there, back, strict=True):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        speeds = "".join(f"{s * 1e6:>12,.1f} us {nbytes / s / 1e9:>6.2f} GB/s" for s in seconds)
        print(f"{f'{dtype} {shape}':<26}{nbytes:>12,}{speeds}   {2 * rounds} of {2 * rounds}")
    stats = channel.stats
    payload = sum(int(np.prod(s)) * np.dtype(d).itemsize * n for s, d, n in ARRAYS)
    words = stats.bytes_written - payload
    print(
        f"\nout of this process: {stats.writes} WRITEs, {stats.bytes_written:,} bytes ({payload:,} of arrays,"
        f" {words:,} of sequence numbers); as much came back\n"
        "copies by this library: none but the transfer itself. Outbox and inbox are the NumPy arrays, and each\n"
        f"WRITE went from the one straight into the other{PLACED_BY.get(channel.device.provider, '')}\n"
        "times: medians of array and sequence number together, at the sender"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="auto://", help="the device of both processes (auto://)")
    parser.add_argument("--peer", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(options.url, options.peer)
        return

    with rt.Device(options.url) as device, device.listen("127.0.0.1:0") as listener:
        print(f"rdmatensor {rt.__version__}: two processes of this host, {os.cpu_count()} cores")
        print(textwrap.fill(f"provider {device.provider}: {why(device, options.url)}", 110, subsequent_indent="    "))
        command = [sys.executable, __file__, "--url", f"{device.provider}://", "--peer", listener.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            try:
                with listener.accept(timeout=TIMEOUT_S) as channel:
                    print(f"channel with {channel.peer}")
                    there = Side(device, channel, "first", "second").exchange(first=True)
                    assert second.stdout is not None
                    report(channel, there, json.loads(second.stdout.readline()))
            finally:
                if second.poll() is None and sys.exc_info()[0] is not None:
                    second.kill()


if __name__ == "__main__":
    main()
