"""The sending end of a tensor edge."""

from __future__ import annotations

import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.describe import describe
from rdmatensor.edge import Edge
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, RdmaError
from rdmatensor.layout import DType, Shape, as_shape, nbytes_of
from rdmatensor.sending import BoundSend, Sending
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import EdgeHandle, EdgeTensor, EdgeTerms
    from rdmatensor.channel import Channel

__all__ = ["SendEdge"]

_send = _core.edge_send
_send_tensor = _core.edge_send_tensor
_wait_sent = _core.edge_wait_sent
_tensor_at = _core.edge_tensor_at
_SLICE_NS = _core.SLICE_NS
_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_TEMPLATES_MAX = 64  # shapes of a dynamic edge that are remembered
_LARGE = 1 << 16  # bytes of tensors that are let go of as soon as it is known that they may
_pack = struct.Struct("=QQQQ").pack


class SendEdge(Edge):
    """The sending end of an edge, made by `Channel.send_edge`. A context manager.

    `send` takes an `rdmatensor.Tensor`, a NumPy array, a CPU tensor of torch or an object with the buffer protocol.
    What lies in a region of the edge's device is sent from where it lies; other memory is copied first where the
    provider needs that, which `stats.copies` counts. Strided tensors arrive contiguous. Any number of threads may use
    it: their tensors follow one another.
    """

    __slots__ = ("_kept", "_nbytes", "_slots", "_templates", "channel", "eager_size")

    def __init__(self, channel: Channel, handle: EdgeHandle, terms: EdgeTerms) -> None:
        super().__init__(channel.device, handle, terms)
        self.channel = channel
        self._nbytes = -1
        if self._shape is not None and self._dtype is not None:
            self._nbytes = nbytes_of(self._shape, self._dtype)
        self._kept: deque[tuple[int, object]] = deque()  # sent, and still needed: by the receiver or the provider
        self._backlog: deque[Sending] = deque()  # begun by send_async, and not all of it done
        info = _core.edge_info(handle)
        self._slots = info.slots
        self.eager_size: int = info.eager_size
        """The most bytes of a tensor that ride in the record of a dynamic edge, and are copied; 0 of a static one."""
        self._templates: dict[tuple[int, Shape, Shape | None], tuple[EdgeTensor, int]] = {}  # and their bytes
        self._pointer = _core.edge_pointer(handle)

    def send(self, tensor: Any, timeout: float | None = None) -> None:
        """Sends a tensor, of the edge's shape and element type where it has them. Blocks while the receiver has not
        released enough (DeadlineExceeded at the end of `timeout`, and nothing was sent), and until the bytes are on
        their way.

        A static tensor may be changed when this returns. A dynamic one stays as it is until the receiver has it:
        `drain()` waits for that; the edge keeps it alive. `timeout` in seconds, None for the device's; 0 tries once.

        Raises InvalidArgument for a tensor that is not the edge's, before anything is sent; PeerLost and PeerClosed
        when the receiver is gone. Source: sections 3 and 4 of the paper.
        """
        address, dtype, shape, strides, owner = describe(tensor)
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        if dtype is self._dtype and shape == self._shape and strides is None and not self._backlog:
            try:
                result = _send(self._handle, address, self._nbytes, ns)  # type: ignore[arg-type]
            except TypeError:
                raise self._closed_error("send a tensor") from None
            if result:
                again = partial(_send, self._live(), address, self._nbytes)
                self._finish(result, again, owner, timeout)
            return
        made, nbytes = self._struct(address, dtype, shape, strides)
        if self._backlog:
            self._finish_sending(self._backlog[-1], timeout_ns(timeout, self.device._timeout_ns))
        result = _send_tensor(self._live(), made, ns)
        if result > 0 and self._nbytes < 0:
            self._sent(result, owner, nbytes)
        elif result:
            self._finish(result, partial(_send_tensor, self._live(), made), (owner, made), timeout)

    def send_async(self, tensor: Any, timeout: float | None = None) -> Sending:
        """Begins to send a tensor and returns without waiting, even for the receiver. Poll, wait for or await what it
        gives; the tensor stays as it is until that is done.

        What finds no room is begun by a thread of the device when the receiver makes some, in the order of the calls;
        over a simulated device, by the calls that look after it.
        """
        begin, owner = self._prepare(*describe(tensor))
        return self._begin_async(begin, owner, timeout)

    def bind(self, tensor: Any) -> BoundSend:
        """Checks a tensor once, to be sent many times: call what this gives. The tensor's memory must stay where it
        is.
        """
        address, dtype, shape, strides, owner = describe(tensor)
        handle = self._live()
        if self._nbytes >= 0 and strides is None and self._fits(dtype, shape):
            packed = _pack(self._pointer, 0, address, self._nbytes)
            return BoundSend(self, _send, (handle, address, self._nbytes), owner, packed, self._nbytes, address)
        made, nbytes = self._struct(address, dtype, shape, strides)
        packed = _pack(self._pointer, _core.edge_tensor_pointer(made), 0, 0)
        return BoundSend(self, _send_tensor, (handle, made), owner, packed, nbytes)

    def drain(self, timeout: float | None = None) -> None:
        """Blocks until nothing that was sent is needed any more: written where the edge is static, received where it
        is dynamic. DeadlineExceeded otherwise; nothing is lost, wait again.
        """
        limit = timeout_ns(timeout, self.device._timeout_ns)
        while self._backlog:
            self._finish_sending(self._backlog[-1], limit)
        sequence = self._sequence_now()
        self._await_status(
            partial(_wait_sent, self._live(), sequence), limit, "drain an edge", "not everything was taken"
        )
        self._sweep()

    def flush(self, timeout: float | None = None) -> None:
        """Blocks until the receiver has released everything that was sent; with flow="loop", until it is written."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        self.drain(timeout)
        handle, sequence = self._live(), self._sequence_now()
        wait = partial(_core.edge_wait_released, handle, sequence)
        self._await_status(wait, limit, "flush an edge", "the receiver has not released everything")

    def close(self) -> None:
        """Sends no more, and tells the receiver, who still gets what was sent. Twice is fine; in a forked child it does
        nothing.

        What the receiver of a dynamic edge has not taken yet is kept alive until it has.
        """
        with self._lock:
            for sending in tuple(self._backlog):
                if sending._sequence == 0:
                    sending._end(self._closed_error("send a tensor"))
            handle = self._handle
            super().close()
            if handle is not None and self._handle is None and self._kept:
                self._sweep(handle)
                if self._kept:
                    self.channel._lingering.add(handle, self._kept)

    # ---- beginning ----

    def _fits(self, dtype: DType, shape: Shape) -> bool:
        return dtype is self._dtype and shape == self._shape

    def _struct(self, address: int, dtype: DType, shape: Shape, strides: Shape | None) -> tuple[EdgeTensor, int]:
        """The tensor as C takes it, and its bytes; checked, unless one like it was before."""
        known = self._templates.get((dtype.code, shape, strides))
        if known is None:
            self._check(dtype, shape)
            sizes = as_shape(shape, dtype)
            known = _core.edge_tensor(address, dtype.code, sizes, strides), nbytes_of(sizes, dtype)
            if len(self._templates) < _TEMPLATES_MAX:
                self._templates[dtype.code, tuple(shape), strides] = known
        return _tensor_at(known[0], address), known[1]

    def _check(self, dtype: DType, shape: Shape) -> None:
        what = f"send a {dtype} tensor of shape {tuple(shape)}"
        if self._dtype is not None and dtype is not self._dtype:
            raise InvalidArgument(what, repr(self), f"its element type is {self._dtype}: convert the tensor")
        if self._shape is not None and shape != self._shape:
            raise InvalidArgument(what, repr(self), f"its shape is {self._shape}: send a tensor of that shape")

    def _prepare(
        self, address: int, dtype: DType, shape: Shape, strides: Shape | None, owner: object
    ) -> tuple[Callable[[int], int], object]:
        """What begins to send it, given nanoseconds; and what must live until it was sent."""
        handle = self._live()
        if self._nbytes >= 0 and strides is None and self._fits(dtype, shape):
            return partial(_send, handle, address, self._nbytes), owner
        made, _ = self._struct(address, dtype, shape, strides)
        return partial(_send_tensor, handle, made), (owner, made)

    def _start(self, begin: Callable[[int], int], timeout: float | None) -> int:
        """Begins to send behind what is in the backlog."""
        if self._backlog:
            self._finish_sending(self._backlog[-1], timeout_ns(timeout, self.device._timeout_ns))
        self._live()
        return begin(self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS))

    # ---- going on ----

    def _finish(self, result: int, begin: Callable[[int], int], owner: object, timeout: float | None) -> None:
        """Waits until a tensor is on its way, and of a static edge until it was written; or raises why not."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        if result in _NOT_YET:
            result = self._insist(begin, max(limit - _SLICE_NS, 0))
        if result < 0:
            raise self._send_refusal(result)
        if result == 0:
            return
        self._keep(result, owner)
        if self._nbytes >= 0:
            wait = partial(_wait_sent, self._live(), result)
            why = "it is under way: its memory is kept until the provider is done with it"
            self._await_status(wait, limit, "send a tensor", why)
        self._sweep()

    def _insist(self, begin: Callable[[int], int], limit_ns: int) -> int:
        device = self.device._live()
        status = _core.until(device, begin, limit_ns, lambda: self._handle is None)
        if status == _core.AGAIN:
            seconds = (limit_ns + _SLICE_NS) / 1e9
            why = f"{self._obstacle(seconds)}; nothing was sent"
            raise DeadlineExceeded("send a tensor", repr(self), why, status="deadline")
        return status

    def _obstacle(self, seconds: float) -> str:
        """Why nothing could be sent for so long."""
        if self._handle is not None:
            stats = _core.edge_stats(self._handle)
            if stats["sequence"] - stats["released"] < self._slots:
                return (
                    f"no operation of the channel was free in {seconds:g} s: wait for some of what is under way, or "
                    "open the device with more qps_per_peer"
                )
        return f"no credit in {seconds:g} s: the receiver has not released enough"

    def _await_status(self, wait: Callable[[int], int], limit_ns: int, what: str, why: str) -> None:
        status = wait(0)
        if status in _NOT_YET:
            status = _core.until(self.device._live(), wait, limit_ns)
        if status == _core.AGAIN:
            raise DeadlineExceeded(what, repr(self), f"{why} after {limit_ns / 1e9:g} s", status="deadline")
        if status < 0:
            raise self._refusal(status, what)

    def _send_refusal(self, status: int) -> RdmaError:
        return self._refusal(status, "send a tensor")

    def _sent(self, sequence: int, owner: object, nbytes: int) -> None:
        """A dynamic tensor is on its way: it is kept until the receiver has it."""
        kept = self._kept
        kept.append((sequence, owner))
        if nbytes >= _LARGE:
            self._sweep()
        elif kept[0][0] <= sequence - self._slots:  # was released, or this one could not have been sent
            kept.popleft()

    def _sequence_now(self) -> int:
        return _core.edge_stats(self._live())["sequence"]

    def _keep(self, sequence: int, owner: object) -> None:
        self._kept.append((sequence, owner))

    def _sweep(self, handle: EdgeHandle | None = None) -> None:
        """Lets go of what is needed no more."""
        handle = handle or self._handle
        with self._lock:
            kept = self._kept
            while kept and handle is not None and _wait_sent(handle, kept[0][0], 0) not in _NOT_YET:
                kept.popleft()

    # ---- without waiting ----

    def _begin_async(self, begin: Callable[[int], int], owner: object, timeout: float | None) -> Sending:
        self._live()
        sending = Sending(self, begin, owner, timeout_ns(timeout, self.device._timeout_ns))
        with self._lock:
            self._backlog.append(sending)
            self._advance(sending)
        if sending._sequence == 0 and not self.device.limits.virtual_time:  # there nobody but the caller moves time
            self.device._backlogs.add(self)
        return sending

    def _has_waiting(self) -> bool:
        """Whether something of the backlog has not begun."""
        return any(sending._sequence == 0 for sending in tuple(self._backlog))

    def _drive(self, ns: int) -> bool:
        """Waits for credit for a while and moves the backlog on. Whether something has moved."""
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

    def _next_waiting(self) -> Sending | None:
        return next((sending for sending in tuple(self._backlog) if sending._sequence == 0), None)

    def _advance(self, asked: Sending) -> None:
        """Moves the backlog on, at least up to the one that is asked for, without waiting."""
        with self._lock:
            handle = self._handle
            for sending in tuple(self._backlog):
                if sending._sequence == 0:
                    status = _core.CLOSED if handle is None else sending._begin(0)
                    if status in _NOT_YET:
                        if _core.device_now_ns(self.device._live()) < sending._deadline:
                            break
                        why = f"{self._obstacle(sending._limit_ns / 1e9)}; nothing was sent"
                        sending._end(DeadlineExceeded("send a tensor", repr(self), why, status="deadline"))
                    elif status <= 0:
                        sending._end(None if status == 0 else self._send_refusal(status))
                    else:
                        sending._sequence = status
                        self._keep(status, sending._owner)
                if sending._sequence > 0:
                    status = _core.OK if handle is None else _wait_sent(handle, sending._sequence, 0)
                    if status not in _NOT_YET:
                        sending._end(None if status == _core.OK else self._send_refusal(status))
            while self._backlog and self._backlog[0]._sequence < 0:
                self._backlog.popleft()
        self._sweep()

    def _finish_sending(self, sending: Sending, limit_ns: int) -> None:
        """Blocks until a sending ended or time is up."""

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

        status = _core.until(self.device._live(), step, limit_ns)
        if status == _core.AGAIN and sending._sequence >= 0:
            why = f"not done after {limit_ns / 1e9:g} s; wait again, or leave it to the edge"
            raise DeadlineExceeded("send a tensor", repr(self), why, status="deadline")
