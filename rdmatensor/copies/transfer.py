"""A copy that outlives the call that began it, and the set of such copies of a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.copies.pairs import copy_refusal, describe
from rdmatensor.errors import ClosedError, DeadlineExceeded, RdmaError
from rdmatensor.locks import Rank, ordered_lock
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rdmatensor._core import Held
    from rdmatensor.owners import OwningChannel

__all__ = ["CopyTransfer", "Operations", "Transfer"]

_op_wait = _core.op_wait
_OPERATION_NAPS = (50e-6, 2e-3, 4)  # between attempts to get a free operation when nothing progressed
_PENDING = (_core.AGAIN, _core.INTERRUPTED)
_SWEEP = 128  # with so many transfers under way, a new one first ends those that are done

_Keep = tuple[object, ...]
"""The objects a copy needs until its end: its two ranges, or the packed copies and all their ranges."""


class Transfer:
    """A copy or a tensor under way, like a future: poll with `done()`, block with `wait()`, or await it.

    A copy or a tensor under way, like a future: poll with `done()`, block with `wait()`, or await
    it.

    A copy (`Channel.memcpy_async`, `PreparedCopy.start`) is kept by its channel, with its ranges
    and their memory, until it ends, whether or not a thread waits for it. It progresses while some
    thread waits on the device, or through the device's poller threads.

    A tensor (`SendEdge.send_async`, `PreparedSend.start`) is done when it may be changed again:
    when it was written or copied or, on a dynamic edge whose receiver READs it in place, when the
    receiver has it. Until then the edge keeps it alive. Tensors of an edge are sent in the order of
    the calls.
    """

    __slots__ = ("__weakref__", "_error")
    _error: RdmaError | None

    def done(self) -> bool:
        """Whether the transfer has ended, well or not. Never blocks."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until the transfer ends; raises its error. None takes the timeout of the call that
        began it.

        When the timeout is over, a copy is given up: the part that was not posted never will be,
        and its local range stays in quarantine until the provider is done with it. A tensor goes
        on, and can be waited for again. To check without giving up, use `done()`.
        """
        raise NotImplementedError

    def exception(self, timeout: float | None = None) -> RdmaError | None:
        """Blocks as `wait` does; gives the error, or None."""
        try:
            self.wait(timeout)
        except RdmaError as error:
            return error
        return None

    async def _awaited(self) -> None:
        """Waits in the running event loop."""
        raise NotImplementedError

    def __await__(self) -> Generator[object, None, None]:
        if not self.done():
            yield from self._awaited().__await__()
        if self._error is not None:
            raise self._error

    def _repr(self, what: str, under_way: bool) -> str:
        state = "under way" if under_way else "done" if self._error is None else f"failed: {self._error}"
        return f"<Transfer of {what}, {state}>"


class CopyTransfer(Transfer):
    """A copy under way."""

    __slots__ = ("_channel", "_held", "_keep", "_op", "_operations", "_timeout_ns")

    def __init__(
        self, channel: OwningChannel, operations: Operations, op: int | Held, keep: _Keep, limit_ns: int
    ) -> None:
        self._channel = channel
        self._operations = operations
        self._held = op  # dropping it ends the operation, if nothing ended it before
        self._op = 0 if isinstance(op, int) else op.number  # 0 once it ended
        self._keep: _Keep | None = keep
        self._timeout_ns = limit_ns
        self._error: RdmaError | None = None

    def done(self) -> bool:
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
        op = self._op
        if op:
            self._wait(op, timeout_ns(timeout, self._timeout_ns))
        if self._error is not None:
            raise self._error

    def _wait(self, op: int, limit_ns: int) -> None:
        handle = self._channel._handle
        try:
            device = self._channel.device.live()
        except ClosedError:
            handle = None
        if handle is None:
            return self._settle(op, _core.CLOSED)
        status = _core.until(device, lambda ns: _op_wait(handle, op, ns), limit_ns)
        return self._settle(op, _core.DEADLINE if status == _core.AGAIN else status, limit_ns)

    def _settle(self, op: int, status: int, limit_ns: int = 0) -> None:
        """Ends the C operation and keeps its result. The first of several waiting threads does so;
        the others find it done.
        """
        operations = self._operations
        with operations.lock:
            if self._op != op or isinstance(self._held, int):
                return
            self._error = operations.end(self._channel, self._held, status, self._keep or (), limit_ns)
            self._op = 0
        self._keep = None  # outside the lock: dropping these objects may run user code
        operations.forget(op)

    async def _awaited(self) -> None:
        device = self._channel.device
        deadline = _core.device_now_ns(device.live()) + self._timeout_ns
        if not await device.until(self.done, deadline):
            self.exception(0)  # gives it up

    def __repr__(self) -> str:
        return self._repr("a copy", bool(self._op))


class Operations:
    """The operations of a channel that outlive the C call that began them: begins, awaits and ends
    them, and keeps what must live until the provider is done with it. Any number of threads may use
    it.

    It holds no reference to its channel, which is an argument of its calls: a cycle would keep both
    alive.
    """

    __slots__ = ("_pending", "limbo", "lock")

    def __init__(self) -> None:
        self.lock = ordered_lock(Rank.CHANNEL)  # guards which transfers have ended
        self._pending: dict[int, CopyTransfer] = {}
        self.limbo: list[_Keep] = []
        """Objects that abandoned operations may still touch; the C core adds to it by the channel's
        `_limbo`.
        """

    def finish(
        self,
        channel: OwningChannel,
        op: int | Held,
        keep: _Keep,
        timeout: float | None,
        again: Callable[[int], int | Held],
    ) -> None:
        """Blocks until an operation under way has ended, or raises the reason it could not begin."""
        limit = timeout_ns(timeout, channel.device.timeout_ns)
        if isinstance(op, int):
            op = _insist(channel, op, keep, limit, again)
            if isinstance(op, int):
                return
        # If a signal's handler raises, the operation ends with `op`, which keeps its ranges.
        handle, number = channel.live(), op.number
        status = _core.until(channel.device.live(), lambda ns: _op_wait(handle, number, ns), limit)
        error = self.end(channel, op, _core.DEADLINE if status == _core.AGAIN else status, keep, limit)
        if error is not None:
            raise error

    def transfer(
        self, channel: OwningChannel, op: int | Held, keep: _Keep, limit: int, again: Callable[[int], int | Held]
    ) -> Transfer:
        """A Transfer for an operation that began, or raises the reason it could not."""
        if isinstance(op, int) and op < 0:
            op = _insist(channel, op, keep, limit, again)
        transfer = CopyTransfer(channel, self, op, keep, limit)
        if not isinstance(op, int):  # else it is done
            if len(self._pending) >= _SWEEP:
                channel.sweep()
            self._pending[op.number] = transfer
        return transfer

    def end(self, channel: OwningChannel, op: Held, status: int, keep: _Keep, limit_ns: int) -> RdmaError | None:
        """Releases an operation that ended with `status`, or was given up at its deadline; gives
        its error, or None.
        """
        if channel._handle is None:
            return _core.failure(_core.CLOSED, describe(keep), repr(channel), "its device was closed")
        result, why = op.end()
        if result == _core.OK:
            return None
        if result == _core.AGAIN:
            self.limbo.append(keep)
            self._settle_limbo(channel)
            if status == _core.DEADLINE:
                why = f"not done after {limit_ns / 1e9:g} s; its local range is in quarantine until it is"
                return DeadlineExceeded(describe(keep), repr(channel), why, status="deadline")
            return channel.refusal(status, describe(keep))
        return _core.failure(result, describe(keep), repr(channel), why)

    def forget(self, number: int) -> None:
        """Stops keeping a transfer that has ended."""
        self._pending.pop(number, None)

    def sweep(self, channel: OwningChannel) -> bool:
        """Ends transfers that finished without a waiter. Returns whether there were any."""
        self._settle_limbo(channel)
        ended = [transfer.done() for transfer in tuple(self._pending.values())]
        return any(ended)

    def _settle_limbo(self, channel: OwningChannel) -> None:
        handle = channel._handle
        if self.limbo and handle is not None and _core.channel_quiet(handle) == _core.OK:
            self.limbo.clear()


def _insist(
    channel: OwningChannel, status: int, keep: _Keep, limit_ns: int, again: Callable[[int], int | Held]
) -> int | Held:
    """Retries a copy that found no free operation, until its deadline. Gives the operation, or OK."""
    device = channel.device.live()
    deadline = _core.device_now_ns(device) + limit_ns
    naps = Backoff(*_OPERATION_NAPS)
    while status in (_core.BUSY, _core.AGAIN, _core.INTERRUPTED) and channel.state == "ready":
        if not channel.sweep() and _core.device_progress(device) <= 0 and not channel.device.limits.virtual_time:
            naps.nap()
        try:
            begun = again(0)
        except TypeError:  # a handle was closed meanwhile
            begun = _core.CLOSED
        if not isinstance(begun, int) or begun >= 0:
            return begun
        status = begun
        if _core.device_now_ns(device) > deadline:
            why = f"no operation of the QP came free in {limit_ns / 1e9:g} s: wait for some transfers under way"
            raise DeadlineExceeded(describe(keep), repr(channel), why, status="deadline")
    raise copy_refusal(channel, status, keep)
