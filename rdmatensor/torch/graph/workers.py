"""Threads that compute the segments of one process.

They live as long as the run and serve one step at a time. The thread that calls `Run.step` begins
and ends the step; it communicates, and so it is the one that signals and deadlines reach. All state
that threads share in a step is under one lock.
"""

from __future__ import annotations

import threading
import time
import warnings
from typing import Protocol

__all__ = ["THREADS_MAX", "Work", "Workers"]

THREADS_MAX = 256
"""The most threads of a run: more than cores of any host, and few enough that a mistake is noticed."""


class Work(Protocol):
    """Something that workers do together. All methods but `compute` are called with the lock."""

    def take(self) -> int | None:
        """The number of the next piece, or None while there is none."""

    def compute(self, number: int, worker: int) -> None:
        """Does a piece. `worker` is the thread's number, from 1."""

    def idle(self) -> float | None:
        """Called before a worker waits: the longest time in seconds that it may; None for any."""

    def failed(self, error: BaseException) -> None:
        """Called with an error of any method; no piece is taken afterwards."""


class Workers:
    """`count` threads of the process named `process`."""

    def __init__(self, process: str, count: int) -> None:
        self.lock = threading.RLock()
        """Held for every access to what the threads share."""
        self.more = threading.Condition(self.lock)
        """Notified when there is a piece to take."""
        self.done = threading.Condition(self.lock)
        """Notified when the caller's thread, which waits for the last pieces, has to look."""
        self._work: Work | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._live, args=(number,), name=f"rdmatensor {process} {number}", daemon=True)
            for number in range(1, count + 1)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._threads = [thread for thread in self._threads if thread.ident is not None]
            self.close(0)
            raise

    def begin(self, work: Work) -> None:
        """Lets the threads take pieces of it."""
        with self.lock:
            self._work = work
            self.more.notify_all()

    def end(self) -> None:
        """Lets no thread take anything more. One that is in a piece goes on with that one."""
        with self.lock:
            self._work = None
            self.more.notify_all()

    def _live(self, worker: int) -> None:
        while True:
            with self.lock:
                work, number = self._next()
            if work is None:
                return
            try:
                work.compute(number, worker)
            except BaseException as error:
                with self.lock:
                    work.failed(error)

    def _next(self) -> tuple[Work | None, int]:
        """Waits for a piece; neither once the threads are to end."""
        while not self._closed:
            work = self._work
            if work is None:
                self.more.wait()
                continue
            try:
                number = work.take()
                if number is not None:
                    return work, number
                self.more.wait(work.idle())
            except BaseException as error:
                work.failed(error)
                self._work = None
        return None, 0

    def close(self, timeout: float) -> None:
        """Ends the threads, and waits for them so many seconds: one may be in a long operator. A
        RuntimeWarning says so if one goes on; it uses nothing that is closed. Twice is fine.
        """
        with self.lock:
            self._closed = True
            self._work = None
            self.more.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads = []
        if left:
            text = f"{', '.join(left)}: still in an operator {timeout:g} s after the run was closed"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
