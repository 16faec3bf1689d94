"""The sending end of a tensor edge."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.edges.base import Edge
from rdmatensor.edges.loan import Loan
from rdmatensor.edges.prepared import PreparedSend
from rdmatensor.edges.sending import SendTransfer
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, RdmaError, RegionBusy
from rdmatensor.fork import forked
from rdmatensor.locks import Rank, ordered_lock
from rdmatensor.memory.describe import describe
from rdmatensor.memory.layout import DType, Shape, as_dtype, as_shape, nbytes_of
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdmatensor._core import EdgeHandle, EdgeTensor, EdgeTerms
    from rdmatensor.copies.transfer import Transfer
    from rdmatensor.edges.sending import Backlogs, Lingering
    from rdmatensor.memory.tensor import Form
    from rdmatensor.owners import OwningChannel

__all__ = ["SendEdge"]

_send = _core.send
_wait_sent = _core.edge_wait_sent
_tensor_at = _core.edge_tensor_at
_SLICE_NS = _core.SLICE_NS
_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_TEMPLATES_MAX = 64  # the most shapes that a dynamic edge caches
_LARGE = 1 << 16  # tensors of this size are released as soon as possible
_pack = struct.Struct("=QQQQq").pack  # an rt_edge_sending
_tensor_pointer = _core.edge_tensor_pointer


class SendEdge(Edge):
    """The sending end of an edge, made by `Channel.send_edge`. A context manager.

    `send` takes an `rdmatensor.Tensor`, a NumPy array, a CPU tensor of torch or an object with the
    buffer protocol. A tensor in a region of the edge's device is sent from its place; other memory
    is copied first where the provider needs that, which `stats.copies` counts. Strided tensors
    arrive contiguous. Any number of threads may use it: their tensors follow one another.
    """

    __slots__ = (
        "_backlogs",
        "_lent",
        "_lingering",
        "_lock",
        "_nbytes",
        "_places",
        "_slots",
        "_templates",
        "_terms",
        "channel",
        "eager_size",
    )

    def __init__(
        self, channel: OwningChannel, handle: EdgeHandle, terms: EdgeTerms, backlogs: Backlogs, lingering: Lingering
    ) -> None:
        super().__init__(channel.device, handle, terms)
        self.channel = channel
        self._terms = terms
        self._backlogs = backlogs  # the device's
        self._lingering = lingering  # the channel's
        self._nbytes = -1
        if self._shape is not None and self._dtype is not None:
            self._nbytes = nbytes_of(self._shape, self._dtype)
        self._lock = ordered_lock(Rank.EDGE)  # guards the backlog and the release of kept tensors
        self._kept: deque[tuple[int, object]] = deque()  # sent, and still needed by the receiver or the provider
        self._backlog: deque[SendTransfer] = deque()  # begun by send_async and not all done
        info = _core.edge_info(handle)
        self._slots = info.slots
        self.eager_size: int = info.eager_size
        """The largest tensor, in bytes, that is copied into the record of a dynamic edge; 0 for a
        static edge.
        """
        self._templates: dict[tuple[int, Shape, Shape | None], tuple[EdgeTensor, int, int]] = {}  # see _template
        self._pointer = _core.edge_pointer(handle)
        self._places: dict[tuple[int, Shape], dict[int, tuple[Form, object]]] = {}  # of loans, by type
        self._lent: object = None
        """An object that keeps the receiver's slots mapped, for views of loans."""

    def send(self, tensor: Any, timeout: float | None = None) -> None:
        """Sends a tensor, which must have the edge's shape and element type where the edge has
        them. Blocks while the receiver has not released enough slots (DeadlineExceeded after
        `timeout`, and nothing was sent), and until the bytes are on their way.

        A static tensor may be changed when this returns. A dynamic one must not change until the
        receiver has it or it is copied: `drain()` waits for that. The edge keeps it alive.
        `timeout` is in seconds, None takes the device's; 0 tries once.

        Raises InvalidArgument for a tensor that does not fit the edge, before anything is sent;
        PeerLost and PeerClosed when the receiver is gone. Source: sections 3 and 4 of the paper.
        """
        address, dtype, shape, strides, owner = describe(tensor)
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        if dtype is self._dtype and shape == self._shape and strides is None and not self._backlog:
            result = _send(self, owner, 0, address, self._nbytes, ns)
            if result:
                self._finish(result, partial(_send, self, owner, 0, address, self._nbytes), timeout)
            return
        template, pointer, nbytes = self._template(dtype, shape, strides)
        if self._backlog:
            self._finish_sending(self._backlog[-1], timeout_ns(timeout, self.device.timeout_ns))
        result = _send(self, owner, pointer, address, 0, ns)
        if result > 0 and self._nbytes < 0:
            self._sent(result, nbytes)
        elif result:
            self._finish(result, partial(_send, self, (owner, template), pointer, address, 0), timeout)

    def send_async(self, tensor: Any, timeout: float | None = None) -> Transfer:
        """Begins to send a tensor and returns without waiting, even for the receiver. Poll, wait
        for or await the Transfer; the tensor must not change until it is done.

        A tensor that finds no credit is begun by a thread of the device once the receiver grants
        some, in the order of the calls; over a simulated device, by the calls that check the
        Transfer.
        """
        address, dtype, shape, strides, owner = describe(tensor)
        self.live()
        if self._nbytes >= 0 and strides is None and self._fits(dtype, shape):
            return self._begin_async(partial(_send, self, owner, 0, address, self._nbytes), timeout)
        made, _ = self._struct(address, dtype, shape, strides)
        return self._begin_async(partial(_send, self, (owner, made), _tensor_pointer(made), 0, 0), timeout)

    def prepare(self, tensor: Any) -> PreparedSend:
        """Checks a tensor once, to be sent many times: call the PreparedSend. The tensor's memory
        must stay in its place.
        """
        address, dtype, shape, strides, owner = describe(tensor)
        self.live()
        if self._nbytes >= 0 and strides is None and self._fits(dtype, shape):
            packed = _pack(self._pointer, 0, address, self._nbytes, 0)
            return PreparedSend(self, owner, (0, address, self._nbytes), packed, self._nbytes, address)
        made, nbytes = self._struct(address, dtype, shape, strides)
        pointer = _tensor_pointer(made)
        return PreparedSend(self, (owner, made), (pointer, 0, 0), _pack(self._pointer, pointer, 0, 0, 0), nbytes)

    def loan(
        self, shape: int | Sequence[int] | None = None, dtype: object = None, *, timeout: float | None = None
    ) -> Loan:
        """Lends the place of the next tensor, to compute it there instead of sending it from
        elsewhere: `with edge.loan() as slot:` gives the place as a `Tensor`, whose bytes are
        undefined until they are written, and the end of the block sends it. On a dynamic edge
        `shape` and `dtype` say which tensor it will be; float32 unless they or the edge say
        otherwise.

        Where the provider maps the receiver's memory, the place is the receiver's slot itself, and
        no byte is copied (`stats.lent_in_place`). Elsewhere, and where the receiver gave a region
        for the slots, it is registered memory of the sender's, which goes by one WRITE, or is READ
        by the receiver (`stats.lent` counts both). `timeout`, in seconds, holds for the wait for a
        free slot and again for the send.

        An exception in the block, or `cancel()`, gives the loan back: nothing was sent, and the
        slot is lent again next. The end of the block raises what `send` raises. One loan at a time is
        open: a send or loan of another thread waits for its end, one of the same thread raises
        RegionBusy.

        After the block the `Tensor` raises ClosedError, and arrays that its `numpy()` gave are
        read-only. Other views of the slot (slices of such arrays, memoryviews, tensors of torch)
        stay writable, and would change what the receiver reads: drop them. A child made by fork
        must not touch the slot.

        >>> import numpy as np
        >>> import rdmatensor as rt
        >>> receiver, sender = rt.Device("shm://"), rt.Device("shm://")
        >>> listener = receiver.listen("127.0.0.1:0")
        >>> inbox = receiver.recv_edge("sums", shape=(3,), dtype="float64")
        >>> edge = sender.connect(listener.address).send_edge("sums", shape=(3,), dtype="float64")
        >>> with edge.loan() as slot:
        ...     _ = np.add([1, 2, 3], 10, out=slot.numpy())
        >>> inbox.recv().numpy()
        array([11., 12., 13.])
        >>> sender.close()
        >>> receiver.close()
        """
        kind, sizes = self._loan_type(shape, dtype)
        made = None if self._shape is not None else self._struct(0, kind, sizes, None)[0]
        key = kind.code, sizes
        places = self._places.get(key, {})
        if len(self._places) < _TEMPLATES_MAX:
            places = self._places.setdefault(key, places)
        return Loan(self, kind, sizes, made, places, timeout)

    def _loan_type(self, shape: int | Sequence[int] | None, dtype: object) -> tuple[DType, Shape]:
        """The element type and shape of a loan, checked."""
        if self._shape is not None and shape is None and dtype is None:
            assert self._dtype is not None
            return self._dtype, self._shape
        kind = as_dtype(dtype) if dtype is not None else self._dtype or as_dtype("float32")
        if shape is None and self._shape is None:
            why = "the edge is dynamic: say which tensor it will be, as in edge.loan((2, 3), 'float32')"
            raise InvalidArgument("lend a slot", repr(self), why)
        sizes = self._shape if shape is None else as_shape(shape, kind)
        assert sizes is not None
        self._check(kind, sizes)
        return kind, sizes

    def _keep_of_loan(self) -> object:
        """An object that keeps the memory of the loan that is open."""
        handle = self.live()
        region = _core.edge_loan_region(handle)
        if region is not None:
            return region
        lent = self._lent
        if lent is None:
            lent = self._lent = _core.edge_lent_from(handle) or handle
        return lent

    def _refuse_own_loan(self, what: str) -> None:
        if self._lender == threading.get_ident():
            why = "this thread has a loan of it: end its block first, or cancel the loan"
            raise RegionBusy(what, repr(self), why, status="busy")

    def _finish_backlog(self, limit_ns: int) -> None:
        if self._backlog:
            self._finish_sending(self._backlog[-1], limit_ns)

    def drain(self, timeout: float | None = None) -> None:
        """Blocks until no tensor that was sent is needed any more: it was written or copied or, on
        a dynamic edge whose receiver READs it in place, released by the receiver. DeadlineExceeded
        otherwise; nothing is lost, wait again.
        """
        limit = timeout_ns(timeout, self.device.timeout_ns)
        while self._backlog:
            self._finish_sending(self._backlog[-1], limit)
        newest = self._sequence_now()
        for sequence in (*(sequence for sequence, _ in tuple(self._kept)), newest):
            wait = partial(_wait_sent, self.live(), sequence)
            self._await_status(wait, limit, "drain an edge", "not everything was taken")
        self._sweep()

    def flush(self, timeout: float | None = None) -> None:
        """Blocks until the receiver has released every tensor sent; with flow="loop", until all are
        written.
        """
        limit = timeout_ns(timeout, self.device.timeout_ns)
        self.drain(timeout)
        handle, sequence = self.live(), self._sequence_now()
        wait = partial(_core.edge_wait_released, handle, sequence)
        self._await_status(wait, limit, "flush an edge", "the receiver has not released everything")

    def close(self) -> None:
        """Sends no more, and tells the receiver, which still gets the tensors that were sent. Twice
        is fine; in a forked child it does nothing.

        Tensors that the receiver of a dynamic edge has not taken yet are kept alive until it has.
        """
        if forked():
            return
        handle = self._handle
        super().close()
        if self._handle is None:
            self._lent = None
        with self._lock:
            for sending in tuple(self._backlog):
                if sending._sequence == 0:
                    sending._end(self._closed_error("send a tensor"))
        if handle is not None and self._kept:
            self._sweep(handle)
            if self._kept:
                self._lingering.add(handle, self._kept)

    # ---- beginning ----

    def _fits(self, dtype: DType, shape: Shape) -> bool:
        return dtype is self._dtype and shape == self._shape

    def _struct(self, address: int, dtype: DType, shape: Shape, strides: Shape | None) -> tuple[EdgeTensor, int]:
        """The tensor as C takes it, and its bytes; checked."""
        template, _, nbytes = self._template(dtype, shape, strides)
        return _tensor_at(template, address), nbytes

    def _template(self, dtype: DType, shape: Shape, strides: Shape | None) -> tuple[EdgeTensor, int, int]:
        """A tensor of this form at any address as C takes it, the address of this description, and
        the tensor's bytes; checked, unless one of the same form was checked before.
        """
        known = self._templates.get((dtype.code, shape, strides))
        if known is None:
            self._check(dtype, shape)
            sizes = as_shape(shape, dtype)
            made = _core.edge_tensor(0, dtype.code, sizes, strides)
            known = made, _tensor_pointer(made), nbytes_of(sizes, dtype)
            if len(self._templates) < _TEMPLATES_MAX:
                self._templates[dtype.code, tuple(shape), strides] = known
        return known

    def _check(self, dtype: DType, shape: Shape) -> None:
        what = f"send a {dtype} tensor of shape {tuple(shape)}"
        if self._dtype is not None and dtype is not self._dtype:
            raise InvalidArgument(what, repr(self), f"its element type is {self._dtype}: convert the tensor")
        if self._shape is not None and shape != self._shape:
            raise InvalidArgument(what, repr(self), f"its shape is {self._shape}: send a tensor of that shape")

    def _start(self, begin: Callable[[int], int], timeout: float | None) -> int:
        """Begins to send, after waiting for the backlog."""
        if self._backlog:
            self._finish_sending(self._backlog[-1], timeout_ns(timeout, self.device.timeout_ns))
        self.live()
        return begin(self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS))

    # ---- continuing ----

    def _finish(self, result: int, begin: Callable[[int], int], timeout: float | None) -> None:
        """Waits until a tensor is on its way and, on a static edge, written; or raises the reason
        it is not.
        """
        limit = timeout_ns(timeout, self.device.timeout_ns)
        if result in _NOT_YET:
            result = self._insist(begin, max(limit - _SLICE_NS, 0))
        if result < 0:
            raise self._send_refusal(result)
        if result == 0:
            return
        if self._nbytes >= 0:
            wait = partial(_wait_sent, self.live(), result)
            why = "it is under way: its memory is kept until the provider is done with it"
            self._await_status(wait, limit, "send a tensor", why)
        self._sweep()

    def _insist(self, begin: Callable[[int], int], limit_ns: int) -> int:
        device = self.device.live()
        self._refuse_own_loan("send a tensor")
        status = _core.until(device, begin, limit_ns, lambda: self._handle is None)
        if status == _core.AGAIN:
            raise self._not_begun(limit_ns + _SLICE_NS)
        return status

    def _not_begun(self, limit_ns: int) -> DeadlineExceeded:
        """The error for a tensor that could not be begun for so long."""
        handle = self._handle
        why = "it was closed meanwhile" if handle is None else _core.edge_obstacle(handle)
        why = f"nothing was sent in {limit_ns / 1e9:g} s: {why}"
        return DeadlineExceeded("send a tensor", repr(self), why, status="deadline")

    def _await_status(self, wait: Callable[[int], int], limit_ns: int, what: str, why: str) -> None:
        status = wait(0)
        if status in _NOT_YET:
            status = _core.until(self.device.live(), wait, limit_ns)
        if status == _core.AGAIN:
            raise DeadlineExceeded(what, repr(self), f"{why} after {limit_ns / 1e9:g} s", status="deadline")
        if status < 0:
            raise self._refusal(status, what)

    def _send_refusal(self, status: int) -> RdmaError:
        return self._refusal(status, "send a tensor")

    def _sent(self, sequence: int, nbytes: int) -> None:
        """Notes that a dynamic tensor was posted. It is kept until the receiver has it; those
        received are released.
        """
        if nbytes >= _LARGE:
            self._sweep()
            return
        with contextlib.suppress(IndexError):  # another thread swept them
            if self._kept[0][0] <= sequence - self._slots:  # it was released, else this send had no slot
                self._sweep()

    def _sequence_now(self) -> int:
        return _core.edge_stats(self.live())["sequence"]

    def _sweep(self, handle: EdgeHandle | None = None) -> None:
        """Releases tensors that are needed no more; the code that their end runs is called without
        a lock.
        """
        handle = handle or self._handle
        ended: list[object] = []
        with self._lock:
            kept = self._kept
            while kept and handle is not None and _wait_sent(handle, kept[0][0], 0) not in _NOT_YET:
                ended.append(kept.popleft())
        ended.clear()

    # ---- asynchronous sends ----

    def _begin_async(self, begin: Callable[..., int], timeout: float | None) -> SendTransfer:
        self.live()
        sending = SendTransfer(self, begin, timeout_ns(timeout, self.device.timeout_ns))
        with self._lock:
            self._backlog.append(sending)
            self._advance(sending)
        if sending._sequence == 0 and not self.device.limits.virtual_time:  # there only the caller moves time
            self._backlogs.add(self)
        return sending

    def _has_waiting(self) -> bool:
        """Whether some send of the backlog has not begun."""
        return any(sending._sequence == 0 for sending in tuple(self._backlog))

    def _drive(self, ns: int) -> bool:
        """Waits for credit for up to `ns` and advances the backlog. Returns whether a waiting send
        has begun or ended.
        """
        before = self._next_waiting()
        if before is None:
            return True
        with self._lock:
            handle = self._handle
            released = 0 if handle is None else _core.edge_stats(handle)["released"]
        try:
            if handle is not None:
                _core.edge_wait_released(handle, released + 1, ns)
            self._advance(before)
        except RdmaError as error:  # the device is closed
            before._end(error)
        return self._next_waiting() is not before

    def _next_waiting(self) -> SendTransfer | None:
        return next((sending for sending in tuple(self._backlog) if sending._sequence == 0), None)

    def _advance(self, asked: SendTransfer) -> None:
        """Advances the backlog without waiting."""
        with self._lock:
            handle = self._handle
            for sending in tuple(self._backlog):
                if sending._sequence == 0:
                    status = _core.CLOSED if handle is None else sending._begin(0, sending)
                    if status in _NOT_YET:
                        if _core.device_now_ns(self.device.live()) < sending._deadline:
                            break
                        sending._end(self._not_begun(sending._limit_ns))
                    elif status < 0:
                        sending._end(self._send_refusal(status))
                if sending._sequence > 0:
                    status = _core.OK if handle is None else _wait_sent(handle, sending._sequence, 0)
                    if status not in _NOT_YET:
                        sending._end(None if status == _core.OK else self._send_refusal(status))
        self._trim()
        self._sweep()

    def _trim(self) -> None:
        """Removes ended sends from the backlog, including those that an interrupted call left."""
        ended: list[SendTransfer] = []  # their tensors are released without the lock
        with self._lock:
            while self._backlog and self._backlog[0]._sequence < 0:
                ended.append(self._backlog.popleft())
        for sending in ended:
            sending._let_go()

    def _finish_sending(self, sending: SendTransfer, limit_ns: int) -> None:
        """Blocks until a send has ended or the time is over."""

        def step(ns: int) -> int:
            if sending.done():
                return _core.OK
            handle = self._handle
            if handle is None:
                return _core.CLOSED
            first = self._backlog[0] if self._backlog else sending
            if first._sequence > 0:
                _wait_sent(handle, first._sequence, ns)
            else:
                with self._lock:
                    released = _core.edge_stats(handle)["released"]
                _core.edge_wait_released(handle, released + 1, ns)
            return _core.OK if sending.done() else _core.AGAIN

        status = _core.until(self.device.live(), step, limit_ns)
        self._trim()
        if status == _core.AGAIN and sending._sequence >= 0:
            why = f"not done after {limit_ns / 1e9:g} s; wait again, or leave it to the edge"
            raise DeadlineExceeded("send a tensor", repr(self), why, status="deadline")
