"""Every operation gives what Gloo gives, over 2, 3 and 4 ranks."""

from __future__ import annotations

import os
from typing import Any

import operations
import pytest
import torch
from ranks import Ranks

import rdmatensor.torch


def same(ours: Any, theirs: Any, where: str) -> None:
    """Compares nested results; tensors bit by bit."""
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, where
        assert torch.equal(ours, theirs), f"{where}: {ours} is not {theirs}"
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            same(ours[key], theirs[key], f"{where}, {key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, f"{where}[{index}]")
    else:
        assert ours == theirs, where


SIZES = [2, 3, 4] if "RT_TORCH_ALL" in os.environ else [3]  # `make torch-tests` sets it


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name", ["reduces", "bits", "spreads", "passes", "objects", "groups", "overlaps", "coalesced", "sparse"]
)
def test_results_are_those_of_gloo(ranks: Ranks, name: str, size: int) -> None:
    function = getattr(operations, name)
    same(ranks.run(function, size), ranks.run(function, size, backend="gloo"), f"{name} over {size}")


@pytest.mark.parametrize("size", [2, 3])
def test_tensors_may_lie_anyhow(ranks: Ranks, size: int) -> None:
    ours, theirs = ranks.run(operations.strides, size), ranks.run(operations.strides, size, backend="gloo")
    for rank in range(size):
        same(ours[rank]["all_reduce"], theirs[rank]["all_reduce"], "a transposed tensor")
        # Gloo takes a tensor with gaps for one without, and brings half of it; so this is compared with what was sent.
        same(ours[rank]["broadcast"], operations.values("float32", 500, 3), "a tensor with gaps")


@pytest.mark.parametrize("size", [2, 3])
def test_lists_go_from_all_to_all(ranks: Ranks, size: int) -> None:
    found = ranks.run(operations.all_to_all_lists, size)
    for rank in range(size):
        expected = [torch.full((other + rank + 1,), float(10 * other + rank)) for other in range(size)]
        assert torch.equal(found[rank], torch.cat(expected))


@pytest.mark.parametrize("size", [2, 3])
def test_more_types_and_reductions_than_gloo(ranks: Ranks, size: int) -> None:
    for found in ranks.run(operations.averages, size):
        for name, (ours, expected) in found.items():
            assert torch.equal(ours, expected), name


def test_the_provider_that_moves_the_bytes_is_told(ranks: Ranks) -> None:
    assert ranks.run(operations.provider, 2) == ["shm", "shm"]
    with pytest.raises(ValueError, match="init_process_group"):
        rdmatensor.torch.provider()
