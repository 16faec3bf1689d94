"""The sending edges of a channel, and the opening of them. An interrupted opening is continued by
the next call, since the peer gives an edge only once.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.edges.base import warn_of_trust
from rdmatensor.edges.send import SendEdge
from rdmatensor.edges.sending import Lingering
from rdmatensor.errors import RdmaError

if TYPE_CHECKING:
    from rdmatensor._core import EdgeTerms
    from rdmatensor.edges.sending import Backlogs
    from rdmatensor.owners import OwningChannel

__all__ = ["SendEdges"]

_GRACE_NS = 1_000_000_000  # time for the peer's "not made" to arrive after the peer's wait


class _Opening:
    """An opening that a thread has begun."""

    __slots__ = ("owner", "terms", "thread")

    def __init__(self, channel: OwningChannel, terms: EdgeTerms) -> None:
        self.owner = _core.edge_owner(channel.device.live(), channel.live())
        self.terms = terms
        self.thread = threading.get_ident()

    @property
    def over(self) -> bool:
        """Whether the opening was refused, or its receiver has gone since."""
        return self.owner.filled and _core.edge_state(self.owner.handle()) != "open"


class SendEdges:
    """The sending edges of a channel: the open ones, those being opened, and tensors of closed
    ones.

    It holds no reference to its channel, which is an argument of `open`: a cycle would keep both
    alive.
    """

    __slots__ = ("_backlogs", "_lingering", "_open", "_opening")

    def __init__(self, backlogs: Backlogs) -> None:
        self._backlogs = backlogs
        self._lingering = Lingering()
        self._open: weakref.WeakSet[SendEdge] = weakref.WeakSet()
        self._opening: deque[_Opening | SendEdge] = deque()
        """Openings that threads are in or were interrupted in, and edges that were opened but did
        not reach the caller.
        """

    def open(self, channel: OwningChannel, terms: EdgeTerms, limit: int, on: str, taken: list[Any]) -> SendEdge:
        """Opens an edge. One step of C puts it into `taken` and removes it from `_opening`: no
        interrupt leaves it in both.
        """
        begun = self._begun(channel, terms, taken)
        if isinstance(begun, SendEdge):
            return begun
        device, handle = channel.device.live(), channel.live()
        try:
            opened = _core.edge_open(device, handle, terms, begun.owner, limit, _GRACE_NS, lambda: channel.closed, on)
        except RdmaError:
            self._forget(begun)
            raise
        edge = SendEdge(channel, opened, terms, self._backlogs, self._lingering)
        self._open.add(edge)
        warn_of_trust(edge)
        if not _core.hand(self._opening, begun, taken, edge):
            raise _core.failure(_core.CLOSED, "open an edge", on, "the channel was closed meanwhile")
        return edge

    def settle(self) -> None:
        """Releases tensors of closed edges that their receivers have taken."""
        self._lingering.settle()

    def close(self) -> None:
        """Closes the edges and abandons the openings."""
        self._opening.clear()
        for edge in tuple(self._open):
            edge.close()

    def _begun(self, channel: OwningChannel, terms: EdgeTerms, taken: list[Any]) -> _Opening | SendEdge:
        """The edge (put into `taken`) or opening that an earlier call left, or a new opening."""
        thread = threading.get_ident()
        for item in tuple(self._opening):
            if isinstance(item, _Opening):
                if item.terms != terms or item.thread != thread:
                    continue
                if not item.over:
                    return item
                self._forget(item)
            elif item._terms == terms:
                if item.failure is not None:
                    self._forget(item)
                elif _core.hand(self._opening, item, taken, item):
                    return item
        begun = _Opening(channel, terms)
        self._opening.append(begun)
        return begun

    def _forget(self, item: _Opening | SendEdge) -> None:
        with contextlib.suppress(ValueError):  # the channel was closed meanwhile
            self._opening.remove(item)
