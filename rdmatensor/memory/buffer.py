"""A block allocated from a region's arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.memory.span import Span

if TYPE_CHECKING:
    from rdmatensor._core import Block
    from rdmatensor.memory.span import Registered

__all__ = ["Buffer", "served"]

_allocate = _core.allocate


class Buffer(Span):
    """A span that owns its block of the region, made by `Region.allocate`.

    The block returns to the region when the buffer and all its views and slices are gone; `free()`
    gives up the buffer earlier. While a copy still uses the block, it stays in quarantine, and
    returns afterwards without a further call.
    """

    __slots__ = ("_block",)

    _block: Block | None  # views and slices hold it as well; None once the buffer was given up

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__  # `served` fills the fields: a Python __init__ would cost a frame

    def free(self) -> None:
        """Gives up the buffer. Its block returns at once, or with the last view or slice of it.
        Twice is fine.
        """
        self._region_handle = self._packed = None
        self._block = None

    def _held(self) -> object:
        block = self._block
        if block is None:  # another thread has freed it
            self.live()
        return block

    def __repr__(self) -> str:
        return f"<Buffer of {self.nbytes} bytes{', freed' if self._region_handle is None else ''}>"


def served(region: Registered, nbytes: int, alignment: int = 64) -> Buffer | int:
    """A buffer allocated from the region's arena, or the status that says why not."""
    block = _allocate(region._handle, region._pointer, nbytes or 1, alignment)
    if isinstance(block, int):
        return block
    buffer = Buffer()
    buffer._region_handle = region._handle
    buffer.region = region
    buffer.offset = block.offset
    buffer.nbytes = nbytes
    buffer._packed = None
    buffer._block = block
    return buffer
