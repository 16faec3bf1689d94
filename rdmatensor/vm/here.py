"""Soft-RoCE of the running kernel: an existing device, or one that is added for the time of a run.

The system is not changed unless this user is root and the module exists.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rdmatensor.vm import packages
from rdmatensor.vm.options import Options

__all__ = ["device", "devices", "run"]

CLASS = Path("/sys/class/infiniband")
INTERFACE = "rxe-net"


def devices(folder: Path = CLASS) -> list[str]:
    """The names of the soft-RoCE devices with an active port; of all drivers only rdma_rxe names a
    parent there.
    """
    if not folder.is_dir():
        return []
    found = []
    for entry in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if (entry / "parent").exists() and "ACTIVE" in (entry / "ports/1/state").read_text():
                found.append(entry.name)
    return found


def can_add() -> bool:
    """Whether this user can add a device."""
    if os.geteuid() != 0 or packages.find("rdma") is None or packages.find("ip") is None:
        return False
    if Path("/sys/module/rdma_rxe").exists():
        return True
    return packages.find("modinfo") is not None and quiet("modinfo", "rdma_rxe")


def quiet(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode == 0


@contextlib.contextmanager
def device() -> Iterator[str | None]:
    """A soft-RoCE device of this kernel, or None; a device that had to be added is removed at the
    end of the block.
    """
    if found := devices():
        yield found[0]
        return
    if not can_add() or not quiet("ip", "link", "add", INTERFACE, "type", "dummy"):
        yield None
        return
    try:
        quiet("ip", "link", "set", INTERFACE, "mtu", "9000", "up")
        quiet("ip", "address", "add", "10.80.0.1/24", "dev", INTERFACE)
        added = quiet("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", INTERFACE)
        yield "rxe0" if added and "rxe0" in devices() else None
    finally:
        quiet("rdma", "link", "delete", "rxe0")
        quiet("ip", "link", "delete", INTERFACE)


def run(options: Options, variables: dict[str, str]) -> int:
    """Runs the command as a child of this process. Gives its exit status, or 128 plus the signal
    that ended it, 124 at the timeout, 127 when there is no such command.
    """
    environment = {**os.environ, **variables, **options.environment}
    try:
        process = subprocess.Popen(options.command, cwd=options.directory, env=environment, start_new_session=True)
    except FileNotFoundError:
        return 127
    except OSError:
        return 126
    try:
        status = process.wait(options.timeout)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status if status >= 0 else 128 - status
