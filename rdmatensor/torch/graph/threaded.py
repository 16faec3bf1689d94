"""A step on several threads: workers compute segments and send what these made, the caller's thread receives.

The workers take the ready segments in the order in which one thread would. The caller's thread
sleeps when nothing comes, and raises what any thread raised.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from rdmatensor.errors import DeadlineExceeded, RdmaError
from rdmatensor.torch.graph.engine import _FLYING_S, _SLICE_S, Engine, _Step
from rdmatensor.torch.graph.workers import Workers

if TYPE_CHECKING:
    from rdmatensor.copies.transfer import Transfer
    from rdmatensor.torch.graph.segment import Segment, Send

__all__ = ["Threads"]


class Threads(Workers):
    """Threads that run the steps of one process's engines."""

    def run(self, engine: Engine, env: list[Any]) -> list[Any]:
        """A step, as `Engine.step` runs it. Gives the part's results."""
        return _Threaded(engine, env, self).run()


class _Unexplained(Exception):
    """An error of an edge in a worker thread. Notes are read by the caller's thread alone."""

    def __init__(self, error: RdmaError, peer: str, edge: str) -> None:
        super().__init__(str(error))
        self.error, self.peer, self.edge = error, peer, edge


class _Threaded(_Step):
    """The state of a step whose segments worker threads compute (`Work` of workers.py).

    The caller's thread alone has the queue of receives and the notes; `env` is written by place.
    All else is under the workers' lock. Threads that end a segment send its tensors before they
    release what waits for it, so tensors of one edge keep their order.
    """

    def __init__(self, engine: Engine, env: list[Any], workers: Workers) -> None:
        super().__init__(engine, env)
        self.workers, self.lock = workers, workers.lock
        self.left = len(engine.schedule.segments)
        self.running = 0
        self.error: BaseException | None = None
        self._caller = threading.get_ident()
        self._numbers: dict[int, int] = {}  # of the workers, by thread
        self._slow: tuple[Transfer, float] | None = None  # the send that the caller's thread rests for, and until when
        self._lander: int | None = None  # the idle worker that looks after the sends under way
        self._intra = torch.get_num_threads()  # sums depend on it, and each thread has its own

    def run(self) -> list[Any]:
        self._take_late()
        self.workers.begin(self)
        try:
            while self._goes_on():
                if self.queue:
                    if not self._poll_all():
                        self._sleep()
                else:
                    self._rest()
        finally:
            self.workers.end()
        return self._results()

    def _goes_on(self) -> bool:
        """Whether the step has not ended. Raises what a worker raised."""
        with self.lock:
            if self.error is None:
                return bool(self.queue or self.left or self.flying)
        if isinstance(self.error, _Unexplained):
            raw = self.error
            raise self.engine.notes.explained(raw.error, raw.peer, raw.edge) from raw.error
        raise self.error

    def _rest(self) -> None:
        """Waits a while for the workers, or for the sends under way, when nothing is to be received.

        The lock is given up meanwhile. DeadlineExceeded when a send takes longer than the timeout
        while nothing is computed.
        """
        with self.lock:
            if self.error is not None:
                return
            if self.running or self.ready:
                self._slow = None
                self.workers.done.wait(_SLICE_S)
            elif self.flying and not self._land(wait=False):
                self._check_slow(*self.flying[0])
                self.workers.done.wait(_FLYING_S)
        self.engine.notes.read()

    def _check_slow(self, send: Send, transfer: Transfer) -> None:
        now, timeout = time.monotonic(), self.engine.timeout
        if self._slow is None or self._slow[0] is not transfer:
            self._slow = transfer, now + timeout
        elif now >= self._slow[1]:
            why = f"{send.edge.name} was not sent in {timeout:g} s: see what {send.edge.target} does, or raise timeout="
            raise DeadlineExceeded("run a step", self.engine.notes.process, why, status="deadline")

    def _awake(self) -> bool:
        with self.lock:
            return self.error is not None or super()._awake()

    def _busy(self) -> bool:
        return bool(self.running or self.ready)

    # ---- by worker threads ----

    def take(self) -> int | None:
        if not self.ready or self.error is not None:
            return None
        if self._lander == threading.get_ident():
            self._lander = None
            self.workers.more.notify()
        self.running += 1
        return heapq.heappop(self.ready)

    def compute(self, number: int, worker: int) -> None:
        self._numbers[threading.get_ident()] = worker
        if torch.get_num_threads() != self._intra:
            torch.set_num_threads(self._intra)
        try:
            self._compute(number)
        except BaseException:
            if self.engine.sites is not None:
                self.engine.sites.leave()
            raise
        segment = self.engine.schedule.segments[number]
        if segment.sends:
            self._send(segment.sends)
        with self.lock:
            self.running -= 1
            self.left -= 1
            self._release(segment.next)
            if self.flying:
                self._land(wait=False)
            if not self.running:
                self.workers.done.notify_all()

    def idle(self) -> float | None:
        if not self.flying or self._lander not in (None, threading.get_ident()):
            return None
        self._land(wait=False)
        self._lander = threading.get_ident() if self.flying else None
        return 0 if self.ready else _FLYING_S if self.flying else None

    def failed(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.workers.done.notify_all()

    # ---- by any thread ----

    def _thread(self) -> int:
        return self._numbers.get(threading.get_ident(), 0)

    def _explained(self, error: RdmaError, peer: str, edge: str) -> BaseException:
        if threading.get_ident() == self._caller:
            return super()._explained(error, peer, edge)
        return _Unexplained(error, peer, edge)

    def _value(self, send: Send) -> torch.Tensor:
        with self.lock:
            return super()._value(send)

    def _release(self, after: Iterable[Segment]) -> None:
        with self.lock:
            before = len(self.ready)
            super()._release(after)
            if len(self.ready) > before:
                self.workers.more.notify(len(self.ready) - before)

    def _fly(self, send: Send, transfer: Transfer) -> None:
        with self.lock:
            super()._fly(send, transfer)
