"""torch.distributed over one-sided WRITEs and READs of a real verbs driver: results are Gloo's, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import group_ranks
import pytest
import ranks as of_ranks
import torch
from ranks import Ranks

pytestmark = pytest.mark.timeout(1000)

SOME = (
    "test_all_gather",
    "test_all_reduce_sum",
    "test_barrier_timeout_global",
    "test_batch_isend_irecv_gloo_tags",
    "test_broadcast_full_group",
    "test_DistributedDataParallelCPU",
    "test_gather",
    "test_reduce_max",
    "test_scatter",
    "test_send_recv_any_source",
)
"""Of the tests that PyTorch ships; those that both pass on Gloo and say something that others here do not."""


@pytest.mark.parametrize("placed", [False, True], ids=["ordinary", "region"])
def test_every_operation_gives_what_gloo_gives(ranks: Ranks, placed: bool) -> None:
    ours = ranks.run(group_ranks.operations, 2, placed)
    theirs = ranks.run(group_ranks.operations, 2, False, backend="gloo")
    for rank in range(2):
        assert ours[rank][0].keys() == theirs[rank][0].keys()
        for name, tensor in theirs[rank][0].items():
            assert torch.equal(ours[rank][0][name], tensor), name
        assert ours[rank][1]["provider"] == "verbs"
        # In a region a large send is a READ out of it; elsewhere it is staged.
        assert ours[rank][1]["direct_received_bytes"] == (group_ranks.LARGE * 4 if placed else 0)


def test_three_ranks_on_two_processors(ranks: Ranks) -> None:
    ours = ranks.run(group_ranks.operations, 3, False)
    theirs = ranks.run(group_ranks.operations, 3, False, backend="gloo")
    for rank in range(3):
        for name, tensor in theirs[rank][0].items():  # three numbers are summed in another order
            torch.testing.assert_close(ours[rank][0][name], tensor)


def test_a_killed_rank_is_named_by_the_other(ranks: Ranks) -> None:
    outcomes = ranks.outcomes(group_ranks.die_in_all_reduce, 2)
    assert outcomes[1][0] == "died"
    word, (seconds, said) = outcomes[0]
    assert word == "done" and "rank 1" in said and seconds < 5, outcomes


def test_some_of_what_pytorch_ships_passes() -> None:
    pytest.importorskip("expecttest", reason="PyTorch's tests need it")
    only = [word for name in SOME for word in ("--only", name)]
    command = [
        sys.executable,
        str(Path(of_ranks.__file__).with_name("suite.py")),
        "--ranks",
        "2",
        "--verbose",
        "--timeout",
        "120",
        *only,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert f"{len(SOME)} passed, 0 failed" in done.stdout, done.stdout
