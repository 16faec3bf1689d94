"""The rows of the core's table of element types."""

from __future__ import annotations

from typing import NamedTuple

from rdmatensor._core.base import text_of
from rdmatensor._native import lib


class DTypeRow(NamedTuple):
    """An element type as csrc/proto/dtype.h has it."""

    name: str
    code: int
    itemsize: int
    dlpack: int


def dtype_rows() -> tuple[DTypeRow, ...]:
    """The rows by code, from 1. The codes have no gap, and a code behind the last has no size."""
    rows: list[DTypeRow] = []
    while itemsize := int(lib.rt_dtype_size(code := len(rows) + 1)):
        rows.append(DTypeRow(text_of(lib.rt_dtype_name(code)), code, itemsize, int(lib.rt_dtype_dlpack(code))))
    return tuple(rows)
