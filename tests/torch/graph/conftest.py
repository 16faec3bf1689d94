"""The tests of the graph: they need torch; without it they are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """One thread and one seed: sums have one order, and every test its own draws."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
