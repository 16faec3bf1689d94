"""Draws the diagrams and tables of csrc/proto/EDGES.md, csrc/team/TEAMS.md and docs/tour.md from the tables in C, and
the tables of explorations from a run.

    python3 tests/model/draw.py            rewrites what stands between the marks in these notes
    python3 tests/model/draw.py tables     the same, without what needs a run

The tests of this folder compare: a note that does not fit the code fails them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "csrc/proto/edge_flow.c"
LAYOUT = ROOT / "csrc/proto/edge_layout.h"
DTYPES = ROOT / "csrc/proto/dtype.h"
NOTES = ROOT / "csrc/proto/EDGES.md"
TOUR = ROOT / "docs/tour.md"
EXPLORE = ROOT / "build/plain/tests/model/explore"
TEAM_NOTES = ROOT / "csrc/team/TEAMS.md"
WAYS = ROOT / "csrc/team/way.c"
TRANSFERS = ROOT / "build/plain/tests/model/transfers/explore"
CALLS = ROOT / "build/plain/tests/model/calls/explore"
LANES = ROOT / "build/plain/tests/model/lanes/explore"
HELP_NOTES = ROOT / "csrc/provider/shm/HELP.md"
HELP = ROOT / "build/plain/tests/model/help/explore"


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
    """The text that belongs between each pair of marks, from the tables alone."""
    source = TABLES.read_text(encoding="utf-8")
    life = rows(source, "edge_table")
    return {
        "slot": diagram(rows(source, "slot_table"), None),
        "sender": diagram([row[1:] for row in life if row[0] == "SENDER"], "over"),
        "receiver": diagram([row[1:] for row in life if row[0] == "RECEIVER"], "over"),
        "dtypes": dtypes(DTYPES.read_text(encoding="utf-8")),
    }


LOOPS = {
    "WHOLE": "loops here, all reductions",
    "FRACTION": "loops here: sum, product, minimum, maximum",
    "BFLOAT": "loops here: sum; else torch",
    "NONE": "torch",
}


def dtype_rows(source: str) -> list[list[str]]:
    """The rows of the table of element types: constant, code, name, bytes, DLPack's code, torch's type, the one it is
    reduced in, C's type, loops."""
    found = re.findall(r"^    ROW\((.*?)\)(?: \\)?$", source, re.MULTILINE)
    return [[member.strip().strip('"') for member in row.split(",")] for row in found]


def dtypes(source: str) -> str:
    """The table of element types as EDGES.md shows it."""
    table = ["| code | name | bytes | DLPack | reduced by |", "|---:|---|---:|---:|---|"]
    for _, code, name, size, dlpack, torch, widened, _, loops in dtype_rows(source):
        by = "nothing" if loops == "NONE" and torch == "Undefined" else LOOPS[loops]
        wider = f", in {widened}" if loops == "NONE" and widened != torch else ""
        table.append(f"| {code} | {name} | {size} | {dlpack} | {by}{wider} |")
    return "\n".join(table)


def way_rows(source: str) -> list[tuple[str, list[str]]]:
    """The rows of the table of ways: the call, then members, bytes from and to, reach, way."""
    body = re.search(r"\brt_ways\[[^\n]*\] = \{\n(.*?)\n\};", source, re.DOTALL)
    if body is None:
        raise ValueError(f"{WAYS.name} has no table of ways")
    found = []
    for call, of_call in re.findall(r"\[RT_CALL_(\w+)\] =\s*\{\n(.*?)\n\s*\},", body.group(1), re.DOTALL):
        found += [(call, [member.strip() for member in row.split(",")]) for row in re.findall(r"\{([^{}]+)\}", of_call)]
    return found


def enum_comments(source: str, prefix: str) -> dict[str, str]:
    """The comments behind the members of an enum."""
    found = re.findall(rf"\b{prefix}_(\w+)(?: = \d+)?,\s*/\* (.*?) \*/", source, re.DOTALL)
    return {name: re.sub(r"\s+", " ", comment) for name, comment in found}


def way_bytes(numbers: dict[str, int], least: str, most: str, bounds: dict[str, str]) -> str:
    """The range of bytes of a row."""
    size = numbers.get(least, 0) if not least.isdigit() else int(least)
    upto = "" if most == "ANY" else f"to {bounds[most]}"
    return f"{size:,} {upto}".strip() if upto else f"{size:,} or more" if size else "any"


def ways() -> str:
    """The table of the ways of collective calls as TEAMS.md shows it."""
    source, header = WAYS.read_text(encoding="utf-8"), WAYS.with_suffix(".h").read_text(encoding="utf-8")
    numbers = {name: int(value) for name, value in re.findall(r"^    (\w+) = (\d+),", header, re.MULTILINE)}
    texts, bounds = enum_comments(header, "RT_WAY"), enum_comments(header, "RT_BYTES")
    reaches = {"NONE": "", "READ": "readable", "WRITE": "readable and writable"}
    table = ["| call | members | bytes | tensors | way |", "|---|---|---|---|---|"]
    named: list[str] = []
    whole: dict[str, set[str]] = {}  # of each call, the members of whom a row before took everything from some bytes on
    for call, (members, least, most, reach, way) in way_rows(source):
        taken = whole.setdefault(call, set())
        several = f"{members} or more" if members != "1" else "1" if taken - {"1"} else "any"
        name = way.removeprefix("RT_WAY_")
        range_of = "0" if members in taken else way_bytes(numbers, least, most.removeprefix("RT_BYTES_"), bounds)
        if (most, reach) == ("RT_BYTES_ANY", "RT_REACH_NONE"):
            taken.add(members)
        reached = reaches[reach.removeprefix("RT_REACH_")]
        table.append(f"| {word(call)} | {several} | {range_of} | {reached} | `{word(name)}` |")
        named += [name] if name not in named else []
    table += ["", "| way | is |", "|---|---|", *(f"| `{word(name)}` | {texts[name]} |" for name in named)]
    return "\n".join(table)


def line_words() -> list[tuple[int, str]]:
    """The words of a flag line, by their places in bytes."""
    found = re.findall(r"RT_EDGE_LINE_(BEGUN|NOTE|COUNT|FLAG) = (\d+)", LAYOUT.read_text(encoding="utf-8"))
    return sorted((int(place), name) for name, place in found)


def memory() -> str:
    """A picture of what sender and receiver of an edge share: slots, flag lines and the credit."""
    words = " ".join(f"{name}@{place}" for place, name in line_words())
    line = f"line 0: {words}"
    width = max(len(line), 46)
    box = "+" + "-" * (width + 2) + "+"

    def row(text: str) -> str:
        return f"| {text:<{width}} |"

    receiver = [
        row("slot 0: a tensor"),
        row("slot 1: the next one"),
        row(line),
        row("line 1: the same of slot 1"),
    ]
    arrows = ["", "", " --payload-->", " --flag----->", "", ""]
    left = ["sender", "+-----------+", "|  tensor   |", "+-----------+", "|  credit   | <--release--", "+-----------+"]
    right = ["receiver", box, *receiver, box]
    left = [*left, *[""] * (len(right) - len(left))]
    arrows = [*arrows, *[""] * (len(right) - len(arrows))]
    rows_ = []
    for index, text in enumerate(right):
        beside = left[index] if "<--" in left[index] else f"{left[index]:<13}{arrows[index]}"
        rows_.append(f"{beside:<28}{text}".rstrip())
    return "\n".join(["```text", *rows_, "```"])


def tour() -> dict[str, str]:
    """The text that belongs between each pair of marks of the tour."""
    return {"memory": memory(), "slot": diagrams()["slot"]}


def outcomes(output: str) -> list[tuple[str, ...]]:
    """Name, slots, QPs, tensors, states, steps and outcome of every exploration in the output of `explore`."""
    bounds, counts = r"(\d+) slots (\d+) QPs (\d+) tensors", r"(\d+) states +(\d+) steps +\d+ ends, depth \d+"
    line = re.compile(rf"^(?:ok  |BAD ) (.+?) +{bounds} +{counts}: (.+)$", re.MULTILINE)
    return [match.groups() for match in line.finditer(output)]


def explorations(output: str) -> str:
    table = ["| exploration | slots | QPs | tensors | states | steps | outcome |", "|---|---:|---:|---:|---:|---:|---|"]
    for name, slots, qps, tensors, states, steps, outcome in outcomes(output):
        found = outcome.removesuffix(", as it must be found")
        table.append(f"| {name} | {slots} | {qps} | {tensors} | {int(states):,} | {int(steps):,} | {found} |")
    return "\n".join(table)


def explored() -> str:
    """The output of every exploration."""
    done = subprocess.run([EXPLORE], stdout=subprocess.PIPE, text=True, timeout=900, check=False)
    return done.stdout


def searches(output: str) -> str:
    """The table of explorations in an output of `transfers`, `calls`, `lanes` or `help`."""
    bounds = r"(\d+) (\w+) (\d+) (\w+) (\d+) (\w+)"
    counts = r"(\d+) states +(\d+) steps +\d+ ends, depth \d+"
    line = re.compile(rf"^(?:ok  |BAD ) (.+?) +{bounds} +{counts}: (.+)$", re.MULTILINE)
    found = line.findall(output)
    _, _, first, _, middle, _, last, *_ = found[0]
    table = [
        f"| exploration | {first} | {middle} | {last} | states | steps | outcome |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, width, _, slots, _, length, _, states, steps, outcome in found:
        text = outcome.removesuffix(", as it must be found")
        table.append(f"| {name} | {width} | {slots} | {length} | {int(states):,} | {int(steps):,} | {text} |")
    return "\n".join(table)


def searched(program: Path) -> str:
    """The output of all explorations of a program."""
    return subprocess.run([program], stdout=subprocess.PIPE, text=True, timeout=900, check=False).stdout


def section(notes: str, name: str) -> str:
    """The text between the marks of a name."""
    found = re.search(rf"<!-- drawn: {name} -->\n(.*?)<!-- end -->", notes, re.DOTALL)
    if found is None:
        raise ValueError(f"a note has no marks for {name}")
    return found.group(1).removesuffix("\n")


def drawn(path: Path, texts: dict[str, str]) -> None:
    """Writes the texts between their marks."""
    notes = path.read_text(encoding="utf-8")
    for name, text in texts.items():
        opening, old = f"<!-- drawn: {name} -->\n", section(notes, name)
        notes = notes.replace(f"{opening}{old}\n" if old else opening, f"{opening}{text}\n")
    path.write_text(notes, encoding="utf-8")


def main() -> None:
    drawn(TOUR, tour())
    drawn(NOTES, diagrams())
    drawn(TEAM_NOTES, {"ways": ways()})
    if sys.argv[1:] == ["tables"]:
        return
    drawn(NOTES, {"explorations": explorations(explored())})
    programs = {"transfers": TRANSFERS, "calls": CALLS, "lanes": LANES}
    drawn(TEAM_NOTES, {name: searches(searched(program)) for name, program in programs.items()})
    drawn(HELP_NOTES, {"help": searches(searched(HELP))})


if __name__ == "__main__":
    main()
