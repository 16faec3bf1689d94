"""The built module runs on older systems than that of its build, and the core compiles against musl."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdmatensor

ROOT = Path(__file__).resolve().parent.parent.parent
OLDEST = (2, 28)
"""The glibc of manylinux_2_28: AlmaLinux 8, Debian 10, Ubuntu 18.10."""

REDIRECTED = re.compile(r"__isoc23_\w+|(f|l|fstat)?stat(64|at)?|mknod(at)?")
"""Names that a newer C library's headers put in place of older ones, unasked: the scanf of C23 (2.38),
and functions that were inline wrappers of __xstat and its kin before 2.33."""


def needed(library: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The functions of glibc that a library needs, with the version of each."""
    shown = subprocess.run(
        ["nm", "-D", "--with-symbol-versions", str(library)], capture_output=True, text=True, check=True
    )
    for name, version in re.findall(r" [Uw] (\w+)@+GLIBC_([\d.]+)", shown.stdout):
        yield name, tuple(int(number) for number in version.split("."))


def provided() -> set[tuple[str, tuple[int, ...]]]:
    """The functions of this machine's glibc in all versions: also those for programs that were linked long ago."""
    (path,) = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if re.search(r"/libc[.-][^/]*so", line)
    }
    shown = subprocess.run(["nm", "-D", "--with-symbol-versions", path], capture_output=True, text=True, check=True)
    found = re.findall(r" [TWi] (\w+)@+GLIBC_([\d.]+)", shown.stdout)
    return {(name, tuple(int(number) for number in version.split("."))) for name, version in found}


def too_new(symbols: Iterator[tuple[str, tuple[int, ...]]]) -> list[str]:
    """Functions that OLDEST does not have. A function that it has under an older version is not one: glibc
    gave pthread_create and others a new version when it merged libpthread into libc, and a build on an older system
    asks for the older one.
    """
    old = {name for name, version in provided() if version <= OLDEST}
    return [
        f"{name} (glibc {'.'.join(map(str, version))})"
        for name, version in symbols
        if version > OLDEST and name not in old and not REDIRECTED.fullmatch(name)
    ]


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm: apt-get install binutils")
def test_the_module_needs_no_function_that_glibc_2_28_lacks() -> None:
    (native,) = Path(rdmatensor.__file__).parent.glob("_native*.so")
    symbols = list(needed(native))
    assert symbols, "the module is linked with no glibc"
    assert too_new(iter(symbols)) == []
    assert too_new(iter([("strerrorname_np", (2, 32))])) == ["strerrorname_np (glibc 2.32)"]
    assert too_new(iter([("pthread_create", (2, 34))])) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="there is no musl-gcc: apt-get install musl-tools")
def test_the_core_compiles_against_musl(tmp_path: Path) -> None:
    machine = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    for name, place in (
        ("linux", "/usr/include/linux"),
        ("asm", f"/usr/include/{machine}/asm"),
        ("asm-generic", "/usr/include/asm-generic"),
        ("rdma", "/usr/include/rdma"),
        ("infiniband", "/usr/include/infiniband"),
    ):
        if Path(place).is_dir():  # the kernel's and rdma-core's headers, which depend on no C library
            (tmp_path / name).symlink_to(place)
    sources = sorted(path for path in (ROOT / "csrc").rglob("*.c") if path.parent.name != "python")
    flags = ["-std=gnu11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    command = ["musl-gcc", *flags, "-idirafter", str(tmp_path), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
