"""Element types, shapes and strides: the meaning of a tensor's bytes. Pure, but for the element
types, which are read from the core's table (csrc/proto/dtype.h).

Where NumPy has no such type (bfloat16, float8, complex32), tensors still carry the bytes, and torch
can show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument

__all__ = [
    "DTYPES",
    "NBYTES_MAX",
    "RANK_MAX",
    "DType",
    "Shape",
    "as_dtype",
    "as_shape",
    "contiguous_runs",
    "contiguous_strides",
    "dtype_of_code",
    "is_contiguous",
    "nbytes_of",
    "run_offsets",
]

Shape = tuple[int, ...]

RANK_MAX = 16
NBYTES_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class DType:
    """An element type."""

    name: str
    """The name, as torch and NumPy spell it."""
    code: int
    """The code on the wire."""
    itemsize: int
    dlpack: int
    """DLPack's type code; its bits are 8 * itemsize, lanes 1."""
    numpy: np.dtype[Any] | None
    """NumPy's type, or None where NumPy has none."""

    def __repr__(self) -> str:
        return self.name


def _numpy_of(name: str) -> np.dtype[Any] | None:
    """NumPy's own type of this name. Types that other packages add to NumPy do not count: whether
    they are there depends on what was imported.
    """
    try:
        found = np.dtype(name)
    except TypeError:
        return None
    return found if found.isbuiltin == 1 else None


DTYPES: tuple[DType, ...] = tuple(DType(*row, numpy=_numpy_of(row.name)) for row in _core.dtype_rows())
"""All element types, by code from 1."""

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_known_keys: dict[object, DType] = {}  # cache of what users gave: names, NumPy's and torch's types
_KEYS_MAX = 256


def as_dtype(given: object) -> DType:
    """The element type for a name ("bfloat16"), a NumPy type or a torch.dtype.

    InvalidArgument for types that tensors cannot have: objects, text, dates, foreign byte orders,
    quantised types.
    """
    try:
        return _known_keys[given]
    except (KeyError, TypeError):
        found = given if isinstance(given, DType) else _find_dtype(given)
    if len(_known_keys) < _KEYS_MAX:
        _known_keys[given] = found
    return found


def _find_dtype(given: object) -> DType:
    name = given if isinstance(given, str) else str(given) if type(given).__module__ == "torch" else ""
    found = _BY_NAME.get(name.removeprefix("torch."))
    if found is not None:
        return found
    why = f"{given!r} is no element type of a tensor: these are {', '.join(_BY_NAME)}"
    if name.startswith("torch.") or given is None:
        raise InvalidArgument("find an element type", why=why)
    try:
        kind = np.dtype(given)  # type: ignore[call-overload]
    except TypeError:
        raise InvalidArgument("find an element type", why=why) from None
    found = _BY_NAME.get(kind.name)
    if found is None or kind.itemsize != found.itemsize:
        raise InvalidArgument("find an element type", why=why)
    if not kind.isnative:
        why = f"{given!r} has the other byte order: convert it with .astype({kind.newbyteorder('=').str!r})"
        raise InvalidArgument("find an element type", why=why)
    return found


def dtype_of_code(code: int) -> DType:
    """The element type of a code on the wire."""
    if not 1 <= code <= len(DTYPES):
        raise InvalidArgument("find an element type", why=f"there is none of code {code}")
    return DTYPES[code - 1]


def as_shape(given: int | Sequence[int], dtype: DType) -> Shape:
    """A shape as a tuple, checked: rank 0 to 16, no negative dimension, at most 2^63 - 1 bytes."""
    what = "make a shape"
    try:
        shape = (given.__index__(),) if hasattr(given, "__index__") else tuple(size.__index__() for size in given)
    except (TypeError, AttributeError):
        raise TypeError(f"a shape is a sequence of whole numbers, not {given!r}") from None
    if len(shape) > RANK_MAX:
        raise InvalidArgument(what, why=f"rank {len(shape)} is over the limit of {RANK_MAX} dimensions")
    if any(size < 0 for size in shape):
        raise InvalidArgument(what, why=f"{shape} has a negative dimension")
    if prod(shape) * dtype.itemsize > NBYTES_MAX or any(size > NBYTES_MAX for size in shape):
        raise InvalidArgument(what, why=f"{shape} of {dtype} is larger than 2^63 - 1 bytes")
    return shape


def nbytes_of(shape: Shape, dtype: DType) -> int:
    """The size of a contiguous tensor in bytes."""
    return prod(shape) * dtype.itemsize


def contiguous_strides(shape: Shape, itemsize: int) -> Shape:
    """The strides in bytes of a tensor that is contiguous in row-major order."""
    strides = []
    step = itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """Whether a tensor with these strides (in bytes) lies in row-major order without gaps.
    Dimensions of size 1 do not count; an empty tensor always does.
    """
    if 0 in shape:
        return True
    step = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def contiguous_runs(shape: Shape, strides: Shape, itemsize: int) -> tuple[int, Shape, Shape]:
    """The longest contiguous pieces of a strided tensor, in row-major order: the bytes of each, and
    the shape and strides (in bytes) of the grid in which they begin.

    >>> contiguous_runs((4, 3, 2), (64, 8, 4), 4)
    (24, (4,), (64,))
    >>> contiguous_runs((2, 3), (4, 8), 4)
    (4, (2, 3), (4, 8))

    Gives one piece for a contiguous tensor, none for an empty one.
    """
    if 0 in shape:
        return 0, (0,), (0,)
    run, at = itemsize, len(shape)
    while at and (shape[at - 1] == 1 or strides[at - 1] == run):
        run *= shape[at - 1]
        at -= 1
    outer: list[tuple[int, int]] = []
    for size, stride in zip(shape[:at], strides[:at], strict=True):
        if size == 1:
            continue
        if outer and outer[-1][1] == size * stride:  # continues where the inner dimension ends
            outer[-1] = outer[-1][0] * size, stride
        else:
            outer.append((size, stride))
    return run, tuple(size for size, _ in outer), tuple(stride for _, stride in outer)


def run_offsets(shape: Shape, strides: Shape) -> Iterator[int]:
    """The offsets at which the pieces of `contiguous_runs` begin, in row-major order, in bytes from
    the first element.
    """
    if not shape:
        yield 0
        return
    for index in range(shape[0]):
        for offset in run_offsets(shape[1:], strides[1:]):
            yield index * strides[0] + offset
