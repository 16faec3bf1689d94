"""A range of a peer's memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, NoReturn

from rdmatensor import _core
from rdmatensor.access import Access
from rdmatensor.errors import ClosedError, Unsupported
from rdmatensor.fork import refuse_fork
from rdmatensor.span import slice_range

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor._core import RemoteHandle
    from rdmatensor.channel import Channel

__all__ = ["Remote", "RemoteSpan"]

_pack = struct.Struct("=QQQQ").pack


class Attachment:
    """What a remote and its spans share: the C object, until it is closed."""

    __slots__ = ("__weakref__", "access", "channel", "handle", "nbytes", "peer")

    def __init__(self, channel: Channel, handle: RemoteHandle) -> None:
        self.handle: RemoteHandle | None = handle
        self.channel = channel
        self.peer = channel.peer
        self.access = Access(_core.remote_rights(handle))
        self.nbytes = _core.remote_size(handle)

    def live(self) -> RemoteHandle:
        if self.handle is None:
            raise ClosedError(
                "use a remote range", f"memory of {self.peer}", "it, its channel or its device was closed"
            )
        return self.handle


class RemoteSpan:
    """A range of a peer's memory: the other end of a copy. Slicing gives smaller ones without asking the peer."""

    __slots__ = ("__weakref__", "_attachment", "_read", "_write", "nbytes", "offset")

    _direction: ClassVar[int] = _core.WRITE  # of a copy into this
    _write: bytes | None  # the second half of an rt_copy that writes here; `_pack` makes it at first use
    _read: bytes | None

    def __init__(self, attachment: Attachment, offset: int, nbytes: int) -> None:
        self._attachment = attachment
        self.offset = offset
        self.nbytes = nbytes
        self._write = None
        self._read = None

    def _pack(self, direction: int) -> bytes:
        packed = _pack(_core.pointer_of(self._attachment.live()), self.offset, self.nbytes, direction)
        if direction == _core.WRITE:
            self._write = packed
        else:
            self._read = packed
        return packed

    def _live(self) -> RemoteHandle:
        return self._attachment.live()

    @property
    def access(self) -> Access:
        """What the peer lets us do here."""
        return self._attachment.access

    @property
    def channel(self) -> Channel:
        """The channel through which it is reached, and no other."""
        return self._attachment.channel

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, item: slice) -> RemoteSpan:
        start, nbytes = slice_range(item, self.nbytes, repr(self))
        return RemoteSpan(self._attachment, self.offset + start, nbytes)

    def view(self) -> memoryview:
        """The peer's bytes themselves, read-only and not copied, where the provider can map them
        (`limits.maps_remote`).

        The mapping lives as long as the view.
        """
        attachment = self._attachment
        handle = attachment.live()
        refuse_fork("view a peer's memory", repr(self))
        address = _core.remote_address(handle)
        if address == 0:
            raise Unsupported(
                "view a peer's memory",
                repr(self),
                "it cannot be mapped (limits.maps_remote, and the right to read): READ it with memcpy",
            )
        return _core.view(address + self.offset, self.nbytes, handle).toreadonly()

    def __repr__(self) -> str:
        state = "closed" if self._attachment.handle is None else repr(self.access)
        return f"<{type(self).__name__} of {self.nbytes} bytes at {self.offset} of {self._attachment.peer}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote range belongs to its channel: send the handle it was attached from")


class Remote(RemoteSpan):
    """A range of a peer's memory, attached through a channel: made by `Channel.lookup` and `Channel.attach`.

    A context manager; `close()` gives it up, and its spans with it.
    """

    __slots__ = ()

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment, 0, attachment.nbytes)

    @property
    def closed(self) -> bool:
        return self._attachment.handle is None

    def close(self) -> None:
        """Gives the range up; copies under way go on. Twice is fine."""
        self._attachment.handle = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
