"""A distribution kernel with rdma_rxe, from the system's package archive, and those of its modules
that the guest loads.

Debian's generic `linux-image-*-amd64` contains everything; Ubuntu's `linux-image-*-generic` also
needs `linux-modules-*` (and `-extra-`). Cloud and real-time kernels are skipped: the former lack
rdma_rxe. Packages are downloaded and unpacked, never installed. Modules are stored uncompressed:
decompressing them under emulation takes longer than everything else.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rdmatensor.vm import packages
from rdmatensor.vm.errors import VmError

__all__ = ["MODULES", "OPTIONAL", "candidates", "fetch", "load_order", "newest"]

MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_console", "squashfs", "overlay", "9pnet_virtio", "9p"),
    *("crc32_generic", "crc32c_generic", "ib_uverbs", "rdma_ucm", "rdma_rxe"),
    *("dummy", "veth", "sch_netem", "tcp_diag", "udp_diag", "unix_diag"),
)
"""The modules in the order in which the guest loads them; it loads no other. crc32-pclmul is left
out on purpose: it is slower when emulated.
"""

OPTIONAL = {"crc32_generic", "crc32c_generic"}
"""Modules that newer kernels have merged into their library."""

IMAGE = re.compile(r"linux-image-(\d+\.\d+[^\s]*)-(amd64|generic)")
_passed_over = ("cloud", "rt", "unsigned", "dbg")


def version_key(name: str) -> list[int]:
    """The numbers of a version, for comparison."""
    return [int(number) for number in re.findall(r"\d+", name)]


def candidates(names: Iterable[str]) -> list[str]:
    """Kernel image packages that may have rdma_rxe, newest first."""
    fitting = []
    for name in names:
        match = IMAGE.fullmatch(name.strip())
        if match and not any(word in re.split(r"[-+~]", match.group(1)) for word in _passed_over):
            fitting.append(name.strip())
    return sorted(fitting, key=version_key, reverse=True)


def newest() -> list[str]:
    """The candidates that apt knows here, newest first; VmError when there are none."""
    if not packages.apt_lists_present():
        packages.apt_update(["linux-image-*"])
    names = output(["apt-cache", "pkgnames", "linux-image-"]).split()
    found = candidates(names)
    if not found:
        why = "apt knows no linux-image-*-amd64 or linux-image-*-generic; the sources need Debian's or Ubuntu's main"
        raise VmError("find a kernel with rdma_rxe", "the package lists", why)
    return found


def fetch(package: str, folder: Path, say: Callable[[str], None]) -> None:
    """Downloads a kernel package and leaves `vmlinuz`, `version` and `modules/*.ko` (numbered in
    load order) in the folder; VmError when it has no rdma_rxe.
    """
    say(f"fetching {package}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unpack-") as name:
        work = Path(name)
        companions = [word for word in depends(package) if re.match(r"linux-modules-(extra-)?\d", word)]
        extra = package.replace("linux-image-", "linux-modules-extra-")
        if companions and extra not in companions and output(["apt-cache", "pkgnames", extra]).split():
            companions.append(extra)
        output(["apt-get", "download", "-q", package, *companions], cwd=work)
        tree = work / "tree"
        for archive in sorted(work.glob("*.deb")):
            output(["dpkg-deb", "-x", str(archive), str(tree)])
        image = next((tree / "boot").glob("vmlinuz-*"), None)
        if image is None:
            raise VmError("unpack a kernel", package, "it has no boot/vmlinuz")
        version = image.name.removeprefix("vmlinuz-")
        shutil.copyfile(image, folder / "vmlinuz")
        (folder / "modules").mkdir()
        for number, path in enumerate(load_order(modules_of(tree, version), builtin_of(tree, version))):
            target = folder / "modules" / f"{number:02}-{module_name(path)}.ko"
            target.write_bytes(uncompressed(path))
        (folder / "version").write_text(version)


def depends(package: str) -> list[str]:
    """The names a package depends on."""
    return re.findall(r"(?:Pre)?Depends: (\S+)", output(["apt-cache", "depends", package]))


def module_name(path: Path) -> str:
    """The name of a module as the kernel spells it."""
    return path.name.partition(".ko")[0].replace("-", "_")


def modules_of(tree: Path, version: str) -> dict[str, Path]:
    """All modules of an unpacked kernel, by name."""
    for folder in (tree / "lib/modules" / version, tree / "usr/lib/modules" / version):
        if folder.is_dir():
            return {module_name(path): path for path in folder.rglob("*.ko*")}
    return {}


def builtin_of(tree: Path, version: str) -> set[str]:
    """The names of the modules that are part of the kernel image."""
    names: set[str] = set()
    for lists in tree.glob(f"**/modules/{version}/modules.builtin"):
        names |= {module_name(Path(line)) for line in lists.read_text().split()}
    return names


def load_order(found: dict[str, Path], builtin: set[str]) -> list[Path]:
    """The modules of MODULES with all their dependencies, each after those that it needs; VmError
    when one is missing.
    """
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in order or name in builtin or (name not in found and name in OPTIONAL):
            return
        if name not in found:
            raise VmError("pick modules for the guest", name, "this kernel does not have it; try another with --kernel")
        for needed in needs(uncompressed(found[name])):
            add(needed)
        order[name] = found[name]

    for name in MODULES:
        add(name)
    return list(order.values())


def needs(module: bytes) -> list[str]:
    """The names of the modules that a module depends on, from its own .modinfo."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.decode().replace("-", "_") for name in match.group(1).split(b",") if name] if match else []


def uncompressed(path: Path) -> bytes:
    """The content of a module file."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        if packages.find("zstd") is None:
            packages.as_root(["apt-get", "install", "-y", "-q", "zstd"], ["zstd"])
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True, timeout=60).stdout
    return path.read_bytes()


def output(command: list[str], cwd: Path | None = None) -> str:
    """The output of a command; VmError with its last line when the command fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=600
        )
    except OSError as error:
        raise VmError("run a command", command[0], f"{error.strerror}; a Debian or Ubuntu system has it") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise VmError("run a command", " ".join(command), last)
    return done.stdout
