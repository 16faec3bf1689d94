"""Arguments converted for C: seconds to nanoseconds, names to bytes."""

from __future__ import annotations

from rdmatensor.errors import InvalidArgument

__all__ = ["NAME_SIZE_MAX", "TIMEOUT_MAX", "name_bytes", "timeout_ns"]

TIMEOUT_MAX = 1e9
"""The longest timeout in seconds, about 30 years. Longer and infinite waits are refused: every wait
has a deadline.
"""
NAME_SIZE_MAX = 128
"""The longest name, in bytes of UTF-8."""


def timeout_ns(timeout: float | None, default_ns: int) -> int:
    """A timeout in nanoseconds; None gives the default."""
    if timeout is None:
        return default_ns
    if isinstance(timeout, (str, bytes, bool)) or not hasattr(timeout, "__float__"):
        raise TypeError(f"a timeout is a number of seconds, not {timeout!r}")
    seconds = float(timeout)
    if not 0.0 <= seconds <= TIMEOUT_MAX:  # refuses NaN too
        raise InvalidArgument(
            "wait", why=f"a timeout is 0 to {TIMEOUT_MAX:g} seconds, not {timeout!r}; None takes the device's"
        )
    return int(seconds * 1e9)


def name_bytes(name: str) -> bytes:
    """A name as sent to peers: 1 to 128 bytes of UTF-8 without control characters."""
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
