"""Did this checkout become slower than another commit? Both are built and run in turn, in one go, on this machine.

    python benchmarks/check.py BASE [--starts 7] [--no-instructions]

Times: two processes of each commit, started anew several times, since where a process's memory comes to lie makes
differences that no number of rounds in one process averages out. Each start gives one value for each operation, the
best of three. A difference counts when the medians differ by more than 5 % and no start of one commit lies within
those of the other. Instructions: the core's hot path, run by hotpath.c under callgrind; there 1 % counts, since the
same code gives the same number. Status 1 when something became slower.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import measure

from rdmatensor.bench.numbers import change

HERE = Path(__file__).resolve().parent
LEAST_INSTRUCTIONS = 0.01
HOT_COUNT = 2000
KINDS = ("copy", "prepared", "word", "edge")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row: an operation, the medians at both commits, and what to think of it."""

    what: str
    unit: str
    base: float
    head: float
    word: str
    """ "same", "better" or "WORSE"."""

    def cells(self) -> tuple[str, ...]:
        percent = 100 * (self.head / self.base - 1) if self.base else 0.0
        return self.what, f"{self.base:.4g}", f"{self.head:.4g}", self.unit, f"{percent:+.1f} %", self.word


def judge_times(name: str, base: list[float], head: list[float]) -> Verdict:
    """Times of several starts of both commits, in seconds."""
    found = change(base, head)
    word = "same" if not found.beyond_noise else "WORSE" if found.ratio > 1 else "better"
    return Verdict(name, "us", found.old * 1e6, found.new * 1e6, word)


def judge_instructions(name: str, base: float, head: float) -> Verdict:
    """Instructions of one operation at both commits."""
    ratio = head / base - 1
    word = "same" if abs(ratio) <= LEAST_INSTRUCTIONS else "WORSE" if ratio > 0 else "better"
    return Verdict(name, "instructions", base, head, word)


# ---- two trees ----


def run(*command: str, folder: Path, **environment: str) -> str:
    """A command's output; its own words when it fails."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise SystemExit(f"check: {' '.join(command)} in {folder} failed with status {done.returncode}:\n{said}")
    return done.stdout


def build(tree: Path) -> None:
    """The library and the extension, with the flags of the tree's own Makefile."""
    archive = "build/native/librdmatensor.a"
    run("make", f"-j{os.cpu_count()}", archive, folder=tree)
    run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", folder=tree, RDMATENSOR_BUILD_ARCHIVE=archive)


def tree_of(commit: str) -> Path:
    """A built copy of a commit, kept in build/check for the next time."""
    sha = run("git", "rev-parse", "--verify", f"{commit}^{{commit}}", folder=measure.ROOT).strip()
    tree = measure.ROOT / "build" / "check" / sha[:12]
    if not (tree / ".built").exists():
        print(f"building {commit} ({sha[:12]})", flush=True)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        packed = subprocess.run(["git", "archive", sha], cwd=measure.ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=packed, check=True)
        build(tree)
        (tree / ".built").touch()
    return tree


# ---- times ----


class Side:
    """Both processes of one commit."""

    def __init__(self, tree: Path) -> None:
        self.ends = {}
        for role in ("second", "first"):
            self.ends[role] = subprocess.Popen(
                [sys.executable, str(HERE / "check_ends.py"), role],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**os.environ, "PYTHONPATH": str(tree)}, cwd=tree,
            )  # fmt: skip
        address = self.hear("second")
        where = Path(self.hear("first"))
        if not where.is_relative_to(tree):
            raise SystemExit(f"check: {where} was imported, not the package in {tree}")
        self.tell("first", address)
        self.cells = self.cells_of("first")
        self.cells_of("second")

    def cells_of(self, role: str) -> list[str]:
        return [str(name) for name in json.loads(self.hear(role))]

    def tell(self, role: str, line: str) -> None:
        stream = self.ends[role].stdin
        assert stream is not None
        stream.write(line + "\n")
        stream.flush()

    def hear(self, role: str) -> str:
        stream = self.ends[role].stdout
        assert stream is not None
        line = stream.readline()
        if not line:
            raise SystemExit(f"check: a process of the {role} end died with status {self.ends[role].wait()}")
        return line.strip()

    def best(self, cell: str) -> float:
        """Seconds of one operation: the best of three, after warming up."""
        self.tell("second", cell)
        self.tell("first", cell)
        times = [float(self.hear("first")) for _ in range(4)]
        self.hear("second")
        return min(times[1:])

    def close(self) -> None:
        for end in self.ends.values():
            assert end.stdin is not None
            end.stdin.close()
            end.wait(30)


def times(base: Path, head: Path, starts: int) -> list[Verdict]:
    """Both commits in turn, each started `starts` times; a different one goes first each time."""
    seen: dict[str, tuple[list[float], list[float]]] = {}
    for start in range(starts):
        print(f"\rtimes: start {start + 1} of {starts}", end="", file=sys.stderr, flush=True)
        sides = [Side(base), Side(head)]
        for cell in (name for name in sides[0].cells if name in sides[1].cells):
            both = seen.setdefault(cell, ([], []))
            for number in (0, 1) if start % 2 else (1, 0):
                both[number].append(sides[number].best(cell))
        for side in sides:
            side.close()
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return [judge_times(name, *both) for name, both in seen.items()]


# ---- instructions ----


def hotpath(tree: Path) -> tuple[Path, list[str]]:
    """hotpath.c linked with the library of a tree, and what it can run there."""
    header = (tree / "csrc" / "rdmatensor.h").read_text()
    edges = "rt_edge_receive_static" in header
    program = tree / "build" / "hotpath"
    archive = tree / "build" / "native" / "librdmatensor.a"
    more = ["-DHOT_EDGES"] if edges else []
    run("cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", *more, "-I", str(tree / "csrc"), str(HERE / "hotpath.c"),
        str(archive), "-o", str(program), "-lpthread", "-ldl", "-lm", folder=tree)  # fmt: skip
    return program, [kind for kind in KINDS if edges or kind != "edge"]


def instructions(program: Path, kind: str) -> float:
    """Instructions of one operation, as callgrind counts them inside `hot`."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no",
         "--toggle-collect=hot", str(program), kind, str(HOT_COUNT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    match = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or match is None:
        raise SystemExit(f"check: {program} {kind} under callgrind failed:\n{done.stderr.strip()[-2000:]}")
    return int(match.group(1)) / HOT_COUNT


def counts(base: Path, head: Path) -> list[Verdict]:
    """The hot path's instructions at both commits."""
    programs = [hotpath(tree) for tree in (base, head)]
    kinds = [kind for kind in programs[0][1] if kind in programs[1][1]]
    found = []
    for kind in kinds:
        print(f"\rinstructions: {kind:12}", end="", file=sys.stderr, flush=True)
        old, new = (instructions(program, kind) for program, _ in programs)
        found.append(judge_instructions(f"hot path: {kind}", old, new))
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--starts", type=int, default=7, help="how often both commits are started (7)")
    parser.add_argument("--no-instructions", action="store_true", help="times only")
    arguments = parser.parse_args()
    base, head = tree_of(arguments.base), measure.ROOT
    build(head)
    verdicts = times(base, head, arguments.starts)
    if not arguments.no_instructions:
        verdicts += counts(base, head)
    print(measure.table([("", "base", "here", "", "change", ""), *(one.cells() for one in verdicts)]))
    worse = [one.what for one in verdicts if one.word == "WORSE"]
    print(f"slower beyond noise: {', '.join(worse)}" if worse else "nothing is slower beyond noise")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
