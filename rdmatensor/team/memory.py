"""The arguments of a team's calls: arrays as addresses, and new arrays for results."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.describe import describe, writable
from rdmatensor.memory.layout import DType, Shape, nbytes_of

__all__ = ["Operand", "apart", "operand", "result"]


class Operand(NamedTuple):
    """An array of a call."""

    given: Any
    address: int
    dtype: DType
    shape: Shape
    keep: object

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.shape, self.dtype)

    def blocks(self, number: int) -> tuple[tuple[int, int], ...]:
        """The addresses and bytes of `number` equal parts along the first dimension."""
        nbytes = self.nbytes // number
        return tuple((self.address + index * nbytes, nbytes) for index in range(number))


def operand(given: Any, what: str, on: object, *, written: bool = False) -> Operand:
    """An array as a call of `on` takes it. InvalidArgument where it is not contiguous, or is to be written
    to and cannot; TypeError where it is no array.
    """
    address, dtype, shape, strides, keep = describe(given)
    if strides is not None:
        why = "the array is not contiguous: give a copy, as numpy.ascontiguousarray makes one"
        raise InvalidArgument(what, repr(on), why)
    if written and not writable(given):
        raise InvalidArgument(what, repr(on), "the array is read-only, and the call writes into it")
    return Operand(given, address, dtype, tuple(shape), keep)


def result(like: Operand, shape: Shape, out: Any, what: str, on: object) -> Operand:
    """The array for a result: `out` after a check of its type and shape, or a new one of the kind of
    `like`.
    """
    if out is None:
        return operand(_new(like, shape, what, on), what, on)
    found = operand(out, what, on, written=True)
    if found.dtype is not like.dtype or found.shape != shape:
        why = f"out= has {found.shape} of {found.dtype}, and the result {shape} of {like.dtype}"
        raise InvalidArgument(what, repr(on), why)
    return found


def _new(like: Operand, shape: Shape, what: str, on: object) -> Any:
    if hasattr(like.given, "new_empty"):
        return like.given.new_empty(shape)  # torch's
    if like.dtype.numpy is None:
        raise InvalidArgument(what, repr(on), f"NumPy has no {like.dtype}: give an array for the result as out=")
    return np.empty(shape, like.dtype.numpy)


def apart(one: Operand, other: Operand, what: str, on: object, *, same: bool = False) -> None:
    """InvalidArgument where two arrays share memory; `same`: the very same memory is fine."""
    if not one.nbytes or not other.nbytes or (same and one.address == other.address):
        return
    if one.address < other.address + other.nbytes and other.address < one.address + one.nbytes:
        raise InvalidArgument(what, repr(on), "out= shares memory with the array: give memory of its own")
