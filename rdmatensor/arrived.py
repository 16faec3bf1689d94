"""A tensor that has arrived and is not handed out yet: in its slot, or still at the sender."""

from __future__ import annotations

from ctypes import memmove
from functools import partial
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.describe import describe
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, Unsupported
from rdmatensor.layout import DType, Shape, dtype_of_code
from rdmatensor.tensor import Form, Tensor
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from rdmatensor._core import Arrival, EdgeHandle, RegionHandle
    from rdmatensor.recv_edge import RecvEdge

__all__ = ["Arrived", "check_fits", "fetch_together", "fill"]

_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_NOT_BEGUN = (_core.CLOSED, _core.BOUNDS, _core.INVALID, _core.UNSUPPORTED)


class Arrived:
    """What the core said of a tensor, and where it goes. Guarded by its edge's lock.

    Whatever fails before the tensor is handed out leaves it as it is, for the next call.
    """

    __slots__ = ("_dtype", "_edge", "_offset", "_region", "_result", "_shape", "_status", "_what")

    def __init__(self, edge: RecvEdge, what: Arrival) -> None:
        self._edge = edge
        self._what = what
        self._dtype = dtype_of_code(what.dtype)
        self._shape = what.shape
        self._result: Any = None  # where a READ goes that has begun
        self._region: RegionHandle | None = None
        self._offset = 0
        self._status = _core.AGAIN  # how the READ ended, once it has

    def hand_out(self, timeout: float | None, out: Any, borrow: bool) -> Any:
        """The tensor as the caller wants it. Blocks while it is READ."""
        if out is not None:
            check_fits(self._edge, out, self._dtype, self._shape)
        if self._what.address:
            return self._in_slot() if out is None else self._out_of_slot(out)
        if borrow and self._result is None:
            if out is not None:
                raise InvalidArgument("borrow a tensor", repr(self._edge), "what is borrowed is not put into out")
            return self._borrowed()
        if self._result is None:
            self._choose(out)
        self._read(timeout)
        result = self._result
        if out is None or out is result:
            return result
        fill(self._edge, out, Form(describe(result)[0], self._dtype, self._shape, region=None))
        return out

    def begin(self) -> tuple[int, RegionHandle | None, int, int]:
        """Takes memory for it; the READ that brings it there, for one call with others."""
        self._choose(None)
        return self._edge._pointer, self._region, self._offset, self._what.sequence

    def ended(self, status: int) -> None:
        """How that READ ended; with AGAIN it goes on, and `hand_out` asks again."""
        self._status = status

    def moves(self) -> bool:
        """Whether handing it out would not have to wait. Moves a READ on; never blocks."""
        if self._result is None:
            return True
        handle = self._edge._handle
        return handle is None or self._fetch(handle, 0) not in _NOT_YET

    # ---- in the slot ----

    def _in_slot(self) -> Tensor:
        edge, what = self._edge, self._what
        return Tensor(edge._form_of(what), edge._live(), edge, what.sequence)

    def _out_of_slot(self, out: Any) -> Any:
        edge, what = self._edge, self._what
        fill(edge, out, Form(what.address, self._dtype, self._shape, region=None))
        status = _core.edge_release(edge._live(), what.sequence)
        if status:
            raise edge._refusal(status, "release a tensor")
        return out

    # ---- at the sender ----

    def _borrowed(self) -> Tensor:
        edge, handle, sequence = self._edge, self._edge._live(), self._what.sequence
        if not edge.device.limits.maps_remote:
            why = "the device cannot map the peer's memory (limits.maps_remote): receive it without borrow"
            raise Unsupported("borrow a tensor", repr(edge), why)
        address = _core.edge_borrow(handle, sequence)
        if address < 0:
            raise edge._refusal(address, "borrow a tensor")
        form = Form(address, self._dtype, self._shape, region=None, readonly=True)
        return Tensor(form, (_core.edge_borrowed(handle, sequence), handle), edge, sequence)

    def _choose(self, out: Any) -> None:
        """Where the READ goes: into `out` where it can, else into memory of the edge's region."""
        device = self._edge.device
        if out is not None:
            address = describe(out)[0]
            for region in (out._form.region,) if isinstance(out, Tensor) else device._regions_now():
                if region is not None and 0 <= address - region.address <= region.nbytes - self._what.nbytes:
                    self._region, self._offset, self._result = region._handle, address - region.address, out
                    return
            if device.limits.local_anywhere:
                self._region, self._offset, self._result = None, address, out
                return
        tensor = self._room()
        assert tensor._form.region is not None
        self._region, self._offset, self._result = tensor._form.region._handle, tensor._form.offset, tensor

    def _room(self) -> Tensor:
        edge, nbytes = self._edge, self._what.nbytes
        if edge._region is not None:
            return edge._region._tensor_in(edge._region.allocate(nbytes), self._dtype, self._shape)
        tensor, registered = edge.device._payloads.empty(self._shape, self._dtype, nbytes)
        edge._registrations += registered
        return tensor

    def _fetch(self, handle: EdgeHandle, ns: int) -> int:
        if self._status == _core.AGAIN:
            status = _core.edge_fetch(handle, self._what.sequence, self._region, self._offset, ns)
            if status in _NOT_YET:
                return status
            self._status = status
        return self._status

    def _read(self, timeout: float | None) -> None:
        edge = self._edge
        device, handle, limit = edge.device._live(), edge._live(), timeout_ns(timeout, edge.device._timeout_ns)
        status = self._fetch(handle, min(limit, _core.SLICE_NS))
        if status in _NOT_YET:
            left = max(limit - _core.SLICE_NS, 0)
            status = _core.until(device, partial(self._fetch, handle), left, lambda: edge._handle is None)
        if status == _core.AGAIN:
            why = f"its READ was not done in {limit / 1e9:g} s, and goes on: ask again"
            raise DeadlineExceeded("receive a tensor", repr(edge), why, status="deadline")
        if status in _NOT_BEGUN:
            self._result, self._status = None, _core.AGAIN  # elsewhere, at the next call
        elif status < 0 and status != _core.CORRUPT:
            edge._limbo.append(self._result)  # until the provider is done, at the latest with the edge
        if status < 0:
            raise edge._refusal(status, "receive a tensor")


def fetch_together(arrived: list[Arrived], limit: int) -> None:
    """READs tensors of edges of one device, all under way at once, in one call that takes at most `limit` ns. How each
    ended, or that it did not in time, is told when it is handed out.
    """
    many = _core.fetching_create([each.begin() for each in arrived])
    device = arrived[0]._edge.device

    def step(ns: int) -> int:
        return _core.AGAIN if _core.edges_fetch_many(many, ns) else _core.OK

    try:
        if step(min(limit, _core.SLICE_NS)) != _core.OK:
            _core.until(device._live(), step, max(limit - _core.SLICE_NS, 0))
    finally:
        for each, status in zip(arrived, _core.fetching_statuses(many), strict=True):
            each.ended(status)


def check_fits(edge: RecvEdge, out: Any, dtype: DType, shape: Shape) -> int:
    """Where the caller's tensor lies, if one that came fits into it."""
    address, kind, sizes, strides, _owner = describe(out)
    why = ""
    if kind is not dtype or sizes != shape:
        why = f"a {dtype} tensor of shape {shape} has come, and out is {kind} of {tuple(sizes)}"
    elif strides is not None:
        why = "out is not contiguous"
    elif getattr(out, "readonly", False) or not getattr(getattr(out, "flags", None), "writeable", True):
        why = "out is read-only"
    if why:
        raise InvalidArgument("receive into a tensor", repr(edge), f"{why}; the tensor waits for the next call")
    return address


def fill(edge: RecvEdge, out: Any, form: Form) -> None:
    """Copies what has come into the caller's tensor, which is counted."""
    memmove(check_fits(edge, out, form.dtype, form.shape), form.address, form.nbytes)
    edge._count_copy(form.nbytes)
