"""Callbacks of futures may use the group as they like; a group that ends completes its futures and leaves nothing."""

from __future__ import annotations

import callbacks
import pytest
from ranks import Ranks

WORDS = "the process group was"


@pytest.mark.parametrize("count", [8, 200_000])
@pytest.mark.parametrize("size", [2, 3])
def test_callbacks_wait_for_calls_whose_callbacks_wait(ranks: Ranks, size: int, count: int) -> None:
    expected = [float(size * level) for level in range(1, callbacks.DEEP + 1)]
    assert ranks.run(callbacks.waits_deep, size, count) == [expected] * size


def test_a_callback_waits_for_a_future_that_is_completed_after_it(ranks: Ranks) -> None:
    assert ranks.run(callbacks.waits_for_one_before, 2) == [6.0] * 2


def test_a_callback_makes_calls_sends_and_receives(ranks: Ranks) -> None:
    assert ranks.run(callbacks.calls_and_waits, 3) == [[6.0, 6.0 + (rank - 1) % 3] for rank in range(3)]


def test_a_callback_ends_its_own_group(ranks: Ranks) -> None:
    assert ranks.run(callbacks.ends_its_group, 2) == ["ended"] * 2


def test_a_callback_and_who_asks_whether_it_is_done_do_not_wait_for_each_other(ranks: Ranks) -> None:
    assert ranks.run(callbacks.asks_its_own_work, 2)[0] == [True] * 20


def test_a_future_has_its_value_when_its_work_was_waited_for(ranks: Ranks) -> None:
    assert ranks.run(callbacks.is_there_after_wait, 2) == [[True] * 50] * 2


def test_callbacks_come_in_the_order_of_the_calls(ranks: Ranks) -> None:
    """The next one starts early when one has run for 2 ms, which any may on a busy machine."""
    for rounds in ranks.run(callbacks.comes_in_order, 2):
        assert list(range(50)) in [order for order, _ in rounds]
        for order, took in rounds:
            assert sorted(order) == list(range(50))
            assert order == list(range(50)) or took >= 0.002


def test_a_finalizer_of_a_tensor_calls_the_group_that_used_it(ranks: Ranks) -> None:
    assert ranks.run(callbacks.frees_in_peace, 2) == [True] * 2


def test_calls_that_are_waited_for_start_no_thread(ranks: Ranks) -> None:
    for before, after in ranks.run(callbacks.starts_no_thread, 2):
        assert before == after


def test_the_future_of_a_receive_is_completed_with_its_group(ranks: Ranks) -> None:
    for done, called, *errors in ranks.run(callbacks.pending_at_the_end, 2):
        assert (done, called) == ("True", "called")
        for error in errors[:2]:  # its own end, or the peer's, whichever is seen first
            assert WORDS in error or "has left the group" in error, errors
        assert errors[2] == "nothing", errors


def test_the_future_of_a_call_is_completed_with_its_group(ranks: Ranks) -> None:
    assert "aborted" in ranks.run(callbacks.calls_that_end, 2)[0]


@pytest.mark.parametrize("how", ["destroyed", "future", "dropped", "never destroyed"])
def test_groups_leave_nothing_behind(ranks: Ranks, how: str) -> None:
    for objects, descriptors, threads in ranks.run(callbacks.leave_nothing, 2, how):
        assert objects == 0 and threads <= 0, (objects, threads)
        assert descriptors < callbacks.GROUPS, (
            descriptors
        )  # the last group's memory goes when all its members have left
