"""Names under which memory is published to peers. The RPC itself is in C (csrc/core/rpc.c); nothing else uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rdmatensor.errors import InvalidArgument, RegionBusy

__all__ = ["NAME_SIZE_MAX", "name_bytes", "when_free"]

_T = TypeVar("_T")

NAME_SIZE_MAX = 128
"""Bytes of a name in UTF-8."""
_NAP_S = 50e-6  # between looks for a free lookup


def when_free(lookup: Callable[[], _T], timeout_ns: int) -> _T:
    """What `lookup` gives; while other threads have taken all lookups of the channel, it waits for one."""
    deadline = time.monotonic_ns() + timeout_ns
    while True:
        try:
            return lookup()
        except RegionBusy:
            if time.monotonic_ns() >= deadline:
                raise
        time.sleep(_NAP_S)


def name_bytes(name: str) -> bytes:
    """A name as it travels: 1 to 128 bytes of UTF-8 without control characters."""
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {type(name).__name__}")
    data = name.encode()
    if not 0 < len(data) <= NAME_SIZE_MAX:
        raise InvalidArgument(
            "use a name", repr(name[:40]), f"it has {len(data)} bytes; a name has 1 to {NAME_SIZE_MAX}"
        )
    if any(byte < 0x20 or byte == 0x7F for byte in data):
        raise InvalidArgument("use a name", repr(name), "it holds control characters")
    return data
