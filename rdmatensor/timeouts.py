"""Seconds that a user gives, as nanoseconds that C takes."""

from __future__ import annotations

from rdmatensor.errors import InvalidArgument

__all__ = ["TIMEOUT_MAX", "timeout_ns"]

TIMEOUT_MAX = 1e9
"""Seconds; about 30 years. Longer waits, and infinite ones, are refused: every wait has a deadline."""


def timeout_ns(timeout: float | None, default_ns: int) -> int:
    """A timeout in nanoseconds; None gives the default."""
    if timeout is None:
        return default_ns
    if isinstance(timeout, (str, bytes, bool)) or not hasattr(timeout, "__float__"):
        raise TypeError(f"a timeout is a number of seconds, not {timeout!r}")
    seconds = float(timeout)
    if not 0.0 <= seconds <= TIMEOUT_MAX:  # not a number is not in between either
        raise InvalidArgument(
            "wait", why=f"a timeout is 0 to {TIMEOUT_MAX:g} seconds, not {timeout!r}; None takes the device's"
        )
    return int(seconds * 1e9)
