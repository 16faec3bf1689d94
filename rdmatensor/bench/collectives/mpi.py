"""Collectives of the MPI that is installed, through mpi4py's upper-case methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rdmatensor.bench.collectives.base import RANKS, CollectiveEnd, Result, inputs
from rdmatensor.bench.modes.base import End, Setup
from rdmatensor.bench.modes.mpi import Mpi

__all__ = ["MpiCollectives"]


class MpiCollectives(Mpi):
    """The MPI backend, started by mpirun as its transfers are."""

    def end(self, setup: Setup) -> End:
        return MpiRank(setup)


class MpiRank(CollectiveEnd):
    """A rank of MPI.COMM_WORLD."""

    transport = "mpi"
    note = "mpirun -n 2, its own binding; upper-case methods on NumPy arrays"

    def meet(self, offer: dict[str, Any]) -> None:
        from mpi4py import MPI

        self._mpi: Any = MPI
        self._world = MPI.COMM_WORLD

    def barrier(self) -> None:
        self._world.Barrier()

    def make(self, operation: str, count: int) -> tuple[Callable[[], object], Result, Callable[[], None]]:
        world, mpi = self._world, self._mpi
        given = inputs(self.rank(), count)
        sent = given.copy()
        empty = {"all_gather": count * RANKS, "reduce_scatter": count // RANKS, "all_to_all": count}
        got = np.zeros(empty.get(operation, 0), np.float32)

        def reset() -> None:
            sent[:] = given

        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: world.Allreduce(mpi.IN_PLACE, sent),
            "reduce_scatter": lambda: world.Reduce_scatter_block(sent, got),
            "all_gather": lambda: world.Allgather(sent, got),
            "broadcast": lambda: world.Bcast(sent, 0),
            "all_to_all": lambda: world.Alltoall(sent, got),
            "barrier": world.Barrier,
        }
        result = got if operation in empty or operation == "barrier" else sent
        return calls[operation], lambda: result, reset

    def close(self) -> None:
        self._mpi.Finalize()
