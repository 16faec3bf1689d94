"""A connection to a peer's device."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.edge import make_terms, warn_of_trust
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, RdmaError
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.pairs import Local, Pair, as_pair, describe, pack
from rdmatensor.prepared import PreparedCopy
from rdmatensor.refusals import copy_refusal
from rdmatensor.remote import Attachment, Remote, RemoteSpan
from rdmatensor.rpc import name_bytes, when_free
from rdmatensor.send_edge import SendEdge
from rdmatensor.sending import Lingering
from rdmatensor.span import Span
from rdmatensor.timeouts import timeout_ns
from rdmatensor.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import ChannelHandle
    from rdmatensor.device import Device
    from rdmatensor.stats import ChannelStats

__all__ = ["Channel"]

_copy = _core.channel_copy
_wait_word = _core.channel_wait_word
_WRITE, _READ, _SLICE_NS = _core.WRITE, _core.READ, _core.SLICE_NS
_LOOKUP_GRACE_NS = 1_000_000_000  # for the peer's "not published" to travel after the wait there is over
_FEW = 16  # prepared copies whose bytes are counted
_PENDING_SWEEP = 128  # transfers under way from which a new one first looks which have ended
_NAP_S = 50e-6  # between looks for a free operation when nothing moved


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
        "_edges",
        "_limbo",
        "_lingering",
        "_lock",
        "_pending",
        "_prepared",
        "device",
        "peer",
        "peer_id",
        "qps",
    )

    def __init__(self, device: Device, handle: ChannelHandle) -> None:
        self.device = device
        self.peer: str = _core.channel_peer(handle)
        """The other end: host, process and device."""
        self.peer_id: bytes = _core.channel_peer_id(handle)
        """The other device's `Device.id`."""
        self.qps: int = _core.channel_qps(handle)
        self._handle: ChannelHandle | None = handle
        self._pointer = _core.channel_pointer(handle)
        self._closed = False
        self._slice_ns = min(_SLICE_NS, device._timeout_ns)
        self._lock = threading.RLock()
        self._pending: dict[int, Transfer] = {}
        self._limbo: list[tuple[object, ...]] = []
        self._edges: weakref.WeakSet[SendEdge] = weakref.WeakSet()
        self._lingering = Lingering()
        self._attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()
        self._prepared: weakref.WeakSet[PreparedCopy] = weakref.WeakSet()

    # ---- copies ----

    def memcpy(
        self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None, timeout: float | None = None
    ) -> None:
        """Copies `src` to `dst`, of equal size, exactly one of them remote, and blocks until it is done.

        To a remote range: a one-sided WRITE, done when the bytes are placed in the peer's memory. From one: a
        one-sided READ. Any size; larger ones are cut below the provider's limits. `qp` chooses the QP (default 0).
        `timeout` in seconds, None for the device's; 0 tries once.

        Raises OutOfBounds, AccessDenied, InvalidArgument and ClosedError before anything was posted;
        DeadlineExceeded, TransferError and PeerLost after. Then `dst` may hold part of the bytes, and local ranges
        stay in quarantine until the provider is done with them.
        """
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        try:
            nbytes = src.nbytes
            if dst.nbytes != nbytes:
                raise ValueError
            if dst._direction == _WRITE:  # type: ignore[union-attr]
                op = _copy(
                    self._handle, -1 if qp is None else self._qp(qp), _WRITE, dst._attachment.handle, dst.offset,  # type: ignore
                    src._region_handle, src.offset, nbytes, ns,  # type: ignore
                )  # fmt: skip
            else:
                op = _copy(
                    self._handle, -1 if qp is None else self._qp(qp), _READ, src._attachment.handle, src.offset,  # type: ignore
                    dst._region_handle, dst.offset, nbytes, ns,  # type: ignore
                )  # fmt: skip
        except (AttributeError, TypeError, ValueError):
            dst, src = self._explain(dst, src)
            return self.memcpy(dst, src, qp=qp, timeout=timeout)
        if op:
            self._finish(op, (dst, src), timeout, partial(self._begin, dst, src, qp))
        return None

    def memcpy_async(
        self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None, timeout: float | None = None
    ) -> Transfer:
        """Begins a copy and returns without waiting; as `memcpy` otherwise. Poll, wait for or await what it gives.

        `timeout` is what waiting for it without a timeout takes.
        """
        limit = self.device._timeout_ns if timeout is None else timeout_ns(timeout, 0)
        try:
            if dst.nbytes != src.nbytes:
                raise ValueError
            op = self._begin(dst, src, qp, 0)
        except (AttributeError, TypeError, ValueError):
            dst, src = self._explain(dst, src)
            return self.memcpy_async(dst, src, qp=qp, timeout=timeout)
        return self._transfer(op, (dst, src), limit, partial(self._begin, dst, src, qp))

    def memcpy_many(self, pairs: Iterable[Pair], *, qp: int | None = None, timeout: float | None = None) -> None:
        """Copies many pairs (destination, source), in order, in one call and with few doorbells; blocks until all are
        done.

        Every pair is checked before the first is posted.
        """
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        packed, given = pack(self, pairs)
        if given:
            op = self._begin_many(packed, given, qp, ns)
            if op:
                self._finish(op, (packed, given), timeout, partial(self._begin_many, packed, given, qp))

    def memcpy_many_async(
        self, pairs: Iterable[Pair], *, qp: int | None = None, timeout: float | None = None
    ) -> Transfer:
        """Begins many copies as one transfer, which is done when all of them are."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        packed, given = pack(self, pairs)
        op = self._begin_many(packed, given, qp, 0) if given else _core.OK
        return self._transfer(op, (packed, given), limit, partial(self._begin_many, packed, given, qp))

    def prepare(self, dst: Local | RemoteSpan, src: Local | RemoteSpan, *, qp: int | None = None) -> PreparedCopy:
        """Checks and binds a copy once, to be run many times."""
        return self._prepare([as_pair((dst, src))], qp)

    def prepare_many(self, pairs: Iterable[Pair], *, qp: int | None = None) -> PreparedCopy:
        """Checks and binds many copies once, to be run as one, many times."""
        return self._prepare(pairs, qp)

    # `wait_word` is in csrc/python/quick_channel.c, which comes here with all but a word that is there or comes soon.

    def _wait_word(self, span: Span, value: int, *, timeout: float | None = None) -> None:
        if span.nbytes != 8:
            raise InvalidArgument("wait for a word", repr(span), "a word has 8 bytes: slice the span")
        offset, number = span.offset, value & 0xFFFF_FFFF_FFFF_FFFF
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        try:
            status = _wait_word(self._handle, span._region_handle, offset, number, ns)  # type: ignore[arg-type]
        except TypeError:  # there is no such handle any more
            status = _wait_word(self._live(), span._live(), offset, number, ns)
        if not status:
            if span._packed is None:
                span._pack()  # the next wait need not come here
            return
        limit = timeout_ns(timeout, self.device._timeout_ns)
        if status in (_core.AGAIN, _core.INTERRUPTED):
            handle, region = self._live(), span._live()
            status = _core.until(self.device._live(), lambda ns: _wait_word(handle, region, offset, number, ns), limit)
        if status == _core.OK:
            return
        seen = int.from_bytes(span.view(), "little")
        if status == _core.AGAIN:
            why = f"it is {seen} after {limit / 1e9:g} s"
            raise DeadlineExceeded(f"wait for a word of at least {value}", repr(self), why, status="deadline")
        why = "it must begin at a multiple of 8 and lie in a region of the channel's device"
        why = why if status == _core.INVALID else ""
        raise self._refusal(status, f"wait for a word of at least {value}", why)

    # ---- tensor edges ----

    def send_edge(
        self,
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        dtype: object = None,
        rank: int | None = None,
        flow: str = "credit",
        verify: str | None = None,
        ordering: str | None = None,
        stripes: int = 1,
        qp: int | None = None,
        staging: bool = False,
        timeout: float | None = None,
    ) -> SendEdge:
        """The sending end of a tensor edge that the peer makes under this name (`Device.recv_edge`, which explains the
        words); waits until it does. NameNotFound after that; InvalidArgument when the peer says something else of it.

        `qp` is the QP of its first stripe, None lets the library spread edges. `staging=True` copies every tensor into
        registered memory first, as if it lay outside: for comparison.
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
            staging=staging,
            qp=None if qp is None else self._qp(qp),
        )
        limit, on = timeout_ns(timeout, self.device._timeout_ns), f"{name!r} of {self.peer}"
        device, handle = self.device._live(), self._live()
        opened = _core.edge_open(device, handle, terms, limit, _LOOKUP_GRACE_NS, lambda: self.closed, on)
        edge = SendEdge(self, opened, terms)
        self._edges.add(edge)
        warn_of_trust(edge)
        return edge

    @property
    def ordering(self) -> str:
        """How edges carry their flags unless one is asked for by name, and why so (RDMA-RULES 1 to 6)."""
        return _core.channel_ordering(self._live())

    # ---- memory of the peer ----

    def lookup(self, name: str, *, timeout: float | None = None) -> Remote:
        """The memory that the peer publishes under a name; waits until it does. NameNotFound after that."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        on = f"{name!r} of {self.peer}"
        ask = partial(_core.lookup, self.device._live(), self._live(), name_bytes(name), limit, _LOOKUP_GRACE_NS, on)
        handle = when_free(ask, limit)
        return self.attach(handle, timeout=max(limit, _LOOKUP_GRACE_NS) / 1e9)

    def attach(self, handle: bytes, *, timeout: float | None = None) -> Remote:
        """The memory that a handle names; the handle (`Span.handle` over there) came by the caller's own means."""
        if not isinstance(handle, (bytes, bytearray, memoryview)):
            raise TypeError(f"a handle is bytes, not {type(handle).__name__}")
        limit = timeout_ns(timeout, self.device._timeout_ns)
        attached = _core.remote_attach(self.device._live(), self._live(), bytes(handle), limit, repr(self))
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
        """What ended the channel, or None while it is up."""
        handle = self._handle
        status, why = (_core.CLOSED, "the device was closed") if handle is None else _core.channel_failure(handle)
        return None if status == _core.OK else _core.failure(status, "use the channel", repr(self), why)

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    def queue_of(self, qp: int) -> int:
        """The completion queue that a QP reports to; QPs go to queues round robin."""
        number = self._qp(qp)
        if number >= self.qps:
            raise self._refusal(_core.INVALID, "find a queue", self._qp_why(qp))
        return _core.channel_queue_of(self._live(), number)

    @property
    def stats(self) -> ChannelStats:
        """Counters since the channel was made."""
        refuse_fork("read the statistics", repr(self))
        return _core.channel_stats(self._live())

    def dump(self) -> str:
        """Who hangs? Per QP what was last posted, completed and is expected, as text for people."""
        refuse_fork("dump", repr(self))
        return _core.channel_dump(self._live())

    def close(self) -> None:
        """Tells the peer, ends what is outstanding, and closes the channel's remotes and prepared copies.

        The peer's copies through it fail from here on. Twice is fine; in a forked child it does nothing.
        """
        handle = self._handle
        if handle is not None and not forked():
            self._closed = True
            _core.channel_close(handle)
            for edge in tuple(self._edges):
                edge.close()
            for attachment in tuple(self._attachments):
                attachment.handle = None
            for prepared in tuple(self._prepared):
                prepared.close()
            self._sweep()

    def _close_with_device(self) -> None:
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

    # ---- beginning and ending copies ----

    def _live(self) -> ChannelHandle:
        handle = self._handle
        if handle is None:
            raise _core.failure(_core.CLOSED, "use a channel", repr(self), "its device was closed")
        return handle

    def _qp(self, qp: int) -> int:
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
        """After a copy could not even be asked for: gives the ends as spans, so that it can be asked again, or raises
        why not.
        """
        target, source = as_pair((dst, src))
        self._live()
        if target is dst and source is src:
            raise  # what cffi or a check said stands
        return target, source

    def _begin(self, target: Any, source: Any, qp: int | None, ns: int) -> int:
        number = -1 if qp is None else self._qp(qp)
        if target._direction == _WRITE:
            remote, local, direction = target, source, _WRITE
        else:
            remote, local, direction = source, target, _READ
        return _copy(
            self._handle, number, direction, remote._attachment.handle, remote.offset,  # type: ignore[arg-type]
            local._region_handle, local.offset, local.nbytes, ns,
        )  # fmt: skip

    def _begin_many(self, packed: bytes, given: tuple[Pair, ...], qp: int | None, ns: int) -> int:
        op, bad = _core.channel_copy_many(self._live(), -1 if qp is None else self._qp(qp), packed, len(given), ns)
        if op < 0 and op not in (_core.BUSY, _core.AGAIN, _core.INTERRUPTED):
            raise self._copy_refusal(op, given[bad], f"pair {bad}: ")
        return op

    def _prepare(self, pairs: Iterable[Pair], qp: int | None) -> PreparedCopy:
        packed, given = pack(self, pairs)
        if not given:
            raise InvalidArgument("prepare copies", repr(self), "there are none")
        number = -1 if qp is None else self._qp(qp)
        handle, status, bad = _core.prepared_create(
            self.device._live(), self._live(), number, packed, len(given), self.device._life
        )
        if handle is None:
            raise self._copy_refusal(status, given[bad], f"pair {bad}: " if len(given) > 1 else "")
        few = len(given) <= _FEW
        nbytes = sum(target.nbytes for target, _ in given) if few else None
        prepared = PreparedCopy(self, handle, nbytes, given[0] if len(given) == 1 else (packed, given))
        self._prepared.add(prepared)
        return prepared

    def _finish(self, op: int, keep: tuple[object, ...], timeout: float | None, again: Callable[[int], int]) -> None:
        """Blocks until an operation that goes on has ended, or raises why it could not begin."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        if op < 0:
            op = self._insist(op, keep, limit, again)
            if op == _core.OK:
                return
        handle = self._live()
        status = _core.DEADLINE
        try:
            status = _core.until(self.device._live(), lambda ns: _core.op_wait(handle, op, ns), limit)
        finally:  # also when a signal handler raises: the operation is given up, and its ranges are kept
            error = self._end_op(op, _core.DEADLINE if status == _core.AGAIN else status, keep, limit)
        if error is not None:
            raise error

    def _transfer(self, op: int, keep: tuple[object, ...], limit: int, again: Callable[[int], int]) -> Transfer:
        """A Transfer for an operation that began, or raises why it could not."""
        if op < 0:
            op = self._insist(op, keep, limit, again)
        transfer = Transfer(self, op, keep, limit)
        if op:  # else it is done
            if len(self._pending) >= _PENDING_SWEEP:
                self._sweep()
            self._pending[op] = transfer
        return transfer

    def _insist(self, status: int, keep: tuple[object, ...], limit_ns: int, again: Callable[[int], int]) -> int:
        """Begins a copy that found no free operation, until its deadline. Gives the operation, or OK."""
        device = self.device._live()
        deadline = _core.device_now_ns(device) + limit_ns
        while status in (_core.BUSY, _core.AGAIN, _core.INTERRUPTED) and self.state == "ready":
            if not self._sweep() and _core.device_progress(device) <= 0 and not self.device.limits.virtual_time:
                time.sleep(_NAP_S)
            try:
                status = again(0)
            except TypeError:  # a handle went away meanwhile
                status = _core.CLOSED
            if status >= 0:
                return status
            if _core.device_now_ns(device) > deadline:
                why = f"no operation of the QP came free in {limit_ns / 1e9:g} s: wait for some transfers under way"
                raise DeadlineExceeded(describe(keep), repr(self), why, status="deadline")
        raise self._copy_refusal(status, keep)

    def _end_op(self, op: int, status: int, keep: tuple[object, ...], limit_ns: int) -> RdmaError | None:
        """Releases an operation that ended with `status`, or is given up at its deadline; what went wrong, or None."""
        handle = self._handle
        if handle is None:
            return _core.failure(_core.CLOSED, describe(keep), repr(self), "its device was closed")
        result, why = _core.op_release(handle, op)
        if result == _core.OK:
            return None
        if result == _core.AGAIN:
            self._limbo.append(keep)
            self._settle_limbo()
            if status == _core.DEADLINE:
                why = f"not done after {limit_ns / 1e9:g} s; its local range is in quarantine until it is"
                return DeadlineExceeded(describe(keep), repr(self), why, status="deadline")
            return self._refusal(status, describe(keep))
        return _core.failure(result, describe(keep), repr(self), why)

    def _sweep(self) -> bool:
        """Looks after transfers that ended without anyone waiting. Whether there were any."""
        self._settle_limbo()
        self._lingering.settle()
        ended = [transfer.done() for transfer in tuple(self._pending.values())]
        return any(ended)

    def _settle_limbo(self) -> None:
        handle = self._handle
        if self._limbo and handle is not None and _core.channel_quiet(handle) == _core.OK:
            self._limbo.clear()

    # ---- why not ----

    def _copy_refusal(self, status: int, keep: tuple[object, ...], where: str = "") -> RdmaError:
        return copy_refusal(self, status, keep, where)

    def _refusal(self, status: int, what: str, why: str = "") -> RdmaError:
        handle = self._handle
        if not why and handle is not None and status != _core.FORKED:
            why = _core.channel_failure(handle)[1]
        return _core.failure(status, what, repr(self), why)
