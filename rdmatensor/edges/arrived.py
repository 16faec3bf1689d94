"""A tensor that has arrived and is not handed out yet: it lies in its slot, or still at the sender."""

from __future__ import annotations

from ctypes import memmove
from typing import TYPE_CHECKING, Any, Protocol

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.memory.describe import describe, writable
from rdmatensor.memory.layout import DType, Shape, dtype_of_code
from rdmatensor.memory.tensor import Form, Tensor, tensor_in

if TYPE_CHECKING:
    from rdmatensor._core import EdgeHandle
    from rdmatensor.edges.payloads import Payloads
    from rdmatensor.errors import RdmaError
    from rdmatensor.memory.region import Region
    from rdmatensor.owners import OwningDevice

__all__ = ["Arrived", "check_fits", "fill"]

_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_NOT_BEGUN = (_core.CLOSED, _core.BOUNDS, _core.INVALID, _core.UNSUPPORTED)


class Receiver(Protocol):
    """The interface of `RecvEdge` that an arrived tensor uses."""

    device: OwningDevice
    _region: Region | None
    _payloads: Payloads
    _registrations: int
    _limbo: list[object]

    def live(self) -> EdgeHandle: ...

    def _form_of(self, got: Arrived) -> Form: ...

    def _keep_of(self, sequence: int) -> object: ...

    def _take_away(self, item: object) -> None: ...

    def _count_copy(self, nbytes: int) -> None: ...

    def _refusal(self, status: int, what: str) -> RdmaError: ...


class Arrived(_core.QuickArrival):
    """A tensor that the core reported, and its destination. It stays in its edge's `_waiting` until
    it is handed out.

    If a call fails or is interrupted before that, the tensor stays there for the next call. Any
    thread may continue with it, one at a time: `busy` says that a thread is advancing its READ.
    """

    __slots__ = ()

    def ready(self, edge: Receiver, ns: int, out: Any, borrow: bool, fits: _core.Fits | None) -> int:
        """Advances it for up to `ns` until it can be handed out (OK), or gives the status that says
        why not.
        """
        dtype, shape = dtype_of_code(self.code), self.dims
        if fits is not None:
            fits(dtype, shape)
        if out is not None:
            check_fits(edge, out, dtype, shape)
        if self.form is None:
            if borrow and out is not None and not self.address:
                raise InvalidArgument(
                    "borrow a tensor",
                    repr(edge),
                    "a borrowed tensor stays in the sender's memory: give either out= or borrow=True",
                )
            if self.address:
                self._ready_in(edge._form_of(self), edge.live(), in_slot=True)
            elif borrow or self.borrowed:
                self._borrow_from(edge, dtype, shape)
            else:
                self.choose(edge, dtype, shape, out)
        if self.borrowed and self.in_slot and not borrow and out is None:
            self.leave_slot(edge)  # an interrupted call borrowed it; this call asks for the bytes
        if not self.in_slot:
            status = self._fetch(edge, ns)
            if status:
                return self._failed(edge, status)
        form: Form = self.form
        if out is not None and out is not self.keep:
            fill(edge, out, form)
        return _core.OK

    def moves(self, edge: Receiver) -> bool:
        """Whether it could be handed out without waiting. Advances its READ; never blocks."""
        return self.form is None or self.in_slot or self._fetch(edge, 0) not in _NOT_YET

    def _ready_in(self, form: Form, keep: object, *, in_slot: bool) -> None:
        """Sets `form` last: once `form` is set, so are the other fields."""
        self.in_slot = in_slot
        self.keep = keep
        self.form = form

    @property
    def left(self) -> bool:
        """Whether it has left its slot for memory of its own."""
        return self.form is not None and not self.in_slot

    def leave_slot(self, edge: Receiver) -> None:
        """Copies it out of its slot, which then belongs to the sender again."""
        dtype, shape = dtype_of_code(self.code), self.dims
        tensor = self._room(edge, dtype, shape)
        memmove(tensor.address, self.borrowed or self.address, self.nbytes)
        edge._count_copy(self.nbytes)
        self._leave(edge, tensor._form, tensor._keep)

    def _failed(self, edge: Receiver, status: int) -> int:
        if status in _NOT_BEGUN:
            self.form = None  # the next call chooses another place
            self.fetched = _core.AGAIN
        elif status == _core.CORRUPT:
            edge._take_away(self)  # C has released it
        elif status not in _NOT_YET:
            edge._limbo.append(self.keep)  # kept until the provider is done, at the latest until the edge goes
        return status

    # ---- at the sender ----

    def _borrow_from(self, edge: Receiver, dtype: DType, shape: Shape) -> None:
        edge.live()
        if not edge.device.limits.maps_remote:
            why = "the device cannot map the peer's memory (limits.maps_remote): receive it without borrow"
            raise Unsupported("borrow a tensor", repr(edge), why)
        address = self._borrow(edge)
        if address < 0:
            if address == _core.CORRUPT:
                edge._take_away(self)  # C has released it
            raise edge._refusal(address, "borrow a tensor")
        form = Form(address, dtype, shape, region=None, readonly=True)
        self._ready_in(form, edge._keep_of(self.sequence), in_slot=True)

    def choose(self, edge: Receiver, dtype: DType, shape: Shape, out: Any = None) -> None:
        """Chooses the target of the READ: `out` where possible, otherwise memory of the edge's
        region.
        """
        device = edge.device
        if out is not None:
            address = describe(out)[0]
            form = Form(address, dtype, shape, region=None)
            inside = out._form.region if isinstance(out, Tensor) else edge._payloads.all.region_of(address, self.nbytes)
            if inside is not None:
                self.region, self.offset = _core.pointer_of(inside.live()), address - inside.address
                return self._ready_in(form, out, in_slot=False)
            if device.limits.local_anywhere:
                self.region, self.offset = 0, address
                return self._ready_in(form, out, in_slot=False)
        tensor = self._room(edge, dtype, shape)
        assert tensor._form.region is not None
        self.region, self.offset = _core.pointer_of(tensor._form.region.live()), tensor._form.offset
        return self._ready_in(tensor._form, tensor._keep, in_slot=False)

    def _room(self, edge: Receiver, dtype: DType, shape: Shape) -> Tensor:
        if edge._region is not None:
            return tensor_in(edge._region, edge._region.allocate(self.nbytes), dtype, shape)
        tensor, registered = edge._payloads.empty(shape, dtype, self.nbytes)
        edge._registrations += registered
        return tensor


def check_fits(edge: Receiver, out: Any, dtype: DType, shape: Shape) -> int:
    """The address of the caller's tensor, if the tensor that arrived fits into it; else
    InvalidArgument.
    """
    address, kind, sizes, strides, _owner = describe(out)
    why = ""
    if kind is not dtype or sizes != shape:
        why = f"a {dtype} tensor of shape {shape} has come, and out is {kind} of {tuple(sizes)}"
    elif strides is not None:
        why = "out is not contiguous"
    elif not writable(out):
        why = "out is read-only"
    if why:
        raise InvalidArgument("receive into a tensor", repr(edge), f"{why}; the tensor waits for the next call")
    return address


def fill(edge: Receiver, out: Any, form: Form) -> None:
    """Copies the tensor that arrived into the caller's, and counts the copy."""
    memmove(check_fits(edge, out, form.dtype, form.shape), form.address, form.nbytes)
    edge._count_copy(form.nbytes)
