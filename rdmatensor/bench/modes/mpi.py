"""mpi: Send and Recv of mpi4py over the installed MPI; on one host it uses shared memory."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np

from rdmatensor.bench.modes.base import End, Mode, Setup
from rdmatensor.bench.modes.posted import PostedEnd

__all__ = ["Mpi"]


class Mpi(Mode):
    """MPI, started by mpirun, which puts both processes into one job: only then does Open MPI use
    shared memory.
    """

    name = "mpi"
    package = "mpi4py"
    install = "apt-get install openmpi-bin libopenmpi-dev, and pip install mpi4py"
    one_host_only = True

    def version(self) -> str:
        from mpi4py import MPI

        return f"{super().version()}, {MPI.Get_library_version().split(',')[0]}"

    def missing(self, setup: Setup) -> str:
        if shutil.which("mpirun") is None:
            return f"mpirun is not installed: {self.install}"
        return super().missing(setup)

    def launcher(self) -> list[str]:
        words = ["mpirun", "-n", "2"]
        if os.geteuid() == 0:
            words.append("--allow-run-as-root")
        if (os.cpu_count() or 1) < 2:
            words.append("--oversubscribe")
        return words

    def rank(self) -> int:
        return int(os.environ["OMPI_COMM_WORLD_RANK"])

    def end(self, setup: Setup) -> End:
        return MpiEnd(setup)


class MpiEnd(PostedEnd):
    """One end of MPI, with upper-case methods on NumPy arrays: no pickling."""

    transport = "mpi"
    note = "mpirun -n 2, its own binding; Send/Recv, Isend/Irecv with depth"

    def meet(self, offer: dict[str, Any]) -> None:
        from mpi4py import MPI

        self._world = MPI.COMM_WORLD
        self._byte = MPI.BYTE
        self._other = 1 - self._world.Get_rank()

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self.outgoing = np.zeros(size, np.uint8)
        self.places = [np.zeros(size, np.uint8) for _ in range(depth)]
        self._out = [self.outgoing, self._byte]
        self._in = [[place, self._byte] for place in self.places]
        return None

    def begin_send(self) -> Any:
        return self._world.Isend(self._out, self._other)

    def begin_receive(self, slot: int) -> Any:
        return self._world.Irecv(self._in[slot], self._other)

    def wait(self, begun: Any) -> None:
        begun.Wait()

    def send(self) -> None:
        self._world.Send(self._out, self._other)

    def receive(self, look: Any = None) -> None:
        self._world.Recv(self._in[0], self._other)
        if look is not None:
            look(self.places[0])

    def release(self) -> None:
        del self.outgoing, self.places, self._out, self._in

    def close(self) -> None:
        from mpi4py import MPI

        MPI.Finalize()
