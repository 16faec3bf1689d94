"""Which tests run which lines, and how long each takes: a mutant is tried by those tests alone.

Every test runs once as an executable that counts lines (gcov), and once as it is, for its time. The
result is kept in build/mutants/covered.json until a source that the test is built from changes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import programs
from points import Mutant
from tree import COVER, PLAIN, Program, digest

USUAL_S = 30.0  # what a test may take that was never timed
ENOUGH = 0.4  # of the time of all tests, for one mutant: all reach the handshake, those that try it are quick

Lines = dict[str, dict[str, str]]  # file -> line -> function


@dataclass
class Run:
    """The lines that one test reached, and the state of the sources."""

    state: str
    seconds: float
    lines: Lines


@dataclass
class Covered:
    """The runs of all tests."""

    runs: dict[str, Run] = field(default_factory=dict)

    def tests_for(self, mutant: Mutant) -> list[str]:
        """Those that run the line, quick ones first; where none is known to, those that run the function.

        gcov may count a condition of several lines at another one of them, and nothing of a process that is killed.
        """
        reached = {name: run.lines.get(mutant.file, {}) for name, run in self.runs.items()}
        reach = [name for name, lines in reached.items() if str(mutant.line) in lines]
        if not reach:
            reach = [name for name, lines in reached.items() if mutant.function in lines.values()]
        most = ENOUGH * sum(run.seconds for run in self.runs.values())
        chosen, total = [], 0.0
        for name in sorted(reach, key=lambda name: self.runs[name].seconds):
            total += self.runs[name].seconds
            if chosen and total > most:
                break
            chosen.append(name)
        return chosen


def counted(gcov: str, folder: Path, root: Path) -> Lines:
    """All lines of csrc that ran, of the counts that a test left in a folder."""
    counts = sorted(folder.rglob("*.gcda"))
    if not counts:
        return {}
    for count in counts:
        notes = Path("/") / count.relative_to(folder).with_suffix(".gcno")
        shutil.copy2(notes, count.with_suffix(".gcno"))
    command = [gcov, "--json-format", "--stdout", *map(str, counts)]
    done = subprocess.run(command, cwd=root, capture_output=True, check=True)
    found: Lines = {}
    for text in done.stdout.splitlines():
        for file in json.loads(text)["files"]:
            if not file["file"].startswith("csrc/") or not file["file"].endswith(".c"):
                continue
            for line in file["lines"]:
                if line["count"] > 0 and "function_name" in line:
                    found.setdefault(file["file"], {})[str(line["line_number"])] = line["function_name"]
    return found


def measure(root: Path, test: Program, state: str, gcov: str) -> Run:
    """Runs a test twice; ends the program when it fails without any mutant."""
    fake = {
        "RT_FAKE_IBVERBS": str(root / PLAIN / "libfakeibverbs.so"),
        "RT_FAKE_CUDA": str(root / PLAIN / "libfakecuda.so"),
    }
    plain = programs.run([test.path(root / PLAIN)], root, USUAL_S, fake)
    if plain.failed is not None:
        raise SystemExit(f"{test.name} fails without any mutant: {plain.failed}")
    place = root / "build/mutants/counts" / test.name
    shutil.rmtree(place, ignore_errors=True)
    programs.run([test.path(root / COVER)], root, USUAL_S, {**fake, "GCOV_PREFIX": str(place)})
    lines = counted(gcov, place, root)
    shutil.rmtree(place, ignore_errors=True)
    return Run(state, round(plain.seconds, 3), lines)


def load(root: Path, tests: list[Program], jobs: int, gcov: str) -> Covered:
    """The runs of all tests; tests that changed since are measured anew."""
    path = root / "build/mutants/covered.json"
    kept = {name: Run(**run) for name, run in json.loads(path.read_text()).items()} if path.exists() else {}
    states = {test.name: digest(root, test) for test in tests}
    new = [test for test in tests if test.name not in kept or kept[test.name].state != states[test.name]]
    if new:
        print(f"== {len(new)} tests run once each, to see which lines they reach", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        runs = pool.map(lambda test: measure(root, test, states[test.name], gcov), new)
        for test, run in zip(new, runs, strict=True):
            kept[test.name] = run
            path.write_text(json.dumps({name: asdict(run) for name, run in kept.items()}), encoding="utf-8")
    return Covered({test.name: kept[test.name] for test in tests})
