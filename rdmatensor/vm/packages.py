"""The system's tools that are needed, installed with apt-get where they are missing.

The checks look for programs, not for package names: a machine that has them all needs neither root
nor a network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from rdmatensor.vm.errors import VmError

__all__ = ["NEEDED", "apt_lists_present", "apt_update", "busybox", "ensure", "missing"]

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

NEEDED = {
    "qemu-system-x86": "qemu-system-x86_64",
    "squashfs-tools": "mksquashfs",
    "iproute2": "rdma",
    "ibverbs-utils": "ibv_devinfo",
    "perftest": "ib_write_bw",
}
"""Each package with the program it is needed for."""
LOCK_TIMEOUT = 300
"""The seconds to wait for another apt-get: fresh systems upgrade themselves right after they start."""


def find(program: str) -> str | None:
    """The path of a program, searched also in system directories that are often missing from
    ordinary users' PATH.
    """
    return shutil.which(program, path=SYSTEM_PATH)


def busybox() -> Path | None:
    """A statically linked busybox."""
    for path in map(Path, ("/bin/busybox", "/usr/bin/busybox")):
        if path.exists() and b"ld-linux" not in path.read_bytes()[:8192]:
            return path
    return None


def missing() -> list[str]:
    """The packages whose programs are missing."""
    lacking = [package for package, program in NEEDED.items() if find(program) is None]
    if busybox() is None:
        lacking.append("busybox-static")
    if not list(Path("/etc/libibverbs.d").glob("rxe*")):
        lacking.append("ibverbs-providers")
    return lacking


def ensure(say: Callable[[str], None]) -> None:
    """Installs the missing packages; VmError with the command to type where that is impossible."""
    lacking = missing()
    if not lacking:
        return
    say(f"installing {' '.join(lacking)}")
    if not apt_lists_present():
        apt_update(lacking)
    try:
        as_root(["apt-get", "install", "-y", "-q", "--no-install-recommends", *lacking], lacking)
    except VmError:
        apt_update(lacking)  # outdated lists name files that no longer exist
        as_root(["apt-get", "install", "-y", "-q", "--no-install-recommends", *lacking], lacking)
    if still := missing():
        raise VmError(
            "install the machine's packages", " ".join(still), "apt-get succeeded, but the packages are still missing"
        )


def apt_lists_present() -> bool:
    """Whether apt knows any package; fresh containers have no lists."""
    return any(Path("/var/lib/apt/lists").glob("*_Packages*"))


def apt_update(wanted: list[str]) -> None:
    """Refreshes apt's lists."""
    as_root(["apt-get", "update", "-q"], wanted)


def as_root(command: list[str], wanted: list[str]) -> None:
    """Runs apt-get as root; VmError with the command to type when that is impossible or fails."""
    by_hand = f"run as root: apt-get update && apt-get install --no-install-recommends {' '.join(wanted)}"
    if find("apt-get") is None:
        why = "there is no apt-get here (the emulated machine is made from Debian's or Ubuntu's packages)"
        raise VmError("install the machine's packages", " ".join(wanted), why)
    prefix: list[str] = []
    if os.geteuid() != 0:
        if find("sudo") is None:
            raise VmError("install the machine's packages", " ".join(wanted), f"not root, and no sudo; {by_hand}")
        prefix = ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    patient = [command[0], "-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}", *command[1:]]
    done = subprocess.run(
        [*prefix, *patient], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=900
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise VmError("install the machine's packages", " ".join(wanted), f"{last}; {by_hand}")
