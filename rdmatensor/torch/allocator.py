"""Tensors that ordinary CPU operators of torch make, born in a region.

A c10::Allocator (allocator.cpp) is installed once for the process. It serves from a region where one was chosen, for a
thread or for all, and passes everything else on to torch's own. See section 5 of the paper: a tensor that was allocated
in registered memory is sent without a copy.

The choice of a thread holds for what that thread allocates itself, which on the CPU includes the backward pass that it
runs. Threads that torch or the user start have no choice of their own: for those there is `allocate_in`.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
import weakref
from ctypes import POINTER, c_int, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.fork import refuse_fork
from rdmatensor.region import Region
from rdmatensor.stats import AllocationStats
from rdmatensor.torch.build import built

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Allocation", "allocate_in", "allocating"]

_SOURCE = Path(__file__).with_suffix(".cpp")
_WHEN_FULL = ("ordinary", "raise")


class _Functions(ctypes.Structure):
    """As allocator.cpp has it."""

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
    """The allocator, compiled if need be, loaded and installed."""
    library = ctypes.PyDLL(str(built(_SOURCE)))
    for name, result, arguments in (
        ("rtt_install", c_int, (POINTER(_Functions),)),
        ("rtt_pool_create", c_void_p, (c_void_p, c_uint64, c_void_p, c_int)),
        ("rtt_pool_drop", None, (c_void_p,)),
        ("rtt_pool_keep", None, (c_void_p,)),
        ("rtt_pool_stats", None, (c_void_p, POINTER(c_uint64))),
        ("rtt_choose_for_thread", c_void_p, (c_void_p,)),
        ("rtt_choose_for_all", c_void_p, (c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    python = ctypes.pythonapi
    allocate, free, index_bits, unit_bits = Region._arena_functions()
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


_lock = threading.Lock()
_for_all: Allocation | None = None  # the choice of the process


class Allocation:
    """A region that serves torch's CPU allocations while it is entered. Made by `Region.allocating` and `allocate_in`.

    A context manager, to be entered again as often as one likes, by one thread at a time in each `with`. `stats` counts
    what was served and what found no room.
    """

    def __init__(self, region: Region, when_full: str, for_all: bool = False) -> None:
        if when_full not in _WHEN_FULL:
            why = f"when_full is {' or '.join(map(repr, _WHEN_FULL))}, not {when_full!r}"
            raise InvalidArgument("allocate tensors", repr(region), why)
        refuse_fork("allocate tensors", repr(region))
        pointer = region._arena_pointer()
        library = compiled()
        self.region = region
        self._library = library
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(region))  # the pool's, which it gives up with its last tensor
        pool = library.rtt_pool_create(pointer, region.address, id(region), when_full == "ordinary")
        self._pool: int = pool
        self._for_all = for_all
        self._entered: list[tuple[int, int | None]] = []  # thread, and the choice before, whose reference is ours
        self._told = 0
        weakref.finalize(self, library.rtt_pool_drop, pool).atexit = False

    @property
    def stats(self) -> AllocationStats:
        """What it served since it was made."""
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

    def _tell(self) -> None:
        """Falling back is counted, and it is said aloud: a tensor that is not in the region costs a copy when sent."""
        stats = self.stats
        if stats.fell_back > self._told:
            text = (
                f"{stats.fell_back - self._told} tensors found no room in {self.region!r} and were allocated as ever "
                f"({stats.fell_back_bytes} bytes in all so far): make it larger"
            )
            self._told = stats.fell_back
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def __repr__(self) -> str:
        return f"<Allocation in {self.region!r}, {self.stats}>"


def allocating(region: Region, *, when_full: str = "ordinary") -> Allocation:
    """While entered, tensors that this thread makes on the CPU lie in the region; `Region.allocating` says more."""
    return Allocation(region, when_full)


def allocate_in(region: Region | None, *, when_full: str = "ordinary") -> Allocation | None:
    """From here on, tensors that any thread makes on the CPU lie in the region, those of torch's own threads included;
    None ends it.

    A thread inside `Region.allocating` keeps to that. What is given counts (`stats`); the choice that it replaces is
    forgotten. `when_full` as for `Region.allocating`.
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
