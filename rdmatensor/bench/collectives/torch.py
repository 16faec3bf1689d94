"""Collectives of torch.distributed, by backend: `rdmatensor`, which `import rdmatensor.torch` registers, and `gloo`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import rdmatensor as rt
from rdmatensor.bench.collectives.base import RANKS, CollectiveEnd, Result, inputs
from rdmatensor.bench.modes.base import DEADLINE_S, Mode, Setup

__all__ = ["GlooCollectives", "OurCollectives", "OurCollectivesInRegion", "TorchEnd"]


class GlooCollectives(Mode):
    """A backend of torch.distributed, by its name."""

    package = "torch"
    install = "pip install torch"

    def __init__(self, backend: str) -> None:
        self.name = backend

    def version(self) -> str:
        return f"{self.name} of {super().version()}"

    def end(self, setup: Setup) -> TorchEnd:
        return TorchEnd(setup, self.name)


class OurCollectives(GlooCollectives):
    """This library's own backend."""

    kind = "ours"

    def version(self) -> str:
        import rdmatensor

        return f"rdmatensor {rdmatensor.__version__}, {Mode.version(self)}"


class OurCollectivesInRegion(OurCollectives):
    """The same backend with tensors that lie in a region, so that they are read and written in
    place.
    """

    def __init__(self) -> None:
        super().__init__("rdmatensor-region")

    def end(self, setup: Setup) -> TorchEnd:
        return RegionEnd(setup, "rdmatensor")


class TorchEnd(CollectiveEnd):
    """A rank of a process group of two."""

    def __init__(self, setup: Setup, backend: str) -> None:
        super().__init__(setup)
        self._backend = backend
        self._torch: Any = import_module("torch")
        self._dist: Any = import_module("torch.distributed")
        self._torch.set_num_threads(1)
        if backend == "rdmatensor":
            import_module("rdmatensor.torch")
        self.transport = "tcp" if backend == "gloo" else backend
        self.note = f'torch.distributed, init_process_group("{backend}")'

    def offer(self) -> dict[str, Any]:
        self._store = self._dist.TCPStore(self.setup.bind, 0, RANKS, is_master=True, wait_for_workers=False)
        return {"port": self._store.port}

    def meet(self, offer: dict[str, Any]) -> None:
        if self.setup.first:
            self._store = self._dist.TCPStore(self.setup.connect, offer["port"], RANKS, is_master=False)
        limit = timedelta(seconds=DEADLINE_S)
        self._dist.init_process_group(
            self._backend, store=self._store, rank=self.rank(), world_size=RANKS, timeout=limit
        )

    def place(self, nbytes: int) -> contextlib.AbstractContextManager[object]:
        """The context in which an operation's tensors, of `nbytes` together, are made."""
        return contextlib.nullcontext()

    def barrier(self) -> None:
        self._dist.barrier()

    def make(self, operation: str, count: int) -> tuple[Callable[[], object], Result, Callable[[], None]]:
        torch, dist = self._torch, self._dist
        given = torch.from_numpy(inputs(self.rank(), count))
        empty = {"all_gather": count * RANKS, "reduce_scatter": count // RANKS, "all_to_all": count}
        with self.place((count + empty.get(operation, 0)) * 4):
            sent = given.clone()
            got = torch.zeros(empty.get(operation, 0), dtype=torch.float32)

        def reset() -> None:
            sent.copy_(given)

        # torch 2.13 renamed two of them, and warns at each call by the old name
        all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
        reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: dist.all_reduce(sent),
            "reduce_scatter": lambda: reduce_scatter(got, sent),
            "all_gather": lambda: all_gather(got, sent),
            "broadcast": lambda: dist.broadcast(sent, 0),
            "all_to_all": lambda: dist.all_to_all_single(got, sent),
            "barrier": dist.barrier,
        }
        result = got if operation in empty or operation == "barrier" else sent
        return calls[operation], result.numpy, reset

    def close(self) -> None:
        self._dist.destroy_process_group()


class RegionEnd(TorchEnd):
    """A rank that allocates a region for each operation, which peers may read and write."""

    def meet(self, offer: dict[str, Any]) -> None:
        super().meet(offer)
        self.note += "; tensors in a region of its device"

    def place(self, nbytes: int) -> contextlib.AbstractContextManager[object]:
        ours = import_module("rdmatensor.torch")
        access = rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE
        self._region = ours.device().region(nbytes + (1 << 20), access=access)
        place: contextlib.AbstractContextManager[object] = self._region.allocating(when_full="raise")
        return place
