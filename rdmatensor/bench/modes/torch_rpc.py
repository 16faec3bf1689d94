"""torch-rpc: torch.distributed.rpc over TensorPipe, a tensor as argument and as result of a call."""

from __future__ import annotations

import queue
import socket
import time
from collections import deque
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import DEADLINE_S, End, Mode, Setup

__all__ = ["TorchRpc"]

# Calls leave their results for this process's loop here; module-level, since an RPC finds functions
# by name.
SEEN: queue.SimpleQueue[Any] = queue.SimpleQueue()
GIVEN: queue.SimpleQueue[Any] = queue.SimpleQueue()


def echo(tensor: Any) -> Any:
    """Runs at the second end."""
    SEEN.put(None)
    return tensor


def take(tensor: Any) -> None:
    """Runs at the second end."""
    SEEN.put(tensor)


def give() -> Any:
    """Runs at the second end."""
    tensor = GIVEN.get(timeout=DEADLINE_S)
    SEEN.put(None)
    return tensor


class TorchRpc(Mode):
    """The RPC that torch ships."""

    name = "torch-rpc"
    package = "torch"
    install = "pip install torch"

    def version(self) -> str:
        return f"torch.distributed.rpc of {super().version()}"

    def memory(self, size: int, depth: int) -> int:
        return size * (4 + 2 * depth)

    def end(self, setup: Setup) -> TorchRpcEnd:
        return TorchRpcEnd(setup)


class TorchRpcEnd(End):
    """One end of torch's RPC: the first end calls functions of the second."""

    touches = ("none",)
    transport = "tensorpipe"
    note = "rpc_sync, rpc_async with depth"

    def offer(self) -> dict[str, Any]:
        with socket.socket() as probe:  # the library takes no port 0
            probe.bind((self.setup.bind, 0))
            return {"port": probe.getsockname()[1]}

    def meet(self, offer: dict[str, Any]) -> None:
        torch: Any = import_module("torch")
        rpc: Any = import_module("torch.distributed.rpc")
        torch.set_num_threads(1)
        host = self.setup.connect if self.setup.first else self.setup.bind
        options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://{host}:{offer['port']}", rpc_timeout=DEADLINE_S)
        rank = 1 if self.setup.first else 0
        rpc.init_rpc(self.setup.role, rank=rank, world_size=2, rpc_backend_options=options)
        self._rpc, self._torch = rpc, torch

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._tensor = self._torch.zeros(size, dtype=self._torch.uint8)
        return None

    def ping(self, count: int) -> NDArray[np.float64]:
        halves = np.empty(count)
        call, arguments, now = self._rpc.rpc_sync, (self._tensor,), time.perf_counter_ns
        for index in range(count):
            begin = now()
            call("second", echo, arguments)
            halves[index] = now() - begin
        return halves / 2e9

    def _served(self, count: int) -> None:
        for _ in range(count):
            SEEN.get(timeout=DEADLINE_S)

    def pong(self, count: int) -> None:
        self._served(count)

    def _call_many(self, function: Any, count: int) -> None:
        under_way: deque[Any] = deque()
        for _ in range(count):
            if len(under_way) >= self.depth:
                under_way.popleft().wait()
            under_way.append(self._rpc.rpc_async("second", function, (self._tensor,)))
        while under_way:
            under_way.popleft().wait()

    def push(self, count: int) -> float:
        begin = time.perf_counter()
        self._call_many(take, count)
        self._rpc.rpc_sync("second", give)
        return time.perf_counter() - begin

    def pull(self, count: int) -> None:
        GIVEN.put(self._tensor)
        self._served(count + 1)

    def both(self, count: int) -> float:
        """Sends the tensor as argument and as result: one each way for every call."""
        begin = time.perf_counter()
        if self.setup.first:
            self._call_many(echo, count)
        else:
            self._served(count)
        return time.perf_counter() - begin

    def check_out(self, seed: int) -> None:
        tensor = self._torch.from_numpy(pattern.bytes_of(0, self.size, seed))
        if self.setup.first:
            self._rpc.rpc_sync("second", take, (tensor,))
        else:
            GIVEN.put(tensor)
            SEEN.get(timeout=DEADLINE_S)

    def check_in(self, seed: int) -> int:
        got = self._rpc.rpc_sync("second", give) if self.setup.first else SEEN.get(timeout=DEADLINE_S)
        return pattern.differences(got.numpy(), seed) + abs(len(got) - self.size)

    def release(self) -> None:
        del self._tensor

    def close(self) -> None:
        self._rpc.shutdown()
