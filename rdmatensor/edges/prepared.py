"""A tensor that is prepared for a sending edge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core

if TYPE_CHECKING:
    from rdmatensor.copies.transfer import Transfer

__all__ = ["PreparedSend"]


class PreparedSend(_core.QuickBound):
    """A tensor that was checked for an edge once: each call sends its current contents.

    `prepared(timeout=None)` sends it as `SendEdge.send` does: the fastest way to repeat a send. It
    keeps the tensor alive until it is dropped.
    """

    __slots__ = ("__weakref__", "_begin", "_nbytes", "_packed")
    _edge: Any  # a SendEdge, whose module uses this one

    def __init__(
        self,
        edge: Any,
        owner: object,
        what: tuple[int, int, int],
        packed: bytes,
        nbytes: int,
        address: int | None = None,
    ) -> None:
        self._edge = edge
        self._begin = partial(_core.send, edge, owner, *what)
        self._nbytes = nbytes
        self._packed = packed  # as rt_edge_sending; `_begin` keeps the objects it points to
        if edge._nbytes < 0:
            self._tensor = what[0]
        if address is not None:  # contiguous and on a static edge: C sends it by itself
            self._pointer, self._address, self._size = edge._pointer, address, nbytes

    def _call(self, timeout: float | None = None) -> None:
        """The slow path of a call: waits for the backlog, then sends."""
        self._go_on(self._edge._start(self._begin, timeout), timeout)

    def _go_on(self, result: int, timeout: float | None = None) -> None:
        """Continues after a C call that did not complete the send."""
        edge = self._edge
        if result > 0 and edge._nbytes < 0:
            edge._sent(result, self._nbytes)
        elif result:
            edge._finish(result, self._begin, timeout)

    def start(self, timeout: float | None = None) -> Transfer:
        """Sends it as `SendEdge.send_async` does."""
        begun: Transfer = self._edge._begin_async(self._begin, timeout)
        return begun

    @property
    def edge(self) -> Any:
        return self._edge

    def __repr__(self) -> str:
        return f"<PreparedSend on {self._edge!r}>"
