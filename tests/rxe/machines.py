"""How tests of `rdmatensor vm` run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT = 900

Vm = Callable[..., "subprocess.CompletedProcess[bytes]"]


def environment() -> dict[str, str]:
    """Ours, with the cache of the project's own runs."""
    return {"RDMATENSOR_VM_CACHE": str(ROOT / ".cache" / "vm"), **os.environ}


def command(*arguments: str) -> list[str]:
    """The command line of `rdmatensor vm run`."""
    return [sys.executable, "-m", "rdmatensor", "vm", "run", "--force-vm", *arguments]


def machines_of(folder: Path) -> list[int]:
    """Processes of qemu that share this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in words.split(b"\0")[0] and str(folder).encode() in words:
                found.append(int(entry.name))
    return found
