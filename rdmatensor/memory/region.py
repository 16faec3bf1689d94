"""Registered memory with an arena inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from rdmatensor import _core
from rdmatensor.errors import ClosedError, InvalidArgument, RdmaError
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.memory import frameworks
from rdmatensor.memory.access import Access
from rdmatensor.memory.buffer import Buffer, served
from rdmatensor.memory.layout import as_dtype, as_shape, nbytes_of
from rdmatensor.memory.span import Span, span_over
from rdmatensor.memory.tensor import Tensor, tensor_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import Life, RegionHandle
    from rdmatensor.memory.frameworks import Allocation
    from rdmatensor.owners import OwningDevice
    from rdmatensor.stats import RegionStats

__all__ = ["Region"]


class Region:
    """Memory registered in advance with a device, page-aligned and with access rights by purpose.

    Registration is slow and limited in number, so a few large regions are registered and buffers
    allocated inside them. Made by `Device.region` and, over memory of the caller, by
    `Device.register`. A context manager; `close()` ends the registration, and the memory itself
    lives until the last buffer, span or view of it is gone.
    """

    def __init__(
        self,
        device: OwningDevice,
        handle: RegionHandle,
        life: Life,
        nbytes: int,
        access: Access,
        *,
        owned: bool,
        readonly: bool = False,
    ) -> None:
        self.device = device
        self.access = access
        self.nbytes = nbytes
        self.readonly = readonly
        """Whether the memory may not be written to, as that of registered bytes."""
        self.address = _core.region_address(handle)
        self._handle = handle
        self._pointer = _core.pointer_of(handle)
        self._life = life
        self._owned = owned
        self._closed = False

    def live(self) -> RegionHandle:
        """The handle of the C object, which lives as long as the region."""
        return self._handle

    @property
    def span(self) -> Span:
        """The whole region as one end of a copy. Made anew each time: a stored span would keep the
        region alive.
        """
        return span_over(self, 0, self.nbytes, readonly=self.readonly)

    def allocate(self, nbytes: int, *, alignment: int = 64) -> Buffer:
        """A buffer of `nbytes` inside the region, aligned to a power of two up to 2 MiB.
        OutOfMemory when there is no room.

        Its contents are undefined.
        """
        try:
            buffer = served(self, nbytes, alignment)
        except (TypeError, OverflowError):
            self._refuse_sizes(nbytes, alignment)
        if isinstance(buffer, int):
            raise self._refused(buffer, nbytes, alignment)
        return buffer

    def empty(self, shape: int | Sequence[int], dtype: object = "float32", *, alignment: int = 64) -> Tensor:
        """A tensor inside the region, contiguous in row-major order. OutOfMemory when there is no
        room.

        `dtype` is a name ("bfloat16"), a NumPy type or a torch.dtype. The values are undefined. The
        memory returns to the region when the tensor and everything made from it are gone.
        """
        kind = as_dtype(dtype)
        sizes = as_shape(shape, kind)
        return tensor_in(self, self.allocate(nbytes_of(sizes, kind), alignment=alignment), kind, sizes)

    def allocating(self, *, when_full: str = "ordinary") -> Allocation:
        """While entered, every tensor that ordinary CPU operators of torch make in this thread lies
        in the region.

        They are ordinary tensors: they live as long as someone holds them, keep the region alive,
        may be freed by any thread, and are sent without a copy. Contexts nest; the innermost
        serves. A tensor that does not fit is allocated elsewhere with `when_full="ordinary"`,
        counted (`stats.fell_back`) and reported by a warning at the end; with "raise" the operator
        fails. Other threads: `rdmatensor.torch.allocate_in`. Needs torch and, once, a C++ compiler.
        Source: section 5 of the paper.
        """
        return frameworks.allocating(self, when_full)

    def arena_pointer(self) -> int:
        """The address of the C object, for native allocators. Raises where the region has no usable
        arena.
        """
        if self._closed or not self._owned:
            raise self._refused(_core.INVALID, 0, 64)
        return self._pointer

    @staticmethod
    def arena_functions() -> tuple[int, int, int, int]:
        """The addresses of rt_region_allocate and rt_region_free, the bits of a block that are its
        index, and the unit bits by which its offset is shifted.
        """
        return *_core.region_arena_functions(), _core.BLOCK_INDEX_BITS, _core.BLOCK_UNIT_BITS

    def _refuse_sizes(self, nbytes: object, alignment: object) -> NoReturn:
        for name, value in (("nbytes", nbytes), ("alignment", alignment)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        raise InvalidArgument(
            "allocate",
            repr(self),
            f"{nbytes} bytes aligned to {alignment} are not possible: both are numbers from 0 to 2**64-1",
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
        """The bytes that let a peer reach the whole region; see `Span.handle`."""
        return self.span.handle()

    @property
    def stats(self) -> RegionStats:
        """The region's byte counts, allocation counts and registration time."""
        refuse_fork("read the statistics", repr(self))
        return _core.region_stats(self._handle)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the registration: peers can no longer reach the memory. RegionBusy while copies use
        it; then nothing changes.

        The memory stays readable until the last buffer, span or view is gone. Twice is fine; in a
        forked child it does nothing.
        """
        if self._closed or forked():
            return
        _core.region_close(self._handle, repr(self))
        self._closed = True

    def close_with_device(self) -> None:
        """As `close`, but a busy region counts as closed: closing the device ends the copies."""
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
