"""The libraries on top of torch.distributed, unchanged: what they compute is what they compute over Gloo."""

from __future__ import annotations

import ecosystem
import pytest
import torch
from ranks import Ranks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["data_parallel", "hooks", "uneven", "sharded", "pipeline", "redistributed", "checkpointed", "zero"]
)
def test_two_ranks_compute_what_they_compute_over_gloo(ranks: Ranks, name: str) -> None:
    function = getattr(ecosystem, name)
    ours, theirs = ranks.run(function, 2), ranks.run(function, 2, backend="gloo")
    for rank in range(2):
        assert len(ours[rank]) == len(theirs[rank]) > 0
        for index, (one, other) in enumerate(zip(ours[rank], theirs[rank], strict=True)):
            assert torch.equal(one, other), f"{name}, rank {rank}, result {index}: {one} is not {other}"
