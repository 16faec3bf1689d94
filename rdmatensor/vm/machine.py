"""A qemu process and the sockets to it: the monitor, the guest's console, and its three serial ports.

All of them are socket pairs made before it starts, so nothing lies in the file system that could be left behind; and
the kernel ends it when this process ends, however that happens.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rdmatensor.vm import accel, packages
from rdmatensor.vm.console import Console
from rdmatensor.vm.errors import VmError

__all__ = ["SHARES_MAX", "Machine", "MachineLost", "Spec", "command_line"]

SHARES_MAX = 4
"""Folders of the host that a guest can mount. The devices are part of a snapshot, so there are always as many."""
LINKS = ("monitor", "console", "control", "out", "err")
BOOT_TIMEOUT = 480.0
"""Seconds from power on to an agent that is ready, with everything imported: 30 to 80 s, minutes on a busy host."""
RESTORE_TIMEOUT = 60.0
END_TIMEOUT = 10.0

QUIET = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable cryptomgr.notests random.trust_cpu=on audit=0 "
    "apparmor=0 selinux=0 nowatchdog rcupdate.rcu_expedited=1"
)


class MachineLost(Exception):
    """The machine ended, or was silent for longer than it may be."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A machine to start."""

    kernel: Path
    initramfs: Path
    image: Path
    memory: int
    shares: tuple[Path, ...]
    mode: str
    ram: Path | None = None
    """The file that holds the guest's memory, for snapshots."""
    restore: bool = False
    """Leave that file as it is and wait for the rest of a snapshot."""
    processors: int = 2
    accelerator: str = "tcg"


def escaped(path: Path) -> str:
    """A path as a value in qemu's options, where commas separate."""
    return str(path).replace(",", ",,")


def command_line(spec: Spec, descriptors: dict[str, int]) -> list[str]:
    """The command that starts qemu."""
    memory = f"size={spec.memory},id=memory"
    backend = f"memory-backend-ram,{memory}"
    if spec.ram is not None:
        backend = f"memory-backend-file,{memory},mem-path={escaped(spec.ram)},share={'off' if spec.restore else 'on'}"
    words = [packages.find("qemu-system-x86_64") or "qemu-system-x86_64"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += accel.words(spec.accelerator)
    words += ["-machine", "q35,memory-backend=memory", "-object", backend, "-m", f"{spec.memory >> 20}M"]
    words += ["-smp", str(spec.processors), "-kernel", str(spec.kernel), "-initrd", str(spec.initramfs)]
    words += ["-append", f"{QUIET} rdmatensor.mode={spec.mode}"]
    words += ["-drive", f"if=none,id=root,file={escaped(spec.image)},format=raw,readonly=on"]
    words += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-serial-pci"]
    for name in LINKS:
        words += ["-chardev", f"socket,id={name},fd={descriptors[name]}"]
    words += ["-mon", "chardev=monitor,mode=control", "-serial", "chardev:console"]
    for name in LINKS[2:]:
        words += ["-device", f"virtserialport,chardev={name},name={name}"]
    for number, path in enumerate(spec.shares):
        words += ["-fsdev", f"local,id=share{number},path={escaped(path)},security_model=none,multidevs=remap"]
        words += ["-device", f"virtio-9p-pci,fsdev=share{number},mount_tag=share{number}"]
    return words + (["-incoming", "defer"] if spec.restore else [])


class Machine:
    """A machine that runs. A context manager; leaving it ends the machine."""

    def __init__(self, spec: Spec) -> None:
        pairs = {name: socket.socketpair() for name in LINKS}
        theirs = {name: pair[1].fileno() for name, pair in pairs.items()}
        self.links = {name: pair[0] for name, pair in pairs.items()}
        self.console = Console()
        self._control = b""
        self._monitor = self.links["monitor"].makefile("rb")
        self._receivers: dict[str, Callable[[bytes], None]] = {"console": self.console.keep, "control": self._hear}
        self._selector = selectors.DefaultSelector()
        for name in LINKS[1:]:
            self._selector.register(self.links[name], selectors.EVENT_READ, name)
        guard = packages.find("setpriv")
        prefix = [guard, "--pdeathsig", "KILL", "--"] if guard else []
        self._process = subprocess.Popen(
            [*prefix, *command_line(spec, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=list(theirs.values()),
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        for _, end in pairs.values():
            end.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ends the machine at once. Twice is fine."""
        self._process.kill()
        self._process.wait(END_TIMEOUT)
        self._selector.close()
        self._monitor.close()
        for link in self.links.values():
            link.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    # ---- the monitor ----

    def command(self, name: str, timeout: float = RESTORE_TIMEOUT, **arguments: Any) -> Any:
        """A command to qemu's monitor, and what it returned; VmError when qemu refuses it."""
        link = self.links["monitor"]
        link.settimeout(timeout)
        try:
            link.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            while line := self._monitor.readline():
                answer = json.loads(line)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise VmError("tell qemu to", name, answer["error"].get("desc", "it refused"))
        except OSError as error:
            raise MachineLost(f"qemu does not answer {name}: {error}; {self.last_words()}") from error
        raise MachineLost(f"qemu ended during {name}: {self.last_words()}")

    def save(self, state: Path) -> None:
        """Writes what is not in the memory's file into `state`; the machine has stopped then."""
        self.command("qmp_capabilities")
        self.command("stop")
        self._migrate("migrate", f"exec:cat > {quoted(state)}")
        self.command("quit")
        self._process.wait(END_TIMEOUT)

    def load(self, state: Path) -> None:
        """Puts a machine that was started with `restore` where the snapshot left off, and lets it run."""
        self.command("qmp_capabilities")
        self._migrate("migrate-incoming", f"exec:cat < {quoted(state)}")
        self.command("cont")

    def _migrate(self, verb: str, uri: str) -> None:
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.command(verb, uri=uri)
        deadline = time.monotonic() + RESTORE_TIMEOUT
        while (status := self.command("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise MachineLost(f"the snapshot could not be moved: {status}; {self.last_words()}")
            time.sleep(0.005)

    def last_words(self) -> str:
        """What qemu said on its standard error."""
        self._process.kill()
        self._process.wait(END_TIMEOUT)
        said = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
        return said or f"qemu ended with status {self._process.returncode}"

    # ---- the guest ----

    def receive(self, name: str, receiver: Callable[[bytes], None]) -> None:
        """What to do with the bytes of a port."""
        self._receivers[name] = receiver

    def send(self, message: dict[str, Any]) -> None:
        """A line to the agent."""
        self.links["control"].settimeout(RESTORE_TIMEOUT)
        try:
            self.links["control"].sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise MachineLost(f"the guest does not listen: {error}") from error

    def message(self, timeout: float) -> dict[str, Any] | None:
        """The next line of the agent, or None at the deadline; bytes of other ports go to their receivers meanwhile."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._control:
            if not self.pump(deadline - time.monotonic()):
                return None
        line, _, self._control = self._control.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def pump(self, timeout: float) -> bool:
        """Passes on what came within the time; False when nothing did. MachineLost when the machine has ended."""
        if timeout <= 0:
            return False
        ready = self._selector.select(timeout)
        for key, _ in ready:
            try:
                data = self.links[key.data].recv(1 << 16)
            except ConnectionError:
                data = b""
            if data:
                self._receivers[key.data](data)
            else:
                self._selector.unregister(key.fileobj)
                if key.data == "control":
                    self._drain_console()
                    if not self.console.report():
                        raise MachineLost(f"the machine did not start: {self.last_words()}")
                    raise MachineLost("the machine ended by itself, as it does when its kernel panics")
        return bool(ready)

    def _hear(self, data: bytes) -> None:
        self._control += data

    def _drain_console(self) -> None:
        self.links["console"].settimeout(1.0)
        try:
            while data := self.links["console"].recv(1 << 16):
                self.console.keep(data)
        except OSError:
            return


def quoted(path: Path) -> str:
    """A path for the shell that qemu hands it to."""
    return "'" + str(path).replace("'", "'\\''") + "'"
