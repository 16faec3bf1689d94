"""Memory that edges use: the region of their slots, and regions for tensors of dynamic edges
without a region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.access import Access
from rdmatensor.memory.buffer import served
from rdmatensor.memory.region import Region
from rdmatensor.memory.tensor import tensor_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdmatensor._core import RegionHandle
    from rdmatensor.memory.layout import DType, Shape
    from rdmatensor.memory.regions import Regions
    from rdmatensor.memory.tensor import Tensor
    from rdmatensor.owners import OwningDevice

__all__ = ["Payloads", "SlotsMemory"]

_PIECE = 1 << 20
_SPARE = 4  # number of tensors of the requested size that a new region holds


class SlotsMemory(Region):
    """The region in which the core keeps slots of edges. The user cannot close it."""

    def __init__(self, device: OwningDevice, handle: RegionHandle) -> None:
        nbytes = _core.region_size(handle)
        super().__init__(device, handle, _core.Life(), nbytes, Access.REMOTE_WRITE, owned=False)

    def close(self) -> None:
        raise InvalidArgument("close a region", repr(self), "it holds slots of edges: it ends with the last of them")


class Payloads:
    """Regions that a device registers on demand for received tensors. They are kept, so that a
    steady stream registers nothing. Any number of threads may use it; two threads that find no room
    at the same time register a region each.
    """

    def __init__(self, register: Callable[[int], Region], regions: Regions) -> None:
        self._register = register
        self.all = regions
        """Every region of the device."""
        self._regions: list[Region] = []

    def empty(self, shape: Shape, dtype: DType, nbytes: int) -> tuple[Tensor, int]:
        """A tensor in one of the regions, and the number of regions that were registered for it."""
        for region in tuple(self._regions):
            buffer = served(region, nbytes)
            if not isinstance(buffer, int):
                return tensor_in(region, buffer, dtype, shape), 0
        size = -(-max(nbytes * _SPARE, _PIECE) // _PIECE) * _PIECE
        region = self._register(size)
        self._regions.append(region)
        return tensor_in(region, region.allocate(nbytes), dtype, shape), 1
