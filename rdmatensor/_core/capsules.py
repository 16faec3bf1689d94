"""DLPack capsules."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from rdmatensor._native import ffi, lib

DLPACK_READ_ONLY: int = lib.RT_DLPACK_READ_ONLY
DLPACK_IS_COPIED: int = lib.RT_DLPACK_IS_COPIED

dlpack_alive: Callable[[], int] = lib.rt_dlpack_alive
"""Capsules, and what consumers took out of them, that are alive."""

_capsule, _new = lib.rt_dlpack_capsule, ffi.new
_dims = ffi.typeof("int64_t[]")
_take = ctypes.pythonapi.Py_DecRef
_take.restype, _take.argtypes = None, (ctypes.py_object,)


def taken(made: int) -> Any:
    """An object that C made, with the reference that C gave."""
    found = ctypes.cast(made, ctypes.py_object).value
    _take(found)  # now that `found` is one
    return found


def dlpack_capsule(
    address: int, code: int, itemsize: int, shape: tuple[int, ...], flags: int, versioned: bool, owner: object
) -> object:
    """A capsule that shows contiguous host memory and keeps `owner` alive. `code` is DLPack's of the element type."""
    made = _capsule(address, code, 8 * itemsize, len(shape), _new(_dims, shape), flags, versioned, id(owner))
    if made == 0:
        raise MemoryError("no memory for a DLPack capsule")
    capsule: object = taken(made)
    return capsule
