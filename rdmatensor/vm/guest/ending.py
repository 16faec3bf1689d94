"""The end of a copy of the agent; runs inside the guest.

A process that ends tears down its memory: the interpreter every module, the libraries their state.
In a copy most of that memory is shared with the agent, and tearing it down copies it first, page by
page: a second for each process where torch is imported. So modules that were imported for all
copies stay as they are until the process is gone. Modules and objects of the command itself are
torn down as usual, except for functions that the linker calls at the very end (DT_FINI_ARRAY).
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import types

TAKEN_APART_LAST = ("sys", "builtins")
"""Modules that the interpreter tears down itself."""

_kept: dict[str, types.ModuleType] = {}


def keep_all() -> None:
    """Keeps the modules imported so far when a copy ends. To be called once, before copies are made."""
    passing = (*TAKEN_APART_LAST, "__main__")
    _kept.update({name: module for name, module in sys.modules.items() if name not in passing})
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))  # never to be freed
    # Handlers run from the last to the first: those of the command, fflush(NULL), _exit(status),
    # and no others.
    libc = ctypes.CDLL(None)
    libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
    libc.__cxa_atexit(ctypes.cast(libc.fflush, ctypes.c_void_p), None, None)


def _hide() -> None:
    """Removes the kept modules from sys.modules, so that the interpreter does not tear them down."""
    for name, module in _kept.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


atexit.register(_hide)  # the first to be registered is the last to be called
