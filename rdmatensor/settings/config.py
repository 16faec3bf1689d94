"""The only place that reads settings from the environment; launchers.py reads what launchers tell.

The benchmark and `rdmatensor vm` pass the whole environment to their child processes.

RDMATENSOR_SECRET    the secret that both ends of a channel must know; used where no `secret` is given
RDMATENSOR_TORCH_URL the device of groups and teams, as in "verbs://mlx5_0"; else shm:// on one host, verbs:// between
RDMATENSOR_TORCH_LISTEN where process groups listen: "host", "host:port", "host:first-last"; else any interface and port
RDMATENSOR_TORCH_MEMORY the bytes, at most, of memory for DDP's and FSDP2's buffers; else half of the machine's; 0: none
WORLD_SIZE           the number of processes that torchrun started, for plans that are made before a process group
RDMATENSOR_VM_CACHE  the directory in which `rdmatensor vm` keeps its parts; else $XDG_CACHE_HOME/rdmatensor/vm
DDP_DISABLE_COMM_MEM torch's: DDP asks the backend for its buckets' memory where it is 0; set to 0 here unless it is set
XDG_CACHE_HOME       the parent of rdmatensor/torch, the cache of code compiled for the installed torch; else ~/.cache
RDMATENSOR_COMMIT    the commit that benchmark results name where git is not available, as in an emulated machine
CXX                  the C++ compiler for that code, with arguments if need be ("env g++"); else c++, g++ or clang++
RDMATENSOR_DEBUG_LOCKS  1: locks assert the order in which they are taken (rdmatensor/locks.py); for tests
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
from pathlib import Path

from rdmatensor.errors import InvalidArgument

__all__ = [
    "NO_HOME", "SECRET_SIZE_MAX", "TORCH_LISTEN", "TORCH_MEMORY", "commit", "compiler", "ddp_asks_for_memory",
    "debug_locks", "default_secret", "secret_bytes", "torch_cache", "torch_listen", "torch_memory", "torch_url",
    "vm_cache", "world_size",
]  # fmt: skip

SECRET_SIZE_MAX = 256
TORCH_LISTEN = "RDMATENSOR_TORCH_LISTEN"
TORCH_MEMORY = "RDMATENSOR_TORCH_MEMORY"
NO_HOME = "this user has no home directory: HOME is not set, and the system has no entry for the user"


def default_secret() -> bytes:
    """The secret from the environment, or empty."""
    return os.environb.get(b"RDMATENSOR_SECRET", b"")


def secret_bytes(secret: str | bytes | None, fallback: bytes) -> bytes:
    """A secret as bytes: the given one, or `fallback` for None. An empty one would prove nothing
    and is refused.
    """
    if secret is None:
        return fallback
    if not isinstance(secret, (str, bytes)):
        raise InvalidArgument("use a secret", why=f"it is text or bytes, not {type(secret).__name__}")
    given = secret.encode() if isinstance(secret, str) else secret
    if not 0 < len(given) <= SECRET_SIZE_MAX:
        raise InvalidArgument("use a secret", why=f"it has {len(given)} bytes; it needs 1 to {SECRET_SIZE_MAX}")
    return given


def torch_url() -> str:
    """The URL of the device that process groups open, or empty."""
    return os.environ.get("RDMATENSOR_TORCH_URL", "")


def torch_listen() -> str:
    """The host, and the port or ports, at which a process group listens, or empty."""
    return os.environ.get(TORCH_LISTEN, "")


def torch_memory() -> int:
    """The bytes, at most, of memory in which torch's own buffers for communication lie.
    InvalidArgument where the environment has no number.
    """
    chosen = os.environ.get(TORCH_MEMORY, "")
    if not chosen:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if not chosen.isdecimal():
        raise InvalidArgument("bound the memory of torch's buffers", why=f"{TORCH_MEMORY} is bytes, not {chosen!r}")
    return int(chosen)


def ddp_asks_for_memory() -> None:
    """Lets DDP ask a process group's backend for the memory of its buckets, unless the user has
    chosen: torch reads it when a DDP module is made.
    """
    os.environ.setdefault("DDP_DISABLE_COMM_MEM", "0")


def world_size() -> int | None:
    """The number of processes that torchrun started, or None outside it."""
    given = os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdecimal() else None


def vm_cache() -> Path:
    """The directory of `rdmatensor vm`, absolute. InvalidArgument where the user has no home."""
    if chosen := os.environ.get("RDMATENSOR_VM_CACHE"):
        return Path(chosen).absolute()
    cache = _cache()
    if cache is None:
        why = f"{NO_HOME}: name a directory in the environment as RDMATENSOR_VM_CACHE"
        raise InvalidArgument("find the cache of rdmatensor vm", why=why)
    return cache / "vm"


def torch_cache() -> Path | None:
    """The directory for code compiled for the installed torch, absolute; None where this user has
    no home.
    """
    cache = _cache()
    return None if cache is None else cache / "torch"


def commit() -> str:
    """The commit being measured, as named in the environment, or empty."""
    return os.environ.get("RDMATENSOR_COMMIT", "")


def debug_locks() -> bool:
    """Whether locks check their order."""
    return os.environ.get("RDMATENSOR_DEBUG_LOCKS", "") == "1"


def compiler() -> list[str]:
    """The words of the user's C++ compiler, or none."""
    return shlex.split(os.environ.get("CXX", ""))


def _cache() -> Path | None:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "rdmatensor"
    home = os.environ.get("HOME", "")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    return Path(home, ".cache", "rdmatensor") if os.path.isabs(home) else None
