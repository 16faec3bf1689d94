"""Ends whose loops are in C (csrc/bench/loops.c): the limits, and our modes as a program in C has
them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rdmatensor.bench.modes.base import End, Look, Setup
from rdmatensor.bench.native import Loops

__all__ = ["LoopedEnd"]


class LoopedEnd(End):
    """An end whose subclasses make `outgoing` and `loops` in `prepare`; it may stand before another
    end among the bases, whose own loops it then replaces.
    """

    loops: Loops

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.sent = 0

    def send(self) -> None:
        self.loops.send()
        self.sent += 1

    def finish(self) -> None:
        self.loops.finish()

    def receive(self, look: Look | None = None) -> None:
        got = self.loops.receive()
        if look is not None:
            look(got)
        self.loops.release()

    def ping(self, count: int) -> NDArray[np.float64]:
        self.sent += count
        return self.loops.ping(count)

    def pong(self, count: int) -> None:
        self.sent += count
        self.loops.pong(count)

    def push(self, count: int) -> float:
        self.sent += count
        return self.loops.push(count)

    def pull(self, count: int) -> None:
        self.sent += 1
        self.loops.pull(count)

    def both(self, count: int) -> float:
        self.sent += count
        return self.loops.both(count, self.depth)

    def release(self) -> None:
        super().release()
        del self.loops
