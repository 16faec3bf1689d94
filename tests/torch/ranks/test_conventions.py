"""The services that torch has for its own backends beside the operations are there for this one."""

from __future__ import annotations

import conventions
import pytest
from ranks import Ranks


@pytest.mark.parametrize("how", ["of the backend", "of torch"])
def test_a_groups_timeout_is_changed_after_it_was_made(ranks: Ranks, how: str) -> None:
    (said, seconds), (warned, _) = ranks.run(conventions.timeouts, 2, how)
    assert warned == []
    assert len(said) == 1 and "Timed out after 0.2 s" in said[0]
    assert seconds < 60


def test_a_profiler_sees_what_is_communicated(ranks: Ranks) -> None:
    for found in ranks.run(conventions.notes, 2):
        assert [name for name, _ in found] == ["record_param_comms"] * 5
