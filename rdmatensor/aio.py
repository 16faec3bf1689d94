"""`await transfer`: asyncio waits on the device's event descriptor, without a thread.

One driver per device and running loop watches the descriptor while something is awaited. Cancelling an await gives up
the waiting only: the copy goes on, and its memory is kept as long as it does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rdmatensor import _core

if TYPE_CHECKING:
    from rdmatensor.device import Device
    from rdmatensor.transfer import Transfer

__all__ = ["Driver", "wait"]


async def wait(transfer: Transfer) -> None:
    """Waits until a transfer ended, at most its own timeout; `transfer.exception()` then says how."""
    device = transfer._channel.device
    loop = asyncio.get_running_loop()
    driver = device._drivers.get(loop)
    if driver is None:
        for ended in [other for other in device._drivers if other.is_closed()]:
            del device._drivers[ended]
        driver = device._drivers[loop] = Driver(device, loop)
    await driver.ended(transfer)


class Driver:
    """Moves the copies of one device on, from inside one event loop. Used by that loop's thread only."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        self._fd = _core.device_event_fd(device._live())  # -1: virtual time, which passes while the loop turns
        self._waiting: dict[Transfer, tuple[asyncio.Future[None], int]] = {}
        self._watching = False
        self._scheduled: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None

    async def ended(self, transfer: Transfer) -> None:
        """Waits until a transfer ended or its time is up, and then gives it up."""
        deadline = _core.device_now_ns(self._device._live()) + transfer._timeout_ns
        while not transfer.done():
            if _core.device_now_ns(self._device._live()) >= deadline:
                transfer.exception(0)  # gives it up
                return
            future, _ = self._waiting.get(transfer, (self._loop.create_future(), 0))
            self._waiting[transfer] = future, deadline
            self._soon()
            await asyncio.shield(future)

    def _soon(self) -> None:
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._turn)

    def _readable(self) -> None:
        self._loop.remove_reader(self._fd)
        self._watching = False
        self._turn()

    def _turn(self) -> None:
        """One bounded piece of work: poll, tell who is done, and sleep or come back."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        handle = self._device._handle
        if handle is None:
            return self.stop()
        _core.device_progress(handle)  # a failure shows in every transfer that it concerns
        now = _core.device_now_ns(handle)
        for transfer, (future, deadline) in tuple(self._waiting.items()):
            if future.done() or transfer.done() or now >= deadline:
                del self._waiting[transfer]
                if not future.done():
                    future.set_result(None)
        if not self._waiting:
            self._unwatch()
        elif self._fd < 0 or _core.device_arm(handle) != _core.OK:
            self._soon()
        else:
            self._watch(min(deadline for _, deadline in self._waiting.values()) - now)
        return None

    def _watch(self, ns: int) -> None:
        if not self._watching:
            self._loop.add_reader(self._fd, self._readable)
            self._watching = True
        if self._late is not None:
            self._late.cancel()
        self._late = self._loop.call_later(ns / 1e9, self._turn)

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._fd)
            self._watching = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def stop(self) -> None:
        """The device closes: whoever waits finds its transfer ended."""
        waiting, self._waiting = self._waiting, {}
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._unwatch)  # the device may be closed by any thread
        for future, _ in waiting.values():
            self._loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
