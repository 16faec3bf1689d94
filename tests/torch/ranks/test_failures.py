"""A rank that dies, is late, or does something else than the others: an error names it, and nobody waits for ever."""

from __future__ import annotations

import failures
import pytest
from ranks import Ranks

pytestmark = pytest.mark.slow

BOUND = 120.0
"""Seconds within which everybody must know of a death: less than the calls that wait have."""


@pytest.mark.parametrize("operation", ["all_reduce", "recv", "send", "asynchronous", "from anybody"])
def test_a_rank_that_is_killed_is_named_to_everybody(fresh_ranks: Ranks, operation: str) -> None:
    found = fresh_ranks.outcomes(failures.killed, 3, 2, operation)
    assert found[2] == ("died", -9)
    for rank in (0, 1):
        word, said = found[rank]
        assert word == "done", said
        text, seconds = said
        assert "rank 2" in text and seconds < BOUND, (rank, text, seconds)


def test_a_rank_that_is_late_is_named(ranks: Ranks) -> None:
    found = ranks.run(failures.late, 3)
    for rank in (0, 2):
        assert "Timed out" in found[rank] or "gave up" in found[rank], found[rank]
        assert "rank 1" in found[rank]


@pytest.mark.parametrize("what", ["sizes", "types", "calls", "transfers"])
def test_ranks_that_differ_are_told_at_both_ends(ranks: Ranks, what: str) -> None:
    for said in ranks.run(failures.different, 2, what):
        assert "agree" in said, said


def test_a_monitored_barrier_names_who_did_not_come_and_harms_nothing(ranks: Ranks) -> None:
    found = ranks.run(failures.late_to_barrier, 3)
    assert "Rank 1 failed to pass monitoredBarrier" in found[0]
    assert "rank 0" in found[2]


def test_an_abort_ends_what_is_under_way_at_every_rank(ranks: Ranks) -> None:
    found = ranks.run(failures.aborted, 2)
    assert "aborted" in found[0]
    assert "rank 0" in found[1] and "aborted" in found[1]


def test_a_signal_may_come_with_the_result(ranks: Ranks) -> None:
    found = ranks.run(failures.signalled, 2)
    assert found == [("from the handler", 2.0), ("nothing", 2.0)]
