"""A range of a local region."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import AccessDenied, ClosedError, InvalidArgument, OutOfBounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from rdmatensor._core import RegionHandle
    from rdmatensor.memory.access import Access
    from rdmatensor.owners import OwningDevice

__all__ = ["Registered", "Span", "slice_range", "span_over", "target_refusal"]

_pack = struct.Struct("=QQ").pack


def slice_range(item: object, nbytes: int, on: str) -> tuple[int, int]:
    """The start and size in bytes of a slice of `nbytes`. Unlike a list's, a slice that reaches
    outside is an error.
    """
    if not isinstance(item, slice):
        raise TypeError(f"a range of bytes is taken with a slice, as in span[0:64], not with {item!r}")
    if item.step not in (None, 1):
        raise InvalidArgument("slice", on, f"a span is contiguous: the step must be 1, not {item.step}")
    start = 0 if item.start is None else item.start.__index__()
    stop = nbytes if item.stop is None else item.stop.__index__()
    start += nbytes if start < 0 else 0
    stop += nbytes if stop < 0 else 0
    if not 0 <= start <= stop <= nbytes:
        raise OutOfBounds("slice", on, f"[{item.start}:{item.stop}] does not lie in its {nbytes} bytes")
    return start, stop - start


class Registered(Protocol):
    """The interface of `Region` that objects inside it use."""

    _handle: RegionHandle
    _pointer: int

    def live(self) -> RegionHandle: ...

    @property
    def device(self) -> OwningDevice: ...

    @property
    def access(self) -> Access: ...

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def closed(self) -> bool: ...


class Span:
    """A range of a local region: one end of a copy, and a window onto the memory.

    Regions, tensors and slices give spans. A span owns nothing but keeps its region's memory alive,
    as do all views of it. Slicing gives smaller spans without copying.
    """

    __slots__ = ("__weakref__", "_keep", "_packed", "_region_handle", "nbytes", "offset", "region")

    direction: ClassVar[int] = _core.READ
    """The direction of a copy into this range."""
    readonly: ClassVar[bool] = False
    """Whether the memory may not be written to: the range is then only the source of copies."""
    _packed: bytes | None  # region pointer and offset, the first half of an rt_copy; `pack` makes it at first use

    def __init__(
        self, region: Registered, handle: RegionHandle | None, offset: int, nbytes: int, keep: object = None
    ) -> None:
        self.region = region
        self._region_handle = handle
        self.offset = offset
        self.nbytes = nbytes
        self._keep = keep
        self._packed = None

    def pack(self) -> bytes:
        """The first half of an rt_copy, cached in `_packed`, where the C core finds it."""
        packed = self._packed = _pack(_core.pointer_of(self.live()), self.offset)
        return packed

    def live(self) -> RegionHandle:
        """The handle of its region's C object. ClosedError once a buffer was freed."""
        handle = self._region_handle
        if handle is None:
            raise ClosedError("use a buffer", repr(self), "it was freed")
        return handle

    def _held(self) -> object:
        """The object that a view or a slice of this must keep alive."""
        return self

    @property
    def address(self) -> int:
        """The address in this process."""
        return self.region.address + self.offset

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, item: slice) -> Span:
        start, nbytes = slice_range(item, self.nbytes, repr(self))
        return self._part(self.live(), self.offset + start, nbytes)

    def _part(self, handle: RegionHandle, offset: int, nbytes: int) -> Span:
        return Span(self.region, handle, offset, nbytes, self._held())

    def view(self) -> memoryview:
        """The bytes, not copied; writable unless the span is `readonly`. The memory lives as long
        as the view, even after the region is closed.
        """
        self.live()
        return _core.view(self.address, self.nbytes, self._held())

    def array(self, shape: int | Sequence[int] = -1, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """The bytes as a NumPy array, not copied. `shape` and `dtype` must fill the span exactly;
        one dimension may be -1 and is computed.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise InvalidArgument("view as an array", repr(self), f"{kind} holds Python objects, not plain bytes")
        if kind.itemsize == 0 or self.nbytes % kind.itemsize:
            raise InvalidArgument(
                "view as an array", repr(self), f"its {self.nbytes} bytes are not a whole number of {kind}"
            )
        flat: NDArray[Any] = np.frombuffer(self.view(), dtype=kind) if self.nbytes else np.empty(0, kind)
        try:
            return flat.reshape(shape)
        except ValueError:
            raise InvalidArgument(
                "view as an array", repr(self), f"its {self.nbytes} bytes hold {flat.size} {kind}, not shape {shape}"
            ) from None

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": self.view()}

    def __buffer__(self, _flags: int) -> memoryview:
        return self.view()

    def handle(self) -> bytes:
        """The bytes that let a peer reach this range, for the peer's `Channel.attach`. A
        capability: do not log it.

        At most 160 bytes. Needs a right: see `Access`. AccessDenied for a region with
        `Access.PER_PEER_KEYS`, which is published and looked up instead.
        """
        return _core.region_handle(self.live(), self.offset, self.nbytes, repr(self))

    def __repr__(self) -> str:
        state = ", read-only" if self.readonly else ""
        return f"<Span of {self.nbytes} bytes at {self.offset} of {self.region!r}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a span is local memory: send span.handle() to the peer, or its bytes")


class _ReadOnlySpan(Span):
    """A class of its own, so that a copy into a writable span checks nothing more."""

    __slots__ = ()

    readonly = True

    @property
    def direction(self) -> int:  # type: ignore[override]
        raise target_refusal(self)

    def _part(self, handle: RegionHandle, offset: int, nbytes: int) -> Span:
        return _ReadOnlySpan(self.region, handle, offset, nbytes, self._held())

    def view(self) -> memoryview:
        return super().view().toreadonly()


def span_over(region: Registered, offset: int, nbytes: int, keep: object = None, *, readonly: bool) -> Span:
    """A span of the region; it keeps `keep` alive."""
    kind = _ReadOnlySpan if readonly else Span
    return kind(region, region._handle, offset, nbytes, keep)


def target_refusal(span: Span) -> AccessDenied:
    """The error that explains why a copy cannot go to a read-only span."""
    why = "the memory is read-only: it can be the source of a copy, not its target"
    return AccessDenied("memcpy", repr(span), why)
