"""The directory where everything that was made lies, each thing under the digest of what it was made from.

    kernel-PACKAGE_...  vmlinuz, its version, the modules the guest loads
    boot-DIGEST         initramfs
    image-DIGEST        root.squashfs
    snapshot-DIGEST     ram and state of a machine that has booted and imported everything
    empty               a folder with nothing in it, for shares that are not used

A thing is made beside its place and renamed into it. Who uses things holds a shared lock, who makes or removes some an
exclusive one. Things that were used last stay when newer ones of their kind are made; the others go.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rdmatensor.vm import accel, image, initramfs, kernel, packages
from rdmatensor.vm.errors import VmError
from rdmatensor.vm.interpreter import Interpreter, probe
from rdmatensor.vm.machine import BOOT_TIMEOUT, SHARES_MAX, Machine, MachineLost, Spec
from rdmatensor.vm.options import Options

__all__ = ["KEPT", "Parts", "Store", "digest"]

ATTEMPTS = 3
"""How often things are made when what they are made of changes meanwhile."""
KEPT = 2
"""Things of one kind that stay: the one in use and the one before."""
OURS = re.compile(r"(kernel|boot|image|snapshot)-|new-|empty$|lock$")


def digest(*parts: str | bytes) -> str:
    """A name for whatever is made from these parts; no two lists of parts share one."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts of a machine lie."""

    kernel: Path
    boot: Path
    image: Path
    snapshot: Path | None
    interpreter: Interpreter
    accelerator: str

    @property
    def version(self) -> str:
        """The kernel's version."""
        return (self.kernel / "version").read_text()


class Store:
    """The parts that were made, and the making of missing ones."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self.say = say
        root.mkdir(parents=True, exist_ok=True)
        (root / "empty").mkdir(exist_ok=True)

    @contextlib.contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Keeps others from changing things, or (alone) from using them."""
        with (self.root / "lock").open("a") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("waiting for another rdmatensor vm")
                fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def prepared(self, options: Options, *, refresh: bool = False) -> Iterator[Parts]:
        """The parts for a run, made where they are missing, and kept until the end of the block."""
        packages.ensure(self.say)
        for _ in range(ATTEMPTS):
            with self.locked(alone=False):
                parts = None if refresh else self.find(options)
                if parts is not None:
                    yield parts
                    return
            with self.locked(alone=True):
                self.make(options, refresh)
            refresh = False
        why = (
            "what it is made of (packages, the Python environment) kept changing meanwhile: try again when it does not"
        )
        raise VmError("prepare the machine", str(self.root), why)

    # ---- what is there ----

    def find(self, options: Options) -> Parts | None:
        """The parts for a run, or None when one is missing."""
        names = self.names(options, self.kernel_of(options))
        if names is None:
            return None
        parts, needed = names
        if not all(path.exists() for path in needed):
            return None
        for path in needed:
            os.utime(path)
        return parts

    def kernel_of(self, options: Options) -> Path | None:
        """The kernel that a run uses: the one it names, or the newest that is here."""
        if options.kernel:
            return self.kernel_place(options.kernel)
        suffix = self.kernel_place("").name.removeprefix("kernel-")
        names = [path.name.removeprefix("kernel-") for path in self.root.glob(f"kernel-*{suffix}")]
        here = kernel.candidates(name.removesuffix(suffix) for name in names)
        return self.kernel_place(here[0]) if here else None

    def kernel_place(self, package: str) -> Path:
        """Where a kernel with the modules of today lies or will lie."""
        return self.root / f"kernel-{package}_{digest(*kernel.MODULES)}"

    def names(self, options: Options, kernel_path: Path | None) -> tuple[Parts, list[Path]] | None:
        """Where the parts lie or will lie, and which of them a run needs; None without a kernel."""
        if kernel_path is None or not kernel_path.exists():
            return None
        interpreter = probe(options.python)
        busybox = packages.busybox()
        scripts = [path.read_bytes() for path in sorted(initramfs.GUEST.iterdir()) if path.is_file()]
        scripts.append(Path(initramfs.__file__).read_bytes())
        boot = digest(kernel_path.name, busybox.read_bytes() if busybox else b"", *scripts)
        system = image.versions(image.chosen(interpreter, options.packages))
        recipe = Path(image.__file__).read_bytes()
        root = digest(interpreter.identity, system, recipe, "\n".join(options.packages))
        qemu = kernel.output([packages.find("qemu-system-x86_64") or "qemu-system-x86_64", "--version"])
        machine = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("machine.py", "accel.py"))
        accelerator = accel.choose(options.accel)
        snapshot = digest(boot, root, qemu, machine, str(options.memory), accel.identity(accelerator))
        parts = Parts(
            kernel=kernel_path,
            boot=self.root / f"boot-{boot}",
            image=self.root / f"image-{root}",
            snapshot=None if options.plain else self.root / f"snapshot-{snapshot}",
            interpreter=interpreter,
            accelerator=accelerator,
        )
        return parts, [path for path in (parts.kernel, parts.boot, parts.image, parts.snapshot) if path is not None]

    # ---- making ----

    def make(self, options: Options, refresh: bool) -> None:
        """Makes what a run lacks; with `refresh`, with the newest kernel."""
        self._remove("new-*")  # of a run that was killed
        if options.kernel or refresh or self.kernel_of(options) is None:
            self.make_kernel([options.kernel] if options.kernel else kernel.newest()[:3])
        names = self.names(options, self.kernel_of(options))
        assert names is not None  # there is a kernel now
        parts, _ = names
        self.add(parts.boot, lambda folder: initramfs.build(parts.kernel, folder, self.say))
        self.add(parts.image, lambda folder: image.build(parts.interpreter, options.packages, folder, self.say))
        if parts.snapshot is not None:
            self.add(parts.snapshot, lambda folder: self.make_snapshot(folder, parts, options.memory))

    def make_kernel(self, names: list[str]) -> None:
        """Fetches the first of these kernels that has rdma_rxe."""
        for number, name in enumerate(names, 1):
            try:
                self.add(self.kernel_place(name), functools.partial(kernel.fetch, name, say=self.say))
                return
            except VmError as error:
                if number == len(names):
                    raise
                self.say(f"{error}; trying the next kernel")

    def make_snapshot(self, folder: Path, parts: Parts, memory: int) -> None:
        """Boots a machine, lets it import what there is, and writes it down."""
        self.say("booting the machine once, to start later runs from there")
        with Machine(self.spec(parts, memory, (), ram=folder / "ram")) as machine:
            ready = self.await_agent(machine)
            machine.save(folder / "state")
        slowest = ", ".join(f"{name} {seconds:g} s" for name, seconds in ready.items())
        self.say(f"snapshot made; imported {slowest or 'nothing'}")

    def spec(
        self, parts: Parts, memory: int, shares: tuple[Path, ...], *, ram: Path | None, restore: bool = False
    ) -> Spec:
        """The machine made of these parts."""
        return Spec(
            kernel=parts.kernel / "vmlinuz",
            initramfs=parts.boot / "initramfs",
            image=parts.image / "root.squashfs",
            memory=memory,
            shares=shares + (self.root / "empty",) * (SHARES_MAX - len(shares)),
            mode="plain" if ram is None else "fast",
            ram=ram,
            restore=restore,
            accelerator=parts.accelerator,
        )

    def await_agent(self, machine: Machine) -> dict[str, float]:
        """Waits until a machine has booted; what was imported there, in seconds."""
        try:
            message = machine.message(BOOT_TIMEOUT)
        except MachineLost as error:
            raise VmError(
                "boot the machine", "qemu", f"{error}; its console ended with\n{machine.console.report()}"
            ) from error
        if message is None or "ready" not in message:
            why = f"not ready after {BOOT_TIMEOUT:g} s; its console ended with\n{machine.console.report()}"
            raise VmError("boot the machine", "qemu", why)
        ready: dict[str, float] = message["ready"]
        return ready

    def add(self, place: Path, build: Callable[[Path], None]) -> None:
        """Makes a thing, unless it is there; afterwards the oldest of its kind go."""
        if place.exists():
            return
        began = time.monotonic()
        work = Path(tempfile.mkdtemp(prefix="new-", dir=self.root))
        try:
            work.chmod(0o755)
            build(work)
            work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        kind = place.name.partition("-")[0]
        self.say(f"made the {kind} in {time.monotonic() - began:.1f} s")
        others = sorted(self.root.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in [path for path in others if path != place][KEPT - 1 :]:
            shutil.rmtree(path)

    # ---- looking, removing ----

    def sizes(self) -> dict[str, int]:
        """What is there, and the bytes it takes on the disk."""
        return {
            path.name: sum(file.lstat().st_blocks * 512 for file in path.rglob("*"))
            for path in sorted(self.root.iterdir())
            if path.is_dir() and OURS.match(path.name)
        }

    def clean(self) -> None:
        """Removes everything that was made, and the directory if nothing else is in it."""
        with self.locked(alone=True):
            for pattern in ("kernel-*", "boot-*", "image-*", "snapshot-*", "new-*", "unpack-*", "empty"):
                self._remove(pattern)
            (self.root / "lock").unlink()
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def _remove(self, pattern: str) -> None:
        for path in self.root.glob(pattern):
            shutil.rmtree(path)
