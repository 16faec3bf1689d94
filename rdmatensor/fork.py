"""Whether this process is a child made by fork, where devices cannot be used."""

from __future__ import annotations

import os

from rdmatensor.errors import ForkedProcessError

__all__ = ["WHY", "forked", "refuse_fork"]

WHY = "this process is a child made by fork, and devices do not cross a fork: open a device of its own in the child"

_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_in_child)


def forked() -> bool:
    """Whether this process is a child made by fork after rdmatensor was imported."""
    return _forked


def refuse_fork(what: str, on: str = "") -> None:
    """For calls of C that have no status: raises in a forked child."""
    if _forked:
        raise ForkedProcessError(what, on, WHY, status="forked")
