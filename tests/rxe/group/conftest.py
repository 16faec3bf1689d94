"""Process groups of torch over the real rdma_rxe: `rdmatensor vm run -- python -m pytest tests/rxe/group`, with the
backend compiled before in a cache that the machine sees (`--env XDG_CACHE_HOME`), since it has no compiler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TORCH = Path(__file__).resolve().parents[2] / "torch" / "ranks"
sys.path.insert(0, str(TORCH))  # what ranks do in the tests over shared memory, they do here

DEVICES = [name for name in os.environ.get("RDMATENSOR_RXE_DEVICES", "").split(",") if name]

pytest.importorskip("torch", reason="no torch here: make torch")

from ranks import Ranks  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _soft_roce() -> Iterator[None]:
    if not os.environ.get("RDMATENSOR_RXE"):
        pytest.skip("no soft-RoCE here: `rdmatensor vm run -- python -m pytest tests/rxe/group` has it")
    with pytest.MonkeyPatch.context() as patch:  # for ranks, which inherit it
        patch.setenv("RDMATENSOR_TORCH_URL", f"verbs://{DEVICES[0]}")
        yield


@pytest.fixture(scope="session")
def ranks(_soft_roce: None) -> Iterator[Ranks]:
    made = Ranks(3)
    yield made
    made.close()
