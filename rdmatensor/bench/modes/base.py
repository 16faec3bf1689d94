"""What a mode is: a way to bring tensors from one process to another, and the two ends of it that do so.

One file per mode. A `Mode` describes and is cheap: nothing foreign is imported before an `End` is made, in a process
that belongs to that end alone.
"""

from __future__ import annotations

import importlib.metadata
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor.bench import pattern

__all__ = ["DEADLINE_S", "Bytes", "Copies", "End", "Look", "Mode", "NotHere", "Setup"]

DEADLINE_S = 60.0
"""The longest that one transfer may take."""

Bytes = NDArray[np.uint8]
Look = Callable[[Bytes], None]


class NotHere(Exception):
    """What a mode does not do: the reason, for the row."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What both ends of a mode are told. `role` is "first" (it connects, and times) or "second" (it listens)."""

    role: str
    url: str
    bind: str  # the host on which the second listens
    connect: str  # under which the first reaches it
    one_host: bool
    folder: str  # a directory that both ends of one host see, for sockets and files
    qps: int
    cqs: int
    wait: str
    ordering: str
    direction: str

    @property
    def first(self) -> bool:
        return self.role == "first"


@dataclass(frozen=True, slots=True)
class Copies:
    """What a mode counted at one end: copies of tensors beside the transfer itself, and tensors."""

    copies: float
    tensors: int


class Mode(ABC):
    """A mode by name. `kind` is "ours", "peer" or "limit"."""

    name: str
    kind: str = "peer"
    one_host_only: bool = False
    install: str = ""
    """What to do when it is missing."""
    package: str = ""
    """The distribution whose version names it."""
    standard: bool = True
    """Whether it is measured when no modes are asked for."""

    def version(self) -> str:
        """Name and version of what is measured."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def missing(self, setup: Setup) -> str:
        """Why it cannot be measured here, with what to do; empty when it can."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return f"{self.package} is not installed: {self.install}"
        return ""

    def launcher(self) -> list[str]:
        """What starts both ends in one command (mpirun), or nothing: then each is started by itself."""
        return []

    def rank(self) -> int:
        """With a launcher: 0 in the process that is the first end, 1 in the other."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables that its processes get."""
        return {}

    def memory(self, size: int, depth: int) -> int:
        """Bytes that one end may take, for a machine that is small."""
        return size * (depth + 4)

    @abstractmethod
    def end(self, setup: Setup) -> End:
        """One end, in its own process."""


class End(ABC):
    """One end of a mode. The first and the second run the same calls; `setup.role` says which this is.

    A round trip is `send` and `receive` at the first, `receive` and `send` at the second. Modes that have no such two
    halves (an RPC, an external program) define the loops instead.
    """

    transport = ""
    """What carries the bytes, for the row's `provider`."""
    note = ""
    """The settings in words."""
    checks = True
    """Whether the bytes that arrive can be looked at."""
    samples = True
    """Whether `ping` gives samples; an external program gives `quantiles` instead."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.size = 0
        self.depth = 1

    # ---- coming together: the second offers, the first meets; then both are ready ----

    def offer(self) -> dict[str, Any]:
        """At the second: what the first needs to connect."""
        return {}

    def meet(self, offer: dict[str, Any]) -> None:  # noqa: B027
        """At both, at the same time: with what the second offered."""

    # ---- one size ----

    def prepare(self, size: int, depth: int) -> float | None:
        """At both, at the same time: memory for tensors of `size`, of which `depth` may be under way. Gives the
        seconds that registering memory took, or None where nothing is registered.
        """
        self.size, self.depth = size, depth
        return None

    def token(self) -> str | None:
        """After `prepare`: what the other end must be told of it, where the mode has no means of its own."""
        return None

    def know(self, token: str) -> None:  # noqa: B027
        """The other end's token."""

    def release(self) -> None:  # noqa: B027
        """Gives back what `prepare` took."""

    def copies(self) -> Copies | None:
        """What was counted since `prepare`, or None where it cannot be counted."""
        return None

    def close(self) -> None:  # noqa: B027
        """Ends it in good order, where there is something to end."""

    # ---- transfers ----

    outgoing: Bytes
    """What `send` sends, and a check fills."""

    def send(self) -> None:
        """Begins to send `outgoing`; waits only where `depth` tensors are under way."""
        raise NotImplementedError

    def finish(self) -> None:  # noqa: B027
        """Waits until everything that was sent may be changed."""

    def receive(self, look: Look | None = None) -> None:
        """Waits for the next tensor, shows its bytes to `look`, and gives its place free."""
        raise NotImplementedError

    # ---- loops ----

    def ping(self, count: int) -> NDArray[np.float64]:
        """At the first: `count` round trips. Half of each, in seconds."""
        halves = np.empty(count)
        send, receive, now = self.send, self.receive, time.perf_counter_ns
        for index in range(count):
            begin = now()
            send()
            receive()
            halves[index] = now() - begin
        self.finish()
        return halves / 2e9

    def pong(self, count: int) -> None:
        """At the second: their other half."""
        send, receive = self.send, self.receive
        for _ in range(count):
            receive()
            send()
        self.finish()

    def push(self, count: int) -> float:
        """At the first: `count` tensors out, and one back that says they are there. Seconds for all count + 1."""
        send = self.send
        begin = time.perf_counter()
        for _ in range(count):
            send()
        self.receive()
        elapsed = time.perf_counter() - begin
        self.finish()
        return elapsed

    def pull(self, count: int) -> None:
        """At the second: takes them, and sends the one."""
        receive = self.receive
        for _ in range(count):
            receive()
        self.send()
        self.finish()

    def both(self, count: int) -> float:
        """At both: `count` tensors out while as many come in. Seconds."""
        send, receive = self.send, self.receive
        begin = time.perf_counter()
        ahead = min(self.depth, count)
        for _ in range(ahead):
            send()
        for index in range(count):
            receive()
            if index + ahead < count:
                send()
        self.finish()
        return time.perf_counter() - begin

    def quantiles(self, count: int, warm: bool) -> dict[str, float | None]:
        """At both, instead of ping and pong, where a program measures: seconds of p50, p90, p99 and p999 that it tells
        of `count` round trips, and `count` itself. With `warm` only the median is wanted.
        """
        raise NotImplementedError

    # ---- checks ----

    def check_out(self, seed: int) -> None:
        """Sends the pattern of a seed."""
        pattern.fill(self.outgoing, seed)
        self.send()
        self.finish()

    def check_in(self, seed: int) -> int:
        """Receives it, and gives the number of wrong bytes."""
        wrong: list[int] = []
        self.receive(lambda got: wrong.append(pattern.differences(got, seed) + abs(len(got) - self.size)))
        return wrong[0]
