"""The listening end, to which peers connect."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.fork import refuse_fork
from rdmatensor.settings.arguments import timeout_ns
from rdmatensor.settings.rendezvous import Ticket, reachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rdmatensor._core import ChannelHandle, ListenerHandle, Owner
    from rdmatensor.channel import Channel
    from rdmatensor.owners import OwningDevice

__all__ = ["Listener"]


class _Accepting:
    """The place for the channel that a thread waits for."""

    def __init__(self, owner: Owner, thread: int) -> None:
        self.owner = owner
        self.thread = thread
        self.channel: Channel | None = None


class Listener:
    """The address at which peers connect to a device, made by `Device.listen`. A context manager.

    Peers prove that they know the secret or, without one, that they are processes of this user on
    this host, before any of their other data is read. Peers that cannot are refused; `refusals()`
    reports them.
    """

    def __init__(
        self,
        device: OwningDevice,
        handle: ListenerHandle,
        secret: bytes,
        channel_of: Callable[[ChannelHandle], Channel],
    ) -> None:
        self.device = device
        self._channel_of = channel_of
        self.address = _core.listener_address(handle)
        """"host:port", with the actual port."""
        self._handle: ListenerHandle | None = handle
        self._secret = secret
        self._pocket: deque[_Accepting | Channel] = deque()  # places of waiting and of interrupted calls

    @property
    def ticket(self) -> bytes:
        """Bytes for a peer's `Device.connect`: the address and the secret. Send them by a means
        that others cannot read.
        """
        address = self.address if self.device.limits.virtual_time else reachable(self.address)
        return bytes(Ticket(address, self._secret))

    @_core.handing
    def accept(self, taken: list[Any], timeout: float | None = None) -> Channel:
        """The next channel that a peer connected; it is ready. DeadlineExceeded when none came in
        `timeout` seconds.
        """
        limit = timeout_ns(timeout, self.device.timeout_ns)
        why = f"nobody connected in {limit / 1e9:g} s"
        device, handle, mine = self.device.live(), self.live(), self._accepting()
        deadline = _core.device_now_ns(device) + limit
        while not self._hand_out(taken):
            left = max(deadline - _core.device_now_ns(device), 0)
            _core.listener_accept(
                device, handle, mine.owner, self._any_came, left, lambda: self.closed, repr(self), why
            )
        channel: Channel = taken[0]
        return channel

    def _accepting(self) -> _Accepting:
        """The place of this thread's next channel, put into the pocket at once. A place that an
        interrupted call left there is used again.
        """
        thread = threading.get_ident()
        for item in tuple(self._pocket):
            if isinstance(item, _Accepting) and item.thread == thread and not item.owner.filled:
                return item
        mine = _Accepting(_core.channel_owner(self.device.live()), thread)
        self._pocket.append(mine)
        return mine

    def _any_came(self) -> bool:
        return any(not isinstance(item, _Accepting) or item.owner.filled for item in tuple(self._pocket))

    def _hand_out(self, taken: list[Any]) -> bool:
        """Hands out the first channel that came, if any: this call's, or one of an interrupted call."""
        for item in tuple(self._pocket):
            if isinstance(item, _Accepting):
                if not item.owner.filled:
                    continue
                item.channel = item.channel or self._channel_of(item.owner.handle())
            channel = item.channel if isinstance(item, _Accepting) else item
            if _core.hand(self._pocket, item, taken, channel):
                return True
        return False

    def refusals(self) -> list[str]:
        """The peers that were refused since the last call, with the reasons."""
        refuse_fork("read the refusals", repr(self))
        handle, found = self.live(), []
        while (refusal := _core.listener_refusal(handle)) is not None:
            found.append(refusal)
        return found

    def live(self) -> ListenerHandle:
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a listener", repr(self), "it was closed")
        return handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Stops listening; accepted channels stay open. Twice is fine."""
        self._handle = None
        self._pocket.clear()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener at {self.address}, {'closed' if self._handle is None else 'open'}>"
