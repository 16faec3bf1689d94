"""Tests against the real rdma_rxe, where there is one: `rdmatensor vm run -- python -m pytest tests/rxe/guest`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from joined import DEVICES
from peers import Stranger

import rdmatensor as rt

PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")


@pytest.fixture(autouse=True)
def _soft_roce() -> None:
    if not os.environ.get("RDMATENSOR_RXE"):
        pytest.skip("no soft-RoCE here: `rdmatensor vm run -- python -m pytest tests/rxe/guest` has it")


@pytest.fixture
def device() -> Iterator[rt.Device]:
    """The first soft-RoCE device."""
    with rt.Device(f"verbs://{DEVICES[0]}", timeout=300) as opened:
        yield opened


@pytest.fixture
def strangers() -> Iterator[list[Stranger]]:
    """Where a test leaves the strangers it starts; they are ended after it. Skipped where there is no pyverbs."""
    if not PYVERBS.is_dir():
        pytest.skip("no python3-pyverbs here: apt-get install python3-pyverbs")
    started: list[Stranger] = []
    yield started
    for stranger in started:
        stranger.end()


@pytest.fixture
def two_devices() -> tuple[str, str]:
    """Two devices joined by a link that carries the packets."""
    if len(DEVICES) != 2 or not all(Path("/sys/class/infiniband", name).exists() for name in DEVICES):
        pytest.skip(f"this needs two devices, and here is {DEVICES}: `rdmatensor vm run --hosts 2`")
    if subprocess.run(["tc", "-V"], capture_output=True).returncode:
        pytest.skip("no tc here: apt-get install iproute2")
    return DEVICES[0], DEVICES[1]
