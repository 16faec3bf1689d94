"""The arithmetic of results: percentiles, and the test whether two sets of rounds differ beyond
their noise. Pure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_CHANGE", "PERCENTILES", "Change", "change", "joined", "percentile", "summary"]

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
LEAST_CHANGE = 0.05
"""The smallest difference that counts, however quiet the rounds were: caches and page colours alone
cause this much.
"""


def percentile(ordered: Sequence[float] | NDArray[np.float64], share: float) -> float:
    """The smallest sample that at least `share` of all samples do not exceed (nearest rank). The
    samples must be in ascending order.
    """
    if not len(ordered):
        raise ValueError("there are no samples")
    return float(ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)])


def summary(seconds: NDArray[np.float64]) -> dict[str, float]:
    """p50, p90, p99 and p999 in microseconds. With too few samples for a percentile, it is the
    largest sample.
    """
    ordered = np.sort(seconds)
    return {name: percentile(ordered, share) * 1e6 for name, share in PERCENTILES.items()}


def joined(told: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Percentiles in microseconds from those, in seconds, that a program reported for each round:
    the median of the rounds that reported it, None where none did.
    """
    found: dict[str, float | None] = {}
    for name in PERCENTILES:
        seen = [value for row in told if (value := row.get(name)) is not None]
        found[name] = statistics.median(seen) * 1e6 if seen else None
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """The relation of a new set of rounds to an old one. `ratio` is new / old of the medians."""

    old: float
    new: float
    ratio: float
    beyond_noise: bool


def change(old: Sequence[float], new: Sequence[float], least: float = LEAST_CHANGE) -> Change:
    """Compares the rounds of two runs.

    A difference is beyond noise when the medians differ by more than `least` and no round of one
    set lies within the range of the other: for two sets of 5 rounds that differ only by chance,
    this happens in fewer than 1 of 100 pairs. With fewer than 3 rounds on a side, nothing is beyond
    noise.
    """
    before, after = statistics.median(old), statistics.median(new)
    ratio = after / before if before else math.inf
    apart = min(new) > max(old) or max(new) < min(old)
    large = abs(ratio - 1) > least
    return Change(before, after, ratio, apart and large and min(len(old), len(new)) >= 3)
