"""Connecting to a listener that may not exist yet: repeated attempts with growing pauses, until a
deadline.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.errors import AddressError, ConnectError, DeadlineExceeded, PeerLost, RdmaError

if TYPE_CHECKING:
    from rdmatensor._core import ChannelHandle
    from rdmatensor.owners import OwningDevice

__all__ = ["connect"]

_PAUSES = (0.005, 0.25)  # seconds between two attempts


def connect(device: OwningDevice, address: str, secret: bytes, limit_ns: int) -> ChannelHandle:
    """A channel that is ready. Tries again while nothing answers; a refusal is final.

    The final error gives the last reason, the number of attempts and the time they took.
    """
    begun = _core.device_now_ns(device.live())
    pauses, attempts = Backoff(*_PAUSES), 0
    last: RdmaError | None = None
    while True:
        passed_ns = _core.device_now_ns(device.live()) - begun
        if last is not None and passed_ns >= limit_ns:
            raise _told(last, attempts, passed_ns) from None
        attempts += 1
        try:
            return _attempt(device, address, secret, max(limit_ns - passed_ns, 0), limit_ns)
        except _Unanswered as unanswered:
            last = unanswered.why
        except DeadlineExceeded as error:
            if last is None:
                raise
            raise _told(error, attempts, limit_ns, f"; before that: {last.why}") from None
        left_ns = limit_ns - (_core.device_now_ns(device.live()) - begun)
        _core.device_nap(device.live(), max(min(pauses.next_ns(), left_ns), 0), lambda: device.closed)


class _Unanswered(Exception):
    """No answer from the other end; `why` is the error."""

    def __init__(self, why: RdmaError) -> None:
        super().__init__(why)
        self.why = why


def _attempt(device: OwningDevice, address: str, secret: bytes, left_ns: int, limit_ns: int) -> ChannelHandle:
    begun = _core.device_now_ns(device.live())
    try:
        handle = _core.channel_connect(device.live(), address, secret, left_ns)
    except (ConnectError, PeerLost) as error:
        if error.status not in ("refused", "peer-lost"):
            raise
        raise _Unanswered(error) from None
    except AddressError as error:
        if error.error_number != errno.EAGAIN:  # the name server denies the name: not a temporary failure
            raise
        raise _Unanswered(error) from None
    left_ns = max(left_ns - (_core.device_now_ns(device.live()) - begun), 0)
    why_late = f"no answer in {limit_ns / 1e9:g} s"
    try:
        _core.channel_wait_ready(device.live(), handle, left_ns, lambda: device.closed, address, why_late)
    except BaseException as error:
        unanswered = _core.channel_unanswered(handle)
        _core.channel_close(handle)
        if unanswered and isinstance(error, (ConnectError, PeerLost)):
            raise _Unanswered(error) from None
        raise
    return handle


def _told(error: RdmaError, attempts: int, passed_ns: int, more: str = "") -> RdmaError:
    """The same error with the number of attempts and the time they took."""
    if attempts == 1:
        return error
    why = f"{error.why}; tried {attempts} times in {passed_ns / 1e9:.3g} s{more}"
    return type(error)(error.what, error.on, why, status=error.status, error_number=error.error_number)
