"""Where peers connect to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.channel import Channel
from rdmatensor.fork import refuse_fork
from rdmatensor.rendezvous import Ticket, reachable
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor._core import ListenerHandle
    from rdmatensor.device import Device

__all__ = ["Listener"]


class Listener:
    """Where peers connect to a device: made by `Device.listen`; a context manager.

    Peers prove that they know the secret, or without one that they are processes of this user on this host, before
    anything else of theirs is looked at. Those who cannot are turned away; `refusals()` tells of them.
    """

    def __init__(self, device: Device, handle: ListenerHandle, secret: bytes) -> None:
        self.device = device
        self.address = _core.listener_address(handle)
        """"host:port", with the port that was chosen."""
        self._handle: ListenerHandle | None = handle
        self._secret = secret

    @property
    def ticket(self) -> bytes:
        """Bytes for `Device.connect` of a peer: the address and the secret. Send them by a means that others cannot
        read.
        """
        address = self.address if self.device.limits.virtual_time else reachable(self.address)
        return bytes(Ticket(address, self._secret))

    def accept(self, timeout: float | None = None) -> Channel:
        """The next channel that a peer connected; it is ready. DeadlineExceeded when none came in `timeout` seconds."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        why = f"nobody connected in {limit / 1e9:g} s"
        return self.device._channel(
            _core.listener_accept(self.device._live(), self._live(), limit, lambda: self.closed, repr(self), why)
        )

    def refusals(self) -> list[str]:
        """Who was turned away since the last call, and why."""
        refuse_fork("read the refusals", repr(self))
        handle, found = self._live(), []
        while (refusal := _core.listener_refusal(handle)) is not None:
            found.append(refusal)
        return found

    def _live(self) -> ListenerHandle:
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a listener", repr(self), "it was closed")
        return handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Stops listening; channels that were accepted live on. Twice is fine."""
        self._handle = None

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener at {self.address}, {'closed' if self._handle is None else 'open'}>"
