"""rpc: the paper's gRPC.RDMA. Messages over the channel through private, registered buffers (csrc/bench/rpc.c).

Fragments with a header each, copied in at the sender and out at the receiver, pipelined, with credits.
"""

from __future__ import annotations

import time
from concurrent import futures

import numpy as np

import rdmatensor as rt
from rdmatensor.bench import native
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, Look, Setup
from rdmatensor.bench.modes.own import OwnEnd, OwnMode

__all__ = ["RpcMode"]

FRAGMENT, SLOTS = 128 * 1024, 16
"""2 MiB of buffers each way: with smaller fragments the headers and words cost more, with larger ones the second copy
finds the first's bytes no longer in the cache. Chosen, not tuned.
"""


class RpcMode(OwnMode):
    """RPC over RDMA, without serialisation: a message is the tensor's bytes behind a header."""

    name = "rpc"

    def memory(self, size: int, depth: int) -> int:
        return 2 * size + 2 * int(native.rpc_bytes(FRAGMENT, SLOTS))

    def end(self, setup: Setup) -> RpcEnd:
        return RpcEnd(setup)


class RpcEnd(OwnEnd):
    """The buffers are registered once, when the ends meet, as an RPC library does; tensors lie in ordinary memory."""

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        half = int(native.rpc_bytes(FRAGMENT, SLOTS))
        self.buffers = self.region(2 * half, access=rt.Access.REMOTE_WRITE)
        self.device.publish("rpc", self.buffers[:half])
        self.remote = self.channel.lookup("rpc", timeout=DEADLINE_S)
        self.rpc = native.Rpc(self.channel, self.buffers, self.remote, FRAGMENT, SLOTS)
        self.outgoing = np.zeros(size, np.uint8)
        self.incoming = np.zeros(size, np.uint8)
        self.send = self.rpc.sender(self.outgoing, DEADLINE_S)  # type: ignore[method-assign]
        self._take = self.rpc.receiver(self.incoming, DEADLINE_S)
        self.note = f"{SLOTS} fragments of {FRAGMENT >> 10} KiB each way"
        return self.registration_s(self.buffers)

    def finish(self) -> None:
        self.rpc.flush(DEADLINE_S)

    def receive(self, look: Look | None = None) -> None:
        self._take()
        if look is not None:
            look(self.incoming)

    def both(self, count: int) -> float:
        """A thread of its own receives, as in an RPC library: a message may be larger than all buffers together."""
        begin = time.perf_counter()
        with futures.ThreadPoolExecutor(1) as receiver:
            coming = receiver.submit(lambda: [self._take() for _ in range(count)])
            for _ in range(count):
                self.send()
            coming.result()
        self.finish()
        return time.perf_counter() - begin

    def copies(self) -> Copies:
        stats = self.rpc.stats
        return Copies(stats["copied_bytes"] / self.size, stats["messages"])

    def release(self) -> None:
        self.finish()
        del self.rpc, self.send, self._take, self.outgoing, self.incoming
        self.device.unpublish("rpc")
        self.remote.close()
        self.buffers.close()
        del self.buffers
