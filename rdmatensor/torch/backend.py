"""The torch.distributed backend "rdmatensor": registered here, compiled from native/backend.cpp on first use."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import rdmatensor as rt
import rdmatensor_autoload

__all__ = ["create", "create_split", "device", "monitored_barrier", "provider", "register", "stats"]

NAME = "rdmatensor"
_NATIVE = Path(__file__).parent / "native"
_live: weakref.WeakSet[Any] = weakref.WeakSet()


def register() -> None:
    """Makes "rdmatensor" known to torch.distributed. Twice is fine. Without torch.distributed it does nothing."""
    rdmatensor_autoload.register()


def create(options: Any, _backend_options: Any) -> Any:
    """What torch calls to make a group of this backend; the options are torch's `DistributedBackendOptions`."""
    return _make(options.store, options.group_rank, options.group_size, options.timeout)


def create_split(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """A backend for some members of a group: what `split_group` asks for."""
    return _make(store, rank, size, timeout)


def native() -> Any:
    """The compiled module. Its folder holds all that it is made of; the headers of the C core are links there."""
    from rdmatensor.torch import build

    build.require(2, 9, "make a process group")  # before, torch's Backend had other functions to override
    seen = tuple(sorted(path for path in _NATIVE.rglob("*") if path.suffix == ".h"))
    return build.module("rdmatensor_c10d", _NATIVE / "backend.cpp", seen)


def join(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """This process's place in a new group."""
    from rdmatensor.torch import fabric

    return fabric.join(store, rank, size, timeout.total_seconds())


def keep(backend: Any, member: Any) -> None:
    """Remembers what must end before the interpreter does."""
    _live.add(member)
    _backends.append(weakref.ref(backend))


def _make(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    module = native()
    member = join(store, rank, size, timeout)
    backend = module.Backend(rank, size, member, member.team.address, member.team.api_address, timeout, NAME)
    keep(backend, member)
    return backend


_backends: list[Any] = []


@atexit.register
def _end_all() -> None:
    """Before the interpreter goes: groups that were not destroyed end in good order, so that peers hear a goodbye."""
    for reference in _backends:
        backend = reference()
        if backend is not None:
            with contextlib.suppress(Exception):
                backend.shutdown()
    for member in tuple(_live):
        with contextlib.suppress(Exception):
            member.end()


def _backend_of(group: dist.ProcessGroup | None) -> Any:
    group = group if group is not None else dist.group.WORLD
    if group is None:
        raise ValueError("rdmatensor: there is no process group: call init_process_group first")
    backend = group._get_backend(torch.device("cpu"))
    if backend.name() != NAME:
        raise ValueError(f"rdmatensor: the group's CPU backend is {backend.name()!r}, not {NAME!r}")
    return backend


def monitored_barrier(
    group: dist.ProcessGroup | None = None, timeout: timedelta | None = None, wait_all_ranks: bool = False
) -> None:
    """`torch.distributed.monitored_barrier`, which torch itself offers for Gloo alone: a barrier in which rank 0 names
    the ranks that did not come within `timeout` (default: the group's), the first of them or all. RuntimeError then.
    """
    backend = _backend_of(group)
    limit = timeout if timeout is not None else backend.options._timeout
    (group or dist.group.WORLD).monitored_barrier(limit, wait_all_ranks)


def stats(group: dist.ProcessGroup | None = None) -> dict[str, int]:
    """Counters of a group since it was made: calls, bytes, how many of them were staged or reduced in place."""
    return dict(_backend_of(group).stats())


def device() -> rt.Device:
    """The device of this process's groups, which ends with the last of them. ValueError without any.

    Tensors in a region of it that peers may read are reduced, gathered and broadcast without a copy into the group's
    own memory, where the provider can map a peer's (`limits.maps_remote`), in calls of 32 KiB and more:

        region = rdmatensor.torch.device().region(1 << 30, access=rdmatensor.Access.REMOTE_READ)
        rdmatensor.torch.allocate_in(region)  # gradients and DDP's buckets, from here on

    `stats()["direct_bytes"]` counts what was read so. All members must do it: a call in which one has its tensor
    elsewhere goes through the group's memory at all.
    """
    from rdmatensor.torch import fabric

    found = fabric.device()
    if found is None:
        raise ValueError('rdmatensor: there is no process group: call init_process_group("rdmatensor") first')
    return found


def provider() -> str:
    """What moves the bytes of this process's groups: `shm` or `verbs`, as their device says. ValueError without any."""
    return str(device().provider)
