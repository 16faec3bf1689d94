"""loan: the sender computes its tensor where the receiver reads it: a static edge whose slots it
borrows. Over a provider that maps memory no byte moves.
"""

from __future__ import annotations

from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Loan"]


class LoanEnd(EdgeEnd):
    """The end of an edge whose sender borrows the slots. Its GB/s are those of tensors handed over,
    not of bytes moved, where memory is mapped.
    """

    def prepare(self, size: int, depth: int) -> float | None:
        took = super().prepare(size, depth)
        self.__dict__.pop("send", None)
        self._loan = self._out.loan()
        return took

    def send(self) -> None:
        with self._loan:
            pass

    def send_anew(self) -> None:
        self._value = (self._value + 1) & 255
        with self._loan as slot:
            slot.numpy().fill(self._value)

    def check_out(self, seed: int) -> None:
        with self._loan as slot:
            pattern.fill(slot.numpy(), seed)
        self.finish()

    def release(self) -> None:
        del self._loan
        super().release()


class Loan(OwnMode):
    """Tensors that are made in the receiver's memory."""

    name = "loan"
    in_place = True

    def end(self, setup: Setup) -> LoanEnd:
        return LoanEnd(setup)
