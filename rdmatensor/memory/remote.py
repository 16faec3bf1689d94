"""A range of a peer's memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, NoReturn

from rdmatensor import _core
from rdmatensor.errors import ClosedError, Unsupported
from rdmatensor.fork import refuse_fork
from rdmatensor.memory.access import Access
from rdmatensor.memory.span import slice_range

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor._core import RemoteHandle
    from rdmatensor.owners import OwningChannel

__all__ = ["Attachment", "Remote", "RemoteSpan"]

_pack = struct.Struct("=QQQQ").pack


class Attachment:
    """The state that a remote and its spans share: the C object, until it is closed."""

    __slots__ = ("__weakref__", "access", "channel", "handle", "nbytes", "peer", "pointer")

    def __init__(self, channel: OwningChannel, handle: RemoteHandle) -> None:
        self.handle: RemoteHandle | None = handle
        self.pointer = _core.pointer_of(handle)
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
    """A range of a peer's memory: the remote end of a copy. Slicing gives smaller ranges without
    asking the peer.
    """

    __slots__ = ("__weakref__", "attachment", "nbytes", "offset", "packed_read", "packed_write")

    direction: ClassVar[int] = _core.WRITE
    """The direction of a copy into this range."""
    packed_write: bytes | None  # the second half of an rt_copy that writes here; `pack` makes it at first use
    packed_read: bytes | None

    def __init__(self, attachment: Attachment, offset: int, nbytes: int) -> None:
        self.attachment = attachment
        self.offset = offset
        self.nbytes = nbytes
        self.packed_write = None
        self.packed_read = None

    def pack(self, direction: int) -> bytes:
        """The second half of an rt_copy, which is cached."""
        packed = _pack(_core.pointer_of(self.attachment.live()), self.offset, self.nbytes, direction)
        if direction == _core.WRITE:
            self.packed_write = packed
        else:
            self.packed_read = packed
        return packed

    def live(self) -> RemoteHandle:
        """The handle of the C object. ClosedError once it, its channel or its device was closed."""
        return self.attachment.live()

    @property
    def access(self) -> Access:
        """The rights that the peer gives here."""
        return self.attachment.access

    @property
    def channel(self) -> OwningChannel:
        """The only channel through which the range can be reached."""
        return self.attachment.channel

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, item: slice) -> RemoteSpan:
        start, nbytes = slice_range(item, self.nbytes, repr(self))
        return RemoteSpan(self.attachment, self.offset + start, nbytes)

    def view(self) -> memoryview:
        """The peer's bytes in place, read-only, where the provider can map them
        (`limits.maps_remote`).

        The mapping lives as long as the view.
        """
        attachment = self.attachment
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
        state = "closed" if self.attachment.handle is None else repr(self.access)
        return f"<{type(self).__name__} of {self.nbytes} bytes at {self.offset} of {self.attachment.peer}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote range belongs to its channel: send the handle it was attached from")


class Remote(RemoteSpan):
    """A remote span that owns its attachment to the channel, made by `Channel.lookup` and
    `Channel.attach`.

    A context manager; `close()` gives up the range and all its slices.
    """

    __slots__ = ()

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment, 0, attachment.nbytes)

    @property
    def closed(self) -> bool:
        return self.attachment.handle is None

    def close(self) -> None:
        """Gives up the range; copies under way continue. Twice is fine."""
        self.attachment.handle = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
