"""csrc/bench from Python: the floor's loops and the RPC. Beside _core.py, for the benchmark alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor import _core
from rdmatensor._native import ffi, lib
from rdmatensor.channel import Channel
from rdmatensor.region import Region
from rdmatensor.remote import Remote

__all__ = ["FloorEnd", "Rpc", "floor_many", "rpc_bytes"]

rpc_bytes = lib.rt_bench_rpc_bytes


def pointer(array: NDArray[Any]) -> Any:
    return ffi.cast("void *", array.ctypes.data)


def floor_many(to: int, source: int, size: int, count: int, flag: int) -> float:
    """Seconds to copy `count` ranges that lie side by side, between addresses, with a release store after each."""
    begin = time.perf_counter()
    lib.rt_bench_floor_many(
        ffi.cast("void *", to), ffi.cast("void *", source), size, count, ffi.cast("uint64_t *", flag)
    )
    return time.perf_counter() - begin


class FloorEnd:
    """One end of the floor: two directions over memory that both processes map. Keeps nothing alive.

    `out` and `into` are (address of the flag, of the credit, of the slots) of each direction.
    """

    def __init__(
        self, out: tuple[int, int, int], into: tuple[int, int, int], stride: int, slots: int, timeout: float
    ) -> None:
        self._out = ffi.new("rt_bench_floor *", [*out, stride, slots, 0])
        self._in = ffi.new("rt_bench_floor *", [*into, stride, slots, 0])
        self._ns = int(timeout * 1e9)

    @staticmethod
    def _checked(status: int) -> None:
        if status != _core.OK:
            raise TimeoutError("the other end of the floor did not move")

    def send(self, tensor: NDArray[np.uint8]) -> None:
        """Copies the tensor into the next slot."""
        self._checked(lib.rt_bench_floor_send(self._out, pointer(tensor), len(tensor), self._ns))

    def receive(self) -> int:
        """Waits for the next tensor and gives its slot free. Which slot it was."""
        self._checked(lib.rt_bench_floor_receive(self._in, self._ns))
        return int((self._in.done - 1) % self._in.count)

    def ping(self, tensor: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
        """Round trips; half of each in seconds."""
        halves = np.empty(count)
        into = ffi.cast("double *", halves.ctypes.data)
        self._checked(lib.rt_bench_floor_ping(self._out, self._in, pointer(tensor), len(tensor), count, into, self._ns))
        return halves / 1e9

    def pong(self, tensor: NDArray[np.uint8], count: int) -> None:
        """Their other half."""
        self._checked(lib.rt_bench_floor_pong(self._out, self._in, pointer(tensor), len(tensor), count, self._ns))


class Rpc:
    """One end of the RPC. Keeps the channel and the memory alive."""

    def __init__(self, channel: Channel, region: Region, remote: Remote, fragment: int, slots: int) -> None:
        self._keep = (channel, region, remote)
        handle = lib.rt_bench_rpc_create(channel._live(), region._handle, remote._live(), fragment, slots)
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
        """`send` of one tensor, bound once: the least work for each call."""
        send, handle, at, size = lib.rt_bench_rpc_send, self._handle, pointer(tensor), len(tensor)

        def call() -> None:
            if send(handle, at, size, _core.SLICE_NS):
                self._insist(send, (at, size), timeout)

        return call

    def receiver(self, into: NDArray[np.uint8], timeout: float) -> Any:
        """`receive` into one place, bound once."""
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
        """messages, fragments, copies, copied_bytes, waits."""
        found = ffi.new("rt_bench_rpc_stats *")
        lib.rt_bench_rpc_get_stats(self._handle, found)
        return {name: getattr(found, name) for name in ("messages", "fragments", "copies", "copied_bytes", "waits")}
