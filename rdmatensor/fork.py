"""Whether this process is a child made by fork, where devices cannot be used."""

from __future__ import annotations

import os

from rdmatensor.errors import ForkedProcessError

__all__ = ["WHY", "forked", "note_use", "refuse_fork"]

WHY = "this process is a child made by fork, and devices do not cross a fork: open a device of its own in the child"

_used = False  # a device was opened in this process or in one that it is a child of
_forked = False


def note_use() -> None:
    """From here on a child made by fork is refused: it would have copies of what the parent's devices hold."""
    global _used
    _used = True


def _in_child() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_in_child)


def forked() -> bool:
    """Whether this process is a child made by fork after a device was opened.

    One that was made before may open its own, as the core sees it too (csrc/core/fork.c).
    """
    return _forked


def refuse_fork(what: str, on: str = "") -> None:
    """For calls of C that have no status: raises in a forked child."""
    if _forked:
        raise ForkedProcessError(what, on, WHY, status="forked")
