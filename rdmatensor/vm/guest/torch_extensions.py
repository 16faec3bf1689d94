"""Runs inside the guest: the end of torch's import, for interpreters that have torch imported
already.

At that point torch calls extensions of other packages, entry points of the group `torch.backends`.
A project's own extension may lie in a folder that exists only during runs, not when torch is
imported for all of them; and each extension must see the command's own environment. So torch is
first imported without them, and in a copy they are called when the command imports torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"
"""The environment variable that, set to "0", makes torch skip its extensions."""


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """A context in which an import of torch calls no extensions."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        del os.environ[SWITCH]
        if before is not None:
            os.environ[SWITCH] = before


class Finder:
    """A finder that gives torch as it was imported, once, and finishes its import as torch does."""

    def __init__(self, torch: types.ModuleType) -> None:
        self.torch = torch
        self.spec = torch.__spec__

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name == "torch" else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> types.ModuleType:
        return self.torch

    def exec_module(self, torch: types.ModuleType) -> None:
        sys.meta_path.remove(self)
        torch.__spec__ = self.spec
        if torch._is_device_backend_autoload_enabled():
            torch._import_device_backends()


def call_when_imported() -> None:
    """Makes the next import of torch call the extensions, where this torch has them."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "_import_device_backends"):
        del sys.modules["torch"]
        sys.meta_path.insert(0, Finder(torch))
