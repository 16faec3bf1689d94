"""Runs inside the guest: the imports that most commands make, done once for all interpreters that
are forked later.
"""

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
"""The directory of the guest's half."""
COMPILE_TIMEOUT = 120.0
"""The seconds after the imports during which pytest may continue to compile its plugins."""


def preload() -> dict[str, float]:
    """Imports the modules that most commands use; gives the seconds of each import."""
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
        except subprocess.TimeoutExpired:  # on a busy host pytest's first start is then slower
            compiling.kill()
            compiling.wait()
    return took


def compile_pytest() -> subprocess.Popen[bytes]:
    """Starts a pytest with an empty folder beside the imports. pytest compiles its plugins in a way
    of its own; doing so once here puts the result into the memory that the snapshot keeps. That
    takes two thirds of the time of importing torch, on another processor.
    """
    os.makedirs(f"{RUN}/empty")
    command = ["env", "-u", "PYTHONDONTWRITEBYTECODE", "RDMATENSOR_VM_FAST=0", sys.executable, "-m", "pytest"]
    command += ["-q", "--collect-only", f"{RUN}/empty"]
    return subprocess.Popen(command, cwd=f"{RUN}/empty", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
