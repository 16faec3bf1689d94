"""The place of this process in the job that started it: rank, size, and the store of the job's teams.

`rdmatensor run`, torchrun, Open MPI, MPICH (and what descends from it) and Slurm each tell their
processes by variables of the environment, which settings/launchers.py reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdmatensor.errors import InvalidArgument
from rdmatensor.memory import frameworks
from rdmatensor.settings.launchers import Launched, launched
from rdmatensor.team.store import FolderStore, Store, private_folder

__all__ = ["Seat", "given_seat", "seat"]

JOIN = "join a team"


@dataclass(frozen=True, slots=True)
class Seat:
    """A process's place in a team that is to be made."""

    rank: int
    size: int
    store: Callable[[str, float], Store]
    """The store for a team of this name; the seconds are those that it may take to be reached."""


def seat() -> Seat:
    """The place that the job's launcher gave this process. InvalidArgument where none did, or where
    its processes cannot find each other.
    """
    found = launched()
    if found is None:
        why = (
            "nothing started this process as one of several: start it with `rdmatensor run -n 4 script.py`, torchrun, "
            "mpirun or srun, or give rank=, size= and folder="
        )
        raise InvalidArgument(JOIN, why=why)
    if found.folder is not None:
        return given_seat(found.rank, found.size, found.folder)
    if found.torch:
        return Seat(found.rank, found.size, _torch_store(found))
    raise InvalidArgument(JOIN, found.launcher, found.apart)


def given_seat(rank: int, size: int, folder: Path) -> Seat:
    """A place in a team whose members share a folder."""
    if not 0 <= rank < size:
        raise InvalidArgument(JOIN, why=f"rank {rank} of {size}: a rank is 0 to size - 1")
    return Seat(rank, size, lambda name, _timeout: FolderStore(private_folder(folder), f"{name}/"))


def _torch_store(found: Launched) -> Callable[[str, float], Store]:
    """torchrun's own store."""

    def store(name: str, timeout: float) -> Store:
        try:
            made: Store = frameworks.torchrun_store(found.rank, found.size, f"rdmatensor/{name}", timeout)
        except ModuleNotFoundError as error:
            why = f"{found.launcher} is torch's launcher, and its store needs torch: {error}"
            raise InvalidArgument(JOIN, found.launcher, why) from error
        return made

    return store
