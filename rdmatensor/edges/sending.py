"""A tensor on its way: sends that wait for credit, sends under way, and tensors that outlive their
edge.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.copies.transfer import Transfer
from rdmatensor.errors import DeadlineExceeded, RdmaError
from rdmatensor.locks import Rank, ordered_lock
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import EdgeHandle
    from rdmatensor.owners import OwningDevice

__all__ = ["Backlogs", "Lingering", "SendTransfer"]

_WAKES = (0.5e-3, 16e-3)  # bounds of the times after which the thread of the backlogs wakes by itself


class Sender(Protocol):
    """The interface of `SendEdge` that its transfers and its device's backlogs use."""

    device: OwningDevice
    name: str

    def _advance(self, asked: SendTransfer) -> None: ...

    def _finish_sending(self, sending: SendTransfer, limit_ns: int) -> None: ...

    def _has_waiting(self) -> bool: ...

    def _drive(self, ns: int) -> bool: ...


def _ended(_ns: int, _sending: object = None) -> int:
    return _core.OK


class SendTransfer(Transfer):
    """A tensor that is being sent."""

    __slots__ = ("_begin", "_deadline", "_edge", "_limit_ns", "_sequence")

    def __init__(self, edge: Sender, begin: Callable[..., int], limit_ns: int) -> None:
        self._edge = edge
        self._begin = begin  # holds the tensor; sets `_sequence` before it returns
        self._limit_ns = limit_ns
        self._deadline = _core.device_now_ns(edge.device.live()) + limit_ns
        self._sequence = 0  # not begun; positive: under way; -1: it ended
        self._error: RdmaError | None = None

    def done(self) -> bool:
        if self._sequence >= 0:
            self._edge._advance(self)
        return self._sequence < 0

    def wait(self, timeout: float | None = None) -> None:
        if self._sequence >= 0:
            self._edge._finish_sending(self, timeout_ns(timeout, self._limit_ns))
        if self._error is not None:
            raise self._error

    def _end(self, error: RdmaError | None) -> None:
        self._error = error
        self._sequence = -1

    def _let_go(self) -> None:
        """Releases the tensor of an ended send. Called without a lock, since the tensor's end may
        run user code.
        """
        self._begin = _ended

    async def _awaited(self) -> None:
        if not await self._edge.device.until(self.done, self._deadline, memory=True):
            why = f"not done after {self._limit_ns / 1e9:g} s; wait again, or leave it to the edge"
            raise DeadlineExceeded("send a tensor", repr(self._edge), why, status="deadline")

    def __repr__(self) -> str:
        return self._repr(f"a tensor on {self._edge.name!r}", self._sequence >= 0)


class Lingering:
    """Closed edges whose receivers still need tensors: the tensors are kept until they are taken."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: deque[tuple[EdgeHandle, deque[tuple[int, object]]]] = deque()

    def add(self, edge: EdgeHandle, kept: deque[tuple[int, object]]) -> None:
        """Takes over the tensors that an edge kept: sequences and owners, oldest first."""
        self.settle()
        self._edges.append((edge, kept))

    def settle(self) -> None:
        """Releases tensors that were taken. Any number of threads; the code that a tensor's end
        runs is called without a lock.
        """
        for entry in tuple(self._edges):
            edge, kept = entry
            with contextlib.suppress(IndexError):  # another thread released it
                while _core.edge_wait_sent(edge, kept[0][0], 0) not in (_core.AGAIN, _core.INTERRUPTED):
                    kept.popleft()
            if not kept:
                with contextlib.suppress(ValueError):
                    self._edges.remove(entry)


class Backlogs:
    """The sending edges of a device that have a backlog. A thread, which lives as long as there is
    such an edge, begins the sends that `send_async` could not begin at once.

    The thread sleeps until the receiver grants credit, which wakes it where the provider can. It
    also wakes by itself after 0.5 to 16 ms, a time that doubles whenever no send has progressed.
    """

    def __init__(self) -> None:
        self._lock = ordered_lock(Rank.BACKLOGS)
        self._edges: set[Sender] = set()
        self._thread: threading.Thread | None = None

    def add(self, edge: Sender) -> None:
        with self._lock:
            self._edges.add(edge)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rdmatensor-backlog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        wakes = Backoff(*_WAKES)
        while edges := self._left():
            wake_ns = wakes.next_ns()
            moved = [edge._drive(wake_ns) for edge in edges]
            if any(moved):
                wakes.reset()

    def _left(self) -> tuple[Sender, ...]:
        with self._lock:
            self._edges = {edge for edge in self._edges if edge._has_waiting()}
            if not self._edges:
                self._thread = None
            return tuple(self._edges)
