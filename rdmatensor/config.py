"""The only place that reads settings from the environment.

The benchmark and `rdmatensor vm` hand the environment to their children whole.

RDMATENSOR_SECRET    what both ends of a channel must know; used where no `secret` is given
RDMATENSOR_TORCH_URL the device of process groups, as in "verbs://mlx5_0"; else shm:// on one host, verbs:// between
RDMATENSOR_VM_CACHE  where `rdmatensor vm` keeps what it has made; else $XDG_CACHE_HOME/rdmatensor/vm
XDG_CACHE_HOME       where what was compiled for the installed torch is kept, in rdmatensor/torch; else ~/.cache
RDMATENSOR_COMMIT    the commit that results of benchmarks name where there is no git to ask, as in an emulated machine
CXX                  the C++ compiler for it; else c++, g++ or clang++
"""

from __future__ import annotations

import os
from pathlib import Path

from rdmatensor.errors import InvalidArgument

__all__ = [
    "SECRET_SIZE_MAX", "commit", "compiler", "default_secret", "secret_bytes", "torch_cache", "torch_url", "vm_cache",
]  # fmt: skip

SECRET_SIZE_MAX = 256


def default_secret() -> bytes:
    """The secret of the environment, or empty."""
    return os.environb.get(b"RDMATENSOR_SECRET", b"")


def secret_bytes(secret: str | bytes | None, fallback: bytes) -> bytes:
    """A secret as bytes: the one given, or `fallback` for None. An empty one would prove nothing and is refused."""
    if secret is None:
        return fallback
    if not isinstance(secret, (str, bytes)):
        raise InvalidArgument("use a secret", why=f"it is text or bytes, not {type(secret).__name__}")
    given = secret.encode() if isinstance(secret, str) else secret
    if not 0 < len(given) <= SECRET_SIZE_MAX:
        raise InvalidArgument("use a secret", why=f"it has {len(given)} bytes; it needs 1 to {SECRET_SIZE_MAX}")
    return given


def torch_url() -> str:
    """The device that process groups open, or empty."""
    return os.environ.get("RDMATENSOR_TORCH_URL", "")


def vm_cache() -> Path:
    """The directory of `rdmatensor vm`, absolute."""
    if chosen := os.environ.get("RDMATENSOR_VM_CACHE"):
        return Path(chosen).absolute()
    return _cache() / "vm"


def torch_cache() -> Path:
    """The directory of what was compiled for the installed torch, absolute."""
    return _cache() / "torch"


def commit() -> str:
    """The commit that is measured, as who started this says, or empty."""
    return os.environ.get("RDMATENSOR_COMMIT", "")


def compiler() -> str:
    """The C++ compiler that the user chose, or empty."""
    return os.environ.get("CXX", "")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "rdmatensor"
