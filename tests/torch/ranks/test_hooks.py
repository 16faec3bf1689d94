"""DDP's communication hooks, whose callbacks make calls of their own, end with what they end with over Gloo."""

from __future__ import annotations

import hooks
import pytest
import torch
from ranks import Ranks


@pytest.mark.parametrize("name", list(hooks.HOOKS))
def test_a_hook_of_ddp_ends_with_the_weights_of_gloo(ranks: Ranks, name: str) -> None:
    ours, theirs = ranks.run(hooks.train, 2, name), ranks.run(hooks.train, 2, name, backend="gloo")
    for rank in range(2):
        for mine, other in zip(ours[rank], theirs[rank], strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("bf16", "required CUDA"),
        ("bf16 around allreduce", "required CUDA"),
        ("batched PowerSGD", "AssertionError"),
        ("quantized per tensor", "IndexError"),
        ("quantized per channel", "IndexError"),
    ],
)
def test_a_hook_that_fails_over_gloo_fails_with_its_own_error(fresh_ranks: Ranks, name: str, word: str) -> None:
    for ended, said in fresh_ranks.outcomes(hooks.train, 2, name):
        assert ended == "failed" and word in said, said
