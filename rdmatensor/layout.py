"""Element types, shapes and strides: what the bytes of a tensor mean. Pure: no torch, no native code.

The codes are those of csrc/proto/EDGES.md section 2 and are never renumbered. Where NumPy has no such type
(bfloat16, float8, complex32), tensors carry the bytes all the same, and torch shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

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

# Kinds of DLPack 1.1, by number.
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_E4M3FN, _E4M3FNUZ, _E5M2, _E5M2FNUZ, _E8M0FNU = 10, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class DType:
    """An element type."""

    name: str
    """As torch and NumPy spell it."""
    code: int
    """On the wire."""
    itemsize: int
    dlpack: int
    """DLPack's type code; its bits are 8 * itemsize, lanes 1."""
    numpy: np.dtype[Any] | None
    """NumPy's, or None where it has none."""

    def __repr__(self) -> str:
        return self.name


def _known() -> Iterator[DType]:
    for code, name, itemsize, dlpack in (
        (1, "bool", 1, _BOOL),
        (2, "uint8", 1, _UINT),
        (3, "uint16", 2, _UINT),
        (4, "uint32", 4, _UINT),
        (5, "uint64", 8, _UINT),
        (6, "int8", 1, _INT),
        (7, "int16", 2, _INT),
        (8, "int32", 4, _INT),
        (9, "int64", 8, _INT),
        (10, "float16", 2, _FLOAT),
        (11, "float32", 4, _FLOAT),
        (12, "float64", 8, _FLOAT),
        (13, "bfloat16", 2, _BFLOAT),
        (14, "complex32", 4, _COMPLEX),
        (15, "complex64", 8, _COMPLEX),
        (16, "complex128", 16, _COMPLEX),
        (17, "float8_e4m3fn", 1, _E4M3FN),
        (18, "float8_e5m2", 1, _E5M2),
        (19, "float8_e4m3fnuz", 1, _E4M3FNUZ),
        (20, "float8_e5m2fnuz", 1, _E5M2FNUZ),
        (21, "float8_e8m0fnu", 1, _E8M0FNU),
    ):
        without = name in ("bfloat16", "complex32") or name.startswith("float8")
        yield DType(name, code, itemsize, dlpack, None if without else np.dtype(name))


DTYPES: tuple[DType, ...] = tuple(_known())
"""All of them, by code from 1."""

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_known_keys: dict[object, DType] = {}  # what users gave before: names, NumPy's and torch's types
_KEYS_MAX = 256


def as_dtype(given: object) -> DType:
    """The element type that a name ("bfloat16"), a NumPy type or a torch.dtype stands for.

    InvalidArgument for those that tensors do not have: objects, text, dates, other byte orders, quantised ones.
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
    """The element type of a code of the wire."""
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
    """Bytes of a contiguous tensor."""
    return prod(shape) * dtype.itemsize


def contiguous_strides(shape: Shape, itemsize: int) -> Shape:
    """Strides in bytes of a tensor that is contiguous in row-major order."""
    strides = []
    step = itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """Whether a tensor with these strides (bytes) lies in row-major order without gaps. Dimensions of 1 do not
    count, and an empty tensor always does.
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
    """The longest contiguous pieces of a strided tensor, in row-major order: bytes of each, and the shape and strides
    (bytes) of the grid in which they begin.

    >>> contiguous_runs((4, 3, 2), (64, 8, 4), 4)
    (24, (4,), (64,))
    >>> contiguous_runs((2, 3), (4, 8), 4)
    (4, (2, 3), (4, 8))

    One piece when it is contiguous, none when it is empty.
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
        if outer and outer[-1][1] == size * stride:  # walks on where the inner dimension ends
            outer[-1] = outer[-1][0] * size, stride
        else:
            outer.append((size, stride))
    return run, tuple(size for size, _ in outer), tuple(stride for _, stride in outer)


def run_offsets(shape: Shape, strides: Shape) -> Iterator[int]:
    """Where the pieces of `contiguous_runs` begin, in row-major order, in bytes from the first element."""
    if not shape:
        yield 0
        return
    for index in range(shape[0]):
        for offset in run_offsets(shape[1:], strides[1:]):
            yield index * strides[0] + offset
