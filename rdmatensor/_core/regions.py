"""Registered memory and its arena."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

from rdmatensor import errors
from rdmatensor._core.base import BUSY, HANDLE_SIZE_MAX, DeviceHandle, Life, Owner, RegionHandle, call, values_of
from rdmatensor._native import ffi, lib
from rdmatensor.stats import RegionStats


def region_create(device: DeviceHandle, nbytes: int, rights: int, huge_pages: int, life: Life, on: str) -> RegionHandle:
    """Registers new memory, which is freed when the handle is gone."""
    owner = _owner(life, None, life)
    what = f"register a region of {nbytes} bytes"
    call(lib.rt_region_create, device, nbytes, rights, huge_pages, owner.out, what=what, on=on)
    return cast(RegionHandle, owner.handle())


def _owner(life: Life, lock: object, device_life: Life) -> Owner:
    close, drop, null = lib.rt_region_close, lib.rt_region_drop, ffi.NULL

    def end(region: Any) -> None:
        if close(region, null) == BUSY and lock is not None:
            device_life.kept.append(lock)
        life.ended = True
        drop(region)

    return Owner("rt_region **", end, lock)


def region_adopt(
    device: DeviceHandle, memory: object, writable: bool, rights: int, life: Life, device_life: Life, on: str
) -> RegionHandle:
    """Registers memory of the caller, which `memory.probe` has checked.

    Its buffer stays locked as long as the registration lives; if copies are still under way when
    the handle goes, the buffer stays locked as long as the device lives.
    """
    lock = ffi.from_buffer(memory, require_writable=writable)
    owner = _owner(life, lock, device_life)
    address, size, what = ffi.cast("void *", lock), len(lock), "register memory of the caller"
    rights |= 0 if writable else lib.RT_RIGHT_READ_ONLY
    call(lib.rt_region_adopt, device, address, size, rights, owner.out, what=what, on=on)
    return cast(RegionHandle, owner.handle())


def region_close(region: RegionHandle, on: str) -> None:
    """Ends the registration; RegionBusy while copies use it. The memory stays readable as long as
    the handle lives.
    """
    with contextlib.suppress(errors.ClosedError):  # the device closed it
        call(lib.rt_region_close, region, what="close a region", on=on)


def region_stats(region: RegionHandle) -> RegionStats:
    out = ffi.new("rt_region_stats *")
    lib.rt_region_get_stats(region, out)
    return cast(RegionStats, values_of(RegionStats, out))


def region_handle(region: RegionHandle, offset: int, nbytes: int, on: str) -> bytes:
    """The serialized handle with which a peer reaches this range."""
    out, size, what = ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *"), f"make a handle of {nbytes} bytes"
    call(lib.rt_region_handle, region, offset, nbytes, out, size, what=what, on=on)
    return bytes(ffi.buffer(out, size[0]))


region_address: Callable[[RegionHandle], int] = lib.rt_region_address
region_size: Callable[[RegionHandle], int] = lib.rt_region_size


def region_arena_functions() -> tuple[int, int]:
    """The addresses of the C functions that allocate and free, for native code outside this package."""
    allocate, free = (ffi.addressof(lib, f"rt_region_{verb}") for verb in ("allocate", "free"))
    return int(ffi.cast("uintptr_t", allocate)), int(ffi.cast("uintptr_t", free))
