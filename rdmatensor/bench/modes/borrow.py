"""borrow: a dynamic edge whose receiver reads the tensor where it lies at the sender, on one host. Moves no byte."""

from __future__ import annotations

from rdmatensor.bench.modes.base import NotHere, Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Borrow"]


class BorrowEnd(EdgeEnd):
    """GB/s are those of tensors handed over, not of bytes moved."""

    static = False
    borrows = True

    def prepare(self, size: int, depth: int) -> float | None:
        if not self.device.limits.maps_remote:
            raise NotHere(f"{self.device.provider} cannot map the peer's memory (limits.maps_remote)")
        return super().prepare(size, depth)


class Borrow(OwnMode):
    """Handing over instead of moving, where the provider maps memory."""

    name = "borrow"

    def end(self, setup: Setup) -> BorrowEnd:
        return BorrowEnd(setup)
