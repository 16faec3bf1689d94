"""The two processes of a mode, as the command drives them: started, commanded, heard and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rdmatensor.bench.modes.base import Mode
from rdmatensor.bench.wire import Gone, Lines

__all__ = ["ROLES", "Failed", "NotMeasured", "Pair", "Process", "Spot", "Teller"]

ROLES = ("first", "second")
START_S = 1200.0
"""The longest that starting a process and its foreign libraries may take."""


class Failed(Exception):
    """A mode failed; the text says why."""


class NotMeasured(Failed):
    """A mode does not support what was asked; the text says why."""


class Teller(Protocol):
    """One process of a mode, near or far."""

    def tell(self, message: dict[str, Any]) -> None: ...
    def hear(self, timeout: float) -> dict[str, Any]: ...
    def trouble(self) -> str: ...
    def rest(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class Keeper:
    """A helper process that wakes the stopped processes once this command is gone, however it
    ended, so that they can end too.
    """

    _CODE = """if True:
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for line in [line for line in sys.stdin]:
            try:
                os.kill(int(line), signal.SIGCONT)
            except OSError:
                pass
    """

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-c", self._CODE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def watch(self, pid: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pid}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Spot:
    """A private directory of this user in which the processes meet, removed at the end. A context
    manager.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rdmatensor-bench-")
        self.path = os.path.join(self.folder, "command")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(64)
        self._waiting: dict[tuple[str, str], tuple[Lines, int]] = {}
        self._keeper = Keeper()

    def accept(
        self, mode: str, role: str, alive: subprocess.Popen[bytes], timeout: float = START_S
    ) -> tuple[Lines, int]:
        """Waits for the process that announces this role of this mode; gives its connection and its
        pid.
        """
        deadline = time.monotonic() + timeout
        self._socket.settimeout(0.1)
        while (mode, role) not in self._waiting:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                connection.setblocking(True)
                lines = Lines(connection)
                hello = lines.hear(10)
                self._waiting[hello["mode"], hello["role"]] = lines, hello["pid"]
                self._keeper.watch(hello["pid"])
                continue
            if alive.poll() is not None:
                raise Gone(f"it ended with status {alive.returncode} before it began")
            if time.monotonic() > deadline:
                raise Gone(f"it did not begin in {timeout:g} s")
        return self._waiting.pop((mode, role))

    def close(self) -> None:
        self._socket.close()
        self._keeper.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Spot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command_of(spot: Spot, mode: Mode, role: str, family: str) -> list[str]:
    """The command line that starts a process of a mode."""
    return [*mode.launcher(), sys.executable, "-m", "rdmatensor.bench.worker", spot.path, family, mode.name, role]


class Process:
    """A process on this host. Its output goes to a file, whose last line is reported when it fails."""

    def __init__(
        self,
        spot: Spot,
        mode: Mode,
        role: str,
        started: subprocess.Popen[bytes] | None = None,
        family: str = "transfers",
    ) -> None:
        self._spot, self._mode, self._role, self._family = spot, mode, role, family
        self._log = Path(spot.folder) / f"{mode.name}-{'rank' if mode.launcher() else role}.log"
        self.process = started or self._start("rank" if mode.launcher() else role)
        self._lines: Lines | None = None
        self._pid = 0
        self._joining = threading.Lock()

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        environment: Mapping[str, str] = {**os.environ, **self._mode.environment()}
        with open(self._log, "wb") as log:
            return subprocess.Popen(
                command_of(self._spot, self._mode, role, self._family),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def join(self) -> None:
        """Waits until the process has connected."""
        with self._joining:
            if self._lines is not None:
                return
            self._lines, self._pid = self._spot.accept(self._mode.name, self._role, self.process)

    def tell(self, message: dict[str, Any]) -> None:
        self.join()
        assert self._lines is not None
        self._lines.tell(message)

    def hear(self, timeout: float) -> dict[str, Any]:
        assert self._lines is not None
        return self._lines.hear(timeout)

    def rest(self) -> None:
        """Stops the process with all its threads until `wake`."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._pid and self.process.poll() is None:  # while a launcher runs, the pid of its child stays valid
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def trouble(self) -> str:
        """How the process ended, and the last line of its output with any text."""
        status, said = None, ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(0.5)
        with contextlib.suppress(OSError):
            for line in reversed(self._log.read_text(errors="replace").splitlines()):
                if line.strip(" -*="):
                    said = line.strip()[:300]
                    break
        if status is not None and status < 0:
            return f"{signal.Signals(-status).name}; {said}" if said else signal.Signals(-status).name
        return said

    def close(self) -> None:
        """Ends the process: closing its connection asks it to end, and it is killed after a while."""
        self.wake()
        if self._lines is not None:
            self._lines.close()
        try:
            self.process.wait(5 if self._lines is not None else 0.1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Pair:
    """Both processes of a mode. After a failure they are closed, and `failure` says why."""

    def __init__(self, mode: Mode, first: Teller, second: Teller) -> None:
        self.mode = mode
        self.ends: dict[str, Teller] = {"first": first, "second": second}
        self.facts: dict[str, Any] = {}
        self.failure = ""

    @classmethod
    def here(cls, spot: Spot, mode: Mode, family: str = "transfers") -> Pair:
        """Starts both processes on this host."""
        first = Process(spot, mode, "first", family=family)
        second = Process(spot, mode, "second", first.process if mode.launcher() else None, family)
        return cls(mode, first, second)

    def ask(self, role: str, timeout: float, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends one end a command and gives its answer."""
        return self._answers(timeout, {role: {"do": do, **arguments}})[role]

    def ask_both(self, timeout: float, do: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        """Sends both ends the same command at once and gives both answers."""
        return self._answers(timeout, {role: {"do": do, **arguments} for role in ROLES})

    def _answers(self, timeout: float, messages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        role = ""
        try:
            for role in sorted(messages, reverse=True):  # the second end is ready first
                self.ends[role].tell(messages[role])
            for role in messages:
                answer = answers[role] = self.ends[role].hear(timeout)
                if not answer["ok"] and not answer.get("not_here"):
                    break  # the other end may wait for this one forever
        except Gone as gone:
            raise self._fail(f"its {role} process: {gone}", self.ends[role].trouble()) from None
        for role, answer in answers.items():
            if not answer.pop("ok"):
                if answer.get("not_here"):
                    raise NotMeasured(answer["why"])
                raise self._fail(f"its {role} process: {answer['why']}")
        return answers

    def _fail(self, why: str, trouble: str = "") -> Failed:
        self.failure = f"{why} ({trouble})" if trouble and trouble not in why else why
        self.close()
        return Failed(self.failure)

    def open(self, setup: dict[str, Any], pin: tuple[int, ...]) -> None:
        """Opens both ends and connects them."""
        opened: dict[str, dict[str, Any]] = {}
        try:
            for number, role in enumerate(ROLES):
                self.ends[role].tell({"do": "open", "setup": setup, "pin": pin[number] if pin else None})
            for role in ROLES:
                opened[role] = self.ends[role].hear(START_S)
        except Gone as gone:
            raise self._fail(f"its {role} process: {gone}", self.ends[role].trouble()) from None
        for role, answer in opened.items():
            if not answer["ok"]:
                raise self._fail(f"its {role} process: {answer['why']}")
        offer = self.ask("second", START_S, "offer")["offer"]
        met = self.ask_both(START_S, "meet", offer=offer)["first"]
        self.facts = {"version": opened["first"]["version"], **met}

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Runs both processes for one turn; they are stopped between turns, so that threads that
        poll do not take other modes' cores.
        """
        for end in self.ends.values():
            end.wake()
        try:
            yield
        finally:
            for end in self.ends.values():
                end.rest()

    def close(self) -> None:
        """Ends both processes. Twice is fine."""
        for end in self.ends.values():
            end.close()
