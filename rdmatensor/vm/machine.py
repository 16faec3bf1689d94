"""A qemu process and the sockets to it: the monitor, the guest's console, and its three serial ports.

All of them are socket pairs made before qemu starts, so nothing in the file system can be left
behind. The kernel ends qemu when this process ends, however that happens.
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
from typing import Any, TypeVar

from rdmatensor.backoff import Backoff
from rdmatensor.vm import accel, packages
from rdmatensor.vm.console import Console
from rdmatensor.vm.errors import VmError

__all__ = ["BOOTS", "SHARES_MAX", "KernelDied", "Machine", "MachineLost", "Spec", "booted", "command_line"]

Result = TypeVar("Result")

SHARES_MAX = 4
"""The number of host folders that a guest can mount. The devices are part of a snapshot, so their
number is fixed.
"""
LINKS = ("monitor", "console", "control", "out", "err")
BOOT_TIMEOUT = 480.0
"""The longest time from power-on to an agent with everything imported: 30 to 80 s, minutes on a
busy host.
"""
BOOTS = 3
"""The attempts to boot. Emulated processors may run an instruction that another one has just patched
(seen: "Oops: int3" in sched_clock_cpu, one boot of some hundred), which kills the guest's kernel.
"""
RESTORE_TIMEOUT = 60.0
END_TIMEOUT = 10.0

QUIET = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable cryptomgr.notests random.trust_cpu=on audit=0 "
    "apparmor=0 selinux=0 nowatchdog rcupdate.rcu_expedited=1"
)


class MachineLost(Exception):
    """The machine ended, or was silent for longer than allowed. `report` is the end of its console."""

    def __init__(self, why: str, console: Console) -> None:
        super().__init__(why)
        self.report = console.report()


class KernelDied(MachineLost):
    """The machine ended by itself, as it does when its kernel panics."""

    def __init__(self, console: Console) -> None:
        super().__init__(f"the guest's kernel ended the machine: {console.cause()}", console)


def booted(boot: Callable[[], Result], say: Callable[[str], None]) -> Result:
    """The result of `boot`, which is called again, and that said, when the guest's kernel died
    meanwhile. For what comes before the user's command, since nothing of that may happen twice.
    """
    for attempt in range(1, BOOTS):
        try:
            return boot()
        except KernelDied as error:
            say(f"{error}; attempt {attempt} of {BOOTS}, the command had not begun")
    return boot()


@dataclass(frozen=True, slots=True)
class Spec:
    """The description of a machine to start."""

    kernel: Path
    initramfs: Path
    image: Path
    memory: int
    shares: tuple[Path, ...]
    mode: str
    ram: Path | None = None
    """The file that holds the guest's memory, for snapshots."""
    restore: bool = False
    """Leaves that file unchanged and waits for the rest of a snapshot."""
    processors: int = 2
    accelerator: str = "tcg"


def escaped(path: Path) -> str:
    """A path as a value in qemu's options, in which commas separate."""
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
    """A running machine. A context manager; leaving it ends the machine."""

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
            start_new_session=True,  # Ctrl-C goes to this process, which ends qemu
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
        """Sends a command to qemu's monitor and gives its result; VmError when qemu refuses it."""
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
            raise MachineLost(f"qemu does not answer {name}: {error}; {self.last_words()}", self.console) from error
        raise MachineLost(f"qemu ended during {name}: {self.last_words()}", self.console)

    def save(self, state: Path) -> None:
        """Writes the machine's state, except for the memory file, into `state`; the machine then
        ends.
        """
        self.command("qmp_capabilities")
        self.command("stop")
        self._migrate("migrate", f"exec:cat > {quoted(state)}")
        self.command("quit")
        self._process.wait(END_TIMEOUT)

    def load(self, state: Path) -> None:
        """Restores a machine that was started with `restore` from a snapshot, and lets it run."""
        self.command("qmp_capabilities")
        self._migrate("migrate-incoming", f"exec:cat < {quoted(state)}")
        self.command("cont")

    def _migrate(self, verb: str, uri: str) -> None:
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.command(verb, uri=uri)
        deadline = time.monotonic() + RESTORE_TIMEOUT
        naps = Backoff(0.005, 0.05, 10)
        while (status := self.command("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise MachineLost(f"the snapshot could not be moved: {status}; {self.last_words()}", self.console)
            naps.nap()

    def last_words(self) -> str:
        """The output of qemu on its standard error."""
        self._process.kill()
        self._process.wait(END_TIMEOUT)
        said = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
        return said or f"qemu ended with status {self._process.returncode}"

    # ---- the guest ----

    def receive(self, name: str, receiver: Callable[[bytes], None]) -> None:
        """Sets the function that takes the bytes of a port."""
        self._receivers[name] = receiver

    def send(self, message: dict[str, Any]) -> None:
        """Sends a line to the agent."""
        self.links["control"].settimeout(RESTORE_TIMEOUT)
        try:
            self.links["control"].sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise MachineLost(f"the guest does not listen: {error}", self.console) from error

    def message(self, timeout: float) -> dict[str, Any] | None:
        """The next line of the agent, or None at the deadline. Bytes of other ports go to their
        receivers meanwhile.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._control:
            if not self.pump(deadline - time.monotonic()):
                return None
        line, _, self._control = self._control.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def pump(self, timeout: float) -> bool:
        """Passes on the bytes that come within the time; False when none came. MachineLost when the
        machine has ended.
        """
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
                        raise MachineLost(f"the machine did not start: {self.last_words()}", self.console)
                    raise KernelDied(self.console)
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
    """A path quoted for the shell to which qemu passes it."""
    return "'" + str(path).replace("'", "'\\''") + "'"
