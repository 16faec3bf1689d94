"""The verdicts on mutants that no test can kill: verdicts.txt, and survivors in the same form, to be judged.

csrc/proto/edge_plan.c rt_edge_plan_make
  - if (size < left)
  + if (size <= left)
  equivalent: both branches give the same plan where size equals left
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from points import Mutant

Key = tuple[str, str, str, str]


def parse(text: str) -> dict[Key, str]:
    """The verdict of every mutant that is listed; raises ValueError for what is not complete."""
    found: dict[Key, str] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            continue
        where = lines[0].split()
        if len(lines) < 4 or len(where) != 2 or not lines[1].startswith("  - ") or not lines[2].startswith("  + "):
            raise ValueError(f"not a verdict: {block!r}")
        verdict = " ".join(line.strip() for line in lines[3:])
        if not verdict.startswith("equivalent: "):
            raise ValueError(f"only equivalent mutants are listed, with a reason: {block!r}")
        found[where[0], where[1], lines[1][4:], lines[2][4:]] = verdict
    return found


def read(path: Path) -> dict[Key, str]:
    return parse(path.read_text(encoding="utf-8")) if path.exists() else {}


def show(mutant: Mutant, verdict: str) -> str:
    return f"{mutant.file} {mutant.function}\n  - {mutant.was}\n  + {mutant.becomes}\n  {verdict}\n"


def stale(verdicts: Iterable[Key], mutants: Iterable[Mutant]) -> list[Key]:
    """Verdicts of mutants that are not possible any more."""
    possible = {mutant.key() for mutant in mutants}
    return [key for key in verdicts if key not in possible]
