"""borrow: a dynamic edge on one host whose receiver reads the tensor in place at the sender. Moves
no byte.
"""

from __future__ import annotations

from rdmatensor.bench.modes.base import NotHere, Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Borrow"]


class BorrowEnd(EdgeEnd):
    """The end of a borrowing edge. Its GB/s are those of tensors handed over, not of bytes moved."""

    static = False
    borrows = True

    def prepare(self, size: int, depth: int) -> float | None:
        if not self.device.limits.maps_remote:
            raise NotHere(f"{self.device.provider} cannot map the peer's memory (limits.maps_remote)")
        return super().prepare(size, depth)


class Borrow(OwnMode):
    """Tensors handed over instead of moved, where the provider maps memory."""

    name = "borrow"
    in_place = True

    def end(self, setup: Setup) -> BorrowEnd:
        return BorrowEnd(setup)
