"""A run of collectives: every backend in two processes of its own, operation by operation, in turn,
as in `bench.run`.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, replace
from typing import Any

from rdmatensor.bench.collectives import COLLECTIVES
from rdmatensor.bench.collectives.base import OPERATIONS
from rdmatensor.bench.modes.base import DEADLINE_S, Setup
from rdmatensor.bench.options import Options, human
from rdmatensor.bench.pair import Failed, NotMeasured, Pair, Spot
from rdmatensor.bench.run import COUNT_MAX, Missing, Progress, Row, Run, close_pairs, open_pairs

__all__ = ["CollectiveRow", "local"]

BUDGET_S = 25.0


@dataclass(slots=True)
class CollectiveRow(Row):
    """A transfer's row with the operation `collective` added. `one_way_us` is the time of one call,
    `bytes` one rank's input, `gbytes_per_s` those bytes divided by that time. A barrier has no
    bytes: its row stands at the first size.
    """

    collective: str = ""


def local(options: Options, setup: Setup, progress: Progress) -> Run:
    """Measures the operations of the available backends."""
    run = Run(options)
    modes = [COLLECTIVES[name] for name in options.modes]
    with Spot() as spot, contextlib.ExitStack() as ending:
        here = replace(setup, folder=spot.folder)
        pairs = open_pairs(modes, here, options, lambda mode: Pair.here(spot, mode, "collectives"), run, progress)
        ending.callback(close_pairs, pairs)
        cells = len(pairs) * len(options.sizes) * len(OPERATIONS)
        duration = options.duration or min(0.5, BUDGET_S / max(1, cells))
        for operation in OPERATIONS:
            for size in options.sizes if operation != "barrier" else options.sizes[:1]:
                progress(f"{operation}, {human(size)}:")
                one(run, [pair for pair in pairs.values() if not pair.failure], operation, size, duration)
    return run


def one(run: Run, pairs: list[Pair], operation: str, size: int, duration: float) -> None:
    """One operation at one size, with all backends in turn."""
    rows: dict[str, CollectiveRow] = {}
    counts: dict[str, int] = {}
    round_s = duration / run.options.rounds

    def attempt(pair: Pair, do: Any) -> None:
        try:
            with pair.turn():
                do(pair)
        except (Failed, NotMeasured) as why:
            rows.pop(pair.mode.name, None)
            run.missing.append(Missing(pair.mode.name, f"{operation}: {why}", size))

    def begin(pair: Pair) -> None:
        facts = pair.facts
        row = CollectiveRow(pair.mode.name, pair.mode.kind, facts["transport"], facts["version"], size)
        row.collective, row.note = operation, facts["note"]
        call(pair, "begin", operation=operation, size=size)
        took = call(pair, "round", count=3, keep=False)["first"]
        took = call(pair, "round", count=max(3, min(50, int(0.01 / max(took, 1e-7)))), keep=False)["first"]
        counts[pair.mode.name] = max(1, min(COUNT_MAX, int(round_s / max(took, 1e-7))))
        rows[pair.mode.name] = row

    def round_(pair: Pair) -> None:
        row = rows[pair.mode.name]
        took = max(call(pair, "round", count=counts[pair.mode.name], keep=True).values())
        row.rounds.setdefault("one_way_us", []).append(took * 1e6)
        if operation != "barrier":
            row.rounds.setdefault("gbytes_per_s", []).append(size / took / 1e9)

    def end(pair: Pair) -> None:
        row = rows[pair.mode.name]
        if run.options.verify:
            wrong = sum(call(pair, "check").values())
            row.verified = wrong == 0
            if wrong:
                run.wrong.append(f"{row.mode}, {operation}, {human(size)}: {wrong} elements")
        told = max(call(pair, "summary").values(), key=lambda rank: rank["one_way_us"]["p50"])  # a root may run ahead
        row.samples, row.one_way_us = told["samples"], told["one_way_us"]
        row.transfers_per_s = 1e6 / statistics.median(row.rounds["one_way_us"])
        if operation != "barrier":
            row.gbytes_per_s = row.transfers_per_s * size / 1e9

    for pair in pairs:
        attempt(pair, begin)
    for number in range(run.options.rounds):
        live = [pair for pair in pairs if pair.mode.name in rows]
        for pair in live[number % max(1, len(live)) :] + live[: number % max(1, len(live))]:
            attempt(pair, round_)
    for pair in (pair for pair in pairs if pair.mode.name in rows):
        attempt(pair, end)
    run.rows += rows.values()


def call(pair: Pair, name: str, **arguments: Any) -> dict[str, Any]:
    """Calls both ends; gives their results by role."""
    answers = pair.ask_both(2 * DEADLINE_S, "call", name=name, arguments=arguments)
    return {role: answer["result"] for role, answer in answers.items()}
