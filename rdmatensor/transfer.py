"""A copy that goes on after the call that began it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.errors import RdmaError
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Generator

    from rdmatensor.channel import Channel

__all__ = ["Transfer"]

_op_wait = _core.op_wait
_PENDING = (_core.AGAIN, _core.INTERRUPTED)


class Transfer:
    """A copy under way, like a future: poll with `done()`, block with `wait()`, or await it.

    The channel keeps it, its ranges and their memory until it ended, whether or not anyone waits for it. It moves on
    while some thread waits on the device, or by the device's poller threads.
    """

    __slots__ = ("__weakref__", "_channel", "_error", "_keep", "_op", "_timeout_ns")

    def __init__(self, channel: Channel, op: int, keep: tuple[object, ...], limit_ns: int) -> None:
        self._channel = channel
        self._op = op  # 0 once it ended
        self._keep: tuple[object, ...] | None = keep
        self._timeout_ns = limit_ns
        self._error: RdmaError | None = None

    def done(self) -> bool:
        """Whether it ended, well or not. Never blocks."""
        op = self._op
        if not op:
            return True
        handle = self._channel._handle
        status = _core.CLOSED if handle is None else _op_wait(handle, op, 0)
        if status in _PENDING:
            return False
        self._settle(op, status)
        return True

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until it ended; raises what went wrong. None takes the transfer's own timeout.

        After DeadlineExceeded the transfer is given up: what was not posted never will be, and its local range stays
        in quarantine until the provider is done with it. To look without giving up, use `done()`.
        """
        op = self._op
        if op:
            self._wait(op, timeout_ns(timeout, self._timeout_ns))
        if self._error is not None:
            raise self._error

    def _wait(self, op: int, limit_ns: int) -> None:
        device, handle = self._channel.device._handle, self._channel._handle
        if device is None or handle is None:
            return self._settle(op, _core.CLOSED)
        status = _core.until(device, lambda ns: _op_wait(handle, op, ns), limit_ns)
        return self._settle(op, _core.DEADLINE if status == _core.AGAIN else status, limit_ns)

    def exception(self, timeout: float | None = None) -> RdmaError | None:
        """Blocks as `wait` does; gives what went wrong, or None."""
        try:
            self.wait(timeout)
        except RdmaError as error:
            return error
        return None

    def _settle(self, op: int, status: int, limit_ns: int = 0) -> None:
        """Ends the C operation and keeps its result. The first of several waiting threads does it; the others find it
        done.
        """
        channel = self._channel
        with channel._lock:
            if channel._pending.pop(op, None) is not self:
                return
            keep, self._keep = self._keep or (), None
            self._error = channel._end_op(op, status, keep, limit_ns)
            self._op = 0

    def __await__(self) -> Generator[object, None, None]:
        if not self.done():
            from rdmatensor import aio

            yield from aio.wait(self).__await__()
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        state = "under way" if self._op else "done" if self._error is None else f"failed: {self._error}"
        return f"<Transfer {state}>"
