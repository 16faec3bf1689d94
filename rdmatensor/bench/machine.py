"""The context of a result: machine, kernel, commit, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import rdmatensor
from rdmatensor.settings import config

__all__ = ["commit", "load", "meta", "processor"]

SOURCE = Path(rdmatensor.__file__).resolve().parent.parent


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(SOURCE), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit named by RDMATENSOR_COMMIT, if it is set; else that of the checkout, with
    `+changes` when the measured code differs from it; else empty, for an installed package.
    """
    if told := config.commit():
        return told
    if not (SOURCE / ".git").exists():
        return ""
    changed = _git("status", "--porcelain", "-uno", "--", "csrc", "rdmatensor")
    return _git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


def processor() -> str:
    """The model of the first processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def load() -> float:
    """The average number of runnable processes over the last minute."""
    return os.getloadavg()[0]


def meta(provider: str, device: str, load_before: float) -> dict[str, Any]:
    """The machine, the commit and the versions of a result. `load_before` is the load when the run
    began.
    """
    cores = os.cpu_count() or 1
    return {
        "version": rdmatensor.__version__,
        "commit": commit(),
        "machine": f"{processor()}, {cores} core{'s' if cores > 1 else ''}",
        "kernel": platform.release(),
        "provider": provider,
        "device": device,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "load": load(),
        "load_before": load_before,
    }
