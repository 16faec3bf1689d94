"""The interfaces that parts use of the device and of the channel that they belong to.

Regions, copies, edges and listeners use their owners through these two protocols only. So no two
modules import each other, and a change of `Device` or `Channel` must keep only what is named here.
`_handle` is None once the owner is closed, and is read on the hot paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rdmatensor._core import ChannelHandle, DeviceHandle, Life
    from rdmatensor.errors import RdmaError
    from rdmatensor.limits import Limits

__all__ = ["OwningChannel", "OwningDevice"]


class OwningDevice(Protocol):
    """The interface of `Device` that its parts use."""

    @property
    def limits(self) -> Limits:
        """The capabilities of the provider."""

    @property
    def timeout_ns(self) -> int:
        """The default timeout of calls."""

    @property
    def life(self) -> Life:
        """Tells whether the C object still lives."""

    @property
    def closed(self) -> bool: ...

    def live(self) -> DeviceHandle:
        """The handle of the C object. ClosedError once the device is closed."""

    def holds(self, address: int) -> bool:
        """Whether an address lies in a region of the device, including closed regions."""

    def until(self, done: Callable[[], bool], deadline_ns: int, *, memory: bool = False) -> Coroutine[Any, Any, bool]:
        """Waits in the running event loop until `done()` is true, or until `deadline_ns` of the
        device's time; gives whether it is.
        """


class OwningChannel(Protocol):
    """The interface of `Channel` that its copies, edges and remotes use."""

    _handle: ChannelHandle | None

    @property
    def device(self) -> OwningDevice: ...

    @property
    def peer(self) -> str:
        """The other end: host, process and device."""

    @property
    def state(self) -> str:
        """ "ready", "closed" or "failed"."""

    @property
    def closed(self) -> bool: ...

    def live(self) -> ChannelHandle:
        """The handle of the C object. ClosedError once its device is closed."""

    def qp_number(self, qp: int) -> int:
        """A QP that the caller chose, checked."""

    def local_range(self, memory: object, name: str) -> object:
        """The range of a region in which a tensor or an array lies. `name` is what errors call it."""

    def refusal(self, status: int, what: str, why: str = "") -> RdmaError:
        """The exception for a status. Where `why` is empty, the words are those of the error that
        ended the channel.
        """

    def sweep(self) -> bool:
        """Ends operations that finished without a waiter. Returns whether there were any."""
