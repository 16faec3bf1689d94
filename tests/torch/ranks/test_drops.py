"""A send or receive goes on when nobody keeps its Work: it is done, or both ends are told."""

from __future__ import annotations

import drops
import pytest
from ranks import Ranks


@pytest.mark.parametrize("strided", [False, True])
def test_sends_that_nobody_keeps_arrive(ranks: Ranks, strided: bool) -> None:
    assert ranks.run(drops.sends, 2, strided)[1] == [float(count) for count in drops.COUNTS]


def test_receives_that_nobody_keeps_fill_their_tensors(ranks: Ranks) -> None:
    assert ranks.run(drops.receives, 2)[0] == [float(count) for count in drops.COUNTS]


def test_a_send_is_finished_before_its_group_ends(ranks: Ranks) -> None:
    assert ranks.run(drops.sends_and_ends, 2)[1] == 7.0


def test_a_send_to_a_rank_that_has_left_fails_and_holds_nobody_up(ranks: Ranks) -> None:
    (said, seconds), (_, other) = ranks.run(drops.sends_in_vain, 2)
    assert "rank 1" in said or "process group was" in said, said
    assert seconds < 60 and other < 60


def test_a_receive_that_was_waited_for_in_vain_takes_nothing_later(ranks: Ranks) -> None:
    assert ranks.run(drops.times_out, 2)[0] == [-1.0, 0.0, 3.0]
