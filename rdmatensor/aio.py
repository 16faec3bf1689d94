"""`await transfer`, `await edge.recv_async()`: asyncio waits on the device's event descriptors,
without a thread.

One driver per device and running loop watches the descriptors while something is awaited.
Cancelling an await gives up only the waiting: the copy continues, and its memory is kept until it
ends. Where a peer's WRITE cannot wake the receiver (`limits.can_wake_receiver`), the driver polls
memory at intervals while an edge is awaited.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor.owners import OwningDevice

__all__ = ["Driver", "until"]

_POLLS = (50e-6, 2e-3)  # bounds of the pauses between polls of memory whose changes no event announces


async def until(
    device: OwningDevice,
    drivers: dict[asyncio.AbstractEventLoop, Driver],
    done: Callable[[], bool],
    deadline_ns: int,
    memory: bool,
) -> bool:
    """Waits until `done()` is true, or until the deadline in the device's time; says whether it is.

    `done` is called often and must never block. `memory` says that a peer writes what `done` reads.
    `drivers` are the device's, by event loop.
    """
    loop = asyncio.get_running_loop()
    driver = drivers.get(loop)
    if driver is None:
        for ended in [other for other in drivers if other.is_closed()]:
            del drivers[ended]
        driver = drivers[loop] = Driver(device, loop)
    return await driver.until(done, deadline_ns, memory)


class _Wait(NamedTuple):
    future: asyncio.Future[None]
    deadline_ns: int
    done: Callable[[], bool]
    memory: bool


class Driver:
    """Advances the copies of one device from inside one event loop. Used by that loop's thread only."""

    def __init__(self, device: OwningDevice, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        handle = device.live()
        self._fd = _core.device_event_fd(handle)  # -1: virtual time, which advances on every pass of the loop
        self._memory_fd = _core.device_memory_fd(handle)  # -1: memory is polled at intervals
        self._waiting: list[_Wait] = []
        self._watched: set[int] = set()
        self._scheduled: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._polls = Backoff(*_POLLS)

    async def until(self, done: Callable[[], bool], deadline_ns: int, memory: bool) -> bool:
        """Waits as the module's function of this name does."""
        self._polls.reset()
        while not done():
            if _core.device_now_ns(self._device.live()) >= deadline_ns:
                return False
            future = self._loop.create_future()
            self._waiting.append(_Wait(future, deadline_ns, done, memory))
            self._soon()
            await future
        return True

    def _soon(self) -> None:
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._turn)

    def _readable(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._watched.discard(fd)
        self._polls.reset()
        self._turn()

    def _turn(self) -> None:
        """Does one bounded piece of work: polls, wakes finished waiters, and sleeps or reschedules
        itself.
        """
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        try:
            handle = self._device.live()
        except ClosedError:
            return self.stop()
        _core.device_progress(handle)  # a failure is reported by every object it affects
        if self._tell(_core.device_now_ns(handle)):
            return self._unwatch()
        memory = any(wait.memory for wait in self._waiting)
        if self._fd < 0 or _core.device_arm(handle) != _core.OK:
            return self._soon()
        if memory and self._memory_fd >= 0:
            _core.device_arm_memory(handle)
            if any(wait.memory and wait.done() for wait in self._waiting):  # it arrived before the descriptor was armed
                return self._soon()
        left = min(wait.deadline_ns for wait in self._waiting) - _core.device_now_ns(handle)
        return self._watch(max(left, 0) / 1e9, memory)

    def _tell(self, now: int) -> bool:
        """Wakes every waiter that is done, late or cancelled. Returns whether no waiter is left."""
        waiting, self._waiting = self._waiting, []
        for wait in waiting:
            if wait.future.done() or (now < wait.deadline_ns and not wait.done()):
                if not wait.future.done():
                    self._waiting.append(wait)
            else:
                wait.future.set_result(None)
        return not self._waiting

    def _watch(self, seconds: float, memory: bool) -> None:
        fds = {self._fd}
        if memory and self._memory_fd >= 0:
            fds.add(self._memory_fd)
        elif memory:
            seconds = min(seconds, self._polls.next())
        for fd in fds - self._watched:
            self._loop.add_reader(fd, self._readable, fd)
        self._watched |= fds
        if self._late is not None:
            self._late.cancel()
        self._late = self._loop.call_later(seconds, self._turn)

    def _unwatch(self) -> None:
        while self._watched:
            self._loop.remove_reader(self._watched.pop())
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def stop(self) -> None:
        """Ends every wait when the device closes; each waiter then finds the device closed."""
        waiting, self._waiting = self._waiting, []
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._unwatch)  # the device may be closed by any thread
        for wait in waiting:
            self._loop.call_soon_threadsafe(_wake, wait.future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
