"""The common part of the modes over tensor edges: an edge each way, and a tensor that is bound once
and sent repeatedly.
"""

from __future__ import annotations

from collections import deque

import numpy as np

import rdmatensor as rt
from rdmatensor.bench.modes.base import DEADLINE_S, Bytes, Copies, Look, Setup
from rdmatensor.bench.modes.own import OwnEnd

__all__ = ["EdgeEnd"]

ONE_SLOT = 1 << 30
"""The size from which a tensor gets no second slot: rdma_rxe registers at most 1 GiB at once."""


class EdgeEnd(OwnEnd):
    """An end with one edge out and one in, made anew for each size. Subclasses choose the kind of
    edge.
    """

    static = True
    borrows = False
    staging = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._number = 0

    def _options(self, slots: int) -> rt.EdgeOptions:
        """The options of both edges."""
        ordering = None if self.setup.ordering == "auto" else self.setup.ordering
        rank = None if self.static else 1
        return rt.EdgeOptions(rank=rank, ordering=ordering, stripes=self.setup.qps, slots=slots, staging=self.staging)

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._number += 1
        before = self.device.stats.registering_ns
        mine, other = ("first", "second") if self.setup.first else ("second", "first")
        slots = max(depth, 2) if size < ONE_SLOT else depth
        shape, options = (self.size,) if self.static else None, self._options(slots)
        self._in = self.device.recv_edge(f"{mine} {self._number}", shape=shape, dtype="uint8", options=options)
        self._out = self.channel.send_edge(
            f"{other} {self._number}", shape=shape, dtype="uint8", options=options, timeout=DEADLINE_S
        )
        self.outgoing = self._tensor()
        send = self._out.prepare(self.outgoing)
        self._under_way: deque[rt.Transfer] = deque()
        self._begin = send.start
        if self.device.limits.completes_in_post or not self.static:
            self.send = send  # type: ignore[method-assign]
        self.note = self._out.ordering
        return (self.device.stats.registering_ns - before) / 1e9

    def _tensor(self) -> Bytes:
        """The tensor to send: in registered memory, which the peer may READ where it is to fetch
        the tensor, or a part of it where memory is mapped.
        """
        limits = self.device.limits
        access = rt.Access.LOCAL if self.static and not limits.maps_remote else rt.Access.REMOTE_READ
        self._region = self.region(self.size, access=access)
        tensor = self._region.empty((self.size,), "uint8")
        found: Bytes = tensor.numpy()
        return found

    def send(self) -> None:
        """Sends where a WRITE outlives the call; at most `depth` transfers are under way."""
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
