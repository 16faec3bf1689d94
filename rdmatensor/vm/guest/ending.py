"""Runs inside the guest: how a copy of the agent ends.

A process that ends takes apart what it has loaded: its interpreter every module, its libraries what they set up. In a
copy most of that memory is shared with the agent, and to take it apart is to copy it first, page by page: a second for
each process where torch is imported. So what was imported for all copies stays as it is until the process is gone; what
the command itself imported and made is taken apart as ever, but for functions that the linker calls at the very end
(DT_FINI_ARRAY).
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import types

TAKEN_APART_LAST = ("sys", "builtins")
"""The interpreter sees to these itself."""

_kept: dict[str, types.ModuleType] = {}


def keep_all() -> None:
    """What is imported and loaded now stays when a copy ends. To be called once, before copies are made."""
    passing = (*TAKEN_APART_LAST, "__main__")
    _kept.update({name: module for name, module in sys.modules.items() if name not in passing})
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))  # never to be freed
    # Handlers are called from the last to the first: those of the command, fflush(NULL), _exit(status) and no others.
    libc = ctypes.CDLL(None)
    libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
    libc.__cxa_atexit(ctypes.cast(libc.fflush, ctypes.c_void_p), None, None)


def _hide() -> None:
    """Takes the modules out of the interpreter's sight."""
    for name, module in _kept.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


atexit.register(_hide)  # the first to be registered is the last to be called
