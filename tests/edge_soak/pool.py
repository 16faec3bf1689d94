"""Random bytes that tensors are slices of, the same in both processes; tensors in them; and how they are compared.

A tensor's bytes are its pool's from an offset that edge and sequence give, so that a check is one memcmp. All bit
patterns occur, NaNs with payloads among them; tensors of bool are slices of a pool of zeros and ones.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rdmatensor as rt
from rdmatensor.memory.layout import DType, Shape, contiguous_strides, is_contiguous, nbytes_of

__all__ = ["Entry", "Piece", "Pool", "make_entry", "memcmp"]

memcmp = ctypes.PyDLL(None).memcmp
memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True, slots=True)
class Entry:
    """The description of a tensor, wherever it lies."""

    dtype: DType
    name: str
    shape: Shape
    strides: Shape | None
    """In bytes; None: contiguous."""
    nbytes: int
    lead: int
    """Bytes before the first element that strides reach back to."""
    span: int
    """All bytes from the lowest to the highest."""


def make_entry(dtype: DType, shape: Shape, strides: Shape | None) -> Entry:
    nbytes = nbytes_of(shape, dtype)
    if strides is not None and is_contiguous(shape, strides, dtype.itemsize):
        strides = None
    if strides is None:
        return Entry(dtype, dtype.name, shape, None, nbytes, 0, nbytes)
    reach = [(size - 1) * step for size, step in zip(shape, strides, strict=True)]
    lead = -sum(bytes_ for bytes_ in reach if bytes_ < 0)
    high = sum(bytes_ for bytes_ in reach if bytes_ > 0) + dtype.itemsize
    return Entry(dtype, dtype.name, shape, strides, nbytes, lead, lead + high)


class Piece:
    """A tensor somewhere in memory: looks like a CPU tensor of torch, and so may have every element type."""

    __slots__ = ("address", "dtype", "entry", "shape")

    is_cpu = True

    def __init__(self, entry: Entry, address: int) -> None:
        self.entry = entry
        self.dtype = entry.name
        self.shape = entry.shape
        self.address = address

    def data_ptr(self) -> int:
        return self.address

    def is_contiguous(self) -> bool:
        return self.entry.strides is None

    def stride(self) -> Shape:
        size = self.entry.dtype.itemsize
        return tuple(step // size for step in self.entry.strides or contiguous_strides(self.shape, size))

    def is_neg(self) -> bool:
        return False

    is_conj = is_neg


class Pool:
    """Two pools one behind the other: `size` random bytes, and as many zeros and ones."""

    def __init__(self, seed: int, size: int, region: rt.Region | None = None) -> None:
        data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
        self.size = size
        self.region = region
        if region is None:
            self.bytes: NDArray[np.uint8] = np.empty(2 * size, np.uint8)
        else:
            self.bytes = np.frombuffer(region[:].view(), np.uint8)
        self.bytes[:size] = data
        self.bytes[size : 2 * size] = data & 1
        self.address = self.bytes.ctypes.data

    def at(self, entry: Entry, offset: int) -> int:
        """Where the first element lies of a tensor whose span begins at this offset."""
        return self.address + offset + entry.lead + (self.size if entry.dtype.code == 1 else 0)

    def array(self, entry: Entry, offset: int) -> NDArray[np.void]:
        """Its elements as plain bytes."""
        start = self.at(entry, offset) - self.address
        kind = np.dtype((np.void, entry.dtype.itemsize))
        return np.ndarray(entry.shape, kind, self.bytes.data, start, entry.strides)

    def give(self, entry: Entry, offset: int) -> object:
        """A tensor to be sent: a NumPy array or a Piece."""
        if offset & 1 and entry.dtype.numpy is not None:
            start = self.at(entry, offset) - self.address
            return np.ndarray(entry.shape, entry.dtype.numpy, self.bytes.data, start, entry.strides)
        return Piece(entry, self.at(entry, offset))

    def tensor(self, entry: Entry, offset: int, region: rt.Region) -> rt.Tensor:
        """A tensor of the library in another region that holds the same."""
        tensor = region.empty(entry.shape, entry.name)
        tensor.view()[:] = self.array(entry, offset).tobytes()
        return tensor

    def differs(self, entry: Entry, offset: int, address: int) -> bool:
        """Whether what arrived at `address` is not this tensor."""
        if entry.nbytes == 0:
            return False
        if entry.strides is None:
            return memcmp(address, self.at(entry, offset), entry.nbytes) != 0
        return ctypes.string_at(address, entry.nbytes) != self.array(entry, offset).tobytes()

    def difference(self, entry: Entry, offset: int, address: int) -> str:
        """Where it differs, for people."""
        got = np.frombuffer(ctypes.string_at(address, entry.nbytes), np.uint8)
        wanted = np.frombuffer(self.array(entry, offset).tobytes(), np.uint8)
        where = np.flatnonzero(got != wanted)
        if not len(where):
            return "it differed when it was compared, and does not now"
        first = int(where[0])
        found = self.bytes.tobytes().find(got[:64].tobytes()) if len(got) >= 16 else -1
        return (
            f"{len(where)} of {entry.nbytes} bytes, from {first} (0x{got[first]:02x}, not 0x{wanted[first]:02x}) to "
            f"{int(where[-1])}; its first bytes are those of pool offset {found}, due was {offset}"
        )
