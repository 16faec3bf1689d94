"""A connection to a peer's device."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.copies.pairs import Local, Pair, as_pair, copy_refusal, pack
from rdmatensor.copies.prepared import PreparedCopy, brief, prepare
from rdmatensor.copies.transfer import Operations
from rdmatensor.edges.base import make_terms
from rdmatensor.edges.opening import SendEdges
from rdmatensor.edges.options import PLAIN, EdgeOptions
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, RdmaError, RegionBusy
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.memory.remote import Attachment, Remote, RemoteSpan
from rdmatensor.memory.span import Span
from rdmatensor.settings.arguments import name_bytes, timeout_ns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import ChannelHandle, Held
    from rdmatensor.copies.transfer import Transfer
    from rdmatensor.edges.send import SendEdge
    from rdmatensor.edges.sending import Backlogs
    from rdmatensor.memory.describe import Array
    from rdmatensor.memory.region import Region
    from rdmatensor.memory.regions import Regions
    from rdmatensor.memory.tensor import Tensor
    from rdmatensor.owners import OwningDevice
    from rdmatensor.stats import ChannelStats

__all__ = ["Channel"]

_T = TypeVar("_T")

_copy = _core.channel_copy
_hold = _core.hold
_wait_word = _core.channel_wait_word
_WRITE, _READ, _SLICE_NS = _core.WRITE, _core.READ, _core.SLICE_NS
_LOOKUP_NAPS = (50e-6, 2e-3, 4)  # between attempts to get a free lookup
_LOOKUP_GRACE_NS = 1_000_000_000  # time for the peer's "not published" to arrive after the peer's wait


class Channel(_core.QuickChannel):
    """A connection to a peer's device over one or more QPs; its data verb is `memcpy`.

    Made by `Device.connect` and `Listener.accept`; a context manager. Any number of threads may use it; those that
    choose different QPs (`qp=`) share no lock.

    Order: copies of one QP begin in the order of the calls. A WRITE is placed after all earlier WRITEs of its QP
    where `device.limits.orders_writes`: a flag word written after its data is seen after it. A READ may be overtaken
    by later WRITEs unless it was waited for. Between QPs there is no order.
    """

    __slots__ = (
        "__weakref__",
        "_attachments",
        "_closed",
        "_limbo",
        "_operations",
        "_prepared",
        "_regions",
        "_sends",
        "device",
        "peer",
        "peer_id",
        "qps",
    )

    def __init__(self, device: OwningDevice, handle: ChannelHandle, regions: Regions, backlogs: Backlogs) -> None:
        self.device = device
        self.peer: str = _core.channel_peer(handle)
        """The other end: host, process and device."""
        self.peer_id: bytes = _core.channel_peer_id(handle)
        """The other device's `Device.id`."""
        self.qps: int = _core.channel_qps(handle)
        self._handle: ChannelHandle | None = handle
        self._pointer = _core.channel_pointer(handle)
        self._closed = False
        self._slice_ns = min(_SLICE_NS, device.timeout_ns)
        self._brief = brief(device.limits)
        self._regions = regions  # the device's
        self._operations = Operations()
        self._limbo = self._operations.limbo  # the C core finds it by this name
        self._sends = SendEdges(backlogs)
        self._attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()
        self._prepared: weakref.WeakSet[PreparedCopy] = weakref.WeakSet()

    # ---- copies ----

    # `memcpy` is in csrc/python/quick_copy.c, with its description. It comes here when an end is no
    # range, with options, and to explain errors.

    def _memcpy(
        self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None, timeout: float | None = None
    ) -> None:
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        try:
            nbytes = src.nbytes
            if dst.nbytes != nbytes:
                raise ValueError
            if dst.direction == _WRITE:  # type: ignore[union-attr]
                op = _hold(
                    self, (dst, src), False, _copy, self._handle, -1 if qp is None else self.qp_number(qp), _WRITE,
                    dst.attachment.handle, dst.offset,  # type: ignore
                    src._region_handle, src.offset, nbytes, ns,  # type: ignore
                )  # fmt: skip
            else:
                op = _hold(
                    self, (dst, src), False, _copy, self._handle, -1 if qp is None else self.qp_number(qp), _READ,
                    src.attachment.handle, src.offset,  # type: ignore
                    dst._region_handle, dst.offset, nbytes, ns,  # type: ignore
                )  # fmt: skip
        except (AttributeError, TypeError, ValueError):
            dst, src = self._explain(dst, src)
            return self._memcpy(dst, src, qp=qp, timeout=timeout)
        if op:
            self._operations.finish(self, op, (dst, src), timeout, partial(self._begin, dst, src, qp))
        return None

    def _go_on(self, op: Held, ends: tuple[Any, Any]) -> None:
        self._operations.finish(self, op, ends, None, partial(self._begin, *ends, None))

    def memcpy_async(
        self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None, timeout: float | None = None
    ) -> Transfer:
        """Begins a copy as `memcpy` does and returns without waiting. Poll, wait for or await the
        Transfer.

        `timeout` is the default timeout of waiting for it.
        """
        limit = self.device.timeout_ns if timeout is None else timeout_ns(timeout, 0)
        try:
            if dst.nbytes != src.nbytes:
                raise ValueError
            op = self._begin(dst, src, qp, 0)
        except (AttributeError, TypeError, ValueError):
            dst, src = self._explain(dst, src)
            return self.memcpy_async(dst, src, qp=qp, timeout=timeout)
        return self._operations.transfer(self, op, (dst, src), limit, partial(self._begin, dst, src, qp))

    def memcpy_many(self, pairs: Iterable[Pair], *, qp: int | None = None, timeout: float | None = None) -> None:
        """Copies many pairs (destination, source) in order, in one call with few doorbells; blocks
        until all are done.

        Every pair is checked before the first is posted.
        """
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        packed, given = pack(self, pairs)
        if given:
            op = self._begin_many(packed, given, qp, ns)
            if op:
                self._operations.finish(
                    self, op, (packed, given), timeout, partial(self._begin_many, packed, given, qp)
                )

    def memcpy_many_async(
        self, pairs: Iterable[Pair], *, qp: int | None = None, timeout: float | None = None
    ) -> Transfer:
        """Begins many copies as one transfer, which is done when all of them are."""
        limit = timeout_ns(timeout, self.device.timeout_ns)
        packed, given = pack(self, pairs)
        op = self._begin_many(packed, given, qp, 0) if given else _core.OK
        return self._operations.transfer(self, op, (packed, given), limit, partial(self._begin_many, packed, given, qp))

    def prepare(self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None) -> PreparedCopy:
        """Checks and binds a copy once, to be run many times."""
        return self._prepare([as_pair(self, (dst, src))], qp)

    def prepare_many(self, pairs: Iterable[Pair], *, qp: int | None = None) -> PreparedCopy:
        """Checks and binds many copies once, to be run as one, many times."""
        return self._prepare(pairs, qp)

    def _prepare(self, pairs: Iterable[Pair], qp: int | None) -> PreparedCopy:
        prepared = prepare(self, self._operations, pairs, qp)
        self._prepared.add(prepared)
        return prepared

    # `wait_word` is in csrc/python/quick_channel.c. It comes here when the word does not arrive
    # within a slice, and to explain errors.

    def _wait_word(self, span: Span, value: int, *, timeout: float | None = None) -> None:
        if span.nbytes != 8:
            raise InvalidArgument("wait for a word", repr(span), "a word has 8 bytes: slice the span")
        offset, number = span.offset, value & 0xFFFF_FFFF_FFFF_FFFF
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        try:
            status = _wait_word(self._handle, span._region_handle, offset, number, ns)  # type: ignore[arg-type]
        except TypeError:  # a handle is None: it was closed
            status = _wait_word(self.live(), span.live(), offset, number, ns)
        if not status:
            if span._packed is None:
                span.pack()  # so that the next wait stays in C
            return
        limit = timeout_ns(timeout, self.device.timeout_ns)
        if status in (_core.AGAIN, _core.INTERRUPTED):
            handle, region = self.live(), span.live()
            status = _core.until(self.device.live(), lambda ns: _wait_word(handle, region, offset, number, ns), limit)
        if status == _core.OK:
            return
        seen = int.from_bytes(span.view(), "little")
        if status == _core.AGAIN:
            why = f"it is {seen} after {limit / 1e9:g} s"
            raise DeadlineExceeded(f"wait for a word of at least {value}", repr(self), why, status="deadline")
        why = "it must begin at a multiple of 8 and lie in a region of the channel's device"
        why = why if status == _core.INVALID else ""
        raise self.refusal(status, f"wait for a word of at least {value}", why)

    # ---- tensor edges ----

    @_core.handing
    def send_edge(
        self,
        taken: list[Any],
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        dtype: object = None,
        options: EdgeOptions = PLAIN,
        timeout: float | None = None,
    ) -> SendEdge:
        """The sending end of a tensor edge that the peer makes under this name
        (`Device.recv_edge`).

        Waits until the peer makes it: NameNotFound when it does not in time. InvalidArgument when
        the peer's terms differ.
        """
        terms = make_terms(name, shape, dtype, options, receives=False)
        if options.qp is not None:
            self.qp_number(options.qp)
        limit, on = timeout_ns(timeout, self.device.timeout_ns), f"{name!r} of {self.peer}"
        return self._sends.open(self, terms, limit, on, taken)

    @property
    def ordering(self) -> str:
        """How edges carry their flags unless the options name a way, and the reason (RDMA-RULES 1
        to 6).
        """
        return _core.channel_ordering(self.live())

    # ---- memory for the peer, and of the peer ----

    def publish(self, name: str, memory: Region | Span | Tensor | Array) -> None:
        """Publishes memory as `Device.publish` does, but for this channel's peer alone: no other
        peer's `lookup` finds it.

        The name lasts until `unpublish`, or as long as the channel; the caller keeps the memory
        alive.
        """
        on = f"{name!r} to {self.peer}"
        span = self._regions.span_of(memory, "publish memory", on)
        _core.channel_publish(self.live(), name_bytes(name), span.live(), span.offset, span.nbytes, on)

    def unpublish(self, name: str) -> None:
        """Withdraws a name; NameNotFound when this channel does not publish it."""
        _core.channel_unpublish(self.live(), name_bytes(name), f"{name!r} to {self.peer}")

    def lookup(self, name: str, *, timeout: float | None = None) -> Remote:
        """The memory that the peer publishes under a name; waits until it does. NameNotFound when
        it does not in time.
        """
        limit = timeout_ns(timeout, self.device.timeout_ns)
        on = f"{name!r} of {self.peer}"
        ask = partial(
            _core.lookup, self, self.device.live(), self.live(), name_bytes(name), limit, _LOOKUP_GRACE_NS, on
        )
        handle = _when_free(ask, limit)
        return self.attach(handle, timeout=max(limit, _LOOKUP_GRACE_NS) / 1e9)

    def attach(self, handle: bytes, *, timeout: float | None = None) -> Remote:
        """The memory that a handle names. The caller transports the handle (the peer's
        `Span.handle`) by its own means.
        """
        if not isinstance(handle, (bytes, bytearray, memoryview)):
            raise TypeError(f"a handle is bytes, not {type(handle).__name__}")
        limit = timeout_ns(timeout, self.device.timeout_ns)
        attached = _core.remote_attach(self.device.live(), self.live(), bytes(handle), limit, repr(self))
        attachment = Attachment(self, attached)
        self._attachments.add(attachment)
        return Remote(attachment)

    # ---- the channel itself ----

    @property
    def state(self) -> str:
        """ "ready", "closed" (on this side) or "failed" (`failure` says why)."""
        handle = self._handle
        return "closed" if handle is None or self._closed else _core.channel_state(handle)

    @property
    def failure(self) -> RdmaError | None:
        """The error that ended the channel, or None while it is up."""
        handle = self._handle
        status, why = (_core.CLOSED, "the device was closed") if handle is None else _core.channel_failure(handle)
        return None if status == _core.OK else _core.failure(status, "use the channel", repr(self), why)

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    def queue_of(self, qp: int) -> int:
        """The completion queue that a QP reports to; QPs go to queues round robin."""
        number = self.qp_number(qp)
        if number >= self.qps:
            raise self.refusal(_core.INVALID, "find a queue", self._qp_why(qp))
        return _core.channel_queue_of(self.live(), number)

    @property
    def stats(self) -> ChannelStats:
        """Counters since the channel was made."""
        refuse_fork("read the statistics", repr(self))
        return _core.channel_stats(self.live())

    def dump(self) -> str:
        """A report for people, to find what hangs: what each QP last posted, completed and expects."""
        refuse_fork("dump", repr(self))
        return _core.channel_dump(self.live())

    def close(self) -> None:
        """Tells the peer, ends outstanding copies, and closes the channel's remotes and prepared
        copies.

        The peer's copies through it fail from here on. Twice is fine; in a forked child it does nothing.
        """
        handle = self._handle
        if handle is not None and not forked():
            self._closed = True
            _core.channel_close(handle)
            self._sends.close()
            for attachment in tuple(self._attachments):
                attachment.handle = None
            for prepared in tuple(self._prepared):
                prepared.close()
            self.sweep()

    def close_with_device(self) -> None:
        self.close()
        self._handle = None

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Channel to {self.peer}, {self.state}>"

    # ---- for objects that belong to the channel: rdmatensor/owners.py ----

    def live(self) -> ChannelHandle:
        """The handle of the C object. ClosedError once the device is closed."""
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a channel", repr(self), "its device was closed")
        return handle

    def qp_number(self, qp: int) -> int:
        """A QP that the caller chose, checked."""
        if not isinstance(qp, int):
            raise TypeError(f"qp is a number from 0 to {self.qps - 1}, not {qp!r}")
        if not 0 <= qp < self.qps:
            raise InvalidArgument("choose a QP", repr(self), self._qp_why(qp))
        return qp

    def _qp_why(self, qp: int) -> str:
        return (
            f"qp {qp} is not there: it has QPs 0 to {self.qps - 1} (Device(qps_per_peer=...) at both ends gives more)"
        )

    def _explain(self, dst: Any, src: Any) -> Pair:
        """Gives both ends as spans, so that a copy that could not be posted can be tried again, or
        raises the reason.
        """
        target, source = as_pair(self, (dst, src))
        self.live()
        if target is dst and source is src:
            raise  # the original error is the reason
        return target, source

    def _begin(self, target: Any, source: Any, qp: int | None, ns: int) -> int | Held:
        number = -1 if qp is None else self.qp_number(qp)
        if target.direction == _WRITE:
            remote, local, direction = target, source, _WRITE
        else:
            remote, local, direction = source, target, _READ
        return _hold(
            self, (target, source), False, _copy, self._handle, number, direction,
            remote.attachment.handle, remote.offset, local._region_handle, local.offset, local.nbytes, ns,
        )  # fmt: skip

    def _begin_many(self, packed: bytes, given: tuple[Pair, ...], qp: int | None, ns: int) -> int | Held:
        number, count = -1 if qp is None else self.qp_number(qp), len(given)
        op, bad = _core.channel_copy_many(self, given, self.live(), number, packed, count, ns)
        if isinstance(op, int) and op < 0 and op not in (_core.BUSY, _core.AGAIN, _core.INTERRUPTED):
            raise copy_refusal(self, op, given[bad], f"pair {bad}: ")
        return op

    def sweep(self) -> bool:
        """Ends transfers that finished without a waiter. Returns whether there were any."""
        self._sends.settle()
        return self._operations.sweep(self)

    # ---- errors explained ----

    def local_range(self, memory: object, name: str) -> object:
        """The range of a region in which a tensor or an array lies."""
        return self._regions.span_of(memory, "memcpy", repr(self), name)

    def refusal(self, status: int, what: str, why: str = "") -> RdmaError:
        """The exception for a status. Where `why` is empty, the words are those of the error that
        ended the channel.
        """
        handle = self._handle
        if not why and handle is not None and status != _core.FORKED:
            why = _core.channel_failure(handle)[1]
        return _core.failure(status, what, repr(self), why)


def _when_free(lookup: Callable[[], _T], timeout_ns: int) -> _T:
    """The result of `lookup`; while other threads hold all lookups of the channel, it waits for a
    free one.
    """
    deadline = time.monotonic_ns() + timeout_ns
    naps = Backoff(*_LOOKUP_NAPS)
    while True:
        try:
            return lookup()
        except RegionBusy:
            if time.monotonic_ns() >= deadline:
                raise
        naps.nap()
