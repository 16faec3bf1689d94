"""Groups that are made and left early, late, in threads, and in great number."""

from __future__ import annotations

from pathlib import Path

import groups
import pytest
from ranks import Ranks

KIB_OF_A_GROUP = 64  # of a group of 8 whose members have met; these have 4


@pytest.mark.parametrize("size", [2, 4])
def test_groups_in_which_nothing_happens_end_well(ranks: Ranks, size: int) -> None:
    assert ranks.run(groups.make_and_leave, size, 30) == [30] * size


@pytest.mark.parametrize("size", [2, 4])
def test_a_process_that_begins_prints_and_ends_never_fails_another(ranks: Ranks, size: int, tmp_path: Path) -> None:
    assert ranks.run(groups.begin_and_end, size, str(tmp_path), 25) == [25] * size


@pytest.mark.parametrize("size", [2, 3])
def test_threads_may_make_groups_in_opposite_order(ranks: Ranks, size: int, tmp_path: Path) -> None:
    assert ranks.run(groups.opposite_orders, size, str(tmp_path)) == [["a", "b"]] * size


def test_questions_are_answered_while_a_group_waits_for_a_late_member(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(groups.questions_meanwhile, 3, str(tmp_path))
    assert [made for made, _ in found] == [True] * 3  # the late one came only after the others had been answered


def test_a_member_that_gives_up_is_named_with_its_reason(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(groups.one_gives_up, 3, str(tmp_path))
    for text, _ in found[:2]:
        assert "rank 2" in text
        assert "no memory for this group" in text


def test_a_member_that_fails_before_it_begins_is_named_with_its_reason(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(groups.one_never_begins, 3, str(tmp_path))
    for text in found[:2]:
        assert "rank 2" in text
        assert "no device for this group" in text


def test_an_answer_that_comes_late_does_not_end_the_making_of_a_group(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(groups.answers_that_come_late, 2, str(tmp_path)) == [3, 3]


def test_members_that_know_each_other_ask_for_nothing(ranks: Ranks) -> None:
    for counts in ranks.run(groups.names_asked_for, 4, 20):
        assert counts[0] <= 3  # where the blocks of each peer are; the first of them may be known already
        assert sum(counts) <= 2 * 3  # once more when all of those are taken
        assert counts.count(0) >= 18


def test_a_card_of_another_process_is_not_believed(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(groups.cards_of_others, 3, str(tmp_path)) == [True] * 3


@pytest.mark.parametrize("places", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_members_that_have_read_a_card_that_changes_begin_anew(
    ranks: Ranks, tmp_path: Path, size: int, places: bool
) -> None:
    assert ranks.run(groups.card_that_changes, size, str(tmp_path), places) == [True] * size


def test_groups_cost_little_and_leave_nothing_behind(ranks: Ranks) -> None:
    for grown, files, threads in ranks.run(groups.memory_of_groups, 4, 24):
        assert grown < KIB_OF_A_GROUP
        assert files <= 0
        assert threads <= 0


def test_many_groups_with_large_calls_at_once_do_not_wait_for_each_other(ranks: Ranks) -> None:
    assert all(ranks.run(groups.many_at_once, 3, 12))


def test_messages_that_nobody_receives_are_bounded(ranks: Ranks) -> None:
    sender, receiver = ranks.run(groups.flood, 2, 2000)
    assert receiver["kept_bytes_max"] <= 1 << 20
    assert sender["held_back"] > 0
