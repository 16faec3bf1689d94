"""Runs `rdmatensor vm` on this host. Skipped with the reason where the emulated machine cannot be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from machines import RUN_TIMEOUT, Vm, command, environment

from rdmatensor.vm import VmError, packages

PREPARE_TIMEOUT = 900
if not os.environ.get("RDMATENSOR_RXE"):
    collect_ignore = ["guest", "group"]  # test_suites.py runs them where there is soft-RoCE


@pytest.fixture(scope="session")
def machine() -> None:
    """Skips the test, naming the missing part, unless this system has all parts of an emulated machine."""
    if os.environ.get("RDMATENSOR_VM"):
        pytest.skip("this is the emulated machine already")
    try:
        packages.ensure(print)
    except VmError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def prepared(machine: None) -> None:
    """The machine is made, so that no test waits for it."""
    done = subprocess.run(command("--", "true"), env=environment(), capture_output=True, timeout=PREPARE_TIMEOUT)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def vm(prepared: None, tmp_path: Path) -> Vm:
    """Runs a command in a machine, in a directory of its own: vm("--hosts", "2", "--", "true")."""

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_TIMEOUT,
        )

    return run
