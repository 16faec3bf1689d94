"""The parts these tests share. They need torch, which `make test` installs; without it they are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rdmatensor as rt

CACHE = Path(__file__).resolve().parents[3] / "build" / "cache"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files compiled for torch stay out of the home directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))


@pytest.fixture
def region() -> Iterator[rt.Region]:
    with rt.Device("shm://") as device:
        yield device.region(1 << 20)
