"""One opened instance of a provider, as a NIC."""

from __future__ import annotations

import atexit
import weakref
from typing import TYPE_CHECKING

from rdmatensor import _core, connecting, errors
from rdmatensor.channel import Channel
from rdmatensor.edges.base import Edge, make_terms, warn_of_trust
from rdmatensor.edges.options import PLAIN, EdgeOptions
from rdmatensor.edges.payloads import Payloads
from rdmatensor.edges.recv import RecvEdge
from rdmatensor.edges.sending import Backlogs
from rdmatensor.errors import InvalidArgument, ProviderUnavailable
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.listener import Listener
from rdmatensor.memory.access import Access
from rdmatensor.memory.describe import buffer_of, probe
from rdmatensor.memory.region import Region
from rdmatensor.memory.regions import Regions
from rdmatensor.settings.arguments import name_bytes, timeout_ns
from rdmatensor.settings.config import default_secret, secret_bytes
from rdmatensor.settings.launchers import local_rank
from rdmatensor.settings.rendezvous import Ticket, host_and_port
from rdmatensor.settings.url import DeviceUrl

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from rdmatensor._core import ChannelHandle, DeviceHandle
    from rdmatensor.aio import Driver
    from rdmatensor.limits import Limits
    from rdmatensor.memory.describe import Array
    from rdmatensor.memory.span import Span
    from rdmatensor.memory.tensor import Tensor
    from rdmatensor.stats import DeviceStats

__all__ = ["AUTO_ORDER", "Device", "open_devices"]

EAGER_DEFAULT = 4096
"""The largest tensor, in bytes, that a dynamic edge puts into its record by default."""

_RECORD_ROOM = 320  # bytes of a work item kept for the record behind eager bytes and its flag

AUTO_ORDER = ("verbs", "shm")
"""The providers that auto:// tries, in this order."""

_open: weakref.WeakSet[Device] = weakref.WeakSet()  # read by open_devices, for exit and for dumps
_RIGHTS = Access.REMOTE_WRITE | Access.REMOTE_READ | Access.RELAXED_ORDER | Access.PER_PEER_KEYS


def open_devices() -> list[Device]:
    """All open devices of this process, oldest first."""
    return sorted((device for device in tuple(_open) if not device.closed), key=lambda device: device._serial)


@atexit.register
def _close_all() -> None:
    for device in open_devices():
        device.close()  # tells the peers


class Device:
    """A device, opened by URL: `verbs://mlx5_0`, `shm://`, `sim://?seed=7`, or `auto://` for the
    best one available.

    `verbs://` takes the best port of the machine: one with an address that can be routed, the
    fastest, InfiniBand before Ethernet, the nearest to this process's NUMA nodes; among ports that
    are alike each local rank of a launcher takes another. `verbs://mlx5_0,mlx5_1` chooses among
    these, `verbs://^mlx5_2` among the others, and `verbs://netdev:ens1f0` takes the port of a
    network interface. `rdmatensor devices` shows the choice and its reason.

    A device owns completion queues, QPs, regions and their registrations. A context manager;
    closing it tells every peer. Threads may share it. A child made by fork may not use it and gets
    ForkedProcessError; a child made while no device was open opens its own.

    `queues` is the number of completion queues, `qps_per_peer` the number of QPs of each channel,
    and `pollers` the number of threads that poll; with 0, the default, the waiting threads poll.
    `wait` is "adaptive", "spin", "yield" or "block" (RDMA-RULES 26). `timeout`, in seconds, is the
    default of every call that waits. `secret` is the secret that both ends of a channel must know;
    the default is RDMATENSOR_SECRET of the environment. Each of the first five may stand in the
    URL's query instead.
    """

    def __init__(
        self,
        url: str = "auto://",
        *,
        queues: int | None = None,
        qps_per_peer: int | None = None,
        pollers: int = 0,
        wait: str = "adaptive",
        timeout: float = 30.0,
        secret: str | bytes | None = None,
    ) -> None:
        parsed = DeviceUrl.parse(url)
        queues = _number(url, "queues", parsed.queues if parsed.queues is not None else queues)
        qps_per_peer = _number(
            url, "qps_per_peer", parsed.qps_per_peer if parsed.qps_per_peer is not None else qps_per_peer
        )
        pollers = _number(url, "pollers", parsed.pollers if parsed.pollers is not None else pollers)
        wait = parsed.wait or wait
        if wait not in _core.WAIT_POLICIES:
            known = ", ".join(_core.WAIT_POLICIES)
            raise InvalidArgument("open a device", repr(url), f"wait is one of {known}, not {wait!r}")
        self.timeout_ns = timeout_ns(parsed.timeout if parsed.timeout is not None else timeout, 0)
        self._secret = secret_bytes(secret, default_secret())
        self.why: Mapping[str, str]
        self.life = _core.Life()
        numbers = (queues, qps_per_peer, pollers, _core.WAIT_POLICIES[wait])
        handle, self.why = _open_first(parsed, numbers, self.life)
        self._handle: DeviceHandle | None = handle
        self.url = url
        self.provider: str = _core.device_provider(handle)
        """"verbs", "shm" or "sim": the provider in use. `why` says why auto:// did not take the
        ones before it.
        """
        self.name: str = _core.device_name(handle)
        self.limits: Limits = _core.device_limits(handle)
        self.id: bytes = _core.device_id(handle)
        """16 random bytes that identify the device."""
        self.queues: int = _core.device_queues(handle)
        self.qps_per_peer: int = _core.device_qps_per_peer(handle)
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._regions = Regions()
        self._edges: weakref.WeakSet[Edge] = weakref.WeakSet()
        self._payloads = Payloads(self.region, self._regions)
        self._backlogs = Backlogs()
        self._published: dict[str, Span] = {}
        self._drivers: dict[AbstractEventLoop, Driver] = {}
        self._serial = _core.device_now_ns(handle)
        _open.add(self)

    # ---- memory ----

    def region(self, nbytes: int, *, access: Access = Access.LOCAL, huge_pages: str = "auto") -> Region:
        """Registers `nbytes` of new memory, page-aligned and zeroed, in which buffers are
        allocated.

        Registration is slow and limited in number: register a few large regions in advance.
        `huge_pages` is "auto" (where they help), "off" or "require".
        """
        if huge_pages not in _core.HUGE_PAGES:
            known = ", ".join(_core.HUGE_PAGES)
            raise InvalidArgument("register a region", repr(self), f"huge_pages is one of {known}, not {huge_pages!r}")
        if not isinstance(nbytes, int):
            raise TypeError(f"nbytes is an int, not {type(nbytes).__name__}")
        if not 0 < nbytes < 1 << 63:
            raise InvalidArgument("register a region", repr(self), f"it cannot have {nbytes} bytes: at least 1")
        rights = self._rights(access)
        life = _core.Life()
        handle = _core.region_create(self.live(), nbytes, int(rights), _core.HUGE_PAGES[huge_pages], life, repr(self))
        return self._regions.add(Region(self, handle, life, nbytes, rights, owned=True))

    def register(self, memory: object, *, access: Access = Access.LOCAL) -> Region:
        """Registers memory that the caller owns: a NumPy array, a bytearray, any other contiguous
        object with the buffer protocol, or a contiguous CPU tensor of torch, pinned ones included.

        The region keeps the object alive and locked; a tensor of torch must not be resized
        meanwhile. Read-only memory can only be the source of copies. Unsupported when `access` lets
        peers reach the memory and the provider cannot expose it (`limits.exposes_caller_memory`).
        """
        rights = self._rights(access)
        memory = buffer_of(memory, repr(self))
        writable = probe(memory, repr(self), written=Access.REMOTE_WRITE in rights)
        life = _core.Life()
        handle = _core.region_adopt(self.live(), memory, writable, int(rights), life, self.life, repr(self))
        nbytes = _core.region_size(handle)
        return self._regions.add(Region(self, handle, life, nbytes, rights, owned=False, readonly=not writable))

    def _rights(self, access: Access) -> Access:
        if not isinstance(access, Access) or int(access) & ~int(_RIGHTS):
            raise InvalidArgument(
                "register a region",
                repr(self),
                f"access is made of rdmatensor.Access, as in Access.REMOTE_READ, not {access!r}",
            )
        return access

    # ---- peers ----

    def listen(self, address: str = "127.0.0.1:0", *, secret: str | bytes | None = None) -> Listener:
        """Lets peers connect. With port 0 the system chooses a port; `listener.address` names it.

        Without a secret (here or of the device) only loopback addresses are allowed, and only
        processes of this user are accepted.
        """
        known = secret_bytes(secret, self._secret)
        host_and_port(address)
        listener = Listener(
            self, _core.listener_open(self.live(), address, known, self.timeout_ns), known, self._channel
        )
        self._listeners.add(listener)
        return listener

    def connect(
        self, address: str | bytes, *, secret: str | bytes | None = None, timeout: float | None = None
    ) -> Channel:
        """A ready channel to the device that listens at "host:port", or at the address of a
        listener's ticket (bytes).

        While no listener answers there, or the host cannot be reached, it tries again until
        `timeout`, and then raises ConnectError or PeerLost with the last reason. It raises
        ConnectError at once when something else answers or the peer refuses, and
        AuthenticationError at once when the secrets differ or, without a secret, when the listener
        belongs to another user.
        """
        limit = timeout_ns(timeout, self.timeout_ns)
        known = secret_bytes(secret, self._secret)
        if isinstance(address, (bytes, bytearray, memoryview)):
            ticket = Ticket.parse(bytes(address))
            address, known = ticket.address, ticket.secret if secret is None else known
        host_and_port(address)
        return self._channel(connecting.connect(self, address, known, limit))

    def _channel(self, handle: ChannelHandle) -> Channel:
        channel = Channel(self, handle, self._regions, self._backlogs)
        self._channels.add(channel)
        return channel

    # ---- tensor edges ----

    def recv_edge(
        self,
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        dtype: object = None,
        options: EdgeOptions = PLAIN,
    ) -> RecvEdge:
        """The receiving end of a tensor edge. One sender with a channel to this device opens it by
        its name (`Channel.send_edge`). NameTaken while another edge has the name.

        With a `shape` the edge is static: tensors of that shape and `dtype` (default float32) are
        written straight into one of its slots. Without a shape it is dynamic: every tensor states
        its type and shape, within the limits that `dtype` and `options.rank` set; small tensors
        travel in their record, larger ones are READ into memory of their own.

        >>> import numpy as np
        >>> import rdmatensor as rt
        >>> here, there = rt.Device("shm://"), rt.Device("shm://")
        >>> received = here.recv_edge("gradients", shape=(2, 3))
        >>> listener = here.listen()
        >>> edge = there.connect(listener.address).send_edge("gradients", shape=(2, 3))
        >>> edge.send(np.ones((2, 3), np.float32))
        >>> with received.recv() as tensor:
        ...     float(tensor.numpy().sum())
        6.0
        >>> there.close()
        >>> here.close()
        """
        eager = min(EAGER_DEFAULT, max(self.limits.message_size_max - _RECORD_ROOM, 0))
        terms = make_terms(name, shape, dtype, options, receives=True, eager_default=eager)
        region = options.region
        inside = None if region is None or shape is None else region.live()
        life = _core.Life()
        handle = _core.edge_create(self.live(), terms, inside, life, repr(name))
        edge = RecvEdge(self, handle, terms, region, life, self._payloads)
        self._edges.add(edge)
        warn_of_trust(edge)
        return edge

    # ---- address distribution ----

    def publish(self, name: str, memory: Region | Span | Tensor | Array) -> None:
        """Lets every peer with a channel to this device look the memory up under `name`; the device
        keeps it alive until `unpublish`. The memory is a region, a range of one, or a tensor or an
        array that lies in one.

        A name has 1 to 128 bytes. NameTaken when other memory is published under it. The region
        needs a remote right.
        """
        span = self._regions.span_of(memory, "publish memory", repr(name))
        _core.device_publish(self.live(), name_bytes(name), span.live(), span.offset, span.nbytes, f"{name!r}")
        self._published[name] = span

    def unpublish(self, name: str) -> None:
        """Withdraws a name. Peers that looked it up before keep their access. NameNotFound when it
        is not published.
        """
        _core.device_unpublish(self.live(), name_bytes(name), f"{name!r}")
        self._published.pop(name, None)

    # ---- the device itself ----

    @property
    def stats(self) -> DeviceStats:
        """Counters: regions, bytes and time spent registering, channels, operations."""
        refuse_fork("read the statistics", repr(self))
        return _core.device_stats(self.live())

    def now(self) -> float:
        """The device's time in seconds: virtual for `sim`, otherwise the monotonic clock."""
        return _core.device_now_ns(self.live()) / 1e9

    def dump(self) -> str:
        """A report of all channels for people, to find what hangs."""
        refuse_fork("dump", repr(self))
        return _core.device_dump(self.live())

    def progress(self) -> int:
        """Polls every queue once, for event loops other than asyncio; gives the number of
        completions.
        """
        return self._checked(_core.device_progress(self.live()), "progress")

    def arm(self) -> bool:
        """Makes `fileno()` readable at the next event. False when an event came meanwhile: call
        `progress()` before sleeping.
        """
        status = _core.device_arm(self.live())
        return status != _core.AGAIN and self._checked(status, "arm") == _core.OK

    def fileno(self) -> int:
        """A descriptor to wait on after `arm()`; -1 in virtual time."""
        refuse_fork("wait", repr(self))
        return _core.device_event_fd(self.live())

    def _checked(self, status: int, what: str) -> int:
        if status < 0:
            raise _core.failure(status, what, repr(self))
        return status

    # ---- for objects that belong to the device: rdmatensor/owners.py ----

    def live(self) -> DeviceHandle:
        """The handle of the C object. ClosedError once the device is closed."""
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a device", repr(self), "it was closed")
        return handle

    def holds(self, address: int) -> bool:
        """Whether an address lies in a region of the device, including closed regions."""
        return any(0 <= address - region.address < region.nbytes for region in self._regions)

    async def until(self, done: Callable[[], bool], deadline_ns: int, *, memory: bool = False) -> bool:
        """Waits in the running event loop until `done()` is true, or until `deadline_ns` of the
        device's time; gives whether it is. `done` must never block. `memory` says that a peer
        writes what `done` reads.
        """
        from rdmatensor import aio

        return await aio.until(self, self._drivers, done, deadline_ns, memory)

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Tells every peer, and ends every channel and registration. Twice is fine.

        Memory stays readable until the last buffer or view of it is gone. In a forked child it does
        nothing.
        """
        if self._handle is None or forked():
            return
        # Several threads may run each step at once, and repeatedly. No lock is held, so a thread
        # that waits in a call on a part of the device cannot prevent this from ending that wait.
        for driver in tuple(self._drivers.values()):
            driver.stop()
        for listener in tuple(self._listeners):
            listener.close()
        for edge in tuple(self._edges):
            edge.close()
        for channel in tuple(self._channels):
            channel.close_with_device()
        for region in self._regions:
            region.close_with_device()
        self._published.clear()
        self._handle = None  # the C object goes when the last call inside it, if any, returns

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Device {self.provider}://{self.name}, {'closed' if self._handle is None else 'open'}>"


def _number(url: str, name: str, value: int | None) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise InvalidArgument("open a device", repr(url), f"{name} is a whole number from 0, not {value!r}")
    return value


def _open_first(
    url: DeviceUrl, numbers: tuple[int, int, int, int], life: _core.Life
) -> tuple[DeviceHandle, Mapping[str, str]]:
    """Opens the device of the URL; for auto:// the first one that works, with the reasons against
    those before it.
    """
    kinds = {_core.NOT_FOUND: errors.ProviderUnavailable}
    if url.scheme != "auto":
        return _core.device_open(url.scheme, url.name, _arguments(url, url.scheme), numbers, life, kinds), {}
    reasons: dict[str, str] = {}
    for provider in AUTO_ORDER:
        reason = _core.provider_why_not(provider)
        if not reason:
            try:
                return _core.device_open(provider, "", _arguments(url, provider), numbers, life, kinds), reasons
            except ProviderUnavailable as error:
                reason = error.why
        reasons[provider] = reason
    raise ProviderUnavailable("open a device", "auto://", "; ".join(f"{name}: {why}" for name, why in reasons.items()))


def _arguments(url: DeviceUrl, provider: str) -> str:
    """The URL's arguments, with the rank among the host's processes for a provider that spreads them
    over its devices.
    """
    rank = local_rank() if provider == "verbs" else None
    if rank is None or "&local_rank=" in f"&{url.arguments}":
        return url.arguments
    return "&".join(filter(None, (url.arguments, f"local_rank={rank}")))
