"""The archive the guest boots into: an uncompressed cpio of busybox, kernel modules and our
scripts, written here.
"""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from rdmatensor.vm import packages
from rdmatensor.vm.errors import VmError

__all__ = ["GUEST", "build", "cpio", "stand_in"]

GUEST = Path(__file__).parent / "guest"
FOLDERS = ("bin", "dev", "guest", "image", "modules", "proc", "root", "sys", "writes")

Entry = tuple[str, int, bytes]
"""Path, mode with file type, content (for a symbolic link: its target)."""


def entries(kernel: Path, busybox: Path, python: bytes | None) -> Iterator[Entry]:
    """All entries of the archive, each folder before its content."""
    for name in FOLDERS:
        yield name, stat.S_IFDIR | 0o755, b""
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()
    yield "bin/sh", stat.S_IFLNK | 0o777, b"busybox"
    yield "init", stat.S_IFREG | 0o755, (GUEST / "init.sh").read_bytes()
    for name in ("network.sh", "agent.py", "ending.py", "preloading.py", "torch_extensions.py"):
        yield f"guest/{name}", stat.S_IFREG | 0o644, (GUEST / name).read_bytes()
    if python is not None:
        yield "guest/python", stat.S_IFREG | 0o755, python
    for module in sorted((kernel / "modules").iterdir()):
        yield f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()


def cpio(content: Iterator[Entry]) -> Iterator[bytes]:
    """The archive in the kernel's format ("newc"), piece by piece."""
    for number, (name, mode, data) in enumerate([*content, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device and its kind (four fields), length of the name, checksum
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def stand_in(folder: Path, say: Callable[[str], None]) -> bytes | None:
    """The compiled program that stands in for `python` in the guest; None where there is no C
    compiler, and then every interpreter in the guest starts from scratch.
    """
    target = folder / "python"
    for compiler in filter(None, map(packages.find, ("cc", "gcc", "clang"))):
        command = [
            compiler,
            "-std=gnu11",
            "-D_GNU_SOURCE",
            "-O2",
            "-static",
            "-o",
            str(target),
            str(GUEST / "python.c"),
        ]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120).returncode == 0:
            return target.read_bytes()
    say("no C compiler for a static program here: interpreters in the guest will start slowly")
    return None


def build(kernel: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Writes `initramfs` into the folder."""
    busybox = packages.busybox()
    if busybox is None:
        raise VmError("build the guest's initramfs", "busybox", "it is not installed: apt-get install busybox-static")
    with (folder / "initramfs").open("wb") as archive:
        archive.writelines(cpio(entries(kernel, busybox, stand_in(folder, say))))
