"""The guest's read-only root: the basic packages of this system, as installed here, and a Python
environment.

No intermediate copy is made: files go as a tar stream into mksquashfs, which does not need root.
"""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rdmatensor.errors import InvalidArgument
from rdmatensor.vm import packages
from rdmatensor.vm.errors import VmError
from rdmatensor.vm.interpreter import Interpreter
from rdmatensor.vm.kernel import output

__all__ = ["build", "check", "chosen", "closure", "installed", "versions"]

WANTED = (
    *(
        "bash",
        "coreutils",
        "diffutils",
        "findutils",
        "gawk",
        "grep",
        "gzip",
        "hostname",
        "less",
        "make",
        "mount",
        "sed",
    ),
    *("procps", "psmisc", "strace", "tar", "util-linux", "kmod", "libc-bin", "netbase", "ca-certificates"),
    *("iproute2", "iputils-ping", "net-tools", "ethtool", "tcpdump"),
    *("rdma-core", "rdmacm-utils", "ibverbs-providers", "ibverbs-utils", "perftest", "python3-pyverbs"),
    *("libibverbs1", "librdmacm1", "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libgfortran5"),
)
"""The packages of the guest, where they are installed here; their dependencies and the essential
packages come along.
"""

SKIPPED = re.compile(
    r"/(usr/share/(doc|man|info|locale|lintian|bug|icons|fonts|help|bash-completion|zoneinfo)|boot|usr/src|usr/lib/firmware"
    r"|lib/firmware|lib/modules|usr/lib/modules|usr/include|var|proc|sys|dev|run|tmp)(/|$)"
)
SKIPPED_IN_PYTHON = {"test", "tests", "idlelib", "turtledemo", "lib2to3", "include"}
SKIPPED_ENDINGS = (".a", ".la", ".o", ".pyo")
ETC = (
    *("group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf"),
    *("passwd", "protocols", "services", "ssl/certs"),
)
BUFFER = 1 << 16
"""The bytes that go to mksquashfs at once. tarfile copies its buffer for every header: with 1 MiB
that took a third of the packing time.
"""
FOLDERS = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/log", "var/lib", "usr/local/bin")


# ---- which packages ----


def installed() -> dict[str, tuple[str, set[str]]]:
    """Every installed package and every name that a package provides: dpkg's name of the package,
    and the names it depends on.

    Packages that every system has appear a second time, under a name that begins with a star.
    """
    fields = ("binary:Package", "db:Status-Status", "Priority", "Essential", "Provides", "Pre-Depends", "Depends")
    shown = "\\t".join(f"${{{field}}}" for field in fields)
    found: dict[str, tuple[str, set[str]]] = {}
    for line in output(["dpkg-query", "-W", f"-f={shown}\\n"]).splitlines():
        name, status, priority, essential, provides, early, late = line.split("\t")
        if status != "installed":
            continue
        needed = {word.split()[0].partition(":")[0] for word in re.split(r"[,|]", f"{early},{late}") if word.strip()}
        entry = (name, needed)
        plain = name.partition(":")[0]
        found[plain] = entry
        for provided in filter(None, (word.strip().partition(" ")[0] for word in provides.split(","))):
            found.setdefault(provided, entry)
        if essential == "yes" or priority in ("required", "important"):
            found[f"*{plain}"] = entry
    return found


def closure(wanted: Iterable[str], known: dict[str, tuple[str, set[str]]]) -> list[str]:
    """The dpkg names of the wanted packages, of the essential ones, and of all their dependencies."""
    todo = [*wanted, *(name for name in known if name.startswith("*"))]
    found: set[str] = set()
    while todo:
        entry = known.get(todo.pop())
        if entry is not None and entry[0] not in found:
            found.add(entry[0])
            todo += entry[1]
    return sorted(found)


def check(wanted: Iterable[str]) -> None:
    """Raises InvalidArgument for packages that are not installed here, and so cannot be taken along."""
    known = installed()
    unknown = [name for name in wanted if name.partition(":")[0] not in known]
    if unknown:
        why = f"not installed here: look for the right name (dpkg -l), or apt-get install {' '.join(unknown)}"
        raise InvalidArgument("include system packages", ", ".join(unknown), why)


def chosen(python: Interpreter, extra: Iterable[str]) -> list[str]:
    """The dpkg names of the packages for the image."""
    system = [f"python{python.version}", "python3"] if python.base_prefix == Path("/usr") else []
    return closure([*WANTED, *system, *extra], installed())


def versions(names: list[str]) -> str:
    """The versions of these packages; the text differs when one of them changes."""
    return output(["dpkg-query", "-W", "-f=${binary:Package} ${Version}\n", *names])


# ---- which files ----


class Tree:
    """The paths of the image and the source of each; links in parent folders are resolved as on
    this system.
    """

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self._parents: dict[str, str] = {}

    def add(self, path: Path) -> None:
        """Adds a file, link or folder under its path on this system, and the target of a link."""
        for _ in range(10):
            parent = self._parents.setdefault(str(path.parent), os.path.realpath(path.parent))
            place = os.path.join(parent, path.name)
            if place in self.files or not os.path.lexists(place):
                return
            self.files[place] = Path(place)
            if not os.path.islink(place):
                return
            path = Path(os.path.normpath(os.path.join(parent, os.readlink(place))))
            if path.is_dir():
                return

    def add_all(self, folder: Path, skip: Callable[[str], bool]) -> None:
        """Adds everything in a folder except names that `skip` matches."""
        for parent, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not skip(name)]
            for name in [*folders, *files]:
                if not skip(name):
                    self.add(Path(parent, name))


def not_for_python(name: str) -> bool:
    return name in SKIPPED_IN_PYTHON or name.startswith("config-") or name.endswith(SKIPPED_ENDINGS)


def add_packages(tree: Tree, names: list[str]) -> None:
    """Adds all files of packages, except those that are never used in the guest."""
    for line in output(["dpkg-query", "-L", *names]).splitlines():
        if line.startswith("/") and line != "/." and not SKIPPED.match(line) and not line.endswith(SKIPPED_ENDINGS):
            tree.add(Path(line))


def add_python(tree: Tree, python: Interpreter) -> None:
    """Adds an interpreter, its standard library, and the packages installed for it."""
    for folder in {python.executable.parent, python.base_prefix / "bin"}:
        if folder in (Path("/usr/bin"), Path("/bin"), Path("/usr/local/bin")):
            for path in folder.glob("python*"):
                tree.add(path)
        else:
            tree.add_all(folder, not_for_python)
    tree.add(python.executable)
    tree.add(python.executable.resolve())
    packages_inside = re.compile(r"(site|dist)-packages$")
    tree.add_all(python.stdlib, lambda name: not_for_python(name) or bool(packages_inside.search(name)))
    for path in (python.base_prefix / "lib").glob("libpython*.so*"):
        tree.add(path)
    if python.is_venv:
        tree.add(python.prefix / "pyvenv.cfg")
        tree.add(python.prefix / "lib64")
    for folder in python.path:
        if folder.is_dir() and packages_inside.search(folder.name):
            tree.add_all(folder, lambda name: name == "include" or name.endswith(SKIPPED_ENDINGS))


def add_libraries(tree: Tree) -> None:
    """Adds the shared libraries that objects in the tree are linked with, as this system's loader
    finds them.
    """
    objects = [
        place for place in tree.files if re.search(r"\.so(\.\d+)*$", place) and not place.startswith("/usr/lib/x86_64")
    ]
    objects += [place for place in tree.files if re.search(r"/bin/python3\.\d+$", place)]
    for start in range(0, len(objects), 200):
        done = subprocess.run(
            ["ldd", *objects[start : start + 200]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        for path in set(re.findall(r"=> (/\S+) \(0x", done.stdout)):
            tree.add(Path(path))


def collect(python: Interpreter, extra: Iterable[str]) -> Tree:
    """Every file of the image."""
    tree = Tree()
    add_packages(tree, chosen(python, extra))
    for name in ETC:
        path = Path("/etc", name)
        if path.is_dir():
            tree.add_all(path, lambda _: False)
        else:
            tree.add(path)
    add_python(tree, python)
    add_libraries(tree)
    for path in Path("/etc/alternatives").glob("*"):  # only links to files in the tree; others would add programs
        if os.path.realpath(path) in tree.files:
            tree.add(path)
    return tree


# ---- writing ----


def members(tree: Tree, texts: dict[str, str]) -> Iterator[tuple[tarfile.TarInfo, Path | bytes | None]]:
    """The archive's members: folders first, then everything under its own path, owned by root."""
    folders = {str(parent) for place in [*tree.files, *texts] for parent in Path(place).parents} | {
        f"/{name}" for name in FOLDERS
    }
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):  # links into /usr, on systems with a merged /usr
        if os.path.islink(f"/{name}"):
            yield link(name, os.readlink(f"/{name}")), None
    for place in sorted(folders - {"/"} | {place for place, path in tree.files.items() if is_folder(path)}):
        info = tarfile.TarInfo(place.lstrip("/"))
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if place.endswith("/tmp") else 0o755
        yield info, None
    for place, path in tree.files.items():
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode):
            yield link(place.lstrip("/"), os.readlink(path)), None
        elif stat.S_ISREG(state.st_mode) and os.access(path, os.R_OK):
            info = tarfile.TarInfo(place.lstrip("/"))
            info.size, info.mode = state.st_size, stat.S_IMODE(state.st_mode) & 0o777
            info.mtime = int(state.st_mtime)  # a fraction would need an extra header
            yield info, path
    for place, text in texts.items():
        info = tarfile.TarInfo(place.lstrip("/"))
        info.size, info.mode = len(text.encode()), 0o644
        yield info, text.encode()


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return info


def build(python: Interpreter, extra: Iterable[str], folder: Path, say: Callable[[str], None]) -> None:
    """Writes `root.squashfs` into the folder."""
    say(f"packing the guest's root: basic packages and {python.prefix}")
    tree = collect(python, extra)
    texts = {
        "/etc/rdmatensor-python": f"{python.executable}\n",
        "/etc/hostname": "guest\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 guest\n",
        "/etc/rdmatensor-preload": ",".join(python.preload) + "\n",
    }
    target = folder / "root.squashfs"
    program = packages.find("mksquashfs")
    if program is None:
        raise VmError("pack the guest's root", "mksquashfs", "it is not installed: apt-get install squashfs-tools")
    command = [program, "-", str(target), "-tar", "-comp", "lz4", "-noappend", "-no-progress", "-quiet", "-mem", "512M"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as packer:
        assert packer.stdin is not None and packer.stderr is not None
        try:
            with tarfile.open(fileobj=packer.stdin, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BUFFER) as archive:
                for info, content in members(tree, texts):
                    put(archive, info, content)
            packer.stdin.close()
        except BrokenPipeError:
            pass  # mksquashfs gives the reason on its standard error
        reason = packer.stderr.read().decode(errors="replace").strip()
    if packer.returncode != 0:
        raise VmError("pack the guest's root", str(target), (reason.splitlines() or ["mksquashfs gave no reason"])[-1])
    say(f"the guest's root has {len(tree.files)} files in {target.stat().st_size >> 20} MiB")


def put(archive: tarfile.TarFile, info: tarfile.TarInfo, content: Path | bytes | None) -> None:
    """Adds one member; a file that changed meanwhile is cut or padded to the announced size."""
    if isinstance(content, Path):
        data = content.read_bytes()[: info.size]
        content = data.ljust(info.size, b"\0")
    if content is None:
        archive.addfile(info)
    else:
        archive.addfile(info, io.BytesIO(content))
