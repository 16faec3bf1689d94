"""A prepared copy that is not over at once: other threads run meanwhile, and its deadline ends the wait."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator

import pytest
from ends import Ends, pattern
from kinds import FAKE, MAKERS, WHY_NOT

import rdmatensor as rt

POLL, MANUAL = 0, 2  # fake_engine in tests/c/fake_verbs.h
PATIENCE = 300.0


@pytest.fixture
def ends() -> Iterator[Ends]:
    if why_not := WHY_NOT["verbs-fake"]:
        pytest.skip(why_not)
    with MAKERS["verbs-fake"](timeout=0.2) as fabric:
        made = Ends(fabric)
        yield made
        made.tidy()


@pytest.fixture
def withhold(ends: Ends) -> Iterator[Callable[[bool], None]]:
    """Keeps the device from carrying anything out, or lets it."""
    fake = ctypes.CDLL(str(FAKE))
    yield lambda holds: fake.fake_set_engine(MANUAL if holds else POLL)
    fake.fake_set_engine(POLL)


def test_other_threads_run_while_a_prepared_copy_is_waited_for(ends: Ends, withhold: Callable[[bool], None]) -> None:
    name, remote = ends.expose(256)
    with ends.channel.prepare(remote, ends.local(pattern(256))) as copy:
        posted = ends.channel.stats.work_items
        withhold(True)
        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        while ends.channel.stats.work_items == posted:  # forever, if nobody but the copy ran
            pass
        assert thread.is_alive()
        withhold(False)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert ends.peek(name, 0, 256) == pattern(256)


def test_a_prepared_copy_that_is_not_done_in_time_raises_and_runs_again(
    ends: Ends, withhold: Callable[[bool], None]
) -> None:
    name, remote = ends.expose(256)
    with ends.channel.prepare(remote, ends.local(pattern(256))) as copy:
        withhold(True)
        with pytest.raises(rt.DeadlineExceeded, match=r"not done after 0\.2 s"):
            copy()
        withhold(False)
        copy()
    assert ends.peek(name, 0, 256) == pattern(256)
