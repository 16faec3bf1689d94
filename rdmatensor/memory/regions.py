"""The regions of a device, and the lookup of memory that lies in them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.describe import describe, writable
from rdmatensor.memory.layout import nbytes_of
from rdmatensor.memory.region import Region
from rdmatensor.memory.span import Span, span_over
from rdmatensor.memory.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Regions"]


class Regions:
    """The regions of a device, each as long as someone holds it. Any number of threads may use it."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Region] = weakref.WeakSet()

    def add(self, region: Region) -> Region:
        self._all.add(region)
        return region

    def __iter__(self) -> Iterator[Region]:
        """Iterates over all regions, including closed ones."""
        return iter(tuple(self._all))

    def region_of(self, address: int, nbytes: int) -> Region | None:
        """The open region that contains these bytes, or None."""
        for region in self:
            if 0 <= address - region.address <= region.nbytes - nbytes and not region.closed:
                return region
        return None

    def span_of(self, memory: Any, what: str, on: str, name: str = "it") -> Span:
        """The range that a user names: a region, a span, or a tensor or an array that lies in a
        region; the span keeps it alive. `what`, `on` and `name` are for errors: the attempt,
        its object, and the argument's name.

        Slow: keep a span of a range that is used often.
        """
        if isinstance(memory, Span):
            return memory
        if isinstance(memory, (Region, Tensor)):
            return memory.span
        address, dtype, shape, strides, owner = describe(memory)
        if strides is not None:
            raise InvalidArgument(what, on, f"{name} is a {type(memory).__name__} that is not contiguous")
        nbytes = nbytes_of(shape, dtype)
        region = self.region_of(address, nbytes)
        if region is None:
            why = (
                f"{name} is a {type(memory).__name__} that lies in no region of the device: device.register(object) "
                "makes a region of it, and region.empty(shape, dtype) a tensor in one"
            )
            raise InvalidArgument(what, on, why)
        readonly = region.readonly or not writable(memory)
        return span_over(region, address - region.address, nbytes, owner, readonly=readonly)
