"""floor: the physical limit of one host: memcpy into memory that both processes map, then a release
store (csrc/bench/floor.c); floor-two: the same with both ends copying half of each tensor.

Both ends run in C and spin, so the result is the cost of a transfer when everything else costs
nothing.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from rdmatensor.bench.modes.base import DEADLINE_S, Copies, Mode, Setup
from rdmatensor.bench.modes.looped import LoopedEnd
from rdmatensor.bench.native import Loops

__all__ = ["Floor", "FloorTwo"]

LINE = 64
WORDS = ("flag", "credit", "begun", "helped")


class Floor(Mode):
    """The limit of copies by one core within one host."""

    name = "floor"
    kind = "limit"
    one_host_only = True
    two = False

    def version(self) -> str:
        return "C memcpy and a release store"

    def missing(self, setup: Setup) -> str:
        return ""

    def end(self, setup: Setup) -> FloorEnd:
        return FloorEnd(setup, self.two)


class FloorTwo(Floor):
    """The limit of copies by two cores within one host."""

    name = "floor-two"
    two = True

    def version(self) -> str:
        return "C memcpy by both ends, half of a tensor each, and release stores"


class FloorEnd(LoopedEnd):
    """One end of the floor. Each direction is a file in memory: four words on lines of their own,
    the slots, and the sender's tensor.
    """

    transport = "memory"
    note = "both ends spin"

    def __init__(self, setup: Setup, two: bool) -> None:
        super().__init__(setup)
        self._two = two

    def offer(self) -> dict[str, Any]:
        self._files = [os.memfd_create(f"rdmatensor-bench-floor-{way}") for way in range(2)]
        return {"pid": os.getpid(), "files": self._files}

    def meet(self, offer: dict[str, Any]) -> None:
        if self.setup.first:
            self._files = [os.open(f"/proc/{offer['pid']}/fd/{file}", os.O_RDWR) for file in offer["files"]]

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        slots = max(depth, 2)
        stride = -(-size // LINE) * LINE
        source = len(WORDS) * LINE + slots * stride
        total = source + stride
        maps, ways = [], []
        for file in self._files:
            if os.fstat(file).st_size < total:
                os.ftruncate(file, total)  # both ends do so, to the same size
            mapped = mmap.mmap(file, total, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            maps.append(np.frombuffer(mapped, np.uint8))
            at = maps[-1].ctypes.data
            way = {word: at + LINE * number for number, word in enumerate(WORDS)}
            if not self._two:
                way["begun"] = 0
            ways.append(
                {**way, "slots": at + len(WORDS) * LINE, "stride": stride, "count": slots, "source": at + source}
            )
        mine, other = (0, 1) if self.setup.first else (1, 0)
        self._maps = maps
        self.outgoing = maps[mine][source : source + size]
        self.outgoing.fill(1)
        self.loops = Loops.of_floor((ways[mine], ways[other]), self.outgoing, self.setup.touch, DEADLINE_S)
        return None

    def copies(self) -> Copies:
        return Copies(0, self.sent)

    def release(self) -> None:
        super().release()
        del self.outgoing, self._maps
        if not self.setup.first:
            for file in self._files:
                os.ftruncate(file, 0)  # the words begin at zero again

    def close(self) -> None:
        for file in self._files:
            os.close(file)
