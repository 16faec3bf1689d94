"""Teams of real processes: their collective calls, sends and receives, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

MEMBERS = Path(__file__).with_name("members.py")
LIMIT = 300


def ran(number: int, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of `number` members that all run the function of this name."""
    command = [sys.executable, "-m", "rdmatensor", "run", "-n", str(number), *options, str(MEMBERS), name]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["every_call", "every_reduction"])
def test_every_call_gives_what_numpy_gives(name: str, number: int) -> None:
    done = ran(number, name)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("a_nan_makes_minimum_and_maximum_nan", 2),
        ("prepared_calls_run_as_often_as_wanted", 3),
        ("regions_are_read_where_they_lie", 2),
        ("sends_find_their_receives", 3),
        ("dropped_sends_arrive", 2),
        ("teams_beside_each_other", 2),
        ("wrong_arguments_lose_nothing", 1),
        ("wrong_arguments_lose_nothing", 2),
        ("members_that_disagree_are_told", 2),
        ("one_that_does_not_come_is_named", 2),
        ("a_closed_team_refuses", 2),
        ("ctrl_c_ends_a_wait", 2),
        ("a_signal_may_come_with_the_result", 2),
        ("a_reduction_that_fails_ends_the_call", 2),
        ("in_its_own_child_by_fork_it_refuses", 2),
        ("leaves_without_closing", 3),
    ],
)
def test_a_team_keeps_its_promises(name: str, number: int) -> None:
    done = ran(number, name)
    assert done.returncode == 0, done.stderr


def test_tensors_of_torch_are_arrays_too() -> None:
    pytest.importorskip("torch")
    done = ran(2, "torch_tensors_too")
    assert done.returncode == 0, done.stderr


def test_a_member_that_dies_is_named_by_the_others() -> None:
    done = ran(3, "one_that_dies_is_named")
    assert done.returncode == 128 + signal.SIGKILL
    assert "rank 1 was ended by SIGKILL" in done.stderr


def test_a_member_that_raises_tells_the_others_why() -> None:
    done = ran(2, "one_that_raises_says_why")
    assert done.returncode == 1
    assert "ArithmeticError: the numbers are wrong" in done.stderr
    assert "AssertionError" not in done.stderr
