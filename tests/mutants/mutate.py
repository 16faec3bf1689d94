"""Changes one condition, constant or call of the C sources at a time and sees whether the tests notice.

`make mutants SEED=1 COUNT=40` draws COUNT mutants by SEED; README.md beside this file says what counts and how to judge
what survives.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import contract
import covered
import points
import programs
import verdicts
from points import Mutant
from tree import PLAIN, ROOT, Program, Tree, built

OPEN = "verdict:"  # a place for it
VERDICTS = Path(__file__).with_name("verdicts.txt")


@dataclass(frozen=True, slots=True)
class Result:
    mutant: Mutant
    killer: str | None  # the test, and what failed in it; None: it survived
    tried: int
    seconds: float


@dataclass
class Sample:
    """The mutants to be tried, and how many were drawn in vain."""

    chosen: list[Mutant]
    drawn: int = 0
    same: int = 0  # the compiler makes the same of them as of the original, or of another one
    broken: int = 0  # they do not compile
    judged: int = 0  # verdicts.txt knows them as equivalent


def sources(folders: list[str], root: Path = ROOT) -> list[str]:
    """All C files that the folders or patterns name."""
    found: set[Path] = set()
    for folder in folders:
        for path in root.glob(folder):
            found |= set(path.glob("*.c")) if path.is_dir() else {path}
    return sorted(str(path.relative_to(root)) for path in found)


def in_order(files: list[str], seed: int, root: Path = ROOT) -> list[Mutant]:
    """All mutants, in the order in which a seed draws them."""
    mutants = [mutant for file in files for mutant in points.mutants_of(file, (root / file).read_bytes())]
    random.Random(seed).shuffle(mutants)
    return mutants


def draw(
    tree: Tree, mutants: list[Mutant], count: int, known: dict[verdicts.Key, str], pool: ThreadPoolExecutor
) -> Sample:
    """The first of them that are programs of their own; their objects lie in the tree's work folder."""
    sample = Sample([])
    seen: dict[str, set[bytes]] = {}

    def compiled(numbered: tuple[int, Mutant]) -> bytes | None:
        number, mutant = numbered
        return None if mutant.key() in known else tree.object_of(mutant, mutant.file, tree.work / f"drawn-{number}.o")

    for at in range(0, len(mutants), 16):
        part = list(enumerate(mutants[at : at + 16], at))
        for (number, mutant), content in zip(part, pool.map(compiled, part), strict=True):
            drawn = tree.work / f"drawn-{number}.o"
            if len(sample.chosen) == count:
                return sample
            sample.drawn += 1
            if mutant.file not in seen:
                original = tree.object_of(None, mutant.file, tree.work / "original.o")
                assert original is not None, f"{mutant.file} does not compile"
                seen[mutant.file] = {original}
            if mutant.key() in known:
                sample.judged += 1
            elif content is None:
                sample.broken += 1
            elif content in seen[mutant.file]:
                sample.same += 1
            else:
                seen[mutant.file].add(content)
                drawn.rename(tree.work / f"chosen-{len(sample.chosen)}.o")
                sample.chosen.append(mutant)
    return sample


def attempt(
    tree: Tree,
    number: int,
    mutant: Mutant,
    tests: dict[str, Program],
    lines: covered.Covered,
) -> Result:
    """Runs the tests that reach a mutant until one fails."""
    begun = time.monotonic()
    linked = tree.work / f"linked-{number}"
    environment = {
        "RT_FAKE_IBVERBS": str(tree.path / PLAIN / "libfakeibverbs.so"),
        "RT_FAKE_CUDA": str(tree.path / PLAIN / "libfakecuda.so"),
    }
    tried, killer = 0, None
    for name in lines.tests_for(mutant):
        tree.link(tests[name], tree.work / f"chosen-{number}.o", linked)
        outcome = programs.run([linked], tree.path, lines.runs[name].seconds, environment)
        tried += 1
        if outcome.failed is not None:
            killer = f"{name}: {outcome.failed}"
            break
    linked.unlink(missing_ok=True)
    return Result(mutant, killer, tried, time.monotonic() - begun)


def results_of(
    tree: Tree, sample: Sample, tests: dict[str, Program], lines: covered.Covered, pool: ThreadPoolExecutor
) -> Iterator[Result]:
    numbered = enumerate(sample.chosen)
    yield from pool.map(lambda pair: attempt(tree, pair[0], pair[1], tests, lines), numbered)


def tried_last(last: contract.Contract, results: list[Result], pool: ThreadPoolExecutor) -> list[Result]:
    """The results with those of the tests in Python, which survivors are tried with."""
    left = [(number, result.mutant) for number, result in enumerate(results) if result.killer is None]
    groups = contract.groups_of((number, mutant) for number, mutant in left if contract.concerns(mutant))
    if not groups:
        return results
    print(f"== {sum(map(len, groups))} of them in {len(groups)} runs of the contract tests", flush=True)
    last.prepare()
    judged = list(results)
    for group, killers in zip(groups, pool.map(last.killers, groups), strict=True):
        for number in group:
            failed = killers.get(number)
            killer = None if failed is None else f"contract: {failed}"
            judged[number] = replace(judged[number], killer=killer, tried=judged[number].tried + 1)
            print(f"{number + 1:4} {killer or 'SURVIVED'}", flush=True)
    return judged


def report(folder: Path, arguments: argparse.Namespace, sample: Sample, results: list[Result], seconds: float) -> str:
    """Writes report.json and report.txt; returns the text."""
    survivors = [result for result in results if result.killer is None]
    rows = [
        {
            "file": result.mutant.file,
            "line": result.mutant.line,
            "function": result.mutant.function,
            "kind": result.mutant.kind,
            "was": result.mutant.was,
            "becomes": result.mutant.becomes,
            "killed_by": result.killer,
            "tests_tried": result.tried,
            "seconds": round(result.seconds, 2),
        }
        for result in results
    ]
    score = 100.0 * (len(results) - len(survivors)) / max(len(results), 1)
    total = {"seed": arguments.seed, "count": len(results), "killed": len(results) - len(survivors), "score": score}
    total |= {"sources": arguments.sources, "drawn": sample.drawn, "same_object": sample.same, "not_c": sample.broken}
    total |= {"known_equivalent": sample.judged, "seconds": round(seconds)}
    (folder / "report.json").write_text(json.dumps({**total, "mutants": rows}, indent=1) + "\n", encoding="utf-8")
    result_line = f"seed {arguments.seed}: {total['killed']} of {len(results)} mutants killed, {score:.1f} %"
    drawn_line = f"drawn {sample.drawn}: {sample.same} compile to the same object, {sample.broken} are not C"
    lines = [
        f"{result_line}, in {seconds:.0f} s",
        f"{drawn_line}, {sample.judged} known as equivalent",
        f"sources: {' '.join(arguments.sources)}",
        "",
    ]
    for result in survivors:
        mutant = result.mutant
        lines.append(f"# {mutant.file}:{mutant.line}, {mutant.kind}; {result.tried} tests saw nothing")
        lines.append(verdicts.show(mutant, OPEN))
    text = "\n".join(lines)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    return text


def take_arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compiler", type=shlex.split, required=True, help="with all flags of the plain flavour")
    parser.add_argument("--libraries", type=shlex.split, default=[])
    parser.add_argument("--wraps", type=str.split, action="append", default=[], help="a test, and flags to link it")
    parser.add_argument("--no-contract", action="store_true", help="without the tests in Python")
    parser.add_argument("--gcov", default="gcov")
    parser.add_argument("--at-least", type=float, default=95.0, help="per cent killed, else the exit status is 1")
    parser.add_argument("--only", default="", help="mutants whose function or changed line contains this")
    parser.add_argument("sources", nargs="+", help="folders, or patterns of files")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    arguments = take_arguments(words)
    begun = time.monotonic()
    files = sources(arguments.sources)
    tree = Tree(ROOT, arguments.compiler, arguments.libraries, {words[0]: words[1:] for words in arguments.wraps})
    tests = built(ROOT)
    tree.copy(tests)
    lines = covered.load(ROOT, tests, arguments.jobs, arguments.gcov)
    mutants = in_order(files, arguments.seed, tree.path)
    known = verdicts.read(VERDICTS)
    wanted = [mutant for mutant in mutants if arguments.only in f"{mutant.function} {mutant.was}"]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        sample = draw(tree, wanted, arguments.count, known, pool)
        print(f"== {len(sample.chosen)} mutants of {len(mutants)}, drawn by seed {arguments.seed}", flush=True)
        results: list[Result] = []
        for result in results_of(tree, sample, {test.name: test for test in tests}, lines, pool):
            results.append(result)
            mutant = result.mutant
            where = f"{mutant.file}:{mutant.line}"
            print(f"{len(results):4} {result.killer or 'SURVIVED':60} {where}  {result.seconds:.1f} s", flush=True)
        if not arguments.no_contract:
            results = tried_last(contract.Contract(tree), results, pool)
    text = report(ROOT / "build/mutants", arguments, sample, results, time.monotonic() - begun)
    print(f"\n{text}")
    for key in verdicts.stale(known, mutants):
        if key[0] in files:
            print(f"verdicts.txt: there is no such mutant any more: {key[0]} {key[1]}: {key[3]}")
    killed = sum(result.killer is not None for result in results)
    return 0 if killed * 100 >= arguments.at_least * len(results) else 1
