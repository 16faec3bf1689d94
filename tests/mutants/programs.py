"""Running test executables: until the first failure, and never for ever."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FAILED = re.compile(r"^(?:FAILED: (\w+)|BAD +(.*?)  |(?:FAILED|ERROR) (\S+::\S+))")
PASSED = re.compile(
    r"^(?:\d+ passed, 0 failed|\d+ explorations, 0 not as expected"
    r"|\d+ passed(?:, \d+ (?:deselected|skipped|warnings?))* in .*s.*)$"
)
SPARE_S = 15.0
TIMES_SLOWER = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: nothing failed, or what did."""

    failed: str | None
    seconds: float


def limit_s(usual_s: float) -> float:
    """When a run counts as hanging: far beyond what it takes, since others may use the machine."""
    return SPARE_S + TIMES_SLOWER * usual_s


def kill(process: subprocess.Popen[str]) -> None:
    """With its children: they are of its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(command: Sequence[str | Path], folder: Path, usual_s: float, environment: Mapping[str, str]) -> Outcome:
    """Runs a test executable until its first failure, or to its end."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    late = threading.Timer(limit_s(usual_s), kill, [process])
    late.start()
    failed, last = None, ""
    try:
        for line in process.stdout:
            last = line.strip()
            match = FAILED.match(line)
            if match is not None:
                failed = next(name for name in match.groups() if name is not None)
                break
        if failed is None:
            process.wait()
    finally:
        hung = not late.is_alive()
        late.cancel()
        kill(process)
        process.stdout.close()
        process.wait()
    if failed is None and (hung or process.returncode != 0 or PASSED.match(last) is None):
        failed = "it hangs" if hung else f"it ends with {process.returncode}"
    return Outcome(failed, time.monotonic() - begun)
