"""Ranks that the tests of this directory share; without torch they are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` installs it")

from ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four processes for all tests."""
    made = Ranks(4)
    yield made
    made.close()


@pytest.fixture
def fresh_ranks() -> Iterator[Ranks]:
    """Processes of a test's own, to be killed."""
    made = Ranks(3)
    yield made
    made.close()
