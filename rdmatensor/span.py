"""A range of a local region."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import AccessDenied, ClosedError, InvalidArgument, OutOfBounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from rdmatensor._core import RegionHandle
    from rdmatensor.region import Region

__all__ = ["Span", "slice_range"]

_pack = struct.Struct("=QQ").pack


def slice_range(item: object, nbytes: int, on: str) -> tuple[int, int]:
    """Start and size in bytes of a slice of `nbytes`; unlike a list's, a slice that reaches outside is an error."""
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


class Span:
    """A range of a local region: one end of a copy, and memory to look into.

    It owns nothing but keeps its region's memory alive, as do all views of it. Slicing gives smaller spans without
    copying.
    """

    __slots__ = ("__weakref__", "_keep", "_packed", "_region_handle", "nbytes", "offset", "region")

    _direction: ClassVar[int] = _core.READ  # of a copy into this
    _packed: bytes | None  # region pointer and offset, the first half of an rt_copy; `_pack` makes it at first use

    def __init__(
        self, region: Region, handle: RegionHandle | None, offset: int, nbytes: int, keep: object = None
    ) -> None:
        self.region = region
        self._region_handle = handle
        self.offset = offset
        self.nbytes = nbytes
        self._keep = keep
        self._packed = None

    def _pack(self) -> bytes:
        packed = self._packed = _pack(_core.pointer_of(self._live()), self.offset)
        return packed

    def _live(self) -> RegionHandle:
        handle = self._region_handle
        if handle is None:
            raise ClosedError("use a buffer", repr(self), "it was freed")
        return handle

    def _held(self) -> object:
        """What a view or a slice of this must keep alive."""
        return self

    @property
    def address(self) -> int:
        """Where it starts in this process."""
        return self.region.address + self.offset

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, item: slice) -> Span:
        start, nbytes = slice_range(item, self.nbytes, repr(self))
        return self._part(self._live(), self.offset + start, nbytes)

    def _part(self, handle: RegionHandle, offset: int, nbytes: int) -> Span:
        return Span(self.region, handle, offset, nbytes, self._held())

    def view(self) -> memoryview:
        """The bytes, not copied. Writable; the memory lives as long as the view, even after the region is closed."""
        self._live()
        return _core.view(self.address, self.nbytes, self._held())

    def array(self, shape: int | Sequence[int] = -1, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """The bytes as a NumPy array, not copied. `shape` and `dtype` must fill the span exactly; one -1 is worked
        out.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise InvalidArgument("view as an array", repr(self), f"{kind} holds Python objects, which are no bytes")
        if kind.itemsize == 0 or self.nbytes % kind.itemsize:
            raise InvalidArgument(
                "view as an array", repr(self), f"its {self.nbytes} bytes are no whole number of {kind}"
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
        """Bytes that let a peer reach this range, for `Channel.attach` over there. A capability: do not log it.

        At most 160 bytes. Needs a right: see `Access`. AccessDenied for a region with `Access.PER_PEER_KEYS`, which is
        published and looked up instead.
        """
        return _core.region_handle(self._live(), self.offset, self.nbytes, repr(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.nbytes} bytes at {self.offset} of {self.region!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a span is local memory: send span.handle() to the peer, or its bytes")


class ReadOnlySpan(Span):
    """A range of a region over memory that may not be written to: only ever the source of a copy."""

    __slots__ = ()

    @property
    def _direction(self) -> int:  # type: ignore[override]
        raise self.refusal()

    def refusal(self) -> AccessDenied:
        """Why a copy cannot go here."""
        why = "the registered buffer is read-only: it can be the source of a copy, not its target"
        return AccessDenied("memcpy", repr(self), why)

    def _part(self, handle: RegionHandle, offset: int, nbytes: int) -> Span:
        return ReadOnlySpan(self.region, handle, offset, nbytes, self._held())

    def view(self) -> memoryview:
        """The bytes, not copied, read-only."""
        return super().view().toreadonly()
