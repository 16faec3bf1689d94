"""`rdmatensor devices`: which providers and devices this machine has, and what is missing for the others."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from typing import Any

import rdmatensor
from rdmatensor import Limits, ProviderInfo

__all__ = ["add", "as_objects", "as_text"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    command = commands.add_parser(
        "devices",
        help="list providers and devices, and why a provider cannot be used",
        description="Lists every provider with its devices; for one that cannot be used here, why not and what to do.",
    )
    command.add_argument("--json", action="store_true", help="print a list of objects, one per device")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the list."""
    found = rdmatensor.providers()
    print(json.dumps(as_objects(found), indent=2) if options.json else as_text(found))
    return 0


def as_objects(found: list[ProviderInfo]) -> list[dict[str, Any]]:
    """One object per device; a provider without devices gets one whose `device` and `limits` are null."""
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
    """The same for people."""
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
