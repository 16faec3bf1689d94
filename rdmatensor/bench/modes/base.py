"""The interface of a mode: a way to move tensors from one process to another, and the two ends that
do so.

There is one file per mode. A `Mode` is a cheap description: foreign packages are imported only when
an `End` is made, in a process that belongs to that end alone.
"""

from __future__ import annotations

import importlib.metadata
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor.bench import pattern
from rdmatensor.bench.native import read

__all__ = ["DEADLINE_S", "Bytes", "Copies", "End", "Look", "Mode", "NotHere", "Setup"]

DEADLINE_S = 60.0
"""The longest time that one transfer may take."""

Bytes = NDArray[np.uint8]
Look = Callable[[Bytes], object]


class NotHere(Exception):
    """A feature that a mode lacks; the text gives the reason for the row."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings for both ends of a mode. `role` is "first" (it connects, and times) or "second"
    (it listens).
    """

    role: str
    url: str
    bind: str  # the host on which the second end listens
    connect: str  # the address at which the first end reaches it
    one_host: bool
    folder: str  # a directory that both ends on one host can reach, for sockets and files
    qps: int
    cqs: int
    wait: str
    ordering: str
    direction: str
    touch: str = "none"  # a word of options.TOUCHES

    @property
    def first(self) -> bool:
        return self.role == "first"


@dataclass(frozen=True, slots=True)
class Copies:
    """The counts of a mode at one end: copies of tensors besides the transfer itself, and tensors."""

    copies: float
    tensors: int


class Mode(ABC):
    """A mode by name. `kind` is "ours", "peer" or "limit"."""

    name: str
    kind: str = "peer"
    one_host_only: bool = False
    install: str = ""
    """The command that installs a missing mode."""
    package: str = ""
    """The distribution whose version is reported."""
    in_place: bool = False
    """Whether tensors are handed over where they lie, so that no byte moves on one host."""
    standard: bool = True
    """Whether the mode is measured when no modes are named."""

    def version(self) -> str:
        """The name and version of the measured software."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def missing(self, setup: Setup) -> str:
        """The reason why the mode cannot be measured here, with the remedy; empty when it can."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return f"{self.package} is not installed: {self.install}"
        return ""

    def launcher(self) -> list[str]:
        """The command that starts both ends at once (mpirun); empty where each end is started by
        itself.
        """
        return []

    def rank(self) -> int:
        """With a launcher: 0 in the process of the first end, 1 in the other."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Environment variables for its processes."""
        return {}

    def memory(self, size: int, depth: int) -> int:
        """The most memory in bytes that one end may take, so that small machines can run modes one
        by one.
        """
        return size * (depth + 4)

    @abstractmethod
    def end(self, setup: Setup) -> End:
        """Makes one end, in its own process."""


class End(ABC):
    """One end of a mode. Both ends run the same calls; `setup.role` says which end this is.

    A round trip is `send` and `receive` at the first end, `receive` and `send` at the second. Modes
    without these two halves (an RPC, an external program) define the loops instead.
    """

    transport = ""
    """The transport, for the row's `provider`."""
    note = ""
    """The settings in words."""
    checks = True
    """Whether the received bytes can be inspected."""
    touches: tuple[str, ...] = ("none", "read", "rewrite")
    """The words of --touch that the loops follow."""
    samples = True
    """Whether `ping` gives samples; an external program gives `quantiles` instead."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.size = 0
        self.depth = 1
        self._value = 0

    # ---- connecting: the second end offers, the first meets the offer; then both are ready ----

    def offer(self) -> dict[str, Any]:
        """The data that the first end needs to connect; runs at the second end."""
        return {}

    def meet(self, offer: dict[str, Any]) -> None:  # noqa: B027
        """Connects, with the second end's offer; runs at both ends at the same time."""

    # ---- one size ----

    def prepare(self, size: int, depth: int) -> float | None:
        """Allocates memory for tensors of `size`, of which `depth` may be under way; runs at both
        ends at the same time.

        Gives the seconds that registering memory took, or None where nothing is registered.
        """
        self.size, self.depth = size, depth
        return None

    def token(self) -> str | None:
        """After `prepare`: the data about it that the other end needs, where the mode itself cannot
        send it.
        """
        return None

    def know(self, token: str) -> None:  # noqa: B027
        """Takes the other end's token."""

    def release(self) -> None:  # noqa: B027
        """Frees what `prepare` allocated."""

    def copies(self) -> Copies | None:
        """The counts since `prepare`, or None where they cannot be counted."""
        return None

    def close(self) -> None:  # noqa: B027
        """Ends this end in an orderly way, where there is something to end."""

    # ---- transfers ----

    outgoing: Bytes
    """The tensor that `send` sends, and that a check fills."""

    def send(self) -> None:
        """Begins to send `outgoing`; waits only while `depth` tensors are under way."""
        raise NotImplementedError

    def finish(self) -> None:  # noqa: B027
        """Waits until every tensor that was sent may be changed."""

    def receive(self, look: Look | None = None) -> None:
        """Waits for the next tensor, shows its bytes to `look`, and frees its place."""
        raise NotImplementedError

    # ---- loops ----

    def send_anew(self) -> None:
        """Writes all of the tensor, once the last send no longer needs it, and sends it."""
        self.finish()
        self._value = (self._value + 1) & 255
        self.outgoing.fill(self._value)
        self.send()

    def halves(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """The calls of the loops, to send and to receive, as `touch` wants them."""
        touch = self.setup.touch
        send = self.send_anew if touch == "rewrite" else self.send
        return send, self.receive if touch == "none" else partial(self.receive, read)

    def ping(self, count: int) -> NDArray[np.float64]:
        """Times `count` round trips at the first end; gives half of each, in seconds."""
        halves = np.empty(count)
        (send, receive), now = self.halves(), time.perf_counter_ns
        for index in range(count):
            begin = now()
            send()
            receive()
            halves[index] = now() - begin
        self.finish()
        return halves / 2e9

    def pong(self, count: int) -> None:
        """Answers the round trips at the second end."""
        send, receive = self.halves()
        for _ in range(count):
            receive()
            send()
        self.finish()

    def push(self, count: int) -> float:
        """Sends `count` tensors from the first end, and receives one in return that confirms them.
        Gives the seconds for all count + 1.
        """
        send, receive = self.halves()
        begin = time.perf_counter()
        for _ in range(count):
            send()
        receive()
        elapsed = time.perf_counter() - begin
        self.finish()
        return elapsed

    def pull(self, count: int) -> None:
        """Receives the tensors at the second end, and sends the confirming one."""
        send, receive = self.halves()
        for _ in range(count):
            receive()
        send()
        self.finish()

    def both(self, count: int) -> float:
        """Sends `count` tensors while receiving as many; runs at both ends. Gives the seconds."""
        send, receive = self.halves()
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
        """Measures with an external program, instead of ping and pong, at both ends. Gives the
        program's p50, p90, p99 and p999 in seconds over `count` round trips, and `count` itself.
        With `warm` only the median is needed.
        """
        raise NotImplementedError

    # ---- checks ----

    def check_out(self, seed: int) -> None:
        """Sends the pattern of a seed."""
        pattern.fill(self.outgoing, seed)
        self.send()
        self.finish()

    def check_in(self, seed: int) -> int:
        """Receives the pattern, and gives the number of wrong bytes."""
        wrong: list[int] = []
        self.receive(lambda got: wrong.append(pattern.differences(got, seed) + abs(len(got) - self.size)))
        return wrong[0]
