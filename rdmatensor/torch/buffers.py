"""Memory for the buffers that torch itself communicates from: DDP's buckets, FSDP2's gathered
parameters and reduced gradients.

torch asks a backend for such memory (`c10d::Backend::allocateTensor`, native/backend.cpp). It lies in
regions of the groups' device, so calls read and write the tensors where they lie. The regions are
made as they are needed, up to a bound. A buffer that finds no room is allocated in ordinary memory, counted
and reported: such a tensor costs a copy in each call, and nothing else changes.
"""

from __future__ import annotations

import threading
import warnings

import torch

import rdmatensor as rt
from rdmatensor.fork import forked
from rdmatensor.memory.access import Access
from rdmatensor.settings.config import TORCH_MEMORY, torch_memory
from rdmatensor.team.joining import Member
from rdmatensor.torch.allocator import Allocation

__all__ = ["Buffers", "GroupMember"]

_ACCESS = (
    Access.REMOTE_READ | Access.REMOTE_WRITE
)  # with the right to write, sums go straight into every member's tensor
_GRAIN = 1 << 20
_MORE_MAX = 64 << 20
_PER_BLOCK = 4096  # bytes of a region that a block may take beyond its own


class GroupMember:
    """This process's membership in one process group. The compiled backend holds it, and calls
    `end` when the group ends.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self.team = member.team

    @property
    def buffers(self) -> Buffers:
        """Memory for torch's own buffers, shared by all groups of this process."""
        return self._member.fabric.more(_buffers_of)

    def end(self) -> None:
        """See `Member.end`."""
        self._member.end()


def _buffers_of(device: rt.Device) -> Buffers:
    return Buffers(device, torch_memory())


class Buffers:
    """The regions of one device, and the tensors in them. Any thread may allocate. A tensor is freed
    by whichever thread drops it last, and lives on when the device is closed.
    """

    def __init__(self, device: rt.Device, most: int) -> None:
        """`most` is the bound on the bytes of all regions together."""
        self.device, self.most = device, most
        self._maps = device.limits.maps_remote
        self._lock = threading.RLock()  # guards what follows; is held over no wait, and over no code of the user's
        self._places: list[Allocation] = []
        self._held = 0  # bytes of the regions, and of those that are being made
        self._closed = self._told = False
        self._served = self._fell_back = self._fell_back_bytes = 0

    @property
    def usable(self) -> bool:
        """Whether a tensor in a region is of use: calls read it where it lies if the provider can map
        a peer's memory.
        """
        return self._maps and self.most > 0 and not self._closed and not forked()

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A CPU tensor of one dimension, its values undefined; in a region if there is room."""
        nbytes = count * dtype.itemsize
        if nbytes and not forked():
            tensor, why = self._serve(count, dtype)
            if tensor is not None:
                with self._lock:
                    self._served += 1
                return tensor
            self._tell(nbytes, why)
        return torch.empty(count, dtype=dtype, device="cpu")

    def _serve(self, count: int, dtype: torch.dtype) -> tuple[torch.Tensor | None, str]:
        """The tensor, or None and the reason."""
        nbytes = count * dtype.itemsize
        if not self.usable:
            return None, "its device is closed, or cannot map the memory of peers"
        with self._lock:
            places = list(self._places)
        for place in places:
            if place.region.stats.largest_free_bytes < nbytes:
                continue
            tensor = place.make(count, dtype)
            if tensor is not None:
                return tensor, ""
        del places
        try:
            return self._serve_anew(count, dtype)
        except rt.RdmaError as error:
            return None, str(error)

    def _serve_anew(self, count: int, dtype: torch.dtype) -> tuple[torch.Tensor | None, str]:
        """As `_serve`, in a region made for it, which serves others afterwards."""
        need = -(-(count * dtype.itemsize + _PER_BLOCK) // _GRAIN) * _GRAIN
        with self._lock:
            self._trim()
            left = self.most - self._held
            if need > left:
                return None, f"{TORCH_MEMORY} bounds such memory to {self.most} bytes, of which {self._held} are in use"
            size = max(need, min(self._held // 2 // _GRAIN * _GRAIN, _MORE_MAX, left))
            self._held += size
        try:
            place = Allocation(self.device.region(size, access=_ACCESS), "raise")
        except BaseException:
            with self._lock:
                self._held -= size
            raise
        tensor = place.make(count, dtype)
        with self._lock:
            if not self._closed:
                self._places.append(place)
        return tensor, f"{place.region!r} has no room for it"

    def _trim(self) -> None:
        """Gives up the regions in which nothing lies, since they were too small."""
        self._places, empty = (
            [place for place in self._places if place.stats.alive],
            [place for place in self._places if not place.stats.alive],
        )
        self._held -= sum(place.region.nbytes for place in empty)

    def _tell(self, nbytes: int, why: str) -> None:
        with self._lock:
            self._fell_back += 1
            self._fell_back_bytes += nbytes
            told, self._told = self._told, True
        if not told:
            text = (
                f"a tensor of {nbytes} bytes that torch communicates from lies in ordinary memory and is copied in "
                f"each call: {why}; rdmatensor.torch.stats() counts all such tensors"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    @property
    def stats(self) -> dict[str, int]:
        """Counters: tensors that regions served, bytes of those alive, bytes of the regions, and what
        was allocated in ordinary memory instead.
        """
        with self._lock:
            return {
                "buffers": self._served,
                "buffer_bytes": sum(place.stats.alive_bytes for place in self._places),
                "buffer_region_bytes": self._held,
                "buffers_fell_back": self._fell_back,
                "buffers_fell_back_bytes": self._fell_back_bytes,
            }

    def close(self) -> None:
        """Gives up the regions: the memory of each goes with its last tensor. Twice is fine."""
        with self._lock:
            self._closed = True
            places, self._places = self._places, []
            self._held = 0
        del places
