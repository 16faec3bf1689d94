"""One opened provider instance, as a NIC."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import TYPE_CHECKING

from rdmatensor import _core, errors
from rdmatensor.access import Access
from rdmatensor.backlog import Backlogs
from rdmatensor.channel import Channel
from rdmatensor.config import default_secret, secret_bytes
from rdmatensor.edge import Edge, make_terms, warn_of_trust
from rdmatensor.edge_memory import Payloads
from rdmatensor.errors import InvalidArgument, ProviderUnavailable
from rdmatensor.fork import forked, note_use, refuse_fork
from rdmatensor.life import Life
from rdmatensor.listener import Listener
from rdmatensor.memory import buffer_of, probe
from rdmatensor.recv_edge import RecvEdge
from rdmatensor.region import Region
from rdmatensor.rendezvous import Ticket, host_and_port
from rdmatensor.rpc import name_bytes
from rdmatensor.timeouts import timeout_ns
from rdmatensor.url import DeviceUrl

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from rdmatensor._core import ChannelHandle, DeviceHandle
    from rdmatensor.aio import Driver
    from rdmatensor.limits import Limits
    from rdmatensor.span import Span
    from rdmatensor.stats import DeviceStats

__all__ = ["AUTO_ORDER", "Device", "open_devices"]

EAGER_DEFAULT = 4096
"""Bytes up to which tensors of a dynamic edge ride in their record."""

_RECORD_ROOM = 320  # of a work item, for the record behind eager bytes and its flag

AUTO_ORDER = ("verbs", "shm")
"""What auto:// tries, in this order."""

_open: weakref.WeakSet[Device] = weakref.WeakSet()  # for exit and for dumps: see open_devices
_RIGHTS = Access.REMOTE_WRITE | Access.REMOTE_READ | Access.RELAXED_ORDER | Access.PER_PEER_KEYS


def open_devices() -> list[Device]:
    """All devices of this process that are open, oldest first."""
    return sorted((device for device in tuple(_open) if not device.closed), key=lambda device: device._serial)


@atexit.register
def _close_all() -> None:
    for device in open_devices():
        device.close()  # so that peers hear a goodbye


class Device:
    """A device, opened by URL: `verbs://mlx5_0`, `shm://`, `sim://?seed=7`, or `auto://`, which takes the best that
    is there.

    It owns completion queues, QPs, regions and their registrations. A context manager; closing it
    tells every peer. Threads may share it; a child made by fork may not use it, and gets ForkedProcessError.

    `queues` is the number of completion queues, `qps_per_peer` of QPs of each channel, `pollers` of threads that
    poll; with 0, the default, whoever waits polls. `wait` is "adaptive", "spin", "yield" or "block" (RDMA-RULES 26).
    `timeout` in seconds is the default of every call that waits. `secret` is what both ends of a channel must know;
    the default is RDMATENSOR_SECRET of the environment. Each of the first five may stand in the URL's query instead.
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
        self._timeout_ns = timeout_ns(parsed.timeout if parsed.timeout is not None else timeout, 0)
        self._secret = secret_bytes(secret, default_secret())
        self.why: Mapping[str, str]
        self._life = Life()
        numbers = (queues, qps_per_peer, pollers, _core.WAIT_POLICIES[wait])
        note_use()
        handle, self.why = _open_first(parsed, numbers, self._life)
        self._handle: DeviceHandle | None = handle
        self.url = url
        self.provider: str = _core.device_provider(handle)
        """"verbs", "shm" or "sim": what was taken. `why` says why auto:// did not take what it tried before."""
        self.name: str = _core.device_name(handle)
        self.limits: Limits = _core.device_limits(handle)
        self.id: bytes = _core.device_id(handle)
        """16 random bytes that tell devices apart."""
        self.queues: int = _core.device_queues(handle)
        self.qps_per_peer: int = _core.device_qps_per_peer(handle)
        self._lock = threading.RLock()
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._regions: weakref.WeakSet[Region] = weakref.WeakSet()
        self._edges: weakref.WeakSet[Edge] = weakref.WeakSet()
        self._payloads = Payloads(self)
        self._backlogs = Backlogs()
        self._published: dict[str, Span] = {}
        self._drivers: dict[AbstractEventLoop, Driver] = {}
        self._serial = _core.device_now_ns(handle)
        _open.add(self)

    # ---- memory ----

    def region(self, nbytes: int, *, access: Access = Access.LOCAL, huge_pages: str = "auto") -> Region:
        """Registers `nbytes` of new memory, page-aligned and zero, to allocate buffers in.

        Slow, and limited in number: take few large ones ahead. `huge_pages` is "auto" (where they help), "off" or
        "require".
        """
        if huge_pages not in _core.HUGE_PAGES:
            known = ", ".join(_core.HUGE_PAGES)
            raise InvalidArgument("register a region", repr(self), f"huge_pages is one of {known}, not {huge_pages!r}")
        if not isinstance(nbytes, int):
            raise TypeError(f"nbytes is an int, not {type(nbytes).__name__}")
        if not 0 < nbytes < 1 << 63:
            raise InvalidArgument("register a region", repr(self), f"it cannot have {nbytes} bytes: at least 1")
        rights = self._rights(access)
        life = Life()
        handle = _core.region_create(self._live(), nbytes, int(rights), _core.HUGE_PAGES[huge_pages], life, repr(self))
        return self._region(Region(self, handle, life, nbytes, rights, owned=True, writable=True))

    def register(self, memory: object, *, access: Access = Access.LOCAL) -> Region:
        """Registers memory that the caller owns: a NumPy array, a bytearray, anything contiguous with the buffer
        protocol, or a contiguous CPU tensor of torch, pinned ones too.

        The region keeps it alive and locked; a tensor of torch must not be resized meanwhile. Read-only memory can only
        be the source of copies. Unsupported where peers shall reach it and the provider cannot expose it
        (`limits.exposes_caller_memory`).
        """
        rights = self._rights(access)
        memory = buffer_of(memory, repr(self))
        writable = probe(memory, repr(self), written=Access.REMOTE_WRITE in rights)
        life = Life()
        handle = _core.region_adopt(self._live(), memory, writable, int(rights), life, self._life, repr(self))
        nbytes = _core.region_size(handle)
        return self._region(Region(self, handle, life, nbytes, rights, owned=False, writable=writable))

    def _rights(self, access: Access) -> Access:
        if not isinstance(access, Access) or int(access) & ~int(_RIGHTS):
            raise InvalidArgument(
                "register a region",
                repr(self),
                f"access is made of rdmatensor.Access, as in Access.REMOTE_READ, not {access!r}",
            )
        return access

    def _regions_now(self) -> tuple[Region, ...]:
        """Those that are open."""
        return tuple(region for region in tuple(self._regions) if not region.closed)

    def _region(self, region: Region) -> Region:
        self._regions.add(region)
        return region

    # ---- peers ----

    def listen(self, address: str = "127.0.0.1:0", *, secret: str | bytes | None = None) -> Listener:
        """Lets peers connect. Port 0 lets the system choose; `listener.address` says which it is.

        Without a secret (here or of the device) only loopback is allowed, and only processes of this user are let in.
        """
        known = secret_bytes(secret, self._secret)
        host_and_port(address)
        listener = Listener(self, _core.listener_open(self._live(), address, known, self._timeout_ns), known)
        self._listeners.add(listener)
        return listener

    def connect(
        self, address: str | bytes, *, secret: str | bytes | None = None, timeout: float | None = None
    ) -> Channel:
        """A channel to the device that listens at "host:port", or where a listener's ticket (bytes) says. It is ready.

        ConnectError when nobody listens there or something else answers, AuthenticationError when the secrets differ.
        """
        limit = timeout_ns(timeout, self._timeout_ns)
        known = secret_bytes(secret, self._secret)
        if isinstance(address, (bytes, bytearray, memoryview)):
            ticket = Ticket.parse(bytes(address))
            address, known = ticket.address, ticket.secret if secret is None else known
        host_and_port(address)
        begun = _core.device_now_ns(self._live())
        handle = _core.channel_connect(self._live(), address, known, limit)
        left = max(limit + begun - _core.device_now_ns(self._live()), 0)
        why = f"no answer in {limit / 1e9:g} s"
        try:
            _core.channel_wait_ready(self._live(), handle, left, lambda: self.closed, address, why)
        except BaseException:
            _core.channel_close(handle)
            raise
        return self._channel(handle)

    def _channel(self, handle: ChannelHandle) -> Channel:
        channel = Channel(self, handle)
        self._channels.add(channel)
        return channel

    # ---- tensor edges ----

    def recv_edge(
        self,
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        dtype: object = None,
        rank: int | None = None,
        slots: int = 2,
        region: Region | None = None,
        flow: str = "credit",
        verify: str | None = None,
        ordering: str | None = None,
        stripes: int = 1,
        alignment: int = 64,
        eager: int | None = None,
        check_loop: bool = False,
    ) -> RecvEdge:
        """The receiving end of a tensor edge, which one sender with a channel to this device opens by its name
        (`Channel.send_edge`). NameTaken while another edge has it.

        With a `shape` it is static: tensors of that shape and `dtype` (default float32) are written straight into one
        of `slots` receive buffers, 1 to 128, which lie in `region` (it needs Access.REMOTE_WRITE) or in memory of the
        device's own. Without, it is dynamic: every tensor says what it is, as far as `rank` and `dtype` leave it open;
        those of up to `eager` bytes (at most 65536; None takes 4096, or what the
        provider's work items hold) ride in their record, larger ones are READ into `region` or into
        memory of the device's own. `flow="loop"` (static) needs no release: the caller promises that a slot is not
        written before it was used, and `check_loop` looks. `verify="crc32c"` checks every tensor from end to end.
        `ordering` asks for "tail", "chained" or "immediate" by name. `stripes` is how many QPs share a tensor.

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
        terms = make_terms(
            name,
            shape=shape,
            dtype=dtype,
            rank=rank,
            flow=flow,
            verify=verify,
            ordering=ordering,
            stripes=stripes,
            slots=slots,
            loop_check=check_loop,
            alignment=alignment,
            eager=self._eager(shape is None, eager),
        )
        inside = None if region is None or shape is None else region._handle
        life = Life()
        handle = _core.edge_create(self._live(), terms, inside, life, repr(name))
        edge = RecvEdge(self, handle, terms, region, life)
        self._edges.add(edge)
        warn_of_trust(edge)
        return edge

    def _eager(self, dynamic: bool, given: int | None) -> int:
        if not dynamic:
            return 0
        return min(EAGER_DEFAULT, max(self.limits.message_size_max - _RECORD_ROOM, 0)) if given is None else given

    # ---- address distribution ----

    def publish(self, name: str, memory: Region | Span) -> None:
        """Lets every peer with a channel to this device look the memory up under `name`; it is kept alive until
        `unpublish`.

        1 to 128 bytes. NameTaken when something else is published under it. The region needs a remote right.
        """
        span = memory.span if isinstance(memory, Region) else memory
        if not hasattr(span, "_region_handle"):
            raise TypeError(f"a region, span or buffer can be published, not {type(memory).__name__}")
        _core.device_publish(self._live(), name_bytes(name), span._live(), span.offset, span.nbytes, f"{name!r}")
        self._published[name] = span

    def unpublish(self, name: str) -> None:
        """Takes a name back. Peers that looked it up before keep what they have. NameNotFound when it is not
        published.
        """
        _core.device_unpublish(self._live(), name_bytes(name), f"{name!r}")
        self._published.pop(name, None)

    # ---- the device itself ----

    @property
    def stats(self) -> DeviceStats:
        """Counters: regions, bytes and time spent registering, channels, operations."""
        refuse_fork("read the statistics", repr(self))
        return _core.device_stats(self._live())

    def now(self) -> float:
        """Seconds, in the device's time: virtual for `sim`, the monotonic clock's else."""
        return _core.device_now_ns(self._live()) / 1e9

    def dump(self) -> str:
        """Who hangs? A report of all channels, for people."""
        refuse_fork("dump", repr(self))
        return _core.device_dump(self._live())

    def progress(self) -> int:
        """Polls every queue once, for event loops of other kinds than asyncio. How many completions it took."""
        return self._checked(_core.device_progress(self._live()), "progress")

    def arm(self) -> bool:
        """Makes `fileno()` readable at the next event. False: something came meanwhile, call `progress()` before
        sleeping.
        """
        status = _core.device_arm(self._live())
        return status != _core.AGAIN and self._checked(status, "arm") == _core.OK

    def fileno(self) -> int:
        """A descriptor to wait on after `arm()`; -1 in virtual time."""
        refuse_fork("wait", repr(self))
        return _core.device_event_fd(self._live())

    def _checked(self, status: int, what: str) -> int:
        if status < 0:
            raise _core.failure(status, what, repr(self))
        return status

    def _live(self) -> DeviceHandle:
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a device", repr(self), "it was closed")
        return handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Tells every peer, ends every channel and registration. Twice is fine.

        Memory stays readable until the last buffer or view of it is gone. In a forked child it does nothing.
        """
        with self._lock:
            if self._handle is None or forked():
                return
            for driver in tuple(self._drivers.values()):
                driver.stop()
            for listener in tuple(self._listeners):
                listener.close()
            for edge in tuple(self._edges):
                edge.close()
            for channel in tuple(self._channels):
                channel._close_with_device()
            for region in tuple(self._regions):
                region._close_with_device()
            self._published.clear()
            self._handle = None  # with the last call that is still inside, if any, the device is gone

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
    url: DeviceUrl, numbers: tuple[int, int, int, int], life: Life
) -> tuple[DeviceHandle, Mapping[str, str]]:
    """Opens what the URL names; for auto:// the first that works, with the reasons why not of those before it."""
    kinds = {_core.NOT_FOUND: errors.ProviderUnavailable}
    if url.scheme != "auto":
        return _core.device_open(url.scheme, url.name, url.arguments, numbers, life, kinds), {}
    reasons: dict[str, str] = {}
    for provider in AUTO_ORDER:
        reason = _core.provider_why_not(provider)
        if not reason:
            try:
                return _core.device_open(provider, "", url.arguments, numbers, life, kinds), reasons
            except ProviderUnavailable as error:
                reason = error.why
        reasons[provider] = reason
    raise ProviderUnavailable("open a device", "auto://", "; ".join(f"{name}: {why}" for name, why in reasons.items()))
