"""What the modes over tensor edges share: an edge each way, and a tensor that is bound once and sent again."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

import rdmatensor as rt
from rdmatensor.bench.modes.base import DEADLINE_S, Bytes, Copies, Look, Setup
from rdmatensor.bench.modes.own import OwnEnd

__all__ = ["EdgeEnd"]

ONE_SLOT = 1 << 30
"""Bytes of a tensor that gets no second slot: rdma_rxe registers no more than 1 GiB at once."""


class EdgeEnd(OwnEnd):
    """An end with one edge out and one in, made anew for each size. Subclasses say of what kind."""

    static = True
    borrows = False
    staging = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._number = 0

    def _words(self) -> dict[str, Any]:
        """What both ends of an edge say of it."""
        setup = self.setup
        words: dict[str, Any] = {"stripes": setup.qps, "dtype": "uint8"}
        words |= {"shape": (self.size,)} if self.static else {"rank": 1}
        if setup.ordering != "auto":
            words["ordering"] = setup.ordering
        return words

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._number += 1
        before = self.device.stats.registering_ns
        mine, other = ("first", "second") if self.setup.first else ("second", "first")
        slots = max(depth, 2) if size < ONE_SLOT else depth
        self._in = self.device.recv_edge(f"{mine} {self._number}", slots=slots, **self._words())
        self._out = self.channel.send_edge(
            f"{other} {self._number}", timeout=DEADLINE_S, staging=self.staging, **self._words()
        )
        self.outgoing = self._tensor()
        send = self._out.bind(self.outgoing)
        self._under_way: deque[rt.Sending] = deque()
        self._begin = send.start
        if self.device.limits.completes_in_post or not self.static:
            self.send = send  # type: ignore[method-assign]
        self.note = self._out.ordering
        return (self.device.stats.registering_ns - before) / 1e9

    def _tensor(self) -> Bytes:
        """What is sent: in registered memory, which the peer may READ where it is to fetch."""
        access = rt.Access.LOCAL if self.static else rt.Access.REMOTE_READ
        self._region = self.region(self.size, access=access)
        tensor = self._region.empty((self.size,), "uint8")
        found: Bytes = tensor.numpy()
        return found

    def send(self) -> None:
        """Where a WRITE goes on after the call: as many as the receiver has places for at once."""
        if len(self._under_way) >= self.depth:
            self._under_way.popleft().wait(DEADLINE_S)
        self._under_way.append(self._begin())

    def finish(self) -> None:
        while self._under_way:
            self._under_way.popleft().wait(DEADLINE_S)
        self._out.drain(DEADLINE_S)

    def receive(self, look: Look | None = None) -> None:
        tensor = self._in.recv(borrow=True) if self.borrows else self._in.recv()
        if look is not None:
            look(np.asarray(tensor.numpy()))
        tensor.release()

    def copies(self) -> Copies:
        out, into = self._out.stats, self._in.stats
        return Copies((out.copied_bytes + into.copied_bytes) / self.size, out.transfers)

    def release(self) -> None:
        self.finish()
        self._out.close()
        self._in.close()
        self.__dict__.pop("send", None)
        del self.outgoing, self._begin, self._out, self._in
        region = self.__dict__.pop("_region", None)
        if region is not None:
            region.close()
