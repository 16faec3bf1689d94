"""Providers, devices, and the names under which a device publishes memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from rdmatensor._core.base import OK, DeviceHandle, Kinds, RegionHandle, call, check, report, text_of, values_of
from rdmatensor._native import ffi, lib
from rdmatensor.life import Life
from rdmatensor.limits import Limits
from rdmatensor.stats import DeviceStats

WAIT_POLICIES: Mapping[str, int] = {
    name: getattr(lib, f"RT_WAIT_{name.upper()}") for name in ("adaptive", "spin", "yield", "block")
}
HUGE_PAGES: Mapping[str, int] = {"auto": lib.RT_HUGE_AUTO, "off": lib.RT_HUGE_OFF, "require": lib.RT_HUGE_REQUIRE}

# ---- providers ----


def provider_names() -> list[str]:
    """All providers of this build, in the order in which auto:// tries them, then the others."""
    return [text_of(lib.rt_provider_name_at(index)) for index in range(lib.rt_provider_count())]


def provider_why_not(provider: str) -> str:
    """Empty when the provider can be used on this machine, else why not."""
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
    """Gives a provider a command for its fault plan; returns its reply."""
    detail, reply = ffi.new("rt_detail *"), ffi.new("char[]", 4096)
    check(
        detail,
        lib.rt_provider_command(provider.encode(), text.encode(), reply, 4096, detail),
        f"command {text!r}",
        provider,
    )
    return text_of(reply)


# ---- device ----


def device_open(
    provider: str, name: str, arguments: str, numbers: tuple[int, int, int, int], life: Life, kinds: Kinds
) -> DeviceHandle:
    """Opens a device; `numbers` are queues, QPs per peer, pollers and the wait policy.

    It closes when the handle and all handles of its channels, remotes and listeners are gone.
    """
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_device **")
    texts = [ffi.new("char[]", text.encode()) for text in (provider, name, arguments)]
    options = ffi.new("rt_device_options *", [*texts, *numbers])
    check(detail, lib.rt_device_open(options, out, detail), "open a device", f"{provider}://{name}", kinds)

    def end(device: Any, close: Callable[[Any], None] = lib.rt_device_close) -> None:
        close(device)
        life.ended = True
        life.kept.clear()

    return cast(DeviceHandle, ffi.gc(out[0], end))


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

# ---- published names ----


def device_publish(device: DeviceHandle, name: bytes, region: RegionHandle, offset: int, nbytes: int, on: str) -> None:
    call(lib.rt_device_publish, device, name, region, offset, nbytes, what="publish", on=on)


def device_unpublish(device: DeviceHandle, name: bytes, on: str) -> None:
    call(lib.rt_device_unpublish, device, name, what="unpublish", on=on)
