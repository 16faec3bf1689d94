"""The torch.distributed backend "rdmatensor": registered here, compiled from native/backend.cpp on first use."""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
import weakref
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import rdmatensor as rt
import rdmatensor_autoload
from rdmatensor.fork import forked, in_child
from rdmatensor.settings.config import ddp_asks_for_memory

__all__ = ["create", "create_split", "device", "monitored_barrier", "provider", "register", "stats"]

NAME = "rdmatensor"
_MODULE = "rdmatensor_c10d"
_NATIVE = Path(__file__).parent / "native"
_live: weakref.WeakSet[Any] = weakref.WeakSet()


def register() -> None:
    """Makes "rdmatensor" known to torch.distributed. Twice is fine. Without torch.distributed it does nothing."""
    rdmatensor_autoload.register()


def create(options: Any, _backend_options: Any) -> Any:
    """Makes a group of this backend; called by torch with its `DistributedBackendOptions`."""
    ranks = options.global_ranks_in_group or range(options.group_size)  # torch lists no ranks for the first group
    return _make(options.store, options.group_rank, options.group_size, options.timeout, ranks)


def create_split(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Makes a backend for some members of a group; called by `split_group`."""
    return _make(store, rank, size, timeout)


def native() -> Any:
    """The compiled module. Its folder holds all its sources; the headers of the C core are links in
    it.
    """
    from rdmatensor.torch import build

    build.require(2, 9, "make a process group")  # earlier versions of torch's Backend have other virtual functions
    known = sys.modules.get(_MODULE)
    if known is not None:
        return known
    seen = tuple(sorted(path for path in _NATIVE.rglob("*") if path.suffix == ".h"))
    module = build.module(_MODULE, _NATIVE / "backend.cpp", seen)
    module.Backend._set_default_timeout = module.Backend.set_timeout  # the name in Gloo's and NCCL's classes
    return module


def join(store: Any, rank: int, size: int, timeout: timedelta, ranks: Sequence[int] = ()) -> Any:
    """Makes this process a member of a new group."""
    from rdmatensor.team import joining
    from rdmatensor.torch.buffers import GroupMember

    return GroupMember(joining.join(store, rank, size, timeout.total_seconds(), ranks))


def keep(member: Any) -> None:
    """Remembers a member that must end before the interpreter does."""
    _live.add(member)


def _make(store: Any, rank: int, size: int, timeout: timedelta, ranks: Sequence[int] = ()) -> Any:
    module = native()
    _serve_timeouts()
    ddp_asks_for_memory()
    member = join(store, rank, size, timeout, ranks)
    backend = module.Backend(rank, size, member, member.team.address, member.team.api_address, timeout, NAME)
    keep(member)
    return backend


def _serve_timeouts() -> None:
    """Makes torch's `_set_pg_timeout` reach groups of this backend: torch only looks for the
    classes of Gloo and NCCL.

    Twice is fine. It sets a group's timeout by `backend._set_default_timeout`, as torch's function
    does for those classes.
    """
    import torch.distributed.distributed_c10d as c10d

    theirs = c10d._set_pg_timeout
    if hasattr(theirs, "_rdmatensor"):
        return

    @functools.wraps(theirs)
    def set_pg_timeout(timeout: timedelta, group: dist.ProcessGroup | None = None) -> None:
        found = group if group is not None else c10d._get_default_group()
        ours = None
        if isinstance(found, c10d.ProcessGroup) and torch.device("cpu") in found._device_types:
            backend = found._get_backend(torch.device("cpu"))
            ours = backend if backend.name() == NAME else None
        if ours is None or len(found._device_types) > 1:
            theirs(timeout, group)
        if ours is not None:
            ours._set_default_timeout(timeout)

    set_pg_timeout._rdmatensor = True  # type: ignore[attr-defined]
    c10d._set_pg_timeout = set_pg_timeout


@in_child
def _forget_all() -> None:
    """Drops all groups in a child made by fork: the parent ends them."""
    _live.clear()


@atexit.register
def _end_all() -> None:
    """Ends the remaining groups in an orderly way before the interpreter goes, which tells the
    peers.
    """
    module = sys.modules.get(_MODULE)
    if forked():
        return
    if module is not None:
        with contextlib.suppress(Exception):
            module.end_all()
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
    """A barrier in which rank 0 names the ranks that did not come: torch's function of this name
    serves only Gloo.

    RuntimeError when ranks did not come within `timeout` (default: the group's); it names the first
    of them, or all.
    """
    backend = _backend_of(group)
    limit = timeout if timeout is not None else backend.options._timeout
    (group or dist.group.WORLD).monitored_barrier(limit, wait_all_ranks)


def stats(group: dist.ProcessGroup | None = None) -> dict[str, int]:
    """Counters of a group since it was made: calls, bytes, and how many bytes were staged or
    reduced in place; and those of the buffers that torch asked any of the process's groups for.
    """
    backend = _backend_of(group)
    found: dict[str, int] = {**backend.stats(), **backend._member.buffers.stats}
    return found


def device() -> rt.Device:
    """The device of this process's groups; it closes with the last of them. ValueError when there
    is no group.

    Tensors in one of its regions that peers may read are reduced, gathered and broadcast without a
    copy into the group's own memory, where the provider can map a peer's memory
    (`limits.maps_remote`), in calls of 32 KiB and more:

        region = rdmatensor.torch.device().region(1 << 30, access=rdmatensor.Access.REMOTE_READ)
        rdmatensor.torch.allocate_in(region)  # tensors of all threads, from here on

    `stats()["direct_bytes"]` counts the bytes read in this way. All members must do it: if one
    member's tensor lies elsewhere, the call goes through the group's memory at all members.
    """
    from rdmatensor.team import fabric

    found = fabric.device()
    if found is None:
        raise ValueError('rdmatensor: there is no process group: call init_process_group("rdmatensor") first')
    return found


def provider() -> str:
    """The provider that moves the bytes of this process's groups: `shm` or `verbs`. ValueError
    without a group.
    """
    return str(device().provider)
