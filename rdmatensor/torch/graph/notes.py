"""Notes between processes: that a loop is over, why a process gives up, and of which sizes a new
bucket is.

A process that fails tells its peers why before it ends, and a peer that hears of it tells its own;
so every process names the one in which the trouble began, and not the neighbour that closed last.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import numpy as np

from rdmatensor.edges.many import wait_any
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, PeerClosed, PeerLost, RdmaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rdmatensor.edges.recv import RecvEdge
    from rdmatensor.torch.graph.opening import Wires

__all__ = ["Notes"]

_GRACE_S = 1.0
"""How long a process waits for the note of a peer that closed."""
_TEXT_MAX = 1500  # characters of a reason
_SLICE_S = 0.25
_WHAT = "run a step"
_OPEN = "open a bucket"


class Notes:
    """The notes of one process to and from its peers."""

    def __init__(self, wires: Wires) -> None:
        self.process = wires.process
        self._tells = dict(wires.tells)
        self._hears = dict(wires.hears)
        self.ended: dict[str, int] = {}
        """The peers whose loop is over, and after how many steps."""
        self.announced: dict[int, dict[str, list[int]]] = {}
        """The sizes of the batch of each bucket that the first rank has announced."""
        self.prepared: dict[tuple[str, int], str] = {}
        """The fingerprint of each bucket for which a peer has made its receiving ends."""
        self._told = False

    @property
    def peers(self) -> tuple[str, ...]:
        """The processes that this one has edges with."""
        return tuple(self._tells)

    def edges(self) -> list[RecvEdge]:
        """The edges on which a note may still come."""
        return list(self._hears.values())

    def end(self, steps: int) -> None:
        """Tells all peers that this process's loop is over."""
        self._tell({"kind": "end", "steps": steps})

    def fail(self, who: str, why: str) -> None:
        """Tells all peers, once, which process failed and why. Raises nothing."""
        if not self._told:
            self._told = True
            plain = why.encode("ascii", "replace").decode()[:_TEXT_MAX]
            self._tell({"kind": "failed", "who": who, "why": plain})

    def announce(self, peers: Iterable[str], number: int, sizes: Mapping[str, Sequence[int]], timeout: float) -> None:
        """Tells processes of a new bucket, of which the next step is one."""
        for peer in peers:
            self._insist(peer, {"kind": "bucket", "number": number, "sizes": sizes}, timeout)

    def awaited(self, number: int, timeout: float) -> dict[str, list[int]]:
        """The sizes of a bucket that the first rank announces; waits for them."""
        deadline = time.monotonic() + timeout
        while number not in self.announced:
            self._wait_for("the first rank's sizes", deadline)
        return self.announced[number]

    def prepare(self, number: int, fingerprint: str, timeout: float) -> None:
        """Tells all peers that the receiving ends of a bucket are made here, and waits until each has
        told it. InvalidArgument that names a peer whose plan for it differs.
        """
        for peer in self._tells:
            self._insist(peer, {"kind": "prepared", "number": number, "fingerprint": fingerprint}, timeout)
        deadline = time.monotonic() + timeout
        while missing := [peer for peer in self._tells if (peer, number) not in self.prepared]:
            if over := [peer for peer in missing if peer in self.ended]:
                raise PeerLost(_OPEN, self.process, f"the loop of {', '.join(over)} is over", status="peer-lost")
            self._wait_for(", ".join(missing), deadline)
        differ = [peer for peer in self._tells if self.prepared[peer, number] != fingerprint]
        if differ:
            why = (
                f"the plan of {', '.join(differ)} for these sizes differs from the one here: all ranks need the same "
                "model, loss, optimizer and version of torch"
            )
            raise InvalidArgument(_OPEN, self.process, why)

    def _wait_for(self, what: str, deadline: float) -> None:
        """Waits a slice of time for any note, and reads all that have come."""
        if time.monotonic() >= deadline:
            why = f"nothing came of {what}: see what that process does, or raise timeout="
            raise DeadlineExceeded(_OPEN, self.process, why, status="deadline")
        with contextlib.suppress(DeadlineExceeded):
            wait_any(self.edges(), timeout=_SLICE_S)
        self.read()

    def _insist(self, peer: str, note: dict[str, object], timeout: float) -> None:
        packed = np.frombuffer(json.dumps(note).encode(), np.uint8)
        edge = self._tells[peer]
        try:
            edge.send(packed, timeout)
        except RdmaError as error:
            raise self.explained(error, peer, edge.name) from error

    def _tell(self, note: dict[str, object]) -> None:
        packed = np.frombuffer(json.dumps(note).encode(), np.uint8)
        for edge in self._tells.values():
            with contextlib.suppress(RdmaError):  # that peer is gone, or reads no more
                edge.send(packed, 0)

    def read(self) -> None:
        """Reads all notes that have come. Raises PeerLost for one that says a process failed, and for
        a peer that is gone without a note.
        """
        for peer, edge in tuple(self._hears.items()):
            if not edge.ready():
                continue
            try:
                with edge.recv(0) as tensor:
                    note = json.loads(tensor.numpy().tobytes())
            except RdmaError as error:
                del self._hears[peer]
                if peer not in self.ended:
                    raise self._lost(peer, error, "its notes") from error
                continue
            if note["kind"] == "end":
                self.ended[peer] = int(note["steps"])
            elif note["kind"] == "bucket":
                self.announced[int(note["number"])] = note["sizes"]
            elif note["kind"] == "prepared":
                self.prepared[peer, int(note["number"])] = note["fingerprint"]
            else:
                self.fail(note["who"], note["why"])
                raise PeerLost(_WHAT, self.process, f"{note['who']} failed: {note['why']}", status="peer-lost")

    def explained(self, error: RdmaError, peer: str, edge: str) -> RdmaError:
        """The error to raise for one of an edge with a peer: it names the process in which the
        trouble began, as far as notes tell.
        """
        if not isinstance(error, PeerLost):
            return error
        try:
            self._listen(peer)
        except PeerLost as told:
            return told
        return self._lost(peer, error, edge)

    def _listen(self, peer: str) -> None:
        """Waits a moment for the note of a peer that closed."""
        deadline = time.monotonic() + _GRACE_S
        while (edge := self._hears.get(peer)) is not None and time.monotonic() < deadline and peer not in self.ended:
            with contextlib.suppress(DeadlineExceeded):
                wait_any([edge], timeout=0.05)
            self.read()

    def _lost(self, peer: str, error: RdmaError, edge: str) -> PeerLost:
        steps = self.ended.get(peer)
        if steps is not None:
            why = f"its loop was over after {steps} steps, and this process needs it for another (edge {edge!r})"
        elif isinstance(error, PeerClosed):
            why = f"it closed in the middle of a step (edge {edge!r})"
        else:
            why = f"it died (edge {edge!r}): {error.why}"
        self.fail(peer, why)
        return PeerLost(_WHAT, self.process, f"{peer} is gone: {why}", status="peer-lost")
