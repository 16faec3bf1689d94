"""What `send_async` could not begin at once is begun by a thread of the device, whatever its caller does meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdmatensor.send_edge import SendEdge

__all__ = ["Backlogs"]

_NAP_NS = 500_000
_NAP_MAX_NS = 16_000_000


class Backlogs:
    """Looks after the sending edges of a device that have a backlog. Its thread lives as long as one has.

    It sleeps until the receiver gives credit, which wakes it where the provider can, and looks by itself after half a
    millisecond to 16, longer each time that nothing moved.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edges: set[SendEdge] = set()
        self._thread: threading.Thread | None = None

    def add(self, edge: SendEdge) -> None:
        with self._lock:
            self._edges.add(edge)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rdmatensor-backlog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        nap_ns = _NAP_NS
        while edges := self._left():
            moved = [edge._drive(nap_ns) for edge in edges]
            nap_ns = _NAP_NS if any(moved) else min(2 * nap_ns, _NAP_MAX_NS)

    def _left(self) -> tuple[SendEdge, ...]:
        with self._lock:
            self._edges = {edge for edge in self._edges if edge._has_waiting()}
            if not self._edges:
                self._thread = None
            return tuple(self._edges)
