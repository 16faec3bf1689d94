"""Copies that are checked and bound once, to be run many times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.copies.pairs import Pair, copy_refusal, pack
from rdmatensor.errors import InvalidArgument
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from rdmatensor._core import Held, PreparedHandle
    from rdmatensor.copies.transfer import Operations, Transfer
    from rdmatensor.limits import Limits
    from rdmatensor.owners import OwningChannel

__all__ = ["PreparedCopy", "brief", "prepare"]

_BRIEF = 8192  # bytes that take half a microsecond where posting is copying
_start = _core.prepared_start
_hold = _core.hold
_FEW = 16  # copies whose bytes are counted


def brief(limits: Limits) -> int:
    """The most bytes of a copy that is posted without giving the interpreter's lock up."""
    return _BRIEF if limits.completes_in_post else limits.message_size_max  # one work request


class PreparedCopy(_core.QuickPrepared):
    """One or many copies, checked and bound once: call it to run them, or `start()` them.

    The fastest way to repeat a copy. It keeps its ranges alive, and its regions busy, until it is closed or
    collected. A context manager.
    """

    __slots__ = ("__weakref__", "_channel", "_keep", "_operations")

    def __init__(
        self,
        channel: OwningChannel,
        operations: Operations,
        handle: PreparedHandle,
        nbytes: int | None,
        keep: tuple[object, ...],
    ) -> None:
        self._channel = channel
        self._operations = operations
        self._handle = handle
        self._pointer = _core.prepared_pointer(handle)
        self._brief = nbytes is not None and nbytes <= brief(channel.device.limits)
        self._keep = keep

    # Called as `copy()` or `copy(timeout=...)`: csrc/python/quick.c runs the copies and falls back
    # to these methods.

    def _call(self, timeout: float | None = None) -> None:
        """Runs the copies and blocks until they are done, as `Channel.memcpy` does."""
        self.start(timeout=timeout).wait()

    def _go_on(self, op: int | Held) -> None:
        self._operations.finish(self._channel, op, (self, *self._keep), None, self._again)

    def start(self, *, timeout: float | None = None) -> Transfer:
        """Starts the copies, as `Channel.memcpy_async` does."""
        limit = timeout_ns(timeout, self._channel.device.timeout_ns)
        try:
            op = _hold(self._channel, (self, *self._keep), False, _start, self._handle)
        except TypeError:
            raise self._closed() from None
        return self._operations.transfer(self._channel, op, (self, *self._keep), limit, self._again)

    def _again(self, _ns: int) -> int | Held:
        handle, keep = self._handle, (self, *self._keep)
        return _core.CLOSED if handle is None else _hold(self._channel, keep, False, _start, handle)

    def _closed(self) -> Exception:
        why = "it, its channel or its device was closed"
        return _core.failure(_core.CLOSED, "run a prepared copy", repr(self._channel), why)

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Releases the ranges. Copies under way continue. Twice is fine."""
        self._handle = None

    def __enter__(self) -> PreparedCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PreparedCopy of {_count(self._keep)}, {self._state()}>"

    def _state(self) -> str:
        state = self._channel.state
        return "closed" if self._handle is None else "open" if state == "ready" else state


def _count(keep: tuple[object, ...]) -> str:
    pairs = keep[-1]
    return f"{len(pairs)} ranges" if isinstance(pairs, tuple) else "one range"


def prepare(channel: OwningChannel, operations: Operations, pairs: Iterable[Pair], qp: int | None) -> PreparedCopy:
    """Checks and binds copies."""
    packed, given = pack(channel, pairs)
    if not given:
        raise InvalidArgument("prepare copies", repr(channel), "the list is empty: give at least one copy")
    number = -1 if qp is None else channel.qp_number(qp)
    handle, status, bad = _core.prepared_create(
        channel.device.live(), channel.live(), number, packed, len(given), channel.device.life
    )
    if handle is None:
        raise copy_refusal(channel, status, given[bad], f"pair {bad}: " if len(given) > 1 else "")
    few = len(given) <= _FEW
    nbytes = sum(target.nbytes for target, _ in given) if few else None
    return PreparedCopy(channel, operations, handle, nbytes, given[0] if len(given) == 1 else (packed, given))
