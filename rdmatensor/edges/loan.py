"""A loan: the place of an edge's next tensor, which the sender computes into."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.fork import refuse_fork
from rdmatensor.memory.tensor import Form, Tensor
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import EdgeHandle, EdgeTensor
    from rdmatensor.errors import DeadlineExceeded, RdmaError
    from rdmatensor.memory.layout import DType, Shape
    from rdmatensor.owners import OwningDevice

__all__ = ["Loan"]

_SLICE_NS = _core.SLICE_NS
_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_PLACES_MAX = 256


class Lender(Protocol):
    """The interface of `SendEdge` that its loans use."""

    device: OwningDevice

    @property
    def closed(self) -> bool: ...

    def live(self) -> EdgeHandle: ...

    def _finish_backlog(self, limit_ns: int) -> None: ...

    def _refuse_own_loan(self, what: str) -> None: ...

    def _refusal(self, status: int, what: str) -> RdmaError: ...

    def _not_begun(self, limit_ns: int) -> DeadlineExceeded: ...

    def _await_status(self, wait: Callable[[int], int], limit_ns: int, what: str, why: str) -> None: ...

    def _keep_of_loan(self) -> object: ...


class Loan(_core.QuickLoan):
    """The place of an edge's next tensor, made by `SendEdge.loan`. A context manager: its block gets
    the place as a `Tensor`, computes into it, and sends it by ending.

    The same object may be entered again and again, one block at a time.
    """

    __slots__ = ("__weakref__", "_made", "_timeout", "_type")
    _edge: Lender

    def __init__(
        self,
        edge: Lender,
        dtype: DType,
        shape: Shape,
        made: EdgeTensor | None,
        places: dict[int, tuple[Form, object]],
        timeout: float | None,
    ) -> None:
        self._edge = edge
        self._type = dtype, shape
        self._made = made  # what `_tensor` points to
        self._tensor = 0 if made is None else _core.edge_tensor_pointer(made)
        self._places = places
        self._timeout = timeout
        self._patient = timeout is None

    if TYPE_CHECKING:

        def __enter__(self) -> Tensor: ...

    @property
    def open(self) -> bool:
        """Whether its block is open, and it was not cancelled."""
        return self._ticket != 0

    # ---- called by C outside the common case ----

    def _begin(self) -> None:
        """Takes the loan, or raises the reason why it cannot be taken."""
        edge = self._edge
        refuse_fork("lend a slot", repr(edge))
        if self._ticket != 0:
            raise InvalidArgument("enter a loan", repr(self), "its block is open: one block at a time, or another loan")
        edge.live()
        limit = timeout_ns(self._timeout, edge.device.timeout_ns)
        edge._refuse_own_loan("lend a slot")
        edge._finish_backlog(limit)
        status = self._take(min(limit, _SLICE_NS))
        if status in _NOT_YET:
            status = _core.until(edge.device.live(), self._take, max(limit - _SLICE_NS, 0), lambda: edge.closed)
        if status == _core.AGAIN:
            raise edge._not_begun(limit)
        if status < 0:
            raise edge._refusal(status, "lend a slot")

    def _place(self, address: int) -> tuple[Form, object]:
        """The form of the slot at an address, and the object that keeps its memory."""
        dtype, shape = self._type
        form = Form(address, dtype, shape, region=None)
        place = form, self._edge._keep_of_loan()
        if len(self._places) < _PLACES_MAX:
            self._places[address] = place
        return place

    def _finish(self, result: int) -> None:
        """Sends it, after C could not at once; or waits for what C has sent."""
        edge = self._edge
        limit = timeout_ns(self._timeout, edge.device.timeout_ns)
        if result <= 0:
            sent: list[int] = []
            status = _core.until(edge.device.live(), partial(self._try, sent), limit)
            if status == _core.AGAIN:
                raise edge._not_begun(limit)
            if status < 0:
                raise edge._refusal(status, "send a loan")
            result = sent[0]
        if result > 0 and self._tensor == 0:
            wait = partial(_core.edge_wait_sent, edge.live(), result)
            edge._await_status(wait, limit, "send a loan", "it is under way: the edge keeps its memory")

    def _try(self, sent: list[int], ns: int) -> int:
        result = self._send(ns)
        if result < 0:
            return result
        sent.append(result)
        return _core.OK

    def __repr__(self) -> str:
        dtype, shape = self._type
        return f"<Loan of {shape} {dtype} on {self._edge!r}, {'open' if self.open else 'not open'}>"
