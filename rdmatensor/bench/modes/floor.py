"""floor: the physical limit of one host. memcpy into memory that both map, then a release store (csrc/bench/floor.c).

Both ends run in C and spin; so it is what a transfer costs when everything else costs nothing.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from rdmatensor.bench.modes.base import DEADLINE_S, Bytes, Copies, End, Look, Mode, Setup
from rdmatensor.bench.native import FloorEnd as Loops

__all__ = ["Floor"]

LINE = 64


class Floor(Mode):
    """The limit of copies within one host."""

    name = "floor"
    kind = "limit"
    one_host_only = True

    def version(self) -> str:
        return "C memcpy and a release store"

    def missing(self, setup: Setup) -> str:
        return ""

    def end(self, setup: Setup) -> FloorEnd:
        return FloorEnd(setup)


class FloorEnd(End):
    """Each direction is a file in memory: two words on lines of their own, then the slots."""

    transport = "memory"
    note = "both ends spin"

    def offer(self) -> dict[str, Any]:
        self._files = [os.memfd_create(f"rdmatensor-bench-floor-{way}") for way in range(2)]
        return {"pid": os.getpid(), "files": self._files}

    def meet(self, offer: dict[str, Any]) -> None:
        if self.setup.first:
            self._files = [os.open(f"/proc/{offer['pid']}/fd/{file}", os.O_RDWR) for file in offer["files"]]

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        slots = max(depth, 2)
        stride = self._stride = -(-size // LINE) * LINE
        total = 2 * LINE + slots * stride
        self._maps, ways = [], []
        for file in self._files:
            if os.fstat(file).st_size < total:
                os.ftruncate(file, total)  # both ends do; to the same size
            mapped = mmap.mmap(file, total, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self._maps.append(np.frombuffer(mapped, np.uint8))
            at = self._maps[-1].ctypes.data
            ways.append((at, at + LINE, at + 2 * LINE))
        mine, other = (0, 1) if self.setup.first else (1, 0)
        self._inbox: Bytes = self._maps[other]
        self._loops = Loops(ways[mine], ways[other], stride, slots, DEADLINE_S)
        self.outgoing = np.full(size, 1, np.uint8)
        self._sent = 0
        return None

    def send(self) -> None:
        self._loops.send(self.outgoing)
        self._sent += 1

    def receive(self, look: Look | None = None) -> None:
        slot = self._loops.receive()
        if look is not None:
            at = 2 * LINE + slot * self._stride
            look(self._inbox[at : at + self.size])

    def ping(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._loops.ping(self.outgoing, count)

    def pong(self, count: int) -> None:
        self._loops.pong(self.outgoing, count)

    def copies(self) -> Copies:
        return Copies(0, self._sent)

    def release(self) -> None:
        del self._loops, self._inbox, self._maps, self.outgoing
        if not self.setup.first:
            for file in self._files:
                os.ftruncate(file, 0)  # the words begin at zero again

    def close(self) -> None:
        for file in self._files:
            os.close(file)
