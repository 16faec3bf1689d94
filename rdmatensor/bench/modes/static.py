"""static: the shape is known, so a tensor is written straight into its receive buffer; the paper's
RDMA.zerocp. static-c: the same, driven from C at both ends, as ucx, perftest and the floors are.
"""

from __future__ import annotations

from rdmatensor.bench.modes.base import DEADLINE_S, Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.looped import LoopedEnd
from rdmatensor.bench.modes.own import OwnMode
from rdmatensor.bench.native import Loops

__all__ = ["Static", "StaticC"]


class Static(OwnMode):
    """A static edge whose tensors lie in registered memory from the start: no copy."""

    name = "static"

    def end(self, setup: Setup) -> EdgeEnd:
        return EdgeEnd(setup)


class StaticCEnd(LoopedEnd, EdgeEnd):
    """The end of a static edge whose loops are in C."""

    def prepare(self, size: int, depth: int) -> float | None:
        took = super().prepare(size, depth)
        self.__dict__.pop("send", None)
        self.loops = Loops.of_edges(self._out, self._in, self.outgoing, self.setup.touch, DEADLINE_S)
        return took


class StaticC(OwnMode):
    """A static edge as a program in C uses it."""

    name = "static-c"

    def end(self, setup: Setup) -> StaticCEnd:
        return StaticCEnd(setup)
