"""`rdmatensor devices`: the providers, devices and GPUs of this machine, and what the unusable ones lack."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from typing import Any

import rdmatensor
from rdmatensor import GpuInfo, Limits, ProviderInfo

__all__ = ["add", "as_objects", "as_text", "gpus_as_objects", "gpus_as_text"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    command = commands.add_parser(
        "devices",
        help="list providers, devices and GPUs, and why one cannot be used",
        description="Lists every provider with its devices, and the GPUs; for each that cannot be used, why not and "
        "what to do.",
    )
    command.add_argument("--json", action="store_true", help="print a list of objects, one per device and GPU")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the list."""
    found = rdmatensor.providers()
    gpus: list[GpuInfo] = []
    why_not = ""
    try:
        gpus = rdmatensor.gpus()
    except rdmatensor.RdmaError as error:
        why_not = error.why
    if options.json:
        print(json.dumps(as_objects(found) + gpus_as_objects(gpus, why_not), indent=2))
    else:
        print(f"{as_text(found)}\n{gpus_as_text(gpus, why_not)}")
    return 0


def as_objects(found: list[ProviderInfo]) -> list[dict[str, Any]]:
    """One object per device; a provider without devices gets one object whose `device` and `limits`
    are null.
    """
    objects: list[dict[str, Any]] = []
    for info in found:
        for device in info.devices:
            objects.append(
                {
                    "provider": info.provider,
                    "device": device.name,
                    "viable": info.viable,
                    "why_not": info.why_not,
                    "state": device.state,
                    "limits": asdict(device.limits),
                }
            )
        if not info.devices:
            objects.append(
                {
                    "provider": info.provider,
                    "device": None,
                    "viable": False,
                    "why_not": info.why_not or "it has no device",
                    "state": "",
                    "limits": None,
                }
            )
    return objects


def as_text(found: list[ProviderInfo]) -> str:
    """The same list as text for people."""
    lines: list[str] = []
    for info in found:
        if info.viable and info.devices:
            lines.append(f"{info.provider}://  usable")
        else:
            why = info.why_not or "it has no device"
            lines += textwrap.wrap(f"{info.provider}://  not usable: {why}", 110, subsequent_indent="    ")
        for device in info.devices:
            lines.append(f"    {device.name or '(default)'}" + (f": {device.state}" if device.state else ""))
            lines += textwrap.wrap(
                describe(device.limits), 110, initial_indent="        ", subsequent_indent="        "
            )
    return "\n".join(lines)


def gpus_as_objects(found: list[GpuInfo], why_not: str) -> list[dict[str, Any]]:
    """One object per GPU, with `gpu` in place of `provider`; without one, an object whose `gpu` is null says why."""
    if not found:
        return [{"gpu": None, "why_not": why_not}]
    return [
        {"gpu": gpu.device, **{name: value for name, value in asdict(gpu).items() if name != "device"}} for gpu in found
    ]


def gpus_as_text(found: list[GpuInfo], why_not: str) -> str:
    """The GPUs as text for people."""
    if not found:
        return "\n".join(textwrap.wrap(f"GPUs  none: {why_not}", 110, subsequent_indent="    "))
    lines = ["GPUs"]
    for gpu in found:
        major, minor = gpu.compute_capability
        ways = {"by a descriptor": gpu.shares, "as a dma-buf": gpu.dma_buf, "through nvidia_peermem": gpu.peer_direct}
        reached = ", ".join(way for way, there in ways.items() if there) or "in no way"
        seen = {"ordered": "at once", "flush": "after a flush", "read": "after a READ of the NIC"}[gpu.visibility]
        lines.append(f"    {gpu.device}: {gpu.name}, {size(gpu.nbytes)}, at {gpu.pci}")
        text = (
            f"driver of CUDA {gpu.driver}, compute capability {major}.{minor}; memory can be reached {reached}; "
            f"a NIC's bytes are seen {seen}"
        )
        for line in (text, f"not all ways: {gpu.why_not}" if gpu.why_not else ""):
            lines += textwrap.wrap(line, 110, initial_indent="        ", subsequent_indent="        ")
    return "\n".join(lines)


def describe(limits: Limits) -> str:
    """The limits that decide how copies travel, in one sentence."""
    numbers = (
        f"messages up to {size(limits.message_size_max)}, regions up to {size(limits.region_size_max)}, "
        f"{limits.link_count_max} QPs of depth {limits.work_depth}"
    )
    promises = {
        "finishes copies at once": limits.completes_in_post,
        "keeps the order of writes": limits.orders_writes,
        "keeps the order of bytes": limits.orders_bytes_within_a_write,
        "wakes a waiting receiver": limits.can_wake_receiver,
        "maps the peer's memory": limits.maps_remote,
        "copies from memory that is not registered": limits.local_anywhere,
        "pins memory": limits.pins_memory,
        "virtual time": limits.virtual_time,
    }
    return "; ".join([numbers, *(name for name, true in promises.items() if true)])


def size(count: int) -> str:
    """Bytes in the largest unit that leaves at least 1."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min((max(count, 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{count / (1 << (10 * power)):.4g} {units[power]}"
