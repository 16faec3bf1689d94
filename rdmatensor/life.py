"""Whether a C object still lives."""

from __future__ import annotations

__all__ = ["Life"]


class Life:
    """Whether a C object still lives, for those whose own end comes after it when the garbage collector decides."""

    __slots__ = ("ended", "kept")

    def __init__(self) -> None:
        self.ended = False
        self.kept: list[object] = []
        """What must outlive the object: buffers of the caller that a device may still touch."""
