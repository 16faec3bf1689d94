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


def test_a_credit_that_is_forgotten_lands_in_memory_that_was_given_back() -> None:
    steps = schedule("close while a credit is under way").splitlines()
    assert "places credit" in steps[-1], steps
    assert any("sender:   takes the step that is due of its close" in step for step in steps)


def test_a_record_that_overtakes_its_key_is_found_refused() -> None:
    steps = schedule("key used before it was answered")
    assert "asks for a key" in steps and "hears ADD_KEY" not in steps


def test_a_chunk_that_is_filled_too_early_is_found_torn() -> None:
    steps = schedule("chunk filled again before its WRITE ended").splitlines()
    assert sum("goes on staging" in step for step in steps) == 2, steps


@pytest.mark.parametrize("name", ["slot", "sender", "receiver", "dtypes"])
def test_the_diagrams_of_the_note_are_drawn_from_the_table(name: str) -> None:
    notes = draw.NOTES.read_text(encoding="utf-8")
    assert draw.section(notes, name) == draw.diagrams()[name], "run make notes"


def test_the_drawn_table_has_every_element_type() -> None:
    source = draw.DTYPES.read_text(encoding="utf-8")
    rows = draw.dtype_rows(source)
    assert len(rows) == source.count("ROW(") > 0, "a row is written as no other is"
    assert [int(row[1]) for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("name", ["memory", "slot"])
def test_the_pictures_of_the_tour_are_drawn_from_the_tables(name: str) -> None:
    notes = draw.TOUR.read_text(encoding="utf-8")
    assert draw.section(notes, name) == draw.tour()[name], "run make model-notes"


def test_the_counts_in_the_notes_are_those_of_the_run() -> None:
    notes = draw.NOTES.read_text(encoding="utf-8")
    assert draw.section(notes, "explorations") == draw.explorations(output()), "run make model-notes"


@functools.cache
def searched(name: str) -> str:
    program = {"transfers": draw.TRANSFERS, "calls": draw.CALLS, "lanes": draw.LANES, "help": draw.HELP}[name]
    assert program.exists(), f"{program} is not built: run make"
    return draw.searched(program)


@pytest.mark.parametrize("name", ["transfers", "calls", "lanes", "help"])
def test_every_exploration_of_teams_and_of_helpers_comes_out_as_stated(name: str) -> None:
    assert "\nBAD " not in f"\n{searched(name)}", searched(name)
    assert searched(name).endswith(" explorations, 0 not as expected\n")


@pytest.mark.parametrize("name", ["transfers", "calls", "lanes", "help"])
def test_the_table_of_explorations_in_a_note_is_that_of_the_run(name: str) -> None:
    notes = (draw.HELP_NOTES if name == "help" else draw.TEAM_NOTES).read_text(encoding="utf-8")
    assert draw.section(notes, name) == draw.searches(searched(name)), "run make model-notes"


def test_the_ways_of_collective_calls_are_drawn_from_the_table() -> None:
    notes = draw.TEAM_NOTES.read_text(encoding="utf-8")
    assert draw.section(notes, "ways") == draw.ways(), "run make notes"


def test_the_drawn_table_has_every_row_of_every_call() -> None:
    source, header = draw.WAYS.read_text(encoding="utf-8"), draw.WAYS.with_suffix(".h").read_text(encoding="utf-8")
    rows = draw.way_rows(source)
    assert len(rows) == source.count(", RT_WAY_") > 0, "a row is written as no other is"
    assert {f"RT_CALL_{call}" for call, _ in rows} == set(re.findall(r"^    (RT_CALL_\w+),", header, re.MULTILINE))
    ways = set(re.findall(r"^    (RT_WAY_\w+),", header, re.MULTILINE)) - {"RT_WAY_ASK"}
    assert {row[-1] for _, row in rows} == ways, "a way that no row chooses"
