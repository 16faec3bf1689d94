"""rpc: the paper's gRPC.RDMA: messages over the channel through private, registered buffers
(csrc/bench/rpc.c).

rpc-c is the same, driven from C at both ends, to be compared with static-c.

A message travels as fragments, each with a header. They are copied in at the sender and out at the
receiver, pipelined, with credits.
"""

from __future__ import annotations

import time
from concurrent import futures

import numpy as np

import rdmatensor as rt
from rdmatensor.bench import native
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, Look, NotHere, Setup
from rdmatensor.bench.modes.looped import LoopedEnd
from rdmatensor.bench.modes.own import OwnEnd, OwnMode

__all__ = ["RpcC", "RpcMode"]

FRAGMENT, SLOTS = 128 * 1024, 16
"""2 MiB of buffers each way. Smaller fragments cost more in headers and words; with larger ones,
the second copy no longer finds the first one's bytes in the cache. Chosen, not tuned.
"""


class RpcMode(OwnMode):
    """RPC over RDMA without serialisation: a message is the tensor's bytes behind a header."""

    name = "rpc"

    def memory(self, size: int, depth: int) -> int:
        return 2 * size + 2 * int(native.rpc_bytes(FRAGMENT, SLOTS))

    def end(self, setup: Setup) -> RpcEnd:
        return RpcEnd(setup)


class RpcEnd(OwnEnd):
    """One end of the RPC. Its buffers are registered for each size; tensors lie in ordinary memory."""

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
        """Receives in a thread of its own, as an RPC library does: a message may be larger than all
        buffers together.
        """
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
        self.__dict__.pop("send", None)
        del self.rpc, self._take, self.outgoing, self.incoming
        self.device.unpublish("rpc")
        self.remote.close()
        self.buffers.close()
        del self.buffers


class RpcCEnd(LoopedEnd, RpcEnd):
    """One end of the RPC whose loops are in C."""

    def prepare(self, size: int, depth: int) -> float | None:
        took = super().prepare(size, depth)
        self.__dict__.pop("send", None)
        self.loops = native.Loops.of_rpc(self.rpc, self.incoming, self.outgoing, self.setup.touch, DEADLINE_S)
        return took

    def both(self, count: int) -> float:
        raise NotHere("a message may be larger than all buffers: both directions need a thread, as in rpc")


class RpcC(RpcMode):
    """The RPC as a program in C uses it."""

    name = "rpc-c"
    standard = False

    def end(self, setup: Setup) -> RpcCEnd:
        return RpcCEnd(setup)
