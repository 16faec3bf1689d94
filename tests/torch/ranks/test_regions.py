"""Tensors in a region of the groups' device are read and written where they lie: same results, and nothing staged."""

from __future__ import annotations

from pathlib import Path

import pytest
import regions
import torch
from ranks import Ranks

import rdmatensor.torch

CALLS = 1 << 17
"""Bytes that a few calls may stage: those that are too small to go directly, of DDP too."""


@pytest.mark.parametrize("access", [regions.READ, regions.WRITE], ids=["read", "write"])
@pytest.mark.parametrize("size", [2, 3])
def test_results_are_the_same_wherever_tensors_lie(ranks: Ranks, size: int, access: int) -> None:
    ordinary = ranks.run(regions.collectives, size, [None] * size)
    placed = ranks.run(regions.collectives, size, [access] * size)
    mixed = ranks.run(regions.collectives, size, [access] * (size - 1) + [None])
    for rank in range(size):
        for name, tensor in ordinary[rank][0].items():
            assert torch.equal(tensor, placed[rank][0][name]), name
            assert torch.equal(tensor, mixed[rank][0][name]), name
        assert ordinary[rank][1]["direct_bytes"] == 0
        assert placed[rank][1]["direct_bytes"] > 3 * 300_001 * 4
        assert placed[rank][1]["staged_bytes"] < CALLS < ordinary[rank][1]["staged_bytes"]
        assert mixed[rank][1]["staged_bytes"] > CALLS


@pytest.mark.parametrize("size", [2, 3])
def test_sends_are_read_where_they_lie(ranks: Ranks, size: int) -> None:
    ordinary = ranks.run(regions.ring, size, [None] * size)
    placed = ranks.run(regions.ring, size, [regions.READ] * size)
    mixed = ranks.run(regions.ring, size, [regions.READ] + [None] * (size - 1))
    for rank in range(size):
        for name, tensor in ordinary[rank][0].items():
            assert torch.equal(tensor, placed[rank][0][name]), name
            assert torch.equal(tensor, mixed[rank][0][name]), name
        large = 4 * sum(regions.COUNTS[1:])
        assert ordinary[rank][1]["direct_received_bytes"] == 0
        assert placed[rank][1]["direct_received_bytes"] == large
        assert mixed[rank][1]["direct_received_bytes"] == (large if rank == 1 else 0)  # what rank 0 sends


@pytest.mark.parametrize("access", [regions.READ, regions.WRITE], ids=["read", "write"])
def test_gradients_of_ddp_are_not_staged(ranks: Ranks, access: int) -> None:
    ordinary, placed = ranks.run(regions.train, 2, None), ranks.run(regions.train, 2, access)
    for rank in range(2):
        for ours, theirs in zip(placed[rank][0], ordinary[rank][0], strict=True):
            assert torch.equal(ours, theirs)
        gradients = placed[rank][2]
        assert ordinary[rank][1]["staged_bytes"] >= gradients
        assert placed[rank][1]["staged_bytes"] < CALLS < gradients // 4
        assert placed[rank][1]["direct_bytes"] >= gradients // 2 - CALLS


@pytest.mark.parametrize("view", [False, True], ids=["copied", "views"])
def test_an_unchanged_ddp_script_stages_nothing(ranks: Ranks, view: bool) -> None:
    theirs, ours = ranks.run(regions.buckets, 2, view, backend="gloo"), ranks.run(regions.buckets, 2, view)
    for rank in range(2):
        parameters, moved, _ = ours[rank]
        assert all(map(torch.equal, parameters, theirs[rank][0]))
        assert moved["staged_bytes"] == 0
        assert moved["buffers_fell_back"] == 0
    assert sum(moved["direct_bytes"] for _, moved, _ in ours) >= 4 * ours[0][2]  # each reads its half of the other's


def test_ddp_keeps_to_ordinary_memory_where_the_user_says_so(ranks: Ranks) -> None:
    for _, moved, gradients in ranks.run(regions.disabled_buckets, 2):
        assert moved["staged_bytes"] >= 4 * gradients


def test_fsdp_that_asks_the_group_for_memory_stages_nothing(ranks: Ranks) -> None:
    theirs, plain = ranks.run(regions.shards, 2, False, backend="gloo"), ranks.run(regions.shards, 2, False)
    for rank, (values, moved) in enumerate(ranks.run(regions.shards, 2, True)):
        assert all(map(torch.equal, values, theirs[rank][0]))
        assert moved["staged_bytes"] < CALLS < plain[rank][1]["staged_bytes"]
        assert moved["buffers"] > 0
        assert moved["buffers_fell_back"] == moved["buffer_region_bytes"] == 0


def test_buckets_outlive_their_group(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(regions.buckets_that_outlive_their_group, 2, str(tmp_path))


def test_a_region_may_be_closed_between_calls(ranks: Ranks) -> None:
    assert ranks.run(regions.region_that_is_busy, 2) == ["closed"] * 2


def test_the_device_is_there_as_long_as_a_group_is(ranks: Ranks) -> None:
    assert ranks.run(regions.no_group, 2) == ["shm"] * 2
    with pytest.raises(ValueError, match="init_process_group"):
        rdmatensor.torch.device()
