"""The receiving end of a tensor edge."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.arrived import Arrived, fill
from rdmatensor.edge import Edge
from rdmatensor.edge_memory import SlotsMemory
from rdmatensor.errors import CorruptError, DeadlineExceeded, InvalidArgument, RdmaError
from rdmatensor.layout import Shape, dtype_of_code
from rdmatensor.tensor import Form, Tensor
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import EdgeHandle, EdgeTerms
    from rdmatensor.device import Device
    from rdmatensor.life import Life
    from rdmatensor.region import Region

__all__ = ["RecvEdge"]

_receive_static = _core.edge_receive_static
_release = _core.edge_release
_ready = _core.edge_ready
_SLICE_NS = _core.SLICE_NS
_FORMS_MAX = 256
_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)


class RecvEdge(Edge):
    """The receiving end of an edge, made by `Device.recv_edge`. A context manager.

    `recv` gives a tensor that lies where it arrived. Its slot is the sender's again after `release`. A receiver that
    holds every slot and asks for more gets RegionBusy: nothing can come before something is released. Any number of
    threads may use it.
    """

    __slots__ = ("_eager", "_life", "_limbo", "_memory", "_region", "_slots")

    def __init__(self, device: Device, handle: EdgeHandle, terms: EdgeTerms, region: Region | None, life: Life) -> None:
        super().__init__(device, handle, terms)
        self._life = life
        self._region = region
        self._slots = terms.slots
        self._forms: tuple[Form, ...] = ()  # of the slots of a static edge, once the layout is agreed
        self._waiting: deque[Arrived | Tensor] = deque()  # taken from the core, and not handed out yet
        self._memory: Region | None = None  # in which the slots lie
        self._eager: dict[tuple[int, int, Shape], Form] = {}  # of tensors that rode in records
        self._pointer = _core.edge_pointer(handle)
        self._limbo: list[object] = []  # what a READ that failed may still write to

    def ready(self) -> bool:
        """Whether a tensor is there, or the end: `recv` would not wait. Never blocks."""
        return bool(self._waiting or _ready(self._live()))

    @_core.receiving(Tensor)
    def recv(self, timeout: float | None = None, *, out: Any = None, borrow: bool = False) -> Any:
        """The next tensor. Blocks until there is one; DeadlineExceeded at the end of `timeout` (seconds, None for the
        device's; 0 looks once), and nothing is lost.

        A static edge gives the slot itself: no copy is made. So does a dynamic one for small tensors, which ride in
        their record; larger ones are READ into memory of the edge's region, which is theirs alone and needs no
        release. `out` is a tensor or array of the same shape and element type to be filled instead, which is then
        returned; nothing is to be released. `borrow=True` gives a read-only view of a large tensor where it lies at
        the sender, without moving a byte, until it is released (Unsupported unless `limits.maps_remote`).

        Raises CorruptError for a tensor that does not fit its checksum, after which the next can be received;
        RegionBusy when every slot is held; PeerLost, PeerClosed and OverrunError when nothing more can come.
        InvalidArgument for an `out` that does not fit, and OutOfMemory; then the tensor waits for the next call.
        Source: sections 3 and 4 of the paper.
        """
        ns = self._slice_ns if timeout is None else min(timeout_ns(timeout, 0), _SLICE_NS)
        if self._shape is None or out is not None or self._waiting:
            return self._receive(timeout, ns, out, borrow)
        handle = self._handle
        try:
            sequence = _receive_static(handle, ns)  # type: ignore[arg-type]
        except TypeError:
            raise self._closed_error("receive a tensor") from None
        if sequence < 0:
            sequence = self._insist(partial(_receive_static, handle), sequence, timeout)  # type: ignore[arg-type]
        forms = self._forms or self._learn()
        return Tensor(forms[sequence % self._slots], handle, self, sequence)

    async def recv_async(self, timeout: float | None = None, *, out: Any = None, borrow: bool = False) -> Any:
        """As `recv`, awaited: other tasks run meanwhile."""
        from rdmatensor import aio

        device = self.device
        deadline = _core.device_now_ns(device._live()) + timeout_ns(timeout, device._timeout_ns)
        while True:
            await aio.until(device, self._stirs, deadline, memory=True)
            try:
                return self.recv(0, out=out, borrow=borrow)
            except DeadlineExceeded:
                if _core.device_now_ns(device._live()) >= deadline:
                    raise

    def _stirs(self) -> bool:
        """Whether a receive would get on. Never blocks."""
        if self._waiting:
            first = self._waiting[0]
            return isinstance(first, Tensor) or first.moves()
        return self._handle is None or self.ready()

    # ---- giving back ----

    def release(self, tensor: Tensor) -> None:
        """Gives a tensor's slot back to the sender; `tensor.release()` does the same. InvalidArgument for a tensor that
        is not held from this edge, as after a release; OverrunError when a sender that promised to keep the loop's
        order wrote into it meanwhile (`check_loop`).
        """
        if tensor._edge is not self:
            why = "it was released, or did not come from this edge"
            raise InvalidArgument("release a tensor", repr(tensor), why, status="invalid")
        self._release(tensor)

    def _release(self, tensor: Tensor) -> None:
        tensor._edge = None
        sequence = tensor._ticket
        tensor._ticket = -1
        handle = self._handle
        if handle is not None:
            status = _release(handle, sequence)
            if status:
                raise self._refusal(status, "release a tensor")

    def _forgotten(self, tensor: Tensor) -> None:
        """A tensor went without being released: its slot is free."""
        if self._life.ended:  # in a ring of garbage the edge may end before the tensors in its slots
            return
        with contextlib.suppress(RdmaError):
            self._release(tensor)

    def close(self) -> None:
        """Receives no more, and tells the sender. Twice is fine; in a forked child it does nothing.

        Tensors that were received stay as they are as long as someone holds them.
        """
        super().close()
        if self._handle is None:
            self._waiting.clear()

    def _taken(self, got: _core.Arrival) -> Tensor | Arrived:
        """Of what came in a call for many edges."""
        if self._shape is not None:
            return Tensor((self._forms or self._learn())[got.sequence % self._slots], self._handle, self, got.sequence)
        return Tensor(self._form_of(got), self._handle, self, got.sequence) if got.address else Arrived(self, got)

    def _put_back(self, tensor: Tensor | Arrived) -> None:
        """A tensor that was received, but not handed out after all: the next call gives it."""
        with self._lock:
            self._waiting.appendleft(tensor)

    # ---- the long ways ----

    def _go_on(self, status: int) -> Tensor:
        """After a call of C in which no tensor came within a slice."""
        handle = self._handle
        if handle is None:
            raise self._closed_error("receive a tensor")
        sequence = self._insist(partial(_receive_static, handle), status, None)
        return Tensor(self._forms[sequence % self._slots], handle, self, sequence)

    def _insist(self, step: Callable[[int], int], status: int, timeout: float | None) -> int:
        """Asks again until something came; raises what ends the wait."""
        limit = timeout_ns(timeout, self.device._timeout_ns)
        if status in _NOT_YET:
            status = _core.until(self.device._live(), step, max(limit - _SLICE_NS, 0), lambda: self._handle is None)
        if status == _core.AGAIN:
            why = f"no tensor came in {limit / 1e9:g} s"
            raise DeadlineExceeded("receive a tensor", repr(self), why, status="deadline")
        if status < 0:
            raise self._refusal(status, "receive a tensor")
        return status

    def _learn(self) -> tuple[Form, ...]:
        """The slots, once both ends have agreed on their layout."""
        info, memory, dtype, shape = _core.edge_info(self._live()), self._slots_memory(), self._dtype, self._shape
        assert dtype is not None and shape is not None
        self._slots = info.slots
        self._forms = tuple(
            Form(address, dtype, shape, region=memory, offset=address - memory.address)
            for address in (info.slots_address + slot * info.slot_stride for slot in range(info.slots))
        )
        return self._forms

    def _slots_memory(self) -> Region:
        if self._region is not None and self._shape is not None:
            return self._region
        if self._memory is None:
            handle = _core.edge_slots_region(self._live())
            assert handle is not None
            self._memory = SlotsMemory(self.device, handle)
        return self._memory

    def _receive(self, timeout: float | None, ns: int, out: Any, borrow: bool) -> Any:
        """The way of dynamic edges, of `out`, and of what could not be handed out before."""
        with self._lock:
            if not self._waiting:
                got = _core.edge_receive(self._live(), ns)
                if isinstance(got, int):
                    got = self._come(got, timeout)
                if got.address and out is None:
                    return Tensor(self._form_of(got), self._handle, self, got.sequence)
                self._waiting.append(Arrived(self, got))
            first = self._waiting[0]
            try:
                result = self._fill(out, first) if isinstance(first, Tensor) else first.hand_out(timeout, out, borrow)
            except CorruptError:
                self._waiting.popleft()  # released
                raise
            self._waiting.popleft()
            return result

    def _fill(self, out: Any, tensor: Tensor) -> Any:
        """A tensor that was handed out once, and put back."""
        if out is None:
            return tensor
        fill(self, out, tensor._form)
        tensor.release()
        return out

    def _come(self, status: int, timeout: float | None) -> _core.Arrival:
        """Waits for a tensor that was not there yet."""
        found: list[_core.Arrival] = []

        def step(ns: int) -> int:
            got = _core.edge_receive(self._live(), ns)
            if isinstance(got, int):
                return got
            found.append(got)
            return _core.OK

        self._insist(step, status, timeout)
        return found[0]

    def _form_of(self, got: _core.Arrival) -> Form:
        """What lies in a slot; remembered, since tensors of an edge are much alike."""
        key = got.address, got.dtype, got.shape
        form = self._eager.get(key)
        if form is None:
            memory = self._slots_memory()
            form = Form(
                got.address, dtype_of_code(got.dtype), got.shape, region=memory, offset=got.address - memory.address
            )
            if len(self._eager) < _FORMS_MAX:
                self._eager[key] = form
        return form
