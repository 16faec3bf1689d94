"""The directory of all parts that were made, each under the digest of its inputs.

    kernel-PACKAGE_...  vmlinuz, its version, the modules the guest loads
    boot-DIGEST         initramfs
    image-DIGEST        root.squashfs
    snapshot-DIGEST     ram and state of a machine that has booted and imported everything
    empty               an empty folder, for shares that are not used

A part is made beside its place and renamed into it. A process that uses parts holds a shared lock,
one that makes or removes parts an exclusive lock. Recently used parts stay when newer ones of their
kind are made; the others are removed.
"""

from __future__ import annotations

import contextlib
import errno
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

from rdmatensor.backoff import Backoff
from rdmatensor.settings.trust import make_private, why_distrust
from rdmatensor.vm import accel, image, initramfs, kernel, packages
from rdmatensor.vm.errors import VmError
from rdmatensor.vm.interpreter import Interpreter, probe
from rdmatensor.vm.machine import BOOT_TIMEOUT, SHARES_MAX, Machine, MachineLost, Spec, booted
from rdmatensor.vm.options import Options

__all__ = ["KEPT", "Parts", "Store", "digest"]

ATTEMPTS = 3
"""The number of attempts to make parts when their inputs change meanwhile."""
KEPT = 2
"""The number of parts of one kind that stay: the one in use and the one before."""
OURS = re.compile(r"(kernel|boot|image|snapshot)-|new-|empty$|lock$")


USE = "use the cache of rdmatensor vm"
ELSEWHERE = "name another directory in the environment as RDMATENSOR_VM_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK_TIMEOUT = 3600.0
"""The seconds to wait for another run, which holds the cache as long as its machine runs."""
LOCK_NAPS = (0.005, 0.05, 10)


def is_full(error: VmError) -> bool:
    """Whether the disk was full: the next attempt would fail, too."""
    said = str(error)
    return error.error_number in FULL or "No space left" in said or "enough free space" in said


def holders(lock: int) -> str:
    """The processes that hold a lock file, as far as the kernel shows them."""
    found = os.fstat(lock)
    with contextlib.suppress(OSError):
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        numbers = sorted({words[4] for words in lines if "->" not in words and len(words) > 5 and words[5] == place})
        if numbers:
            return f"process{'es' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    return "another process"


def digest(*parts: str | bytes) -> str:
    """A name for the result of these inputs; no two lists of inputs share one."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Parts:
    """The paths of a machine's parts."""

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
    """The parts that were made, and the functions that make missing ones."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self.say = say
        try:
            make_private(root)
            if why := why_distrust(root):
                why = f"{why}, and what lies there is booted and run"
                raise VmError(USE, str(root), f"{why}: make it yours alone (chmod go-w), or {ELSEWHERE}")
            (root / "empty").mkdir(exist_ok=True)
        except OSError as error:
            raise self.refused(USE, error) from error

    def refused(self, what: str, error: OSError) -> VmError:
        """The system's error about the cache, with the remedy."""
        place = f"{error.filename}: " if error.filename and error.filename != str(self.root) else ""
        advice = f"make room there, or {ELSEWHERE}" if error.errno in FULL else ELSEWHERE
        why = f"{place}{error.strerror}: {advice}"
        return VmError(what, str(self.root), why, error_number=error.errno or 0)

    @contextlib.contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Keeps other processes from changing parts or, with `alone`, from using them."""
        try:
            file = (self.root / "lock").open("a")
        except OSError as error:
            raise self.refused(USE, error) from error
        with file:
            self.take(file.fileno(), fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def take(self, lock: int, how: int) -> None:
        """Waits for the lock, and reports its holder; VmError after LOCK_TIMEOUT."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        naps = Backoff(*LOCK_NAPS)
        told = False
        while True:
            try:
                return fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            if not told:
                self.say(f"waiting for another rdmatensor vm ({holders(lock)})")
                told = True
            if time.monotonic() > deadline:
                why = f"another rdmatensor vm ({holders(lock)}) has used it for {LOCK_TIMEOUT:g} s: end that first"
                raise VmError("wait for the cache", str(self.root), why)
            naps.nap()

    @contextlib.contextmanager
    def prepared(self, options: Options, *, refresh: bool = False) -> Iterator[Parts]:
        """The parts of a run, made where they are missing, and kept until the end of the block."""
        packages.ensure(self.say)
        image.check(options.packages)
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

    # ---- finding ----

    def find(self, options: Options) -> Parts | None:
        """The parts of a run, or None when one is missing."""
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
        """The kernel of a run: the one it names, or the newest one here."""
        if options.kernel:
            return self.kernel_place(options.kernel)
        suffix = self.kernel_place("").name.removeprefix("kernel-")
        names = [path.name.removeprefix("kernel-") for path in self.root.glob(f"kernel-*{suffix}")]
        here = kernel.candidates(name.removesuffix(suffix) for name in names)
        return self.kernel_place(here[0]) if here else None

    def kernel_place(self, package: str) -> Path:
        """The path of a kernel with the current list of modules, whether or not it exists yet."""
        return self.root / f"kernel-{package}_{digest(*kernel.MODULES)}"

    def names(self, options: Options, kernel_path: Path | None) -> tuple[Parts, list[Path]] | None:
        """The paths of the parts, whether or not they exist yet, and those that a run needs; None
        without a kernel.
        """
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
        """Makes the missing parts of a run; with `refresh`, with the newest kernel."""
        self._remove("new-*")  # left by a run that was killed
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
                if number == len(names) or is_full(error):
                    raise
                self.say(f"{error}; trying the next kernel")

    def make_snapshot(self, folder: Path, parts: Parts, memory: int) -> None:
        """Boots a machine, lets it import its modules, and saves it."""
        self.say("booting the machine once, to start later runs from there")
        ram = folder / "ram"

        def saved() -> dict[str, float]:
            ram.unlink(missing_ok=True)  # of a machine whose kernel died
            with Machine(self.spec(parts, memory, (), ram=ram)) as machine:
                ready = self.await_agent(machine)
                machine.save(folder / "state")
            return ready

        try:
            ready = booted(saved, self.say)
        except MachineLost as error:
            why = f"{error}; its console ended with\n{error.report}"
            raise VmError("boot the machine", "qemu", why) from error
        slowest = ", ".join(f"{name} {seconds:g} s" for name, seconds in ready.items())
        self.say(f"snapshot made; imported {slowest or 'nothing'}")

    def spec(
        self, parts: Parts, memory: int, shares: tuple[Path, ...], *, ram: Path | None, restore: bool = False
    ) -> Spec:
        """The description of the machine that these parts make."""
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
        """Waits until a machine has booted; gives the seconds of each import there. MachineLost when
        it does not.
        """
        message = machine.message(BOOT_TIMEOUT)
        if message is None or "ready" not in message:
            raise MachineLost(f"it was not ready after {BOOT_TIMEOUT:g} s", machine.console)
        ready: dict[str, float] = message["ready"]
        return ready

    def add(self, place: Path, build: Callable[[Path], None]) -> None:
        """Makes a part unless it exists, and then removes the oldest ones of its kind."""
        if place.exists():
            return
        began = time.monotonic()
        try:
            work = Path(tempfile.mkdtemp(prefix="new-", dir=self.root))
        except OSError as error:
            raise self.refused(f"make the {place.name.partition('-')[0]}", error) from error
        try:
            work.chmod(0o755)
            build(work)
            work.rename(place)
        except OSError as error:
            raise self.refused(f"make the {place.name.partition('-')[0]}", error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        kind = place.name.partition("-")[0]
        self.say(f"made the {kind} in {time.monotonic() - began:.1f} s")
        others = sorted(self.root.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in [path for path in others if path != place][KEPT - 1 :]:
            shutil.rmtree(path)

    # ---- listing, removing ----

    def sizes(self) -> dict[str, int]:
        """The parts that exist, and the bytes each takes on the disk."""
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
