"""Support for children made by fork, which cannot use the devices that their parent has open.

The C core keeps the state (csrc/device/fork.c): in a child made while a device was open it refuses
every call; a child made while none was open is a process like any other. This module has Python's
checks, and the hook by which a child renews the locks that threads of its parent held.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rdmatensor import _core
from rdmatensor.errors import ForkedProcessError

__all__ = ["forked", "in_child", "refuse_fork"]


def forked() -> bool:
    """Whether this process is a child that was forked while a device was open. Checked before any
    lock is taken.
    """
    return _core.process_forked() != 0


def refuse_fork(what: str, on: str = "") -> None:
    """Raises in a forked child; for C calls that have no status."""
    if forked():
        raise ForkedProcessError(what, on, ForkedProcessError.WHY, status="forked")


def in_child(function: Callable[[], None]) -> None:
    """Calls the function in every child made by os.fork from here on, before other code of the
    child runs. Used to renew locks: a thread that held one does not exist in the child and would
    never release it.
    """
    os.register_at_fork(after_in_child=function)
