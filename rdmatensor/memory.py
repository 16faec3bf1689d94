"""What of the caller's memory can be registered."""

from __future__ import annotations

import ctypes
from typing import Any

from rdmatensor.describe import describe
from rdmatensor.errors import InvalidArgument
from rdmatensor.layout import nbytes_of

__all__ = ["buffer_of", "probe"]


def buffer_of(memory: object, on: str) -> object:
    """What has the buffer protocol: the memory itself, or a view of a tensor of torch, which keeps the tensor."""
    if not hasattr(memory, "data_ptr"):
        return memory
    address, dtype, shape, strides, owner = describe(memory)
    if strides is not None:
        raise InvalidArgument("register memory", on, "the tensor is not contiguous: register the one it is a view of")
    view: Any = (ctypes.c_ubyte * nbytes_of(shape, dtype)).from_address(address)
    view.owner = owner
    return view


def probe(owner: object, on: str, *, written: bool) -> bool:
    """Whether the memory behind anything with the buffer protocol may be written to; `written`: it must be."""
    what = "register memory"
    try:
        with memoryview(owner) as view:  # type: ignore[arg-type]
            size, readonly, contiguous = view.nbytes, view.readonly, view.c_contiguous
    except TypeError:
        why = f"{type(owner).__name__} has no buffer: give a NumPy array, a bytearray, a memoryview, …"
        raise InvalidArgument(what, on, why) from None
    if not contiguous:
        raise InvalidArgument(what, on, "the buffer is not contiguous: register the array it is a view of")
    if size == 0:
        raise InvalidArgument(what, on, "the buffer is empty")
    if written and readonly:
        raise InvalidArgument(what, on, "peers cannot be let write to a read-only buffer")
    return not readonly
