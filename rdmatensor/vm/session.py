"""One command in one machine: its environment, its output, its end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.vm import here
from rdmatensor.vm.errors import VmError
from rdmatensor.vm.interpreter import Interpreter
from rdmatensor.vm.machine import SHARES_MAX, Machine, MachineLost, booted
from rdmatensor.vm.options import Options
from rdmatensor.vm.store import Parts, Store

__all__ = ["FAILED", "TIMED_OUT", "run", "shared_folders"]

TIMED_OUT = 124
FAILED = 125
LAST_OUTPUT_TIMEOUT = 10.0
"""The seconds within which output that the guest has sent must arrive."""
PREPARE_TIMEOUT = 60.0
"""The seconds for mounting folders and setting up the network in the guest."""

SYSTEM = {Path(name) for name in ("/", "/bin", "/etc", "/lib", "/run", "/sbin", "/usr", "/var")}
"""Folders that cannot be shared as a whole: the guest has its own."""
VIRTUAL = tuple(Path(name) for name in ("/dev", "/proc", "/run/rdmatensor", "/sys"))
"""Folders of which no part can be shared."""


def shared_folders(directory: Path, wanted: Iterable[Path], projects: Iterable[Path]) -> tuple[Path, ...]:
    """The folders of the host that a run sees: its directory, those asked for, and projects
    installed in place, as far as there is room for them. Each appears once, and none inside
    another.
    """
    chosen: list[Path] = []
    for path, asked in [(directory, True), *((path, True) for path in wanted), *((path, False) for path in projects)]:
        place = path.resolve()
        if asked and not place.is_dir():
            raise InvalidArgument("share a folder", str(path), "there is no such folder")
        if asked and (place in SYSTEM or any(top in (place, *place.parents) for top in VIRTUAL)):
            why = "the guest has its own: run from the directory of a project"
            raise InvalidArgument("share a folder", str(place), why)
        if not place.is_dir() or any(other in (place, *place.parents) for other in chosen):
            continue
        if asked or len(chosen) < SHARES_MAX:
            chosen = [other for other in chosen if place not in other.parents] + [place]
    if len(chosen) > SHARES_MAX:
        raise InvalidArgument("share folders", f"{len(chosen)} of them", f"{SHARES_MAX} is the most")
    return tuple(chosen)


def guest_environment(options: Options, python: Interpreter) -> dict[str, str]:
    """All variables of the command in a machine."""
    path = f"{python.executable.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {
        "HOME": "/root",
        "USER": "root",
        "LANG": "C.UTF-8",
        "PATH": path,
        "RDMATENSOR_VM": "1",
        **rxe_variables(options.devices),
    }
    if python.is_venv:
        environment["VIRTUAL_ENV"] = str(python.prefix)
    return {**environment, **options.environment}


def rxe_variables(devices: Iterable[str]) -> dict[str, str]:
    """The variables that tell a command that soft-RoCE exists, and on which devices."""
    return {"RDMATENSOR_RXE": "1", "RDMATENSOR_RXE_DEVICES": ",".join(devices)}


def run(options: Options, store: Callable[[], Store], say: Callable[[str], None]) -> int:
    """Runs a command with soft-RoCE. Gives its exit status, or 128 plus the signal that ended it;
    124 when it did not end in time; 125 when the machine failed. Its output goes to our standard
    output and standard error as it comes.
    """
    if not options.force_vm and options.hosts == 1:
        with here.device() as name:
            if name is not None:
                say(f"soft-RoCE of this machine's own kernel, Linux {os.uname().release}: {name}")
                return here.run(options, rxe_variables([name]))
    shared_folders(options.directory, options.shares, ())  # reports wrong folders before anything is made
    began = time.monotonic()
    try:
        return run_in_machine(options, store(), say, began)
    except VmError as error:
        say(str(error))
        return FAILED
    except BrokenPipeError:
        raise  # our own output
    except OSError as error:
        if isinstance(error, RdmaError):
            raise
        say(str(VmError("run a machine", error.filename or "the system", str(error.strerror))))
        return FAILED


def run_in_machine(options: Options, store: Store, say: Callable[[str], None], began: float) -> int:
    with store.prepared(options) as parts:
        shares = shared_folders(options.directory, options.shares, parts.interpreter.editable)
        ram = None if parts.snapshot is None else parts.snapshot / "ram"
        spec = store.spec(parts, options.memory, shares, ram=ram, restore=ram is not None)

        def started() -> Session:
            session = Session(options, Machine(spec), say)
            try:
                session.start(store, parts, shares, began)
            except BaseException:
                session.machine.end()
                raise
            return session

        try:
            session = booted(started, say)
            try:
                return session.wait()
            finally:
                session.machine.end()
        except MachineLost as error:
            say(f"{error}; the guest's console ended with")
            print(error.report, file=sys.stderr, flush=True)
            return FAILED


class Session:
    """A command in a machine."""

    def __init__(self, options: Options, machine: Machine, say: Callable[[str], None]) -> None:
        self.options = options
        self.machine = machine
        self.say = say
        self.printed = {"out": 0, "err": 0}
        machine.receive("out", lambda data: self.print("out", data, sys.stdout.buffer))
        machine.receive("err", lambda data: self.print("err", data, sys.stderr.buffer))

    def print(self, name: str, data: bytes, stream: BinaryIO) -> None:
        self.printed[name] += len(data)
        stream.write(data)
        stream.flush()

    def start(self, store: Store, parts: Parts, shares: tuple[Path, ...], began: float) -> None:
        """Waits until the machine runs, and starts the command there."""
        if parts.snapshot is not None:
            self.machine.load(parts.snapshot / "state")
        else:
            store.await_agent(self.machine)
        self.machine.send(self.job(parts.interpreter, shares))
        answer = self.machine.message(PREPARE_TIMEOUT)
        if answer is None or "started" not in answer:
            why = "no answer in time" if answer is None else str(answer.get("failed"))
            raise MachineLost(f"the guest could not prepare for the command: {why}", self.machine.console)
        how = "booted" if parts.snapshot is None else "restored"
        names = ", ".join(self.options.devices)
        took = time.monotonic() - began
        machine = "a virtual machine (KVM)" if parts.accelerator == "kvm" else "an emulated machine"
        self.say(f"soft-RoCE in {machine}, Linux {parts.version}: {names} ({how}, ready after {took:.1f} s)")

    def job(self, python: Interpreter, shares: tuple[Path, ...]) -> dict[str, Any]:
        """The message that tells the agent its job."""
        return {
            "time": time.time(),
            "seed": os.urandom(64).hex(),
            "shares": [[f"share{number}", str(path)] for number, path in enumerate(shares)],
            "hosts": self.options.hosts,
            "netem": self.options.shape.netem,
            "fast": not self.options.plain,
            "directory": str(self.options.directory.resolve()),
            "command": list(self.options.command),
            "environment": guest_environment(self.options, python),
        }

    def wait(self) -> int:
        """Waits until the command has ended and all its output has arrived."""
        answer = self.machine.message(self.options.timeout)
        if answer is None:
            self.say(f"the command did not end within {self.options.timeout:g} s (--timeout)")
            if tail := self.machine.console.report():
                self.say(f"the guest's console ended with\n{tail}")
            return TIMED_OUT
        if "done" not in answer:
            raise MachineLost("the guest's agent failed", self.machine.console)
        deadline = time.monotonic() + LAST_OUTPUT_TIMEOUT
        while self.printed != {"out": answer["out"], "err": answer["err"]}:
            if not self.machine.pump(deadline - time.monotonic()):
                raise MachineLost("output of the command was lost on the way", self.machine.console)
        status = int(answer["done"])
        return status if status >= 0 else 128 - status
