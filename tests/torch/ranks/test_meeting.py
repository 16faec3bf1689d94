"""Making and leaving of groups, explored in every order of events: explore_meeting.py, explore_cards.py."""

from __future__ import annotations

import re
from pathlib import Path

import explore_cards
import explore_meeting
import pytest
from search import FaultError

NOTE = Path(__file__).resolve().parents[3] / "rdmatensor" / "torch" / "BACKEND.md"


def told(name: str, worlds: int) -> bool:
    """Whether the note has this number."""
    return re.search(rf"^\| {re.escape(name)} \| {worlds:,} \|$", NOTE.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("name", explore_meeting.ALL)
def test_every_order_of_events_ends_well(name: str) -> None:
    assert told(name, explore_meeting.explore(explore_meeting.ALL[name]))


@pytest.mark.parametrize("name", explore_meeting.MUTANTS)
def test_a_mutant_of_the_protocol_is_found_out(name: str) -> None:
    with pytest.raises(FaultError, match=r"\n  1\. "):
        explore_meeting.explore(explore_meeting.MUTANTS[name])


@pytest.mark.parametrize("name", explore_cards.ALL)
def test_every_order_in_which_old_cards_are_read_ends_well(name: str) -> None:
    assert told(name, explore_cards.explore(explore_cards.ALL[name]))


@pytest.mark.parametrize("name", explore_cards.MUTANTS)
def test_a_mutant_of_the_rules_about_cards_is_found_out(name: str) -> None:
    with pytest.raises(FaultError, match=r"\n  1\. "):
        explore_cards.explore(explore_cards.MUTANTS[name])
