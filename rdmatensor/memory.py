"""What of the caller's memory can be registered."""

from __future__ import annotations

from rdmatensor.errors import InvalidArgument

__all__ = ["probe"]


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
