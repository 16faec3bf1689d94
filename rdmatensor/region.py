"""Registered memory, with an arena inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from rdmatensor import _core, frameworks
from rdmatensor.access import Access
from rdmatensor.buffer import Buffer, serve
from rdmatensor.errors import ClosedError, InvalidArgument, RdmaError
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.layout import as_dtype, as_shape, nbytes_of
from rdmatensor.span import ReadOnlySpan, Span
from rdmatensor.tensor import Form, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import RegionHandle
    from rdmatensor.device import Device
    from rdmatensor.frameworks import Allocation
    from rdmatensor.layout import DType, Shape
    from rdmatensor.life import Life
    from rdmatensor.stats import RegionStats

__all__ = ["Region"]

_allocate = _core.region_allocate


class Region:
    """Memory registered ahead with a device, page-aligned and with access rights by purpose.

    Registering is slow and limited in number, so few large regions are registered and buffers allocated inside them.
    Made by `Device.region` and, over memory of the caller, by `Device.register`. A context manager; `close()` ends
    the registration, and the memory itself lives until the last buffer, span or view of it is gone.
    """

    def __init__(
        self,
        device: Device,
        handle: RegionHandle,
        life: Life,
        nbytes: int,
        access: Access,
        *,
        owned: bool,
        writable: bool,
    ) -> None:
        self.device = device
        self.access = access
        self.nbytes = nbytes
        self.address = _core.region_address(handle)
        self._handle = handle
        self._life = life
        self._owned = owned
        self._closed = False
        self._kind = Span if writable else ReadOnlySpan

    @property
    def span(self) -> Span:
        """All of it as one end of a copy. Made anew each time: kept, it would keep the region from going."""
        return self._kind(self, self._handle, 0, self.nbytes)

    def allocate(self, nbytes: int, *, alignment: int = 64) -> Buffer:
        """A buffer of `nbytes` inside the region, aligned to a power of two up to 2 MiB. OutOfMemory when there is no
        room.

        Its bytes are whatever was there before.
        """
        try:
            block = _allocate(self._handle, nbytes or 1, alignment)
        except (TypeError, OverflowError):
            self._refuse_sizes(nbytes, alignment)
        if block < 0:
            raise self._refused(block, nbytes, alignment)
        return serve(self, self._handle, nbytes, block)

    def empty(self, shape: int | Sequence[int], dtype: object = "float32", *, alignment: int = 64) -> Tensor:
        """A tensor inside the region, contiguous in row-major order. OutOfMemory when there is no room.

        `dtype` is a name ("bfloat16"), a NumPy type or a torch.dtype. Its values are whatever was there before. The
        memory goes back to the region when the tensor and all that was made from it are gone.
        """
        kind = as_dtype(dtype)
        sizes = as_shape(shape, kind)
        return self._tensor_in(self.allocate(nbytes_of(sizes, kind), alignment=alignment), kind, sizes)

    def _tensor_in(self, buffer: Buffer, dtype: DType, shape: Shape) -> Tensor:
        return Tensor(Form(self.address + buffer.offset, dtype, shape, region=self, offset=buffer.offset), buffer)

    def allocating(self, *, when_full: str = "ordinary") -> Allocation:
        """While entered, every tensor that ordinary CPU operators of torch make in this thread lies in the region.

        They are ordinary tensors: they live as long as someone holds them, keep the region alive, may be freed by any
        thread, and are sent without a copy. Contexts nest; the innermost serves. What does not fit is allocated as
        ever with `when_full="ordinary"`, counted (`stats.fell_back`) and warned of at the end; with "raise" the
        operator fails. Other threads: `rdmatensor.torch.allocate_in`. Needs torch and, once, a C++ compiler. Source:
        section 5 of the paper.
        """
        return frameworks.allocating(self, when_full)

    def _arena_pointer(self) -> int:
        """The C object, for those that allocate without Python. Refused where the arena serves nobody."""
        if self._closed or not self._owned:
            raise self._refused(_core.INVALID, 0, 64)
        return _core.pointer_of(self._handle)

    @staticmethod
    def _arena_functions() -> tuple[int, int, int, int]:
        """The addresses of rt_region_allocate and rt_region_free, and how many bits of a block are its index and are
        spared in its offset.
        """
        return *_core.region_arena_functions(), _core.BLOCK_INDEX_BITS, _core.BLOCK_UNIT_BITS

    def _refuse_sizes(self, nbytes: object, alignment: object) -> NoReturn:
        for name, value in (("nbytes", nbytes), ("alignment", alignment)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        raise InvalidArgument(
            "allocate", repr(self), f"{nbytes} bytes aligned to {alignment} cannot be: both count from 0 to 2**64-1"
        )

    def _refused(self, status: int, nbytes: int, alignment: int) -> RdmaError:
        on, why = repr(self), ""
        if self._closed:
            status, why = _core.CLOSED, "the region was closed"
        elif not self._owned:
            status, why = (
                _core.INVALID,
                "the memory is the caller's, who decides what lies where in it: take spans, as in region[0:64]",
            )
        elif status == _core.NO_MEMORY:
            stats = self.stats
            why = (
                f"no room: {stats.allocated_bytes} of {stats.size} bytes are taken by {stats.allocations} buffers, "
                f"{stats.quarantined_bytes} are in quarantine, the largest free block is {stats.largest_free_bytes}"
            )
        elif status == _core.INVALID:
            why = f"the alignment must be a power of two up to 2 MiB, not {alignment}"
        return _core.failure(status, f"allocate {nbytes} bytes", on, why)

    def __getitem__(self, item: slice) -> Span:
        return self.span[item]

    def __len__(self) -> int:
        return self.nbytes

    def handle(self) -> bytes:
        """Bytes that let a peer reach the whole region; `Span.handle` says more."""
        return self.span.handle()

    @property
    def stats(self) -> RegionStats:
        """Bytes, counts and time spent registering."""
        refuse_fork("read the statistics", repr(self))
        return _core.region_stats(self._handle)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the registration: peers reach nothing here any more. RegionBusy while copies use it; then nothing has
        changed.

        Memory stays readable until the last buffer, span or view is gone. Twice is fine; in a forked child it does
        nothing.
        """
        if self._closed or forked():
            return
        _core.region_close(self._handle, repr(self))
        self._closed = True

    def _close_with_device(self) -> None:
        """As `close`, but the device's end ends what is busy."""
        try:
            self.close()
        except (RdmaError, ClosedError):
            self._closed = True

    def __enter__(self) -> Region:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Region of {self.nbytes} bytes, {self.access!r}, {state}>"
