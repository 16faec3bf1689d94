"""gloo: torch.distributed's send and recv over Gloo (TCP), torch's default for tensors in CPU
memory.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any

from rdmatensor.bench.modes.base import DEADLINE_S, Mode, Setup
from rdmatensor.bench.modes.posted import PostedEnd

__all__ = ["Gloo"]


class Gloo(Mode):
    """Gloo, as torch ships it."""

    name = "gloo"
    package = "torch"
    install = "pip install torch"

    def version(self) -> str:
        return f"Gloo of {super().version()}"

    def end(self, setup: Setup) -> GlooEnd:
        return GlooEnd(setup)


class GlooEnd(PostedEnd):
    """One end of Gloo. Tensors are made once. Gloo copies through the kernel and waits on sockets."""

    transport = "tcp"
    note = "torch.distributed send/recv, isend/irecv with depth"

    def offer(self) -> dict[str, Any]:
        dist: Any = import_module("torch.distributed")
        self._store = dist.TCPStore(self.setup.bind, 0, 2, is_master=True, wait_for_workers=False)
        return {"port": self._store.port}

    def meet(self, offer: dict[str, Any]) -> None:
        torch: Any = import_module("torch")
        dist: Any = import_module("torch.distributed")
        torch.set_num_threads(1)
        if self.setup.first:
            self._store = dist.TCPStore(self.setup.connect, offer["port"], 2, is_master=False)
        rank = 1 if self.setup.first else 0
        limit = timedelta(seconds=DEADLINE_S)
        dist.init_process_group("gloo", store=self._store, rank=rank, world_size=2, timeout=limit)
        self._dist, self._torch, self._other = dist, torch, 1 - rank

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._out = self._torch.zeros(size, dtype=self._torch.uint8)
        self._in = [self._torch.zeros(size, dtype=self._torch.uint8) for _ in range(depth)]
        self.outgoing = self._out.numpy()
        self.places = [tensor.numpy() for tensor in self._in]
        return None

    def begin_send(self) -> Any:
        return self._dist.isend(self._out, self._other)

    def begin_receive(self, slot: int) -> Any:
        return self._dist.irecv(self._in[slot], self._other)

    def wait(self, begun: Any) -> None:
        begun.wait()

    def send(self) -> None:
        self._dist.send(self._out, self._other)

    def receive(self, look: Any = None) -> None:
        self._dist.recv(self._in[0], self._other)
        if look is not None:
            look(self.places[0])

    def release(self) -> None:
        del self._out, self._in, self.outgoing, self.places

    def close(self) -> None:
        self._dist.destroy_process_group()
