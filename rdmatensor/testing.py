"""Fabrics for tests: two or more devices, each in its own party, and functions that run in a party.

>>> from rdmatensor.testing import SimFabric
>>> with SimFabric(seed=7) as fabric:
...     channel = fabric.connect()
...     channel.state
'ready'

A fabric has parties. `fabric.here` lives in this process. `fabric.there` is a process of its own
for `shm` and `verbs`, and a second device of this process for `sim` and for `verbs` over a fake
libibverbs. A test that calls functions with `party.call(function, ...)` runs over all of them:
`function(party, ...)` runs in the party's process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from rdmatensor import _core
from rdmatensor.channel import Channel
from rdmatensor.device import Device
from rdmatensor.errors import ProviderUnavailable
from rdmatensor.listener import Listener
from rdmatensor.providers import command

__all__ = [
    "Fabric",
    "FakeVerbsFabric",
    "Party",
    "PartyLost",
    "Pending",
    "ProcessParty",
    "ShmFabric",
    "SimFabric",
    "VerbsFabric",
]

CALL_TIMEOUT = 60.0
"""The seconds after which a call to a party in another process is abandoned."""

_LIBRARY = "RDMATENSOR_LIBIBVERBS"
_worlds = count(1)


class PartyLost(Exception):
    """The process of a party is gone, or did not answer in time."""


class Party:
    """A device and the objects that tests keep beside it, in the process of this object."""

    def __init__(self, name: str, url: str, options: dict[str, Any]) -> None:
        self.name = name
        self.device = Device(url, **options)
        self.kept: dict[str, Any] = {}
        """Objects that a function leaves for later calls."""
        self._listener: Listener | None = None

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def listener(self) -> Listener:
        """The listener to which the other parties connect."""
        if self._listener is None or self._listener.closed:
            self._listener = self.device.listen("127.0.0.1:0")
        return self._listener

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs function(party, *args, **kwargs) in the party's process and returns its result, or
        raises its exception.
        """
        return function(self, *args, **kwargs)

    def kill(self) -> None:
        """Ends the party as kill -9 does."""
        raise NotImplementedError(f"{self.name} lives in this process")

    def close(self) -> None:
        """Closes the device and drops the kept objects."""
        self.kept.clear()
        self.device.close()

    def __repr__(self) -> str:
        return f"<Party {self.name} in process {self.pid}>"


class SimParty(Party):
    """A party of a simulated fabric."""

    def __init__(self, name: str, url: str, options: dict[str, Any], world: str) -> None:
        super().__init__(name, url, options)
        self._world = world

    def kill(self) -> None:
        command("sim", f"world={self._world} kill party={self.name}")

    def stop(self) -> None:
        """Stops serving the party's control plane, as SIGSTOP does."""
        command("sim", f"world={self._world} pause party={self.name}")

    def cont(self) -> None:
        command("sim", f"world={self._world} resume party={self.name}")


# ---- parties in processes of their own ----

_length = struct.Struct("=I")


def _send(connection: socket.socket, message: object) -> None:
    data = pickle.dumps(message)
    connection.sendall(_length.pack(len(data)) + data)


def _receive(connection: socket.socket, deadline: float | None = None) -> Any:
    """One message; EOFError at the end of the stream, TimeoutError at the deadline. Pickle is safe
    here: both ends belong to the same user's test.
    """

    def exactly(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([connection], [], [], left)[0]:
                raise TimeoutError
            piece = connection.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    return pickle.loads(exactly(_length.unpack(exactly(_length.size))[0]))


class Pending:
    """A call under way in another process."""

    def __init__(self, party: ProcessParty) -> None:
        self._party = party
        self._reply: tuple[bool, Any] | None = None

    def result(self, timeout: float = CALL_TIMEOUT) -> Any:
        """The function's result, or raises its exception."""
        if self._reply is None:
            self._reply = self._party._reply(timeout)
        good, value = self._reply
        if good:
            return value
        raise value


class ProcessParty:
    """A party in a process of its own, which dies with this one. Functions for it must be
    module-level, so that they can be pickled.
    """

    def __init__(self, name: str, url: str, options: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        watched, self._lifeline = os.pipe()
        path = [
            str(Path(entry).resolve()) for entry in sys.path
        ]  # so that the process imports the same modules as this one
        serve = f"from rdmatensor.testing import _serve; _serve({theirs.fileno()}, {watched})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {serve}"],
            pass_fds=(theirs.fileno(), watched),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        os.close(watched)
        self._connection = ours
        self._pending: Pending | None = None
        _send(ours, (name, url, options))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Pending:
        """Begins function(party, *args, **kwargs) in the party's process; one call at a time."""
        if self._pending is not None:
            self._pending.result()
        try:
            _send(self._connection, (function, args, kwargs))
        except OSError as error:
            raise PartyLost(f"{self!r} is gone") from error
        self._pending = Pending(self)
        return self._pending

    def call(self, function: Callable[..., Any], *args: Any, timeout: float = CALL_TIMEOUT, **kwargs: Any) -> Any:
        """Runs function(party, *args, **kwargs) in the party's process and returns its result, or
        raises its exception.
        """
        return self.start(function, *args, **kwargs).result(timeout)

    def _reply(self, timeout: float) -> tuple[bool, Any]:
        self._pending = None
        try:
            reply: tuple[bool, Any] = _receive(self._connection, time.monotonic() + timeout)
        except (EOFError, OSError) as error:
            late = isinstance(error, TimeoutError)
            raise PartyLost(f"{self!r} {f'did not answer in {timeout:g} s' if late else 'is gone'}") from error
        return reply

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Lets the process close its device and end; kills it if it does not."""
        if self._lifeline < 0:
            return
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        os.close(self._lifeline)
        self._lifeline = -1
        self._connection.close()

    def __repr__(self) -> str:
        return f"<ProcessParty {self.name} in process {self.pid}, {'alive' if self.alive else 'dead'}>"


def _serve(connection_fd: int, lifeline_fd: int) -> None:
    """The loop of a party's process: receives functions and sends results until the stream ends."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline_fd, 1)
        os._exit(1)  # the parent process is gone

    threading.Thread(target=watch, daemon=True).start()
    connection = socket.socket(fileno=connection_fd)
    name, url, options = _receive(connection)
    try:
        party = Party(name, url, options)
    except Exception as error:
        _reply_error(connection, error)
        return
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, args, kwargs = _receive(connection)
            try:
                _send(connection, (True, function(party, *args, **kwargs)))
            except Exception as error:
                _reply_error(connection, error)
    party.close()


def _reply_error(connection: socket.socket, error: Exception) -> None:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(text)
    with contextlib.suppress(OSError):
        _send(connection, (False, error))


# ---- fabrics ----

AnyParty = Party | ProcessParty


class Fabric:
    """Two or more parties that can connect to each other. A context manager."""

    provider = ""

    def __init__(self, parties: Sequence[AnyParty]) -> None:
        self.parties = tuple(parties)

    @property
    def here(self) -> Party:
        """The party in this process."""
        party = self.parties[0]
        assert isinstance(party, Party)
        return party

    @property
    def there(self) -> AnyParty:
        """The other party of two."""
        return self.parties[1]

    def connect(self, there: AnyParty | None = None, *, keep: str = "channel") -> Channel:
        """A channel from this process to a party, which keeps its end in `party.kept[keep]`."""
        other = there if there is not None else self.there
        channel = self.here.device.connect(other.call(_address))
        other.call(_accept, keep)
        return channel

    def close(self) -> None:
        """Ends all parties. Twice is fine."""
        for party in reversed(self.parties):
            party.close()

    def __enter__(self) -> Fabric:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.parties)} parties>"


def _address(party: Party) -> str:
    return party.listener.address


def _accept(party: Party, keep: str) -> None:
    party.kept[keep] = party.listener.accept()


class _ProcessFabric(Fabric):
    def __init__(self, url: str, parties: int, options: dict[str, Any], there: str = "") -> None:
        here = Party("here", url, options)
        names = ["there", *(f"there{number}" for number in range(2, parties))]
        super().__init__([here, *(ProcessParty(name, there or url, options) for name in names)])


class ShmFabric(_ProcessFabric):
    """Processes of this host over shared memory."""

    provider = "shm"

    def __init__(self, url: str = "shm://", *, parties: int = 2, **options: Any) -> None:
        super().__init__(url, parties, options)


class VerbsFabric(_ProcessFabric):
    """Processes of this host over a real RDMA device, in loopback; or over two devices, where
    `there` is the URL of the second. ProviderUnavailable where there is no device.
    """

    provider = "verbs"

    def __init__(self, url: str = "verbs://", *, there: str = "", parties: int = 2, **options: Any) -> None:
        super().__init__(url, parties, options, there)


class SimFabric(Fabric):
    """Any number of parties of one simulated world, in this process and one thread, in virtual time.

    Two runs with the same seed and the same calls behave alike. `arguments` go into the URL
    ("latency_ns=5000&orders_writes=0"); `command` sets fault plans of the fabric, as in
    `fabric.command("kill party=there in=1000000")`.
    """

    provider = "sim"

    def __init__(self, *, seed: int = 1, parties: int = 2, arguments: str = "", **options: Any) -> None:
        self.world = f"test{os.getpid()}-{next(_worlds)}"
        self.seed = seed
        names = ["here", "there", *(f"there{number}" for number in range(2, parties))]
        query = f"world={self.world}&seed={seed}" + (f"&{arguments}" if arguments else "")
        super().__init__([SimParty(name, f"sim://{name}?{query}", options, self.world) for name in names[:parties]])

    def command(self, text: str) -> str:
        """Sends a command to this world, and gives its reply."""
        return command("sim", f"world={self.world} {text}")


class FakeVerbsFabric(Fabric):
    """The real verbs provider over a fake libibverbs, with both devices in this process.

    `library` is the path of the fake. It must be loaded before anything else in this process loads
    libibverbs. With a seed as `overtaking` the devices are of InfiniBand, and place a small WRITE
    before a large one that was posted earlier, as that seed draws it.
    """

    provider = "verbs"

    def __init__(self, library: str | Path, *, overtaking: int = 0, arguments: str = "", **options: Any) -> None:
        self.load(library)
        fakes = _OVERTAKERS if overtaking else _FAKES
        if overtaking:
            self._overtake(library, overtaking)
        query = f"?{arguments}" if arguments else ""
        super().__init__([Party(name, f"verbs://{device}{query}", options) for name, device in fakes])

    @staticmethod
    def _overtake(library: str | Path, seed: int) -> None:
        fake = ctypes.CDLL(str(library))
        fake.fake_set_device_count(4)
        for number in (2, 3):
            fake.fake_make_infiniband(number)
            fake.fake_overtake(number, seed + number)

    @staticmethod
    def load(library: str | Path) -> None:
        """Loads the fake as this process's libibverbs; ProviderUnavailable when another one is
        loaded already.
        """
        former = os.environ.get(_LIBRARY)
        os.environ[_LIBRARY] = str(library)
        try:
            why_not = _core.provider_why_not("verbs")
            names = [] if why_not else [name for name, _, _ in _core.provider_list("verbs")]
        finally:
            if former is None:
                del os.environ[_LIBRARY]
            else:
                os.environ[_LIBRARY] = former
        if "fake0" not in names:
            why = why_not or f"this process has loaded another libibverbs already, with devices {names}"
            raise ProviderUnavailable("load a fake libibverbs", str(library), why)


_FAKES = (("here", "fake0"), ("there", "fake1"))
_OVERTAKERS = (("here", "fake2"), ("there", "fake3"))
