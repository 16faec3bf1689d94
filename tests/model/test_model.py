"""The explorations come out as stated, the broken premises are still found, and EDGES.md shows what the code is."""

from __future__ import annotations

import functools
import re

import draw
import pytest

SOURCE = (draw.ROOT / "tests/model/explore.c").read_text(encoding="utf-8")
NAMES = re.findall(r'^    \{"([^"]+)", ', SOURCE, re.MULTILINE)


@functools.cache
def output() -> str:
    assert draw.EXPLORE.exists(), f"{draw.EXPLORE} is not built: run make"
    return draw.explored()


def schedule(name: str) -> str:
    """The steps that were printed below an exploration."""
    found = re.search(rf"^(?:ok  |BAD ) {re.escape(name)} .*\n((?:    .*\n)*)", output(), re.MULTILINE)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("name", NAMES)
def test_an_exploration_comes_out_as_stated(name: str) -> None:
    assert re.search(rf"^ok   {re.escape(name)} ", output(), re.MULTILINE), output()


def test_the_explorations_are_all_there() -> None:
    assert [row[0] for row in draw.outcomes(output())] == NAMES
    assert output().endswith(f"{len(NAMES)} explorations, 0 not as expected\n")


def test_a_tail_without_the_promise_is_found_torn() -> None:
    steps = schedule("tail without ascending bytes").splitlines()
    assert "places the flag" in steps[-2], steps
    assert "receiver: looks for tensor" in steps[-1], steps
    assert not any("places bytes 32" in step for step in steps)


def test_a_chained_flag_without_ordered_writes_is_found_early() -> None:
    assert "places bytes" not in schedule("chained without ordered writes")


@pytest.mark.parametrize("name", ["slot", "sender", "receiver"])
def test_the_diagram_is_drawn_from_the_table(name: str) -> None:
    notes = draw.NOTES.read_text(encoding="utf-8")
    assert draw.section(notes, name) == draw.diagrams()[name], "run make model-notes"


def test_the_counts_in_the_notes_are_those_of_the_run() -> None:
    notes = draw.NOTES.read_text(encoding="utf-8")
    assert draw.section(notes, "explorations") == draw.explorations(output()), "run make model-notes"
