"""A block that a region's arena served."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.span import Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import RegionHandle
    from rdmatensor.region import Region

__all__ = ["Buffer"]

_free = _core.region_free
_RETURNED = -1


class _Lease:
    """What the views and slices of a buffer hold, so that its block goes back only after the last of them."""

    __slots__ = ("__weakref__", "buffer")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __del__(self) -> None:
        if self.buffer._region_handle is None:
            self.buffer._give_back()


def _no_lease() -> _Lease | None:
    """The lease of a buffer that was packed into copies, but never viewed or sliced."""
    return None


class Buffer(Span):
    """A span that owns its block of the region.

    The block goes back to the region when the buffer and all its views and slices are gone; `free()` gives the buffer
    up before. While a copy still uses the block, it stays in quarantine and goes back afterwards by itself.
    """

    __slots__ = ("_block", "_lease")

    def __init__(self, region: Region, handle: RegionHandle, offset: int, nbytes: int, block: int) -> None:
        self.region = region
        self._region_handle = handle
        self.offset = offset
        self.nbytes = nbytes
        self._block = block
        self._lease: Callable[[], _Lease | None] | None = None  # None: never viewed, sliced or packed

    def __getattr__(self, name: str) -> Any:
        packed = super().__getattr__(name)
        if self._lease is None:
            self._lease = _no_lease
        return packed

    def free(self) -> None:
        """Gives the buffer up. Its block goes back at once, or with the last view or slice of it. Twice is fine."""
        handle = self._region_handle
        if handle is None:
            return
        if self._lease is None:
            block, self._block, self._region_handle = self._block, _RETURNED, None
            if not self.region._life.ended:
                _free(handle, block)
            return
        self._forget()
        if self._lease() is None:
            self._give_back()

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
