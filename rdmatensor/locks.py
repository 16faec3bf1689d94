"""The locks of the Python layer, and the order in which one thread may take them.

    operators   which edge a name in a graph means (rdmatensor.torch)
    allocator   which region serves the process's allocations (rdmatensor.torch)
    edge        a sending edge: its backlog, and the tensors it keeps
    channel     a channel's transfers: which of them have ended
    backlogs    a device's list of edges with a backlog

A thread takes these locks from top to bottom, and may take a lock again that it holds. All of
them come before the locks of C (csrc/README.md); a call of C holds none of its locks when it
returns.

A thread that holds one of these locks waits for nothing: no tensor, no credit, no peer, no
store. It runs no user code, including the ends of tensors: objects released under a lock are
collected in a list, which is cleared after the lock is released. Devices, receiving edges and
listeners have no lock: they share deques and dicts, each of whose calls is atomic.

With RDMATENSOR_DEBUG_LOCKS=1 in the environment, every lock checks the order, and
`check_none_held` checks that no thread waits with a lock held.
"""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from rdmatensor.settings.config import debug_locks

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["OrderedLock", "Rank", "check_none_held", "ordered_lock"]


class Rank(IntEnum):
    """The order of the locks, the lowest first."""

    OPERATORS = 1
    ALLOCATOR = 2
    EDGE = 3
    CHANNEL = 4
    BACKLOGS = 5


class _Held(threading.local):
    def __init__(self) -> None:
        self.locks: list[OrderedLock] = []  # that this thread has taken, and some that it has released


_held = _Held()
_DEBUG = debug_locks()


def _owns(lock: Any) -> bool:
    return bool(lock._is_owned())  # typeshed does not have it


def _holds() -> list[OrderedLock]:
    """The locks that this thread holds, in the order in which it took them."""
    _held.locks[:] = [lock for lock in _held.locks if _owns(lock)]
    return _held.locks


class OrderedLock(_thread.RLock):  # type: ignore[misc]  # typeshed calls it final, and it is not
    """A lock that its thread may take again, and that raises AssertionError when the order is
    broken.

    A signal may raise in any function of Python. So the lock is released by the method that it
    inherits, which a signal does not interrupt, and whether it is held is asked of the lock itself.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    def __enter__(self) -> bool:  # type: ignore[override]
        held, owned, acquire = _holds(), _owns(self), self.acquire
        if held and not owned and held[-1].rank >= self.rank:
            raise AssertionError(f"the lock {self.rank.name} is taken under {held[-1].rank.name}: rdmatensor/locks.py")
        if not owned:
            held.append(self)
        try:
            acquire()
        except BaseException:
            if owned or _owns(self):
                self.release()
            raise
        return True


_all: weakref.WeakSet[Any] = weakref.WeakSet()


def ordered_lock(rank: Rank) -> AbstractContextManager[Any]:
    """A new lock of this rank, which its thread may take again. A child made by fork finds it free."""
    lock = OrderedLock(rank) if _DEBUG else threading.RLock()
    _all.add(lock)
    return lock


def _renew() -> None:
    """Renews all locks in a child: a thread that held one does not exist there and would never
    release it.
    """
    _held.locks.clear()
    for lock in tuple(_all):
        lock._at_fork_reinit()


os.register_at_fork(after_in_child=_renew)


def check_none_held(doing: str) -> None:
    """Raises AssertionError in a thread that is about to wait with a lock held."""
    if held := _holds():
        raise AssertionError(f"a thread is {doing} with the lock {held[-1].rank.name} held: rdmatensor/locks.py")
