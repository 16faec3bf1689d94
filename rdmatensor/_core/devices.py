"""Providers, devices, and the names under which a device publishes memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from rdmatensor._core.base import (
    FORKED,
    OK,
    DeviceHandle,
    Kinds,
    Life,
    Owner,
    RegionHandle,
    call,
    check,
    report,
    text_of,
    until,
    values_of,
)
from rdmatensor._native import ffi, lib
from rdmatensor.errors import ForkedProcessError
from rdmatensor.limits import Limits
from rdmatensor.stats import DeviceStats

WAIT_POLICIES: Mapping[str, int] = {
    name: getattr(lib, f"RT_WAIT_{name.upper()}") for name in ("adaptive", "spin", "yield", "block")
}
HUGE_PAGES: Mapping[str, int] = {"auto": lib.RT_HUGE_AUTO, "off": lib.RT_HUGE_OFF, "require": lib.RT_HUGE_REQUIRE}

# ---- providers ----


def provider_names() -> list[str]:
    """All providers of this build: first those that auto:// tries, in its order, then the others."""
    return [text_of(lib.rt_provider_name_at(index)) for index in range(lib.rt_provider_count())]


def provider_why_not(provider: str) -> str:
    """The reason why the provider cannot be used on this machine; empty when it can."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_provider_viable(provider.encode(), detail)
    return "" if status == OK else text_of(detail.text) or text_of(lib.rt_status_name(status))


def provider_list(provider: str) -> list[tuple[str, str, Limits]]:
    """Name, state in words and limits of each device of a provider."""
    detail, capacity = ffi.new("rt_detail *"), 16
    while True:
        entries = ffi.new("rt_device_entry[]", capacity)
        count = lib.rt_provider_list(provider.encode(), entries, capacity, detail)
        check(detail, count, "list the devices", provider)
        if count <= capacity:
            return [
                (text_of(entry.name), text_of(entry.state), values_of(Limits, entry.limits))
                for entry in entries[0:count]
            ]
        capacity = count


def provider_command(provider: str, text: str) -> str:
    """Sends a command to a provider's fault plan and returns the reply."""
    detail, reply = ffi.new("rt_detail *"), ffi.new("char[]", 4096)
    check(
        detail,
        lib.rt_provider_command(provider.encode(), text.encode(), reply, 4096, detail),
        f"command {text!r}",
        provider,
    )
    return text_of(reply)


# ---- GPUs ----

GpuEntry = tuple[str, str, str, int, int, tuple[int, int], int, tuple[bool, bool, bool]]
"""Name, PCI address and the reason against a way; bytes, driver, capability and flush; shares, dma-buf, direct."""


def gpu_list() -> list[GpuEntry]:
    """The GPUs that this process sees."""
    detail, capacity = ffi.new("rt_detail *"), 64
    entries = ffi.new("rt_gpu_entry[]", capacity)
    count = lib.rt_gpu_list(entries, capacity, detail)
    if count == FORKED:  # the reason is CUDA, and not an open device
        raise ForkedProcessError("list the GPUs", "this machine", text_of(detail.text), status="forked")
    check(detail, count, "list the GPUs", "this machine")
    return [
        (
            text_of(entry.name),
            text_of(entry.pci),
            text_of(entry.why_not),
            entry.size,
            entry.driver,
            (entry.major, entry.minor),
            entry.flush,
            (bool(entry.shares), bool(entry.dma_buf), bool(entry.direct)),
        )
        for entry in entries[0 : min(count, capacity)]
    ]


# ---- device ----


def device_open(
    provider: str, name: str, arguments: str, numbers: tuple[int, int, int, int], life: Life, kinds: Kinds
) -> DeviceHandle:
    """Opens a device; `numbers` are queues, QPs per peer, pollers and the wait policy.

    It closes when the handle and all handles of its channels, remotes and listeners are gone.
    """

    def end(device: Any, close: Callable[[Any], None] = lib.rt_device_close) -> None:
        close(device)
        life.ended = True
        life.kept.clear()

    detail, owner = ffi.new("rt_detail *"), Owner("rt_device **", end, None)
    texts = [ffi.new("char[]", text.encode()) for text in (provider, name, arguments)]
    options = ffi.new("rt_device_options *", [*texts, *numbers])
    check(detail, lib.rt_device_open(options, owner.out, detail), "open a device", f"{provider}://{name}", kinds)
    return cast(DeviceHandle, owner.handle())


def device_provider(device: DeviceHandle) -> str:
    return text_of(lib.rt_device_provider(device))


def device_name(device: DeviceHandle) -> str:
    return text_of(lib.rt_device_name(device))


def device_id(device: DeviceHandle) -> bytes:
    out = ffi.new("uint8_t[16]")
    lib.rt_device_id(device, out)
    return bytes(out)


def device_limits(device: DeviceHandle) -> Limits:
    out = ffi.new("rt_device_limits *")
    lib.rt_device_get_limits(device, out)
    return cast(Limits, values_of(Limits, out))


def device_stats(device: DeviceHandle) -> DeviceStats:
    out = ffi.new("rt_device_stats *")
    lib.rt_device_get_stats(device, out)
    return cast(DeviceStats, values_of(DeviceStats, out))


device_queues: Callable[[DeviceHandle], int] = lib.rt_device_queues
device_qps_per_peer: Callable[[DeviceHandle], int] = lib.rt_device_qps_per_peer
device_dump: Callable[[DeviceHandle], str] = partial(report, lib.rt_device_dump)
device_now_ns: Callable[[DeviceHandle], int] = lib.rt_device_now_ns
device_progress: Callable[[DeviceHandle], int] = lib.rt_device_progress
device_event_fd: Callable[[DeviceHandle], int] = lib.rt_device_event_fd
device_arm: Callable[[DeviceHandle], int] = lib.rt_device_arm
device_memory_fd: Callable[[DeviceHandle], int] = lib.rt_device_memory_fd
device_arm_memory: Callable[[DeviceHandle], int] = lib.rt_device_arm_memory


def device_nap(device: DeviceHandle, timeout_ns: int, gone: Callable[[], bool]) -> None:
    """Sleeps in the device's time; ends early once `gone()` is true."""
    until(device, lambda ns: cast(int, lib.rt_device_nap(device, ns)), timeout_ns, gone)


# ---- published names ----


def device_publish(device: DeviceHandle, name: bytes, region: RegionHandle, offset: int, nbytes: int, on: str) -> None:
    call(lib.rt_device_publish, device, name, region, offset, nbytes, what="publish", on=on)


def device_unpublish(device: DeviceHandle, name: bytes, on: str) -> None:
    call(lib.rt_device_unpublish, device, name, what="unpublish", on=on)
