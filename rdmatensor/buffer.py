"""A block that a region's arena served."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.span import Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import RegionHandle
    from rdmatensor.region import Region

__all__ = ["Buffer"]

_free = _core.region_free
_RETURNED = -1
_BLOCK_INDEX_BITS = _core.BLOCK_INDEX_BITS
_BLOCK_UNIT_BITS = _core.BLOCK_UNIT_BITS


class _Lease:
    """What the views and slices of a buffer hold, so that its block goes back only after the last of them."""

    __slots__ = ("__weakref__", "buffer")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __del__(self) -> None:
        if self.buffer._region_handle is None:
            self.buffer._give_back()


class Buffer(Span):
    """A span that owns its block of the region.

    Made by `Region.allocate`. The block goes back to the region when the buffer and all its views and slices are gone;
    `free()` gives the buffer up before. While a copy still uses the block, it stays in quarantine and goes back
    afterwards by itself.
    """

    __slots__ = ("_block", "_lease")

    _block: int
    _lease: Callable[[], _Lease | None] | None  # None: never viewed or sliced

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__  # `serve` fills it: one of Python's would be called with a frame of its own

    def free(self) -> None:
        """Gives the buffer up. Its block goes back at once, or with the last view or slice of it. Twice is fine."""
        handle = self._region_handle
        if handle is None:
            return
        self._region_handle = self._packed = None
        if self._lease is None or self._lease() is None:
            block, self._block = self._block, _RETURNED
            if not self.region._life.ended:
                _free(handle, block)

    def _held(self) -> object:
        lease = self._lease() if self._lease is not None else None
        if lease is None:
            lease = _Lease(self)
            self._lease = weakref.ref(lease)
        return lease

    def _give_back(self) -> None:
        block, self._block = self._block, _RETURNED
        if block != _RETURNED and not self.region._life.ended:
            _free(self.region._handle, block)

    def __del__(self, free: Callable[[RegionHandle, int], int] = _free) -> None:
        if self._block >= 0 and not self.region._life.ended:
            free(self.region._handle, self._block)

    def __repr__(self) -> str:
        return f"<Buffer of {self.nbytes} bytes{', freed' if self._region_handle is None else ''}>"


def serve(region: Region, handle: RegionHandle, nbytes: int, block: int) -> Buffer:
    """The buffer of a block that the region's arena has just served."""
    buffer = Buffer()
    buffer.region = region
    buffer._block = block  # with these two, it gives its block back
    buffer._region_handle = handle
    buffer.offset = block >> _BLOCK_INDEX_BITS << _BLOCK_UNIT_BITS
    buffer.nbytes = nbytes
    buffer._packed = None
    buffer._lease = None
    return buffer
