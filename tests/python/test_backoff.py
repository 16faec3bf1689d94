"""Pauses that grow: the same curve as that of the C core (tests/c/base/test_waiter.c)."""

from __future__ import annotations

import time

import pytest

from rdmatensor.backoff import Backoff


def test_pauses_of_share_1_double_between_their_bounds() -> None:
    pauses = Backoff(3, 50)
    assert [pauses.next() for _ in range(7)] == [3, 6, 12, 24, 48, 50, 50]
    pauses.reset()
    assert pauses.next() == 3


@pytest.mark.parametrize("share", [1, 4, 10])
def test_a_pause_is_at_most_its_share_of_the_wait_and_reaches_the_last(share: int) -> None:
    pauses = Backoff(50e-6, 2e-3, share)
    waited, before = 0.0, 0.0
    for _ in range(100):
        pause = pauses.next()
        assert before <= pause <= 2e-3
        assert pause == 50e-6 or pause <= (waited + 50e-6) / share * (1 + 1e-9)
        waited += pause
        before = pause
    assert before == 2e-3


def test_a_pause_in_nanoseconds_is_a_whole_number() -> None:
    assert [Backoff(0.5e-3, 16e-3).next_ns(), Backoff(0.005, 0.25).next_ns()] == [500_000, 5_000_000]


def test_a_nap_is_no_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pauses = Backoff(1.0, 8.0)
    pauses.nap()
    pauses.nap(0.5)
    pauses.nap(-1.0)
    assert slept == [1.0, 0.5, 0.0]
