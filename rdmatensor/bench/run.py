"""A run: every mode in two processes of its own, size by size, in rounds that the modes take in
turn.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rdmatensor.bench.modes import MODES
from rdmatensor.bench.modes.base import DEADLINE_S, Mode, Setup
from rdmatensor.bench.options import Options, human
from rdmatensor.bench.pair import Failed, NotMeasured, Pair, Process, Spot

if TYPE_CHECKING:
    from rdmatensor.bench.remote import Far

__all__ = ["Missing", "Row", "Run", "in_flight", "measure"]

IN_FLIGHT_MAX = 256 << 20
"""The most bytes in flight in the bandwidth test, so that large tensors do not exhaust memory."""
WARM_S = 0.01
ROUNDS_LEAST = 3
"""The least number of rounds: fewer do not show the noise."""
UNTIL_S = 45.0
"""Without a duration, the time by which everything should be measured, starting included; rounds
after it are left out.
"""
SLOW_S = 5.0
"""A tensor slower than this is measured in a single round and checked once: soft-RoCE takes 10 s
for a GiB.
"""
LARGE = 256 << 20
"""The size from which one tensor suffices as warm-up."""
COUNT_MAX = 50_000
CHECKS = 3
"""The number of tensors compared each way, each with bytes of its own."""


@dataclass(slots=True)
class Row:
    """The measurements of one mode at one size; README.md defines them."""

    mode: str
    kind: str
    provider: str
    version: str
    bytes: int
    one_way_us: dict[str, float | None] | None = None
    samples: int = 0
    gbytes_per_s: float | None = None
    transfers_per_s: float | None = None
    cpu_s_per_gb: dict[str, float] | None = None
    copies_per_tensor: float | None = None
    registration_us: float | None = None
    verified: bool = False
    depth: int = 1
    direction: str = "one-way"
    interleaved: bool = True
    in_place: bool = False
    ratio_to_limit: dict[str, float | None] = field(default_factory=dict)
    ratio_to_best_peer: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """A mode that was asked for and not measured, with the reason and the remedy."""

    mode: str
    why: str
    bytes: int | None = None


@dataclass(slots=True)
class Run:
    """The outcome of a run."""

    options: Options
    rows: list[Row] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    provider: str = ""
    began: float = field(default_factory=time.monotonic)
    wrong: list[str] = field(default_factory=list)
    """Reports of tensors that arrived with wrong bytes: mode, size, how many."""


def in_flight(size: int, depth: int) -> int:
    """The number of tensors in flight at a size."""
    return max(1, min(depth, IN_FLIGHT_MAX // size))


class Cell:
    """One mode at one size while it is being measured."""

    def __init__(self, pair: Pair, row: Row, options: Options, duration: float) -> None:
        self.pair, self.row, self.options = pair, row, options
        self.round_s = duration / options.rounds / 2  # half for latency, half for bandwidth
        self.count = 1
        self.cpu = {"sender": 0.0, "receiver": 0.0}
        self.moved = self.copies = self.tensors = 0.0
        self.each_s = 1.0

    @property
    def slow(self) -> bool:
        return self.each_s > SLOW_S

    def timeout(self, count: int, each_s: float) -> float:
        return DEADLINE_S + 10 * count * each_s

    # ---- latency ----

    def latency_warm(self) -> None:
        """Finds the number of round trips that fill a round."""
        program = not self.pair.facts["samples"]
        few = 1 if self.row.bytes >= LARGE else 3
        took = self._latency(100 if program and self.row.bytes < 1 << 20 else few, False)
        if not program and took < SLOW_S:  # the first tensors touch new memory and are not typical
            took = self._latency(max(few, int(WARM_S / max(took, 1e-7))), False)
        self.each_s = took
        self.count = max(1, min(COUNT_MAX, int(self.round_s / max(took, 1e-9))))

    def enough(self, name: str) -> bool:
        """Whether enough rounds have run of a mode that is slow, or of a program, which takes time
        to start.
        """
        done = len(self.row.rounds.get(name, ()))
        return (done >= 1 and self.slow) or (done >= ROUNDS_LEAST and not self.pair.facts["samples"])

    def latency_round(self) -> None:
        if self.enough("one_way_us"):
            return
        self._latency(self.count, True)

    def _latency(self, count: int, keep: bool) -> float:
        found = self.pair.ask_both(self.timeout(count, self.each_s), "latency", count=count, keep=keep)["first"]
        if keep:
            self.row.rounds.setdefault("one_way_us", []).append(found["p50"] * 1e6)
        return float(found["seconds"]) / count

    # ---- bandwidth ----

    def bandwidth_warm(self) -> None:
        few = max(1 if self.row.bytes >= LARGE else 2, self.row.depth)
        took = self._bandwidth(few, False)
        if self.pair.facts["samples"] and took < SLOW_S / few:
            took = self._bandwidth(max(few, int(WARM_S / max(took, 1e-8))), False)
        self.each_s = took
        self.count = max(1 if self.slow else 2, self.row.depth, min(4 * COUNT_MAX, int(self.round_s / max(took, 1e-9))))
        if took * self.count > 4 * self.round_s:  # a slow mode: few transfers
            self.count = max(1, int(4 * self.round_s / took))

    def bandwidth_round(self) -> None:
        if self.enough("gbytes_per_s"):
            return
        self._bandwidth(self.count, True)

    def _bandwidth(self, count: int, keep: bool) -> float:
        both = self.options.direction == "both"
        found = self.pair.ask_both(self.timeout(count, self.each_s), "bandwidth", count=count, both=both)
        seconds = max(float(answer["seconds"] or 0) for answer in found.values())
        transfers = 2 * count if both else count + 1
        if keep:
            self.row.rounds.setdefault("gbytes_per_s", []).append(transfers * self.row.bytes / seconds / 1e9)
            self.moved += transfers * self.row.bytes
            self.cpu["sender"] += found["first"]["cpu_s"]
            self.cpu["receiver"] += found["second"]["cpu_s"]
        return seconds / transfers

    # ---- the rest ----

    def prepare(self, depth: int) -> None:
        found = self.pair.ask_both(2 * DEADLINE_S, "prepare", size=self.row.bytes, depth=depth)
        for role, other in (("first", "second"), ("second", "first")):
            if found[other]["token"] is not None:
                self.pair.ask(role, DEADLINE_S, "know", token=found[other]["token"])
        self.row.note = found["first"]["note"]
        took = found["first"]["registration_s"]
        if took is not None and self.row.registration_us is None:
            self.row.registration_us = float(took) * 1e6

    def release(self) -> None:
        self.pair.ask_both(DEADLINE_S, "release")

    def check(self) -> int:
        """The number of wrong bytes in a few tensors sent each way."""
        wrong = 0
        for seed in range(1, 2 if self.slow else CHECKS + 1):
            for sender, receiver in (("first", "second"), ("second", "first")):
                found = self.pair.ask_both(4 * DEADLINE_S, "check", seed=2 * seed + (sender == "first"), sender=sender)
                wrong += int(found[receiver]["wrong"])
        return wrong

    def collect(self) -> None:
        """Takes the counters of both ends since `prepare`."""
        found = self.pair.ask_both(DEADLINE_S, "result")
        if "samples" in found["first"]:
            self.row.samples = found["first"]["samples"]
            self.row.one_way_us = found["first"]["one_way_us"]
        if all(answer["copies"] is not None for answer in found.values()):
            self.copies += sum(answer["copies"][0] for answer in found.values())
            self.tensors += sum(answer["copies"][1] for answer in found.values())

    def conclude(self) -> None:
        """Fills in the row's results from its rounds."""
        rates = self.row.rounds.get("gbytes_per_s")
        if rates:
            self.row.gbytes_per_s = statistics.median(rates)
            self.row.transfers_per_s = self.row.gbytes_per_s * 1e9 / self.row.bytes
        if self.moved:
            self.row.cpu_s_per_gb = {end: used / self.moved * 1e9 for end, used in self.cpu.items()}
        if self.tensors:
            self.row.copies_per_tensor = round(self.copies / self.tensors, 3)


Progress = Callable[[str], None]


class Sequence:
    """Measures all modes at one size, phase by phase. A mode that fails drops out, and the others
    go on.
    """

    def __init__(self, run: Run, cells: list[Cell], progress: Progress, size: int, until: float) -> None:
        self.run, self.cells, self.progress, self.size, self.until = run, list(cells), progress, size, until

    def each(self, what: str, do: Callable[[Cell], None], start: int = 0) -> None:
        """Applies a step to every mode in turn, starting with the mode numbered `start`."""
        order = self.cells[start % max(1, len(self.cells)) :] + self.cells[: start % max(1, len(self.cells))]
        for cell in order:
            self.progress(f"{human(self.size)}: {cell.row.mode}, {what}")
            try:
                with cell.pair.turn():
                    do(cell)
            except NotMeasured as why:
                self.run.missing.append(Missing(cell.row.mode, str(why), self.size))
                self.cells.remove(cell)
            except Failed as why:
                self.run.missing.append(Missing(cell.row.mode, f"it failed: {why}", self.size))
                self.cells.remove(cell)

    def phase(self, name: str, warm: Callable[[Cell], None], once: Callable[[Cell], None], rounds: int) -> None:
        """Runs rounds of one kind; those beyond the least number are left out when the time is up."""
        self.each("warming up", warm)
        for number in range(rounds):
            if number >= ROUNDS_LEAST and time.monotonic() > self.until:
                break
            self.each(f"{name}, round {number + 1} of {rounds}", once, number)

    def measure(self, options: Options) -> list[Cell]:
        """Measures everything for one size; gives the cells that did not fail."""
        self.each("preparing", lambda cell: cell.prepare(1))
        self.phase("latency", Cell.latency_warm, Cell.latency_round, options.rounds)
        self.each("counting", Cell.collect)
        self.each("releasing", Cell.release)
        self.each("preparing", lambda cell: cell.prepare(cell.row.depth))
        self.phase("bandwidth", Cell.bandwidth_warm, Cell.bandwidth_round, options.rounds)
        if options.verify:
            self.each("checking bytes", self.check)
        self.each("counting", Cell.collect)
        self.each("releasing", Cell.release)
        return self.cells

    def check(self, cell: Cell) -> None:
        if not cell.pair.facts["checks"]:
            return
        wrong = cell.check()
        cell.row.verified = wrong == 0
        if wrong:
            self.run.wrong.append(f"{cell.row.mode}, {human(self.size)}: {wrong} bytes")


def available_bytes() -> int:
    """The memory that is available, in bytes."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return 1 << 30


def groups(cells: list[Cell], size: int) -> Iterator[list[Cell]]:
    """Groups of cells that are measured in turn: all together, or one by one where their memory
    does not fit.
    """
    need = sum(2 * cell.pair.mode.memory(size, cell.row.depth) for cell in cells)
    if need <= available_bytes() // 2:
        yield cells
        return
    for cell in cells:
        cell.row.interleaved = False
        yield [cell]


def measure(options: Options, setup: Setup, pairs: dict[str, Pair], run: Run, progress: Progress) -> None:
    """Measures all sizes of the pairs, which are open."""
    duration = options.duration_of(len(pairs))
    for number, size in enumerate(options.sizes):
        share = (number + 1) / len(options.sizes)
        until = math.inf if options.duration is not None else run.began + UNTIL_S * share
        cells = []
        for pair in pairs.values():
            if pair.failure:
                continue
            facts = pair.facts
            depth = in_flight(size, options.depth)
            row = Row(pair.mode.name, pair.mode.kind, facts["transport"], facts["version"], size)
            row.depth, row.direction, row.note = depth, options.direction, facts["note"]
            row.in_place = pair.mode.in_place
            cells.append(Cell(pair, row, options, duration))
        through = []
        for group in groups(cells, size):
            through += Sequence(run, group, progress, size, until).measure(options)
        for cell in sorted(through, key=lambda cell: list(MODES).index(cell.row.mode)):
            cell.conclude()
            run.rows.append(cell.row)


def open_pairs(
    modes: list[Mode],
    setup: Setup,
    options: Options,
    start: Callable[[Mode], Pair],
    run: Run,
    progress: Progress,
    *,
    apart: bool = False,
) -> dict[str, Pair]:
    """Starts the processes of all modes at once, and connects them. A mode that fails becomes a row
    with the reason.
    """
    started = {}
    for mode in modes:
        why = mode.missing(setup)
        if not why and mode.one_host_only and not setup.one_host:
            why = "it measures within one host only"
        if not why and apart and mode.launcher():
            why = "one command starts both its processes: measure without --connect"
        if why:
            run.missing.append(Missing(mode.name, why))
        else:
            started[mode.name] = start(mode)
    given = {name: value for name, value in asdict(setup).items() if name != "role"}
    opened = {}
    for name, pair in started.items():
        progress(f"starting {name}")
        try:
            with pair.turn():
                pair.open(given, options.pin)
            opened[name] = pair
        except Failed as why:
            run.missing.append(Missing(name, f"it could not start: {why}"))
    return opened


def close_pairs(pairs: dict[str, Pair]) -> None:
    """Closes both ends of each pair, then ends its processes."""
    for pair in pairs.values():
        if not pair.failure:
            with contextlib.suppress(Failed), pair.turn():
                pair.ask_both(10, "close")
        pair.close()


def local(options: Options, setup: Setup, progress: Progress) -> Run:
    """A run with both ends on this host."""
    run = Run(options)
    with Spot() as spot, contextlib.ExitStack() as ending:
        here = replace(setup, folder=spot.folder)
        pairs = open_pairs(
            [MODES[name] for name in options.modes], here, options, lambda mode: Pair.here(spot, mode), run, progress
        )
        ending.callback(close_pairs, pairs)
        measure(options, here, pairs, run, progress)
    return run


def far(options: Options, setup: Setup, there: Far, progress: Progress) -> Run:
    """A run with the second ends on the host that serves."""
    run = Run(options)
    with Spot() as spot, contextlib.ExitStack() as ending:
        ending.callback(there.close)
        here = replace(setup, folder=spot.folder, bind=there.bind)

        def start(mode: Mode) -> Pair:
            return Pair(mode, Process(spot, mode, "first"), there.end(mode.name))

        pairs = open_pairs([MODES[name] for name in options.modes], here, options, start, run, progress, apart=True)
        ending.callback(close_pairs, pairs)
        measure(options, here, pairs, run, progress)
    return run
