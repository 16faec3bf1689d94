"""A comparison of two results: the measures that improved or regressed beyond noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmatensor.bench.numbers import Change, change
from rdmatensor.bench.options import human
from rdmatensor.errors import InvalidArgument

__all__ = ["Difference", "as_text", "differences", "load"]

MEASURES = {"one_way_us": ("one way", "µs", False), "gbytes_per_s": ("bandwidth", "GB/s", True)}
SAME = ("mode", "provider", "bytes", "depth", "direction")


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of a row that both results have."""

    what: str
    unit: str
    change: Change
    better: bool | None
    """None when the change is within noise."""

    def __str__(self) -> str:
        word = {True: "better", False: "WORSE", None: "same"}[self.better]
        old, new = self.change.old, self.change.new
        percent = 100 * (self.change.ratio - 1)
        return f"{word}: {self.what}: {old:.4g} -> {new:.4g} {self.unit} ({percent:+.1f} %)"


def load(path: str) -> dict[str, Any]:
    """A result of --json. InvalidArgument when the file is not one."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
        if not isinstance(found["meta"], dict) or not isinstance(found["results"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no result of rdmatensor bench --json"
        raise InvalidArgument("bench", f"--compare {path}", f"{why}: give a file that --json wrote") from None
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """All measures of the rows that both results have: same mode, provider, size, depth and
    direction.
    """
    before = {tuple(row.get(name) for name in SAME): row for row in old["results"]}
    found = []
    for row in new["results"]:
        was = before.get(tuple(row.get(name) for name in SAME))
        if was is None:
            continue
        for name, (label, unit, more_is_better) in MEASURES.items():
            rounds = was.get("rounds", {}).get(name), row.get("rounds", {}).get(name)
            if rounds[0] and rounds[1]:
                how = change(rounds[0], rounds[1])
                better = (how.ratio > 1) == more_is_better if how.beyond_noise else None
                found.append(Difference(f"{row['mode']}, {human(row['bytes'])}, {label}", unit, how, better))
    return found


def as_text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The measures that changed, worst first, and the number that did not."""
    found = differences(old, new)
    changed = sorted((one for one in found if one.better is not None), key=lambda one: (one.better, one.what))
    lines = [str(one) for one in changed]
    lines.append(f"{len(found) - len(changed)} of {len(found)} measures are the same within noise")
    told = [f"{name} {old['meta'].get(name)} -> {new['meta'].get(name)}" for name in ("machine", "kernel")
            if old["meta"].get(name) != new["meta"].get(name)]  # fmt: skip
    if told:
        lines.append(f"the machines differ, so this compares more than the code: {'; '.join(told)}")
    lines.append(f"old: {old['meta'].get('commit')}, {old['meta'].get('date')}")
    return "\n".join(lines)
