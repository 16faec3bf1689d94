"""One of the two processes of a commit that check.py compares, `check_ends.py first|second`, over standard streams.

Uses what the package that PYTHONPATH names has in public, whichever commit that is: edges only where it has edges.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

import rdmatensor as rt

MIB = 1 << 20
REGION = 2 * MIB
WORD = REGION - 64
Cell = Callable[[int], object]


class Ends:
    """A channel, a region each, and the other end's region."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.device = rt.Device("shm://", timeout=60)
        self.inbox = self.device.region(REGION, access=rt.Access.REMOTE_WRITE)
        self.outbox = self.device.region(REGION)
        self.device.publish("inbox", self.inbox)
        if first:
            say(rt.__file__)
            self.channel = self.device.connect(sys.stdin.readline().strip())
        else:
            listener = self.device.listen("127.0.0.1:0")
            say(listener.address)
            self.channel = listener.accept()
        self.remote = self.channel.lookup("inbox")
        self.word = self.outbox.span.array(-1, np.uint64)
        self.turn = 0

    # ---- cells: at the first, what is timed; at the second, its other half ----

    def cells(self) -> dict[str, tuple[int, Cell]]:
        """Operations by name, with how many are timed at once."""
        found: dict[str, tuple[int, Cell]] = {
            "memcpy 64 B": (20_000, self.repeat(self.memcpy())),
            "memcpy 64 B, prepared": (40_000, self.repeat(self.prepared(64))),
            "memcpy 64 KiB, prepared": (2_000, self.repeat(self.prepared(64 << 10))),
            "memcpy 1 MiB, prepared": (100, self.repeat(self.prepared(MIB))),
            "256 x 64 B at once": (200, self.repeat(self.many())),
            "allocate and free": (10_000, self.repeat(lambda: self.outbox.allocate(4096).free())),
            "round trip 64 B": (4_000, self.round_trips),
        }
        if hasattr(self.device, "recv_edge"):
            found["static edge 64 B, round trip"] = (4_000, self.edge(64))
            found["static edge 1 MiB, round trip"] = (60, self.edge(MIB))
        return found

    def memcpy(self) -> Callable[[], object]:
        there, here, copy = self.remote[:64], self.outbox[:64], self.channel.memcpy
        return lambda: copy(there, here)

    def prepared(self, size: int) -> Callable[[], object]:
        return self.channel.prepare(self.remote[:size], self.outbox[:size])

    def many(self) -> Callable[[], object]:
        pairs = [(self.remote[at : at + 64], self.outbox[at : at + 64]) for at in range(0, 256 * 64, 64)]
        return self.channel.prepare_many(pairs)

    def repeat(self, call: Callable[[], object]) -> Cell:
        def cell(count: int) -> None:
            if self.first:
                for _ in range(count):
                    call()

        return cell

    def round_trips(self, count: int) -> None:
        send = self.channel.prepare_many(
            [(self.remote[:64], self.outbox[:64]), (self.remote[WORD : WORD + 8], self.outbox[WORD : WORD + 8])]
        )
        seen = self.inbox[WORD : WORD + 8]
        for turn in range(self.turn + 1, self.turn + count + 1):
            if self.first:
                self.word[WORD // 8] = turn
                send()
                self.channel.wait_word(seen, turn)
            else:
                self.channel.wait_word(seen, turn)
                self.word[WORD // 8] = turn
                send()
        self.turn += count

    def edge(self, size: int) -> Cell:
        mine, other = ("first", "second") if self.first else ("second", "first")
        receiving = self.device.recv_edge(f"{mine} {size}", shape=(size,), dtype="uint8")
        sending = self.channel.send_edge(f"{other} {size}", shape=(size,), dtype="uint8")
        prepare = getattr(sending, "prepare", None) or sending.bind  # as older commits call it
        send = prepare(self.outbox.empty((size,), "uint8"))

        def cell(count: int) -> None:
            for _ in range(count):
                if self.first:
                    send()
                receiving.recv().release()
                if not self.first:
                    send()

        return cell


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    first = sys.argv[1] == "first"
    ends = Ends(first)
    cells = ends.cells()
    say(json.dumps(list(cells)))
    for line in sys.stdin:
        name = line.strip()
        count, cell = cells[name]
        for number in (count // 10, count, count, count):  # the first warms up
            begin = time.perf_counter()
            cell(max(1, number))
            if first:
                say(str((time.perf_counter() - begin) / max(1, number)))
        if not first:
            say("done")


if __name__ == "__main__":
    main()
