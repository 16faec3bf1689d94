"""The exceptions, ordered by the extent of the damage.

    RdmaError                     the base of all; carries .what, .on, .why, .status and .error_number
    ├── TransferError             one operation failed; the channel may live on (channel.state says)
    │   ├── DeadlineExceeded      not done in time; its buffers are in quarantine until the provider is done with them
    │   ├── OutOfBounds           a range does not lie in its region; nothing was posted
    │   ├── CorruptError          a checksum does not match: the bytes differ from those that were sent
    │   ├── OverrunError          a sender that promised to keep a loop's order wrote into a slot that was not released
    │   ├── OverlapError          both ends of a copy share bytes; nothing was posted
    │   └── AccessDenied          the region lacks the right, or the peer's device refused it
    ├── PeerLost                  the peer died or cannot be reached: this channel has ended, others have not
    │   └── PeerClosed            the peer closed the channel in an orderly way
    ├── ConnectError              no channel was made: nothing listens, or the answer is of another protocol
    │   └── AuthenticationError   one end could not prove its identity
    ├── AddressError              an unknown host, or an address or port of this machine that is not available
    ├── DeviceLost                the local device failed: all its channels, edges and regions have ended
    ├── ProviderUnavailable       the provider cannot be used on this machine; the text says why and what to install
    ├── InvalidArgument           an argument is wrong; the text says what would be right
    ├── ClosedError               the object was closed on this side
    ├── RegionBusy                the object is in use by copies in flight, or a fixed capacity is full
    ├── NameNotFound              the peer did not publish the name in time
    ├── NameTaken                 the name is published already
    ├── OutOfMemory               no memory, or no room in the region
    │   └── LockedMemoryError     the limit of locked memory is too small; the text says how to raise it
    ├── Unsupported               this provider does not support the operation
    └── ForkedProcessError        a call in a child that was forked while a device was open; the text says what to do

Where Python has a fitting class of its own (TimeoutError, ConnectionError, OSError, IndexError,
PermissionError, ValueError, MemoryError, LookupError, NotImplementedError), our class also derives
from it.
"""

from __future__ import annotations

from errno import EADDRINUSE
from typing import Any

__all__ = [
    "AccessDenied",
    "AddressError",
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
    """The base class of all errors of rdmatensor.

    `what` was attempted, `on` which object, and `why` it failed, with the remedy. `status` is the
    name of the core's status code ("peer-lost"; "" when Python found the error), `error_number` an
    errno or 0.
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
    """The operation was not done in time. The part that was posted continues: its buffers are not
    reused before the provider is done with them.
    """


class OutOfBounds(TransferError, IndexError):
    """A range does not lie in its region. Nothing was posted."""


class AccessDenied(TransferError, PermissionError):
    """The region lacks the right for the operation, or the peer's device refused it."""


class OverlapError(TransferError, ValueError):
    """Both ends of a copy share bytes of the same memory. Nothing was posted."""


class CorruptError(TransferError):
    """A checksum does not match: the bytes differ from those that were sent."""


class OverrunError(TransferError):
    """A sender that promised to keep a loop's order wrote into a slot that was not released."""


class PeerLost(RdmaError, ConnectionError):
    """The peer died or cannot be reached: this channel has ended. Other channels are not affected."""


class PeerClosed(PeerLost):
    """The peer closed the channel in an orderly way."""


class ConnectError(RdmaError, ConnectionError):
    """No channel was made: nothing listens there, or the process that answered does not speak this
    protocol.
    """


class AuthenticationError(ConnectError):
    """One end could not prove its identity."""


class AddressError(RdmaError, OSError):
    """An unknown host, or an address or a port of this machine that is not available. `errno` is
    the system's where it has one: EADDRINUSE for a port that is taken.
    """

    def __init__(self, what: str, on: str = "", why: str = "", *, status: str = "", error_number: int = 0) -> None:
        super().__init__(what, on, why, status=status, error_number=error_number)
        self.errno = error_number or (EADDRINUSE if status == "exists" else None)


class DeviceLost(RdmaError):
    """The local device failed: all its channels, edges and regions have ended."""


class ProviderUnavailable(RdmaError):
    """The provider, or the device, cannot be used on this machine. `why` names the cause and what to do."""


class InvalidArgument(RdmaError, ValueError):
    """An argument is wrong. `why` says which value would be right."""


class ClosedError(RdmaError, ValueError):
    """The object was closed on this side."""


class RegionBusy(RdmaError):
    """The object is in use: copies in flight need it, or a fixed capacity is full. Nothing was
    lost; try again later.
    """


class NameNotFound(RdmaError, LookupError):
    """The peer did not publish the name in time."""


class NameTaken(RdmaError):
    """The name is published already."""


class OutOfMemory(RdmaError, MemoryError):
    """No memory, or no room in the region."""


class LockedMemoryError(OutOfMemory):
    """The limit of locked memory (RLIMIT_MEMLOCK) is too small. `why` says how to raise it."""


class Unsupported(RdmaError, NotImplementedError):
    """The provider does not support the operation; `device.limits` says what it supports."""


class ForkedProcessError(RdmaError):
    """A call in a child that was made by fork while a device was open.

    A child made before the first device was opened, or after all were closed, opens devices of its
    own. A child of a process that has used CUDA, by `rdmatensor.gpus()` too, cannot ask about GPUs.
    """

    WHY = (
        "this process was forked while a device was open, and devices do not cross a fork: fork while none is open, or "
        "start the process by spawn (multiprocessing.get_context('spawn'))"
    )


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
"""The exception for each status of the core, by its name; any other status ("system") is an
RdmaError.
"""
