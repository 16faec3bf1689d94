"""Reductions of element types for which the core has no loops (csrc/proto/dtype.h), by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.layout import DType, dtype_of_code

__all__ = ["OPS", "number_of"]

OPS = {"sum": 0, "product": 1, "min": 2, "max": 3, "and": 4, "or": 5, "xor": 6}
"""The numbers of reductions, as the core has them. `and`, `or` and `xor` are of bits."""

_UFUNCS: tuple[Callable[..., Any], ...] = (
    np.add,
    np.multiply,
    np.minimum,
    np.maximum,
    np.bitwise_and,
    np.bitwise_or,
    np.bitwise_xor,
)
_ALLOWED = {"b": 7, "i": 7, "u": 7, "f": 4, "c": 2}
"""How many of the reductions an element type has, by NumPy's kind of it."""


def number_of(op: str, dtype: DType, what: str, on: object) -> int:
    """The number of a reduction. InvalidArgument where there is none of this name, or none for the
    element type.
    """
    number = OPS.get(op)
    if number is None:
        raise InvalidArgument(what, repr(on), f"op={op!r} is no reduction: these are {', '.join(OPS)}")
    allowed = _ALLOWED[dtype.numpy.kind] if dtype.numpy is not None else 1 if dtype.name == "bfloat16" else 0
    if number >= allowed:
        names = ", ".join(list(OPS)[:allowed])
        why = f"{dtype.name} has these reductions: {names}" if allowed else f"{dtype.name} has no reductions here"
        raise InvalidArgument(what, repr(on), f"{why}, not {op!r}")
    return number


def _reduce(code: int, reduction: int, target: int, left: int, right: int, count: int) -> None:
    """target = left (reduction) right, element by element, at addresses of `count` elements each."""
    dtype = dtype_of_code(code)
    assert dtype.numpy is not None  # number_of has refused the others
    sides = [np.frombuffer(_core.view(at, count * dtype.itemsize, None), dtype.numpy) for at in (left, right, target)]
    with np.errstate(all="ignore"):
        _UFUNCS[reduction](sides[0], sides[1], out=sides[2])


_core.team_reduces_with(_reduce)
