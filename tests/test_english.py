"""Comments, docstrings and notes name their subject: no sentence opens with a free "who" or "what".

Questions may open so, and headings, which are titles. A line of a note's prose is at most 100 columns.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROSE_C = re.compile(r'"(?:\\.|[^"\\\n])*"|/\*(.*?)\*/|//([^\n]*)', re.DOTALL)
FREE = r"(?:Who|What)(?:ever)?"
OPENING = re.compile(rf"(?:^|(?<=[.!?;:] )){FREE}\b[^.!?]*[.!?;:]?|(?<=; ){FREE.lower()}\b[^.!?;:]*[.!?;:]?")
COLUMNS_MAX = 100


def c_prose(text: str) -> Iterator[str]:
    """The comments, each as one line."""
    for match in PROSE_C.finditer(text):
        found = match.group(1) or match.group(2)
        if found:
            yield " ".join(line.strip().lstrip("*") for line in found.splitlines())


def python_prose(text: str) -> Iterator[str]:
    """The comments and docstrings, those of attributes too."""
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def markdown_lines(text: str) -> list[str]:
    """The lines of a note, empty where a block of code, a drawing, a table written by a program or a heading stands."""
    inside = ""
    lines = []
    for line in text.splitlines():
        mark = re.match(r"(```)|<!-- (?:drawn|table): ", line)
        ends = bool(inside) and line.startswith(inside)
        lines.append("" if inside or mark or line.startswith(("#", "    ")) else line)
        if ends:
            inside = ""
        elif mark and not inside:
            inside = mark.group(1) or "<!-- end -->"
    return lines


def markdown_prose(text: str) -> Iterator[str]:
    """The paragraphs, items of lists and cells of tables, without their marks."""
    text = "\n".join(markdown_lines(text))
    text = re.sub(r"(?m)^ *(?:[-*]|\d+\.) +", "\n\n", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\|)", text.replace("*", "").replace("`", "")):
        yield from paragraph.split("|") if paragraph.startswith("|") else [paragraph]


PROSE = {".c": c_prose, ".h": c_prose, ".cpp": c_prose, ".py": python_prose, ".md": markdown_prose}
FOLDERS = ("csrc", "rdmatensor", "tests", "benchmarks", "examples", "docs")


def free_relatives(prose: str) -> list[str]:
    """The sentences that open with a free relative."""
    line = " ".join(prose.split())
    return [match.group(0) for match in OPENING.finditer(line) if not match.group(0).endswith("?")]


def sources() -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in (*ROOT.glob("*"), *inside) if path.suffix in PROSE)


def test_lines_of_notes_are_short() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns"
        for path in sources()
        if path.suffix == ".md"
        for number, line in enumerate(markdown_lines(path.read_text(encoding="utf-8")), 1)
        if len(line) > COLUMNS_MAX and not line.startswith("|") and " " in line.strip("- ")
    ]
    assert not found, "\n".join(found)


def test_no_sentence_opens_with_who_or_what() -> None:
    found = []
    for path in sources():
        for comment in PROSE[path.suffix](path.read_text(encoding="utf-8")):
            found += [f"{path.relative_to(ROOT)}: {sentence}" for sentence in free_relatives(comment)]
    assert not found, "\n".join(found)


def opening_lines(text: str) -> int:
    """The lines of the comment that a C file opens with."""
    return text[: text.find("*/")].count("\n") + 1


def test_files_of_the_protocols_open_with_their_theory_of_operation() -> None:
    paths = sorted((ROOT / "csrc/proto").glob("*.[ch]"))
    wrong = [path.name for path in paths if not 5 <= opening_lines(path.read_text(encoding="utf-8")) <= 25]
    assert paths and not wrong, wrong


@pytest.mark.parametrize(
    "prose",
    [
        "What was posted goes on.",
        "Read it twice. Who looks finds it closed.",
        "a ring: What is full waits",
        "Whoever waits, waits.",
        "It is closed; what is left is dropped.",
    ],
)
def test_a_free_relative_is_found(prose: str) -> None:
    assert free_relatives(prose)


@pytest.mark.parametrize(
    "prose", ["What hangs? A report for people.", "the peer, what it says", "a report: what hangs"]
)
def test_questions_and_other_words_pass(prose: str) -> None:
    assert free_relatives(prose) == []


@pytest.mark.parametrize(
    "note",
    [
        "- *Waiting*: What is full waits.",
        "| a word | What it means |",
        "1. Look.\n2. Whoever looks\n   waits.",
        "**Who** waits.",
    ],
)
def test_a_free_relative_of_a_note_is_found(note: str) -> None:
    assert any(free_relatives(prose) for prose in markdown_prose(note))


@pytest.mark.parametrize(
    "note", ["## What there is\n", "```\nWhat is code\n```\n", "| **Who frees it?** | x |", "The\npeer, what it says"]
)
def test_headings_code_and_questions_of_a_note_pass(note: str) -> None:
    assert not any(free_relatives(prose) for prose in markdown_prose(note))
