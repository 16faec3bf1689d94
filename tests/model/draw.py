"""Draws the diagrams of csrc/proto/EDGES.md from the tables in edge_flow.c, and its table of explorations from a run.

    python3 tests/model/draw.py            rewrites what stands between the marks in EDGES.md

The tests of this folder compare: a note that does not fit the code fails them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "csrc/proto/edge_flow.c"
NOTES = ROOT / "csrc/proto/EDGES.md"
EXPLORE = ROOT / "build/plain/tests/model/explore"


def rows(source: str, table: str) -> list[list[str]]:
    """The rows of a table in C, as lists of their members."""
    body = re.search(rf"\b{table}\[\] = \{{\n(.*?)\n\}};", source, re.DOTALL)
    if body is None:
        raise ValueError(f"{TABLES.name} has no table {table}")
    return [[member.strip() for member in row.split(",")] for row in re.findall(r"\{([^{}]+)\}", body.group(1))]


def word(name: str) -> str:
    """RT_SLOT_EMPTY → empty, EVENT_PEER_CLOSED → peer closed."""
    return re.sub(r"^(RT_EDGE|RT_SLOT|EVENT)_", "", name).lower().replace("_", " ")


def diagram(transitions: list[list[str]], last: str | None) -> str:
    """A Mermaid state diagram of (state, event, next); transitions between the same states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, event, following in transitions:
        arrows.setdefault((word(state), word(following)), []).append(word(event))
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", f"    [*] --> {word(transitions[0][0])}"]
    lines += [f"    {state} --> {following}: {', '.join(events)}" for (state, following), events in arrows.items()]
    if last is not None:
        lines.append(f"    {last} --> [*]")
    return "\n".join([*lines, "```"])


def diagrams() -> dict[str, str]:
    """What belongs between each pair of marks, from the tables alone."""
    source = TABLES.read_text(encoding="utf-8")
    life = rows(source, "edge_table")
    return {
        "slot": diagram(rows(source, "slot_table"), None),
        "sender": diagram([row[1:] for row in life if row[0] == "SENDER"], "over"),
        "receiver": diagram([row[1:] for row in life if row[0] == "RECEIVER"], "over"),
    }


def outcomes(output: str) -> list[tuple[str, str, str, str]]:
    """Name, states, steps and outcome of every exploration in the output of `explore`."""
    line = re.compile(r"^(?:ok  |BAD ) (.+?) +(\d+) states +(\d+) steps +\d+ ends, depth \d+: (.+)$", re.MULTILINE)
    return [match.groups() for match in line.finditer(output)]  # type: ignore[misc]


def explorations(output: str) -> str:
    table = ["| exploration | states | steps | outcome |", "|---|---:|---:|---|"]
    for name, states, steps, outcome in outcomes(output):
        table.append(f"| {name} | {int(states):,} | {int(steps):,} | {outcome.removesuffix(', as it must be found')} |")
    return "\n".join(table)


def explored() -> str:
    """The output of every exploration."""
    done = subprocess.run([EXPLORE], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    return done.stdout


def section(notes: str, name: str) -> str:
    """What stands between the marks of a name."""
    found = re.search(rf"<!-- drawn: {name} -->\n(.*?)\n<!-- end -->", notes, re.DOTALL)
    if found is None:
        raise ValueError(f"{NOTES.name} has no marks for {name}")
    return found.group(1)


def main() -> None:
    notes = NOTES.read_text(encoding="utf-8")
    for name, text in {**diagrams(), "explorations": explorations(explored())}.items():
        opening = f"<!-- drawn: {name} -->\n"
        notes = notes.replace(f"{opening}{section(notes, name)}\n", f"{opening}{text}\n")
    NOTES.write_text(notes, encoding="utf-8")


if __name__ == "__main__":
    main()
