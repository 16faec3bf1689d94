"""Runs inside the guest: the imports that most commands would make, once for all interpreters that are forked later."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch_extensions  # type: ignore[import-not-found]  # beside this file

RUN = "/run/rdmatensor"
"""Where the guest's half keeps what it needs."""
COMPILE_TIMEOUT = 120.0
"""Seconds after the imports in which pytest may go on compiling its plugins."""


def preload() -> dict[str, float]:
    """Imports what most commands would; seconds of each."""
    took: dict[str, float] = {}
    names = Path("/etc/rdmatensor-preload").read_text().strip().split(",")
    compiling = compile_pytest() if "pytest" in names else None
    names += ["_pytest.config"] * (compiling is not None)
    for name in filter(None, names):
        began = time.perf_counter()
        try:
            with torch_extensions.left_alone():
                importlib.import_module(name)
        except Exception as error:
            print(f"rdmatensor: {name} cannot be imported: {error!r}", flush=True)
        took[name] = round(time.perf_counter() - began, 2)
    if "_pytest.config" in sys.modules:
        for plugin in getattr(sys.modules["_pytest.config"], "default_plugins", ()):
            with contextlib.suppress(Exception):
                importlib.import_module(f"_pytest.{plugin}")
    if compiling is not None:
        try:
            compiling.wait(COMPILE_TIMEOUT)
        except subprocess.TimeoutExpired:  # on a busy host; then pytest's first start is slower
            compiling.kill()
            compiling.wait()
    return took


def compile_pytest() -> subprocess.Popen[bytes]:
    """Starts a pytest with nothing to do beside the imports. It compiles plugins in a way of its own: once here, into
    the memory that the snapshot keeps. That takes two thirds of the time of importing torch, on another processor.
    """
    os.makedirs(f"{RUN}/empty")
    command = ["env", "-u", "PYTHONDONTWRITEBYTECODE", "RDMATENSOR_VM_FAST=0", sys.executable, "-m", "pytest"]
    command += ["-q", "--collect-only", f"{RUN}/empty"]
    return subprocess.Popen(command, cwd=f"{RUN}/empty", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
