"""What can go wrong, by the radius of the damage.

    RdmaError                     anything below; carries .what, .on, .why, .status and .error_number
    ├── TransferError             one operation failed; the channel may live on (channel.state says)
    │   ├── DeadlineExceeded      not done in time; its buffers are in quarantine until the provider is done with them
    │   ├── OutOfBounds           a range does not lie in its region; nothing was posted
    │   ├── CorruptError          a checksum does not fit: the bytes are not those that were sent
    │   ├── OverrunError          a sender that promised to keep a loop's order wrote where it was not its turn
    │   ├── OverlapError          both ends of a copy share bytes; nothing was posted
    │   └── AccessDenied          the region lacks the right, or the peer's device refused it
    ├── PeerLost                  the peer died or cannot be reached: this channel is over, others are not
    │   └── PeerClosed            the peer closed the channel in good order
    ├── ConnectError              no channel came about: nobody listens, or what answered does not speak this protocol
    │   └── AuthenticationError   one end could not prove who it is
    ├── DeviceLost                the local device failed: everything of this device is over
    ├── ProviderUnavailable       the provider cannot be used on this machine; says why and what to install
    ├── InvalidArgument           an argument is wrong; says what would be right
    ├── ClosedError               the object was closed on this side
    ├── RegionBusy                in use: by copies in flight, or a fixed capacity is taken
    ├── NameNotFound              the peer did not publish the name in time
    ├── NameTaken                 the name is published already, or the address is listened on already
    ├── OutOfMemory               no memory, or no room in the region
    │   └── LockedMemoryError     the limit of locked memory is too small; says how to raise it
    ├── Unsupported               this provider does not do that
    └── ForkedProcessError        called in a child made by fork: open a device of its own there

Where Python has a fitting class of its own (TimeoutError, ConnectionError, IndexError, PermissionError, ValueError,
MemoryError, LookupError, NotImplementedError), ours is one of those as well.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDenied",
    "AuthenticationError",
    "ClosedError",
    "ConnectError",
    "CorruptError",
    "DeadlineExceeded",
    "DeviceLost",
    "ForkedProcessError",
    "InvalidArgument",
    "LockedMemoryError",
    "NameNotFound",
    "NameTaken",
    "OutOfBounds",
    "OutOfMemory",
    "OverlapError",
    "OverrunError",
    "PeerClosed",
    "PeerLost",
    "ProviderUnavailable",
    "RdmaError",
    "RegionBusy",
    "TransferError",
    "Unsupported",
]


class RdmaError(Exception):
    """Something of rdmatensor failed.

    `what` was attempted, `on` what, and `why` it failed, with what to do about it. `status` is the name of the core's
    status code ("peer-lost"; "" when Python found it), `error_number` an errno or 0.
    """

    def __init__(self, what: str, on: str = "", why: str = "", *, status: str = "", error_number: int = 0) -> None:
        super().__init__(f"{what} on {on}: {why}")  # one argument: OSError would take three for errno and file name
        self.what = what
        self.on = on
        self.why = why
        self.status = status
        self.error_number = error_number

    def __str__(self) -> str:
        text = f"{self.what} on {self.on}" if self.on else self.what
        return f"{text}: {self.why}" if self.why else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.what, self.on, self.why, self.status, self.error_number)


def _restore(kind: type[RdmaError], what: str, on: str, why: str, status: str, error_number: int) -> RdmaError:
    return kind(what, on, why, status=status, error_number=error_number)


class TransferError(RdmaError):
    """One operation failed; other operations and the channel may go on."""


class DeadlineExceeded(TransferError, TimeoutError):
    """It was not done in time. What was posted goes on by itself: its buffers are not reused before the provider is
    done with them.
    """


class OutOfBounds(TransferError, IndexError):
    """A range does not lie in its region. Nothing was posted."""


class AccessDenied(TransferError, PermissionError):
    """The region lacks the right for this, or the peer's device refused it."""


class OverlapError(TransferError, ValueError):
    """Both ends of a copy share bytes of the same memory. Nothing was posted."""


class CorruptError(TransferError):
    """A checksum does not fit: the bytes are not those that were sent."""


class OverrunError(TransferError):
    """A sender that promised to keep a loop's order wrote into a slot that was not released."""


class PeerLost(RdmaError, ConnectionError):
    """The peer died or cannot be reached: this channel is over. Other channels are not concerned."""


class PeerClosed(PeerLost):
    """The peer closed the channel in good order."""


class ConnectError(RdmaError, ConnectionError):
    """No channel came about: nobody listens there, or what answered does not speak this protocol."""


class AuthenticationError(ConnectError):
    """One end could not prove who it is."""


class DeviceLost(RdmaError):
    """The local device failed: everything of this device is over."""


class ProviderUnavailable(RdmaError):
    """The provider, or the device, cannot be used on this machine. `why` names the cause and what to do."""


class InvalidArgument(RdmaError, ValueError):
    """An argument is wrong. `why` says what would be right."""


class ClosedError(RdmaError, ValueError):
    """The object was closed on this side."""


class RegionBusy(RdmaError):
    """In use: copies in flight need it, or a fixed capacity is taken. Nothing was lost; try again later."""


class NameNotFound(RdmaError, LookupError):
    """The peer did not publish the name in time."""


class NameTaken(RdmaError):
    """The name is published already, or the address is listened on already."""


class OutOfMemory(RdmaError, MemoryError):
    """No memory, or no room in the region."""


class LockedMemoryError(OutOfMemory):
    """The limit of locked memory (RLIMIT_MEMLOCK) is too small. `why` says how to raise it."""


class Unsupported(RdmaError, NotImplementedError):
    """This provider does not do that; `device.limits` says what it does."""


class ForkedProcessError(RdmaError):
    """Called in a child made by fork. Devices do not cross a fork: open one of its own in the child."""


BY_STATUS: dict[str, type[RdmaError]] = {
    "invalid": InvalidArgument,
    "again": DeadlineExceeded,
    "deadline": DeadlineExceeded,
    "no-memory": OutOfMemory,
    "memlock": LockedMemoryError,
    "busy": RegionBusy,
    "closed": ClosedError,
    "forked": ForkedProcessError,
    "bounds": OutOfBounds,
    "access": AccessDenied,
    "overlap": OverlapError,
    "unsupported": Unsupported,
    "not-found": NameNotFound,
    "exists": NameTaken,
    "unavailable": ProviderUnavailable,
    "refused": ConnectError,
    "auth": AuthenticationError,
    "protocol": ConnectError,
    "version": ConnectError,
    "remote-access": AccessDenied,
    "local-access": AccessDenied,
    "flushed": TransferError,
    "corrupt": CorruptError,
    "overrun": OverrunError,
    "peer-lost": PeerLost,
    "peer-closed": PeerClosed,
    "device-lost": DeviceLost,
}
"""What a status of the core means, by its name; others ("system") are an RdmaError."""
