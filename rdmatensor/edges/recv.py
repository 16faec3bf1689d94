"""The receiving end of a tensor edge."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.edges.arrived import Arrived, fill
from rdmatensor.edges.base import Edge
from rdmatensor.edges.payloads import SlotsMemory
from rdmatensor.errors import DeadlineExceeded, InvalidArgument
from rdmatensor.memory.layout import Shape, dtype_of_code
from rdmatensor.memory.tensor import Form, Tensor
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from rdmatensor._core import EdgeHandle, EdgeTerms, Life
    from rdmatensor.edges.payloads import Payloads
    from rdmatensor.memory.region import Region
    from rdmatensor.owners import OwningDevice

__all__ = ["RecvEdge"]

_Out = TypeVar("_Out")
_ready = _core.edge_ready
_SLICE_NS = _core.SLICE_NS
_FORMS_MAX = 256
_Naps = list[Backoff]  # made when the first nap is due: most waits have none
_SLOT_NAPS = (50e-6, 2e-3, 4)  # between checks for a slot that other threads free
_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)


class RecvEdge(Edge):
    """The receiving end of an edge, made by `Device.recv_edge`. A context manager.

    `recv` gives a tensor in the place where it arrived. `release` returns its slot to the sender. A
    receiver that holds every slot and asks for more gets RegionBusy: nothing can arrive before a
    slot is released. Any number of threads may use it.
    """

    __slots__ = ("_eager", "_life", "_limbo", "_memory", "_payloads", "_region", "_slots")

    def __init__(
        self,
        device: OwningDevice,
        handle: EdgeHandle,
        terms: EdgeTerms,
        region: Region | None,
        life: Life,
        payloads: Payloads,
    ) -> None:
        super().__init__(device, handle, terms)
        self._life = life
        self._region = region
        self._payloads = payloads  # the device's
        self._slots = terms.slots
        self._forms: tuple[Form, ...] = ()  # of the slots of a static edge, once the layout is agreed
        self._waiting: deque[Arrived | Tensor] = deque()  # taken from the core and not handed out yet
        self._memory: Region | None = None  # in which the slots lie
        self._eager: dict[tuple[int, int, Shape], Form] = {}  # of tensors that rode in records
        self._pointer = _core.edge_pointer(handle)
        self._dynamic = self._shape is None
        self._limbo: list[object] = []  # memory that a failed READ may still write to

    def ready(self) -> bool:
        """Whether `recv` would not wait: a tensor is there, or the edge has ended. Never blocks."""
        return bool(self._waiting or _ready(self.live()))

    def _recv(
        self,
        taken: list[Any],
        timeout: float | None = None,
        *,
        out: Any = None,
        borrow: bool = False,
        fits: _core.Fits | None = None,
    ) -> None:
        """The next tensor. Blocks until there is one; after `timeout` (seconds, None for the
        device's; 0 looks once) DeadlineExceeded is raised, and nothing is lost.

        A static edge gives the slot itself, without a copy. So does a dynamic one for small
        tensors, which travel in their record; larger ones are READ into memory of the edge's
        region, which belongs to them alone and needs no release. `out` is a tensor or array of the
        same shape and element type to fill instead, which is then returned; there is nothing to
        release. `borrow=True` gives a read-only view of a large tensor in its place at the sender,
        without moving a byte, until it is released (Unsupported unless `limits.maps_remote`).

        Raises CorruptError for a tensor whose checksum does not match; the next one can then be
        received. RegionBusy when every slot is held; PeerLost, PeerClosed and OverrunError when
        nothing more can arrive. InvalidArgument for an `out` that does not fit, and OutOfMemory;
        the tensor then waits for the next call. Source: sections 3 and 4 of the paper.
        """
        # csrc/python/quick_receive.c calls this outside the common case, and then hands out what is
        # in `taken`.
        self._receive(taken, timeout_ns(timeout, self.device.timeout_ns), out, borrow, fits)

    if TYPE_CHECKING:

        @overload
        def recv(
            self,
            timeout: float | None = None,
            *,
            out: None = None,
            borrow: bool = False,
            fits: _core.Fits | None = None,
        ) -> Tensor: ...

        @overload
        def recv(
            self, timeout: float | None = None, *, out: _Out, borrow: bool = False, fits: _core.Fits | None = None
        ) -> _Out: ...

        def recv(self, *_given: Any, **_words: Any) -> Any: ...

    else:
        recv = _core.receiving(Tensor)(_recv)

    @overload
    async def recv_async(self, timeout: float | None = None, *, out: None = None, borrow: bool = False) -> Tensor: ...

    @overload
    async def recv_async(self, timeout: float | None = None, *, out: _Out, borrow: bool = False) -> _Out: ...

    async def recv_async(self, timeout: float | None = None, *, out: Any = None, borrow: bool = False) -> Any:
        """As `recv`, awaited: other tasks run meanwhile."""
        device = self.device
        limit = timeout_ns(timeout, device.timeout_ns)
        deadline = _core.device_now_ns(device.live()) + limit
        while True:
            await device.until(self._stirs, deadline, memory=True)
            try:
                return self.recv(0, out=out, borrow=borrow)
            except DeadlineExceeded:
                if _core.device_now_ns(device.live()) >= deadline:
                    raise self._late(limit) from None

    def _stirs(self) -> bool:
        """Whether a receive would make progress. Never blocks."""
        item = self._next()
        if item is not None:
            return isinstance(item, Tensor) or item.moves(self)
        return self._handle is None or bool(_ready(self._handle))

    # ---- giving back ----

    def release(self, tensor: Tensor) -> None:
        """Returns a tensor's slot to the sender, as `tensor.release()` does. InvalidArgument for a
        tensor that is not held from this edge, as after a release; OverrunError when a sender that
        promised to keep the loop's order wrote into the slot meanwhile (`check_loop`).
        """
        if tensor._edge is not self:
            why = "it was released, or did not come from this edge"
            raise InvalidArgument("release a tensor", repr(tensor), why, status="invalid")
        tensor.release()

    def close(self) -> None:
        """Receives no more, and tells the sender. Twice is fine; in a forked child it does nothing.

        Received tensors stay as they are as long as someone holds them.
        """
        super().close()
        if self._handle is None:
            self._waiting.clear()
            self._forget()

    # ---- slow paths ----

    def _next(self) -> Arrived | Tensor | None:
        """The first item taken earlier that no other thread is working on."""
        if not self._waiting:
            return None
        return next((item for item in tuple(self._waiting) if isinstance(item, Tensor) or not item.busy), None)

    def _take_away(self, item: object) -> None:
        """Removes an item from `_waiting`."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(item)  # type: ignore[arg-type]

    def _go_on(self, taken: list[Any], status: int) -> None:
        """Continues after a C call in which no tensor came within a slice."""
        if self._handle is None:
            raise self._closed_error("receive a tensor")
        if status not in _NOT_YET:
            raise self._refusal(status, "receive a tensor")
        self._receive(taken, self.device.timeout_ns, None, False, None)

    def _receive(
        self, taken: list[Any], limit: int, out: Any, borrow: bool, fits: _core.Fits | None, many: bool = False
    ) -> None:
        """Puts the next tensor into `taken`. No lock is held: an item taken from the core goes into
        `_waiting` at once. Any thread may continue with it from there, and leaves it there until it
        is ready.
        """
        step = partial(self._step, taken, out, borrow, fits, many, [])
        status = step(min(limit, _SLICE_NS))
        if status in _NOT_YET:
            status = _core.until(self.device.live(), step, max(limit - _SLICE_NS, 0), lambda: self._handle is None)
        if status == _core.AGAIN:
            raise self._late(limit)
        if status < 0:
            raise self._refusal(status, "receive a tensor")

    def _step(
        self, taken: list[Any], out: Any, borrow: bool, fits: _core.Fits | None, many: bool, naps: _Naps, ns: int
    ) -> int:
        if self._handle is None:
            raise self._closed_error("receive a tensor")
        item = self._next()
        if item is None:
            item = Arrived()
            status = item._take(self, ns)
            if status == _core.BUSY and self._waiting:  # other threads' READs hold the slots
                if not naps:
                    naps.append(Backoff(*_SLOT_NAPS))
                naps[0].nap(ns / 1e9)
                return _core.AGAIN
            if status:
                return status
        if isinstance(item, Tensor):  # it was handed out and came back
            if fits is not None:
                fits(item._form.dtype, item._form.shape)
            if out is not None:
                fill(self, out, item._form)
        else:
            status = item.ready(self, ns, out, borrow, fits)
            if status:
                return status
        return _core.OK if _core.move(self, item, taken, out, many) else _core.AGAIN

    def _late(self, limit: int) -> DeadlineExceeded:
        seconds = f"{limit / 1e9:g} s"
        why = f"no tensor came in {seconds}"
        if any(isinstance(item, Arrived) and item.form is not None for item in tuple(self._waiting)):
            why = f"its READ was not done in {seconds}, and goes on: ask again"
        return DeadlineExceeded("receive a tensor", repr(self), why, status="deadline")

    def _learn(self) -> tuple[Form, ...]:
        """The forms of the slots, once both ends have agreed on their layout."""
        info, memory, dtype, shape = _core.edge_info(self.live()), self._slots_memory(), self._dtype, self._shape
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
            handle = _core.edge_slots_region(self.live())
            assert handle is not None
            self._memory = SlotsMemory(self.device, handle)
        return self._memory

    def _form_of(self, got: Arrived) -> Form:
        """The form of the tensor in a slot; cached, since the tensors of an edge are much alike."""
        if self._shape is not None:
            return (self._forms or self._learn())[got.sequence % self._slots]
        return self._form_at(got.address, got.code, got.dims, False)

    # ---- called by C for tensors of dynamic edges ----

    def _form_at(self, address: int, code: int, dims: Shape, borrowed: bool) -> Form:
        """The form of a tensor that rode in a record, cached; or of one that is borrowed."""
        if borrowed:
            return Form(address, dtype_of_code(code), dims, region=None, readonly=True)
        key = address, code, dims
        form = self._eager.get(key)
        if form is None:
            memory = self._slots_memory()
            form = Form(address, dtype_of_code(code), dims, region=memory, offset=address - memory.address)
            if len(self._eager) < _FORMS_MAX:
                self._eager[key] = form
        return form

    def _keep_of(self, sequence: int) -> object:
        """An object that keeps the memory of a borrowed tensor mapped."""
        handle = self.live()
        return _core.edge_borrowed(handle, sequence), handle

    def _arrived(self) -> Arrived:
        return Arrived()
