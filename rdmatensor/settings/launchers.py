"""The variables by which launchers tell a process its rank.

| launcher | rank and size | where its processes meet |
|---|---|---|
| `rdmatensor run` | RANK, WORLD_SIZE | RDMATENSOR_TEAM_FOLDER |
| torchrun, and what sets the same variables | RANK, WORLD_SIZE | MASTER_ADDR and MASTER_PORT, by torch's store |
| Open MPI | OMPI_COMM_WORLD_RANK, … _SIZE | a folder of this user, by the job |
| MPICH, Intel MPI, MVAPICH | PMI_RANK, PMI_SIZE | a folder of this user, by the launcher's process |
| Slurm | SLURM_PROCID, SLURM_NTASKS | a folder of this user, by the job's step |

The last three meet by themselves on one host. On several, RDMATENSOR_TEAM_FOLDER names a new folder
that all hosts share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdmatensor.errors import InvalidArgument

__all__ = ["TEAM_FOLDER", "Launched", "launched", "local_rank"]

TEAM_FOLDER = "RDMATENSOR_TEAM_FOLDER"


@dataclass(frozen=True, slots=True)
class Launched:
    """The facts that a launcher told this process."""

    launcher: str
    rank: int
    size: int
    folder: Path | None = None
    """The folder in which the job's processes meet."""
    torch: bool = False
    """They meet by torch's store."""
    apart: str = ""
    """Else: why they cannot meet, with the remedy."""


_MPI = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")),
    ("MPICH", "PMI_RANK", "PMI_SIZE", ()),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", ("SLURM_JOB_ID", "SLURM_STEP_ID")),
)
"""Launcher, rank, size, and the variables that name the job."""


_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """The facts that the environment tells; None where nothing started this process as one of several."""
    env = os.environ if environment is None else environment
    folder = Path(env[TEAM_FOLDER]) if env.get(TEAM_FOLDER) else None
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        name = "rdmatensor run" if folder is not None else "torchrun"
        why = "RANK and WORLD_SIZE are set, and neither MASTER_ADDR and MASTER_PORT nor " + TEAM_FOLDER
        return Launched(name, rank, size, folder, torch="MASTER_ADDR" in env and "MASTER_PORT" in env, apart=why)
    for name, rank_name, size_name, jobs in _MPI:
        if rank_name in env and size_name in env:
            rank, size = _number(env, rank_name), _number(env, size_name)
            if folder is not None:
                return Launched(name, rank, size, folder)
            if _on_one_host(env, name, size):
                return Launched(name, rank, size, _folder_of(_job(env, name, jobs)))
            why = f"its processes run on several hosts: name a new folder that all hosts share in {TEAM_FOLDER}"
            return Launched(name, rank, size, apart=why)
    return None


def local_rank(environment: Mapping[str, str] | None = None) -> int | None:
    """The rank of this process among those of its host, if a launcher tells it.

    It is a hint (which of several alike devices to take), so a value that is no number is none.
    """
    env = os.environ if environment is None else environment
    told = next((env[name] for name in _LOCAL_RANKS if name in env), "")
    return int(told) if told.isdecimal() and int(told) < 1 << 16 else None


def _number(env: Mapping[str, str], name: str) -> int:
    if not env[name].isdecimal():
        raise InvalidArgument("join a team", why=f"{name} is {env[name]!r} in the environment, and no number")
    return int(env[name])


def _on_one_host(env: Mapping[str, str], launcher: str, size: int) -> bool:
    local = {"Open MPI": "OMPI_COMM_WORLD_LOCAL_SIZE", "MPICH": "MPI_LOCALNRANKS"}.get(launcher)
    if local is not None and env.get(local, "").isdecimal():
        return int(env[local]) == size
    if launcher == "Slurm":
        return env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")) == "1"
    return True


def _job(env: Mapping[str, str], launcher: str, names: tuple[str, ...]) -> str:
    """A name that the job's processes have in common, and no others."""
    told = "-".join(env[name] for name in names if env.get(name))
    return f"{launcher}-{told}" if told else f"{launcher}-{os.getppid()}-{_begun(os.getppid())}"


def _begun(process: int) -> str:
    """When a process began, in ticks since the boot: a number of a process is used again."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _folder_of(job: str) -> Path:
    name = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in job)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "rdmatensor", name)
    return Path(tempfile.gettempdir(), f"rdmatensor-{os.geteuid()}", name)
