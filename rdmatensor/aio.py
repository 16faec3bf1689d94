"""`await transfer`, `await edge.recv_async()`: asyncio waits on the device's event descriptors, without a thread.

One driver per device and running loop watches the descriptors while something is awaited. Cancelling an await gives up
the waiting only: the copy goes on, and its memory is kept as long as it does. Where a peer's WRITE wakes nobody
(`limits.can_wake_receiver`), memory is looked at from time to time while an edge is awaited.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from rdmatensor import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor.device import Device
    from rdmatensor.transfer import Transfer

__all__ = ["Driver", "until", "wait"]

_NAP_FIRST, _NAP_LAST = 50e-6, 2e-3  # seconds between looks at memory that nobody tells of


async def wait(transfer: Transfer) -> None:
    """Waits until a transfer ended, at most its own timeout; `transfer.exception()` then says how."""
    device = transfer._channel.device
    deadline = _core.device_now_ns(device._live()) + transfer._timeout_ns
    if not await until(device, transfer.done, deadline):
        transfer.exception(0)  # gives it up


async def until(device: Device, done: Callable[[], bool], deadline_ns: int, *, memory: bool = False) -> bool:
    """Waits until `done()`, which is called often and never blocks, or until the deadline in the device's time.
    Whether it is done. `memory`: what it looks at is written by a peer.
    """
    loop = asyncio.get_running_loop()
    driver = device._drivers.get(loop)
    if driver is None:
        for ended in [other for other in device._drivers if other.is_closed()]:
            del device._drivers[ended]
        driver = device._drivers[loop] = Driver(device, loop)
    return await driver.until(done, deadline_ns, memory)


class _Wait(NamedTuple):
    future: asyncio.Future[None]
    deadline_ns: int
    done: Callable[[], bool]
    memory: bool


class Driver:
    """Moves the copies of one device on, from inside one event loop. Used by that loop's thread only."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        handle = device._live()
        self._fd = _core.device_event_fd(handle)  # -1: virtual time, which passes while the loop turns
        self._memory_fd = _core.device_memory_fd(handle)  # -1: memory is looked at from time to time
        self._waiting: list[_Wait] = []
        self._watched: set[int] = set()
        self._scheduled: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._nap = _NAP_FIRST

    async def until(self, done: Callable[[], bool], deadline_ns: int, memory: bool) -> bool:
        """See the function of this name."""
        self._nap = _NAP_FIRST
        while not done():
            if _core.device_now_ns(self._device._live()) >= deadline_ns:
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
        self._nap = _NAP_FIRST
        self._turn()

    def _turn(self) -> None:
        """One bounded piece of work: poll, tell who is done, and sleep or come back."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        handle = self._device._handle
        if handle is None:
            return self.stop()
        _core.device_progress(handle)  # a failure shows in everything that it concerns
        if self._tell(_core.device_now_ns(handle)):
            return self._unwatch()
        memory = any(wait.memory for wait in self._waiting)
        if self._fd < 0 or _core.device_arm(handle) != _core.OK:
            return self._soon()
        if memory and self._memory_fd >= 0:
            _core.device_arm_memory(handle)
            if any(wait.memory and wait.done() for wait in self._waiting):  # came before it was armed
                return self._soon()
        left = min(wait.deadline_ns for wait in self._waiting) - _core.device_now_ns(handle)
        return self._watch(max(left, 0) / 1e9, memory)

    def _tell(self, now: int) -> bool:
        """Wakes whoever is done, late or gone. Whether nobody waits any more."""
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
            seconds = min(seconds, self._nap)
            self._nap = min(2 * self._nap, _NAP_LAST)
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
        """The device closes: whoever waits finds it ended."""
        waiting, self._waiting = self._waiting, []
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._unwatch)  # the device may be closed by any thread
        for wait in waiting:
            self._loop.call_soon_threadsafe(_wake, wait.future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
