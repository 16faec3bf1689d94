"""csrc/bench from Python: loops in C over the floor, edges and the RPC. For the benchmark alone,
beside _core.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor import _core
from rdmatensor._native import ffi, lib
from rdmatensor.bench.options import TOUCHES
from rdmatensor.channel import Channel
from rdmatensor.edges.recv import RecvEdge
from rdmatensor.edges.send import SendEdge
from rdmatensor.memory.region import Region
from rdmatensor.memory.remote import Remote

__all__ = ["Loops", "Rpc", "floor_many", "read", "rpc_bytes"]

rpc_bytes = lib.rt_bench_rpc_bytes


def pointer(array: NDArray[Any]) -> Any:
    return ffi.cast("void *", array.ctypes.data)


def floor_many(to: int, source: int, size: int, count: int, flag: int) -> float:
    """The seconds to copy `count` adjacent ranges between addresses, with a release store after
    each.
    """
    begin = time.perf_counter()
    lib.rt_bench_floor_many(
        ffi.cast("void *", to), ffi.cast("void *", source), size, count, ffi.cast("uint64_t *", flag)
    )
    return time.perf_counter() - begin


def read(array: NDArray[Any]) -> int:
    """Reads every byte of a contiguous array, as fast as C does; the sum of its words."""
    at = ffi.from_buffer(array)
    return int(lib.rt_bench_read(at, len(at)))


class Loops:
    """The loops of csrc/bench/loops.c over one end, which sends one tensor again and again.

    `keep` lives as long as this object; `touch` is a word of `options.TOUCHES`.
    """

    def __init__(self, keep: object, tensor: NDArray[np.uint8], touch: str, timeout: float) -> None:
        self._keep = (keep, tensor)
        self._end = ffi.new("rt_bench_end *")
        self._end.size = tensor.nbytes
        setattr(self._end, "from", int(ffi.cast("uintptr_t", ffi.from_buffer(tensor))))
        self._end.touch = TOUCHES.index(touch)
        self._ns = int(timeout * 1e9)

    @classmethod
    def of_floor(
        cls, ways: tuple[dict[str, int], dict[str, int]], tensor: NDArray[np.uint8], touch: str, timeout: float
    ) -> Loops:
        """Over the floor: the fields of rt_bench_floor for each direction, out and in."""
        out, into = (ffi.new("rt_bench_floor *", way) for way in ways)
        made = cls((out, into), tensor, touch, timeout)
        lib.rt_bench_floor_end(made._end, out, into)
        return made

    @classmethod
    def of_edges(cls, out: SendEdge, into: RecvEdge, tensor: NDArray[np.uint8], touch: str, timeout: float) -> Loops:
        """Over two open static edges."""
        made = cls((out, into), tensor, touch, timeout)
        lib.rt_bench_edge_end(made._end, out._handle, into._handle)
        return made

    @classmethod
    def of_rpc(cls, rpc: Rpc, into: NDArray[np.uint8], tensor: NDArray[np.uint8], touch: str, timeout: float) -> Loops:
        """Over an RPC, whose messages arrive in `into`."""
        made = cls((rpc, into), tensor, touch, timeout)
        lib.rt_bench_rpc_end(made._end, rpc._handle, pointer(into))
        return made

    @staticmethod
    def _checked(status: int) -> int:
        if status == _core.AGAIN:
            raise TimeoutError("the other end did not move")
        if status < 0:
            raise _core.failure(status, "move a tensor", "in the loops of the benchmark")
        return status

    def send(self) -> None:
        """Sends the tensor as it is."""
        self._checked(self._end.send(self._end, self._ns))

    def finish(self) -> None:
        """Waits until the tensor may be changed."""
        self._checked(lib.rt_bench_finish(self._end, self._ns))

    def receive(self) -> Any:
        """Waits for the next tensor, and gives its bytes, which stay until `release`."""
        self._checked(self._end.receive(self._end, self._ns))
        return np.frombuffer(ffi.buffer(ffi.cast("char *", self._end.arrived), self._end.size), np.uint8)

    def release(self) -> None:
        """Gives back the place of the tensor that came last."""
        self._checked(self._end.release(self._end))

    def ping(self, count: int) -> NDArray[np.float64]:
        """Times round trips; gives half of each in seconds."""
        halves = np.empty(count)
        self._checked(lib.rt_bench_ping(self._end, count, ffi.cast("double *", halves.ctypes.data), self._ns))
        return halves / 1e9

    def pong(self, count: int) -> None:
        """Answers the round trips."""
        self._checked(lib.rt_bench_pong(self._end, count, self._ns))

    def push(self, count: int) -> float:
        """Sends tensors and receives one that confirms them; gives the seconds."""
        return self._checked(lib.rt_bench_push(self._end, count, self._ns)) / 1e9

    def pull(self, count: int) -> None:
        """Receives the tensors and sends the confirming one."""
        self._checked(lib.rt_bench_pull(self._end, count, self._ns))

    def both(self, count: int, depth: int) -> float:
        """Sends while receiving as many; gives the seconds."""
        return self._checked(lib.rt_bench_both(self._end, count, depth, self._ns)) / 1e9


class Rpc:
    """One end of the RPC. It keeps the channel and the memory alive."""

    def __init__(self, channel: Channel, region: Region, remote: Remote, fragment: int, slots: int) -> None:
        self._keep = (channel, region, remote)
        handle = lib.rt_bench_rpc_create(channel.live(), region.live(), remote.live(), fragment, slots)
        if handle == ffi.NULL:
            raise ValueError(f"an RPC cannot have {slots} fragments of {fragment} bytes")
        self._handle = ffi.gc(handle, lib.rt_bench_rpc_drop)

    def send(self, tensor: NDArray[np.uint8], timeout: float) -> None:
        """Sends one message; the tensor may be changed afterwards."""
        self._insist(lib.rt_bench_rpc_send, (pointer(tensor), len(tensor)), timeout)

    def receive(self, into: NDArray[np.uint8], timeout: float) -> int:
        """Receives the next message and gives its size."""
        return self._insist(lib.rt_bench_rpc_receive, (pointer(into), len(into)), timeout)

    def flush(self, timeout: float) -> None:
        """Waits until the provider is done with everything that was sent."""
        self._insist(lib.rt_bench_rpc_flush, (), timeout)

    def sender(self, tensor: NDArray[np.uint8], timeout: float) -> Any:
        """`send` bound to one tensor: the least work for each call."""
        send, handle, at, size = lib.rt_bench_rpc_send, self._handle, pointer(tensor), len(tensor)

        def call() -> None:
            if send(handle, at, size, _core.SLICE_NS):
                self._insist(send, (at, size), timeout)

        return call

    def receiver(self, into: NDArray[np.uint8], timeout: float) -> Any:
        """`receive` bound to one buffer."""
        receive, handle, at, size = lib.rt_bench_rpc_receive, self._handle, pointer(into), len(into)

        def call() -> None:
            if receive(handle, at, size, _core.SLICE_NS) < 0:
                self._insist(receive, (at, size), timeout)

        return call

    def _insist(self, call: Any, arguments: tuple[Any, ...], timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while True:
            status = int(call(self._handle, *arguments, _core.SLICE_NS))
            if status >= 0:
                return status
            if status not in (_core.AGAIN, _core.INTERRUPTED):
                raise _core.failure(status, "move a message of the RPC", repr(self._keep[0]))
            if time.monotonic() > deadline:
                raise TimeoutError(f"the other end of the RPC did not move for {timeout:g} s")

    @property
    def stats(self) -> dict[str, int]:
        """Counters: messages, fragments, copies, copied_bytes, waits."""
        found = ffi.new("rt_bench_rpc_stats *")
        lib.rt_bench_rpc_get_stats(self._handle, found)
        return {name: getattr(found, name) for name in ("messages", "fragments", "copies", "copied_bytes", "waits")}
