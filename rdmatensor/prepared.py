"""Copies that are checked and bound once, to be run many times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.timeouts import timeout_ns
from rdmatensor.transfer import Transfer

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor._core import PreparedHandle
    from rdmatensor.channel import Channel

__all__ = ["PreparedCopy"]

_BRIEF = 8192  # bytes that are copied in half a microsecond where posting is copying; elsewhere they go by themselves
_start = _core.prepared_start


class PreparedCopy(_core.QuickPrepared):
    """One or many copies, checked and bound once: call it to run them, or `start()` them.

    The fastest way to repeat a copy. It keeps its ranges alive, and its regions busy, until it is closed or
    collected. A context manager.
    """

    __slots__ = ("__weakref__", "_channel", "_keep")

    def __init__(self, channel: Channel, handle: PreparedHandle, nbytes: int | None, keep: tuple[object, ...]) -> None:
        self._channel = channel
        self._handle = handle
        self._pointer = _core.prepared_pointer(handle)
        limits = channel.device.limits
        most = _BRIEF if limits.completes_in_post else limits.message_size_max  # one work request for each copy
        self._brief = nbytes is not None and nbytes <= most
        self._keep = keep

    # Called as `copy()` or `copy(timeout=...)`: csrc/python/quick.c runs the copies and comes here for the rest.

    def _call(self, timeout: float | None = None) -> None:
        """Runs the copies and blocks until they are done, as `Channel.memcpy` does."""
        self.start(timeout=timeout).wait()

    def _go_on(self, op: int) -> None:
        self._channel._finish(op, (self, *self._keep), None, self._again)

    def start(self, *, timeout: float | None = None) -> Transfer:
        """Starts the copies, as `Channel.memcpy_async` does."""
        limit = timeout_ns(timeout, self._channel.device._timeout_ns)
        try:
            op = _start(self._handle)
        except TypeError:
            raise self._closed() from None
        return self._channel._transfer(op, (self, *self._keep), limit, self._again)

    def _again(self, _ns: int) -> int:
        handle = self._handle
        return _core.CLOSED if handle is None else _start(handle)

    def _closed(self) -> Exception:
        why = "it, its channel or its device was closed"
        return _core.failure(_core.CLOSED, "run a prepared copy", repr(self._channel), why)

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Lets go of the ranges. Copies under way go on. Twice is fine."""
        self._handle = None

    def __enter__(self) -> PreparedCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PreparedCopy of {_count(self._keep)}, {'closed' if self._handle is None else 'open'}>"


def _count(keep: tuple[object, ...]) -> str:
    pairs = keep[-1]
    return f"{len(pairs)} ranges" if isinstance(pairs, tuple) else "one range"
