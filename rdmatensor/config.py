"""The only place that reads the environment.

RDMATENSOR_SECRET    what both ends of a channel must know; used where no `secret` is given
RDMATENSOR_CACHE     where code compiled against the installed torch is kept; else $XDG_CACHE_HOME/rdmatensor/torch
RDMATENSOR_TORCH_URL the device that process groups open, as in "verbs://mlx5_0"; else shm:// on one host, verbs:// between
CXX                  the compiler for that code; else g++
RDMATENSOR_VM_CACHE  where `rdmatensor vm` keeps what it has made; else $XDG_CACHE_HOME/rdmatensor/vm
"""

from __future__ import annotations

import os
from pathlib import Path

from rdmatensor.errors import InvalidArgument

__all__ = ["SECRET_SIZE_MAX", "build_cache", "cxx_compiler", "default_secret", "secret_bytes", "torch_url", "vm_cache"]

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


def cxx_compiler() -> str:
    """The C++ compiler."""
    return os.environ.get("CXX", "g++")


def build_cache() -> Path:
    """The directory of what was compiled against torch, absolute."""
    if chosen := os.environ.get("RDMATENSOR_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "rdmatensor" / "torch"


def vm_cache() -> Path:
    """The directory of `rdmatensor vm`, absolute."""
    if chosen := os.environ.get("RDMATENSOR_VM_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "rdmatensor" / "vm"
