"""Memory that edges use: that of their slots, and regions for tensors of dynamic edges that were given none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.access import Access
from rdmatensor.buffer import serve
from rdmatensor.errors import InvalidArgument
from rdmatensor.life import Life
from rdmatensor.region import Region

if TYPE_CHECKING:
    from rdmatensor._core import RegionHandle
    from rdmatensor.device import Device
    from rdmatensor.layout import DType, Shape
    from rdmatensor.tensor import Tensor

__all__ = ["Payloads", "SlotsMemory"]

_PIECE = 1 << 20
_SPARE = 4  # tensors of the size asked for that a new region has room for


class SlotsMemory(Region):
    """The region in which the core keeps slots of edges. It is not the user's to close."""

    def __init__(self, device: Device, handle: RegionHandle) -> None:
        nbytes = _core.region_size(handle)
        super().__init__(device, handle, Life(), nbytes, Access.REMOTE_WRITE, owned=False, writable=True)

    def close(self) -> None:
        raise InvalidArgument("close a region", repr(self), "it holds slots of edges: it ends with the last of them")


class Payloads:
    """Regions that a device registers as they are needed, for received tensors. They stay, so that a steady stream
    registers nothing. Guarded by the device's lock.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._regions: list[Region] = []

    def empty(self, shape: Shape, dtype: DType, nbytes: int) -> tuple[Tensor, int]:
        """A tensor in one of them, and how many regions were registered for it."""
        with self._device._lock:
            for region in self._regions:
                block = _core.region_allocate(region._handle, nbytes or 1, 64)
                if block >= 0:
                    return region._tensor_in(serve(region, region._handle, nbytes, block), dtype, shape), 0
            size = -(-max(nbytes * _SPARE, _PIECE) // _PIECE) * _PIECE
            region = self._device.region(size)
            self._regions.append(region)
            return region._tensor_in(region.allocate(nbytes), dtype, shape), 1
