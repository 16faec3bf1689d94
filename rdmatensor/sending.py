"""A tensor on its way, and a tensor bound to an edge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.errors import DeadlineExceeded, RdmaError
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Generator

    from rdmatensor._core import EdgeHandle
    from rdmatensor.send_edge import SendEdge

__all__ = ["BoundSend", "Lingering", "Sending"]

_SLICE_NS = _core.SLICE_NS


class Sending:
    """A tensor that is being sent, like a future: poll with `done()`, block with `wait()`, or await it.

    It is done when the tensor may be changed again: of a static edge when it was written, of a dynamic one when the
    receiver has it. Tensors of an edge are sent in the order of the calls. Until then the edge keeps the tensor alive.
    """

    __slots__ = ("__weakref__", "_begin", "_deadline", "_edge", "_error", "_limit_ns", "_owner", "_sequence")

    def __init__(self, edge: SendEdge, begin: Callable[[int], int], owner: object, limit_ns: int) -> None:
        self._edge = edge
        self._begin = begin
        self._owner = owner
        self._limit_ns = limit_ns
        self._deadline = _core.device_now_ns(edge.device._live()) + limit_ns
        self._sequence = 0  # not begun; positive: under way; -1: it ended
        self._error: RdmaError | None = None

    def done(self) -> bool:
        """Whether it ended, well or not. Never blocks."""
        if self._sequence >= 0:
            self._edge._advance(self)
        return self._sequence < 0

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until it ended; raises what went wrong. None takes the timeout of `send_async`."""
        if self._sequence >= 0:
            self._edge._finish_sending(self, timeout_ns(timeout, self._limit_ns))
        if self._error is not None:
            raise self._error

    def exception(self, timeout: float | None = None) -> RdmaError | None:
        """Blocks as `wait` does; gives what went wrong, or None."""
        try:
            self.wait(timeout)
        except RdmaError as error:
            return error
        return None

    def _end(self, error: RdmaError | None) -> None:
        self._error, self._owner, self._sequence = error, None, -1

    def __await__(self) -> Generator[object, None, None]:
        if not self.done():
            from rdmatensor import aio

            if not (yield from aio.until(self._edge.device, self.done, self._deadline, memory=True).__await__()):
                why = f"not done after {self._limit_ns / 1e9:g} s; wait again, or leave it to the edge"
                raise DeadlineExceeded("send a tensor", repr(self._edge), why, status="deadline")
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        state = "under way" if self._sequence >= 0 else "done" if self._error is None else f"failed: {self._error}"
        return f"<Sending on {self._edge.name!r}, {state}>"


class BoundSend(_core.QuickBound):
    """A tensor bound to an edge, checked once: call it to send what the tensor holds then, again and again.

    `bound(timeout=None)` sends it as `SendEdge.send` does: the fastest way to repeat a send. It keeps the tensor alive
    until it is dropped.
    """

    __slots__ = ("__weakref__", "_begin", "_nbytes", "_owner", "_packed")
    _edge: SendEdge

    def __init__(
        self,
        edge: SendEdge,
        begin: Any,
        arguments: tuple[Any, ...],
        owner: object,
        packed: bytes,
        nbytes: int,
        address: int | None = None,
    ) -> None:
        self._edge = edge
        self._begin = partial(begin, *arguments)
        self._owner = owner
        self._nbytes = nbytes
        self._packed = packed  # as rt_edge_sending; what it points to is in `_begin`
        if address is not None:  # contiguous, of a static edge: it is sent without what follows
            self._pointer, self._address, self._size = edge._pointer, address, nbytes

    def _call(self, timeout: float | None = None) -> None:
        """What is not sent at once."""
        self._go_on(self._edge._start(self._begin, timeout), timeout)

    def _go_on(self, result: int, timeout: float | None = None) -> None:
        """After a call of C that did not send all of it."""
        edge = self._edge
        if result > 0 and edge._nbytes < 0:
            edge._sent(result, self._owner, self._nbytes)
        elif result:
            edge._finish(result, self._begin, self._owner, timeout)

    def start(self, timeout: float | None = None) -> Sending:
        """Sends it, as `SendEdge.send_async` does."""
        return self._edge._begin_async(self._begin, self._owner, timeout)

    @property
    def edge(self) -> SendEdge:
        return self._edge

    def __repr__(self) -> str:
        return f"<BoundSend on {self._edge!r}>"


class Lingering:
    """Closed edges whose receiver still holds tensors: these are kept until they are taken."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: list[tuple[EdgeHandle, deque[tuple[int, object]]]] = []

    def add(self, edge: EdgeHandle, kept: deque[tuple[int, object]]) -> None:
        """Takes over what an edge kept: sequences and owners, oldest first."""
        self.settle()
        self._edges.append((edge, kept))

    def settle(self) -> None:
        """Lets go of what was taken."""
        edges, self._edges = self._edges, []
        for edge, kept in edges:
            while kept and _core.edge_wait_sent(edge, kept[0][0], 0) not in (_core.AGAIN, _core.INTERRUPTED):
                kept.popleft()
            if kept:
                self._edges.append((edge, kept))
