"""Allocation of the tensors that torch's ordinary CPU operators make, in a region.

A c10::Allocator (allocator.cpp) is installed once for the process. It serves from a region where
one was chosen, for a thread or for the whole process, and passes every other request on to torch's
own allocator. See section 5 of the paper: a tensor that was allocated in registered memory is sent
without a copy.

The choice of a thread applies to allocations that the thread itself makes, which on the CPU include
its backward pass. Threads that torch or the user start have no choice of their own; use
`allocate_in` for those.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import warnings
import weakref
from ctypes import POINTER, c_int, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.fork import refuse_fork
from rdmatensor.locks import Rank, ordered_lock
from rdmatensor.memory.region import Region
from rdmatensor.stats import AllocationStats
from rdmatensor.torch.build import built

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Allocation", "allocate_in", "allocating"]

_SOURCE = Path(__file__).with_suffix(".cpp")
_HEADERS = (Path(__file__).with_name("pools.h"),)
_WHEN_FULL = ("ordinary", "raise")


class _Functions(ctypes.Structure):
    """The struct of the same name in pools.h."""

    _fields_ = (
        ("allocate", c_void_p),
        ("free", c_void_p),
        ("python_lives", c_void_p),
        ("python_take", c_void_p),
        ("python_leave", c_void_p),
        ("python_drop", c_void_p),
        ("block_index_bits", c_uint32),
        ("block_unit_bits", c_uint32),
    )


@cache
def compiled() -> Any:
    """The allocator: compiled if need be, loaded and installed."""
    library = ctypes.PyDLL(str(built(_SOURCE, seen=_HEADERS)))
    for name, result, arguments in (
        ("rtt_install", c_int, (POINTER(_Functions),)),
        ("rtt_pool_create", c_void_p, (c_void_p, c_uint64, c_void_p, c_int)),
        ("rtt_pool_drop", None, (c_void_p,)),
        ("rtt_pool_keep", None, (c_void_p,)),
        ("rtt_pool_stats", None, (c_void_p, POINTER(c_uint64))),
        ("rtt_choose_for_thread", c_void_p, (c_void_p,)),
        ("rtt_choose_for_all", c_void_p, (c_void_p,)),
        ("rtt_sites_create", c_void_p, (c_uint32,)),
        ("rtt_sites_drop", None, (c_void_p,)),
        ("rtt_sites_record", None, (c_void_p, c_int)),
        ("rtt_sites_records", c_uint64, (c_void_p, c_void_p, c_uint64)),
        ("rtt_sites_find", c_int, (c_void_p, c_void_p, c_void_p)),
        ("rtt_sites_serve", None, (c_void_p, c_void_p, c_void_p, c_uint32)),
        ("rtt_sites_stats", None, (c_void_p, POINTER(c_uint64))),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    python = ctypes.pythonapi
    allocate, free, index_bits, unit_bits = Region.arena_functions()
    functions = _Functions(
        allocate,
        free,
        ctypes.cast(python.Py_IsInitialized, c_void_p),
        ctypes.cast(python.PyGILState_Ensure, c_void_p),
        ctypes.cast(python.PyGILState_Release, c_void_p),
        ctypes.cast(python.Py_DecRef, c_void_p),
        index_bits,
        unit_bits,
    )
    if library.rtt_install(functions):
        why = "another CPU allocator was set with a higher priority, and torch keeps to that"
        raise RdmaError("install an allocator", "torch", why)
    return library


_lock = ordered_lock(Rank.ALLOCATOR)
_for_all: Allocation | None = None  # the choice of the process


class Allocation:
    """A region that serves torch's CPU allocations while it is entered. Made by `Region.allocating`
    and `allocate_in`.

    A context manager that may be entered any number of times; one thread at a time is in each
    `with`. `stats` counts the allocations that were served and those that found no room.
    """

    def __init__(self, region: Region, when_full: str, for_all: bool = False) -> None:
        if when_full not in _WHEN_FULL:
            why = f"when_full is {' or '.join(map(repr, _WHEN_FULL))}, not {when_full!r}"
            raise InvalidArgument("allocate tensors", repr(region), why)
        refuse_fork("allocate tensors", repr(region))
        pointer = region.arena_pointer()
        library = compiled()
        self.region = region
        self._library = library
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(region))  # for the pool, which drops it with its last tensor
        pool = library.rtt_pool_create(pointer, region.address, id(region), when_full == "ordinary")
        self._pool: int = pool
        self._for_all = for_all
        self._entered: list[tuple[int, int | None]] = []  # thread, and the choice before, which we hold
        self._told = 0
        weakref.finalize(self, library.rtt_pool_drop, pool).atexit = False

    @property
    def stats(self) -> AllocationStats:
        """Counters of the allocations served since it was made."""
        out = (c_uint64 * 6)()
        self._library.rtt_pool_stats(self._pool, out)
        return AllocationStats(*out)

    def _choose(self, pool: int | None) -> int | None:
        choose = self._library.rtt_choose_for_all if self._for_all else self._library.rtt_choose_for_thread
        before: int | None = choose(pool)
        return before

    def __enter__(self) -> Allocation:
        self._library.rtt_pool_keep(self._pool)
        self._entered.append((threading.get_ident(), self._choose(self._pool)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, before = self._entered[-1]
        if not self._for_all and thread != threading.get_ident():
            raise RuntimeError("a thread's choice of where tensors are allocated ends in the thread where it began")
        self._entered.pop()
        self._library.rtt_pool_drop(self._choose(before))
        self._tell()

    def make(self, count: int, dtype: torch.dtype) -> torch.Tensor | None:
        """A tensor of one dimension in the region, its values undefined; None when there is no room,
        or the region is closed. For `when_full="raise"`.
        """
        self._library.rtt_pool_keep(self._pool)
        before = self._library.rtt_choose_for_thread(self._pool)
        try:
            return torch.empty(count, dtype=dtype, device="cpu")
        except torch.OutOfMemoryError:
            return None
        finally:
            self._library.rtt_pool_drop(self._library.rtt_choose_for_thread(before))

    def _tell(self) -> None:
        """Warns of allocations that fell back: a tensor outside the region costs a copy when it is
        sent.
        """
        stats = self.stats
        if stats.fell_back > self._told:
            text = (
                f"{stats.fell_back - self._told} tensors found no room in {self.region!r} and were allocated as ever "
                f"({stats.fell_back_bytes} bytes in all so far): make it that much larger"
            )
            self._told = stats.fell_back
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def __repr__(self) -> str:
        return f"<Allocation in {self.region!r}, {self.stats}>"


@atexit.register
def _tell_at_exit() -> None:
    """Reports a process-wide choice that was still active at exit."""
    if _for_all is not None:
        _for_all._tell()


def allocating(region: Region, *, when_full: str = "ordinary") -> Allocation:
    """Lets tensors that this thread makes on the CPU lie in the region while entered; see
    `Region.allocating`.
    """
    return Allocation(region, when_full)


def allocate_in(region: Region | None, *, when_full: str = "ordinary") -> Allocation | None:
    """From here on, tensors that any thread makes on the CPU lie in the region, including torch's
    own threads; None ends it.

    A thread inside `Region.allocating` keeps its own choice. The Allocation that is returned has
    the counters (`stats`); the choice that it replaces ends. `when_full` is as for
    `Region.allocating`.
    """
    global _for_all
    with _lock:
        chosen = None if region is None else Allocation(region, when_full, for_all=True)
        last, _for_all = _for_all, chosen
        library = compiled() if chosen is not None or last is not None else None
        if library is not None:
            if chosen is not None:
                library.rtt_pool_keep(chosen._pool)
            library.rtt_pool_drop(library.rtt_choose_for_all(None if chosen is None else chosen._pool))
    if last is not None:
        last._tell()
    return chosen
