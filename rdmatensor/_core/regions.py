"""Registered memory and its arena."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

from rdmatensor import errors
from rdmatensor._core.base import BUSY, HANDLE_SIZE_MAX, DeviceHandle, RegionHandle, call, values_of
from rdmatensor._native import ffi, lib
from rdmatensor.life import Life
from rdmatensor.stats import RegionStats


def region_create(device: DeviceHandle, nbytes: int, rights: int, huge_pages: int, life: Life, on: str) -> RegionHandle:
    """Registers new memory. Its memory goes when the handle is gone."""
    out, what = ffi.new("rt_region **"), f"register a region of {nbytes} bytes"
    call(lib.rt_region_create, device, nbytes, rights, huge_pages, out, what=what, on=on)
    return _region(out[0], life, None, life)


def _region(pointer: Any, life: Life, lock: object, device_life: Life) -> RegionHandle:
    close, drop, null = lib.rt_region_close, lib.rt_region_drop, ffi.NULL

    def end(region: Any) -> None:
        if close(region, null) == BUSY and lock is not None:
            device_life.kept.append(lock)
        life.ended = True
        drop(region)

    return cast(RegionHandle, ffi.gc(pointer, end))


def region_adopt(
    device: DeviceHandle, owner: object, writable: bool, rights: int, life: Life, device_life: Life, on: str
) -> RegionHandle:
    """Registers memory of the caller, which `memory.probe` has looked at.

    The owner's buffer stays locked as long as the registration lives; if copies are still under way when the handle
    goes, as long as the device.
    """
    out, lock = ffi.new("rt_region **"), ffi.from_buffer(owner, require_writable=writable)
    address, size, what = ffi.cast("void *", lock), len(lock), "register memory of the caller"
    call(lib.rt_region_adopt, device, address, size, rights, out, what=what, on=on)
    return _region(out[0], life, lock, device_life)


def region_close(region: RegionHandle, on: str) -> None:
    """Ends the registration; RegionBusy while copies use it. The memory stays readable until the handle is gone."""
    with contextlib.suppress(errors.ClosedError):  # by its device
        call(lib.rt_region_close, region, what="close a region", on=on)


def region_stats(region: RegionHandle) -> RegionStats:
    out = ffi.new("rt_region_stats *")
    lib.rt_region_get_stats(region, out)
    return cast(RegionStats, values_of(RegionStats, out))


def region_handle(region: RegionHandle, offset: int, nbytes: int, on: str) -> bytes:
    """The bytes that let a peer reach this range."""
    out, size, what = ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *"), f"make a handle of {nbytes} bytes"
    call(lib.rt_region_handle, region, offset, nbytes, out, size, what=what, on=on)
    return bytes(ffi.buffer(out, size[0]))


region_address: Callable[[RegionHandle], int] = lib.rt_region_address
region_size: Callable[[RegionHandle], int] = lib.rt_region_size
region_allocate: Callable[[RegionHandle, int, int], int] = lib.rt_region_allocate
region_free: Callable[[RegionHandle, int], int] = lib.rt_region_free


def region_arena_functions() -> tuple[int, int]:
    """The addresses of the C functions that allocate and free, for native code of others."""
    allocate, free = (ffi.addressof(lib, f"rt_region_{verb}") for verb in ("allocate", "free"))
    return int(ffi.cast("uintptr_t", allocate)), int(ffi.cast("uintptr_t", free))
