"""Shows the C tests in pytest's report: one item per CHECK_TEST of every tests/c/ROOM/test_*.c and flavour.

The executables are built by the Makefile (build/FLAVOUR/tests/c/); RT_C_FLAVOURS names the flavours, `plain` by
default. An executable runs once, when the first of its tests is asked for; its output is shown with every test that
failed in it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 800
OVERTAKERS = (7,)
"""Seeds with which programs of teams over the fake libibverbs run once more, in the last flavour: its WRITEs then
overtake each other."""
SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def flavours() -> list[str]:
    return [name for name in os.environ.get("RT_C_FLAVOURS", "plain").split(",") if name]


def test_names(source: str) -> list[str]:
    """The claims of a C test file, in order: what stands in its tables of tests, and in no other table or macro."""
    lines = [line for line in source.splitlines() if not line.startswith("#define")]
    tables = re.findall(r"\bcheck_test \w+\[\]\s*=\s*\{(.*?)\};", "\n".join(lines), re.DOTALL)
    return re.findall(r"\bCHECK_TEST\((\w+)\)", "\n".join(tables))


class CProgram:
    """One executable, run at most once."""

    def __init__(self, flavour: str, stem: str, claims: int, overtake: int = 0) -> None:
        self.claims = claims
        self.overtake = overtake
        self.path = ROOT / "build" / flavour / "tests" / "c" / stem
        self.fakes = {
            "RT_FAKE_IBVERBS": str(ROOT / "build" / flavour / "libfakeibverbs.so"),
            "RT_FAKE_CUDA": str(ROOT / "build" / flavour / "libfakecuda.so"),
        }
        self.output: str | None = None
        self.returncode = 0

    def run(self) -> str:
        if self.output is not None:
            return self.output
        if not self.path.exists():
            self.output, self.returncode = f"{self.path} is not built: run make", 127
            return self.output
        environment = {**os.environ, **SANITIZERS, **self.fakes}
        if self.overtake:
            environment["FAKE_IBVERBS_OVERTAKE"] = str(self.overtake)
        try:
            done = subprocess.run(
                [self.path],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
            self.output, self.returncode = done.stdout.decode(errors="replace"), done.returncode
        except subprocess.TimeoutExpired as late:
            text = (late.stdout or b"").decode(errors="replace")
            self.output, self.returncode = f"{text}\nstill running after {TIMEOUT_S} s: killed", 124
        return self.output


class CTestFailure(Exception):
    pass


class CTest(pytest.Item):
    """One CHECK_TEST."""

    def __init__(self, *, program: CProgram, claim: str, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.program = program
        self.claim = claim

    def runtest(self) -> None:
        output = self.program.run()
        skipped = re.search(rf"^skipped: {self.claim}: (.*)$", output, re.MULTILINE)
        if skipped:
            pytest.skip(skipped.group(1))
        if re.search(rf"^FAILED: {self.claim}$", output, re.MULTILINE):
            raise CTestFailure(output[-6000:])
        # The last line is the program's own verdict; without it, or with a bad exit, nothing in it is believed.
        verdict = re.search(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
        if verdict is None or (self.program.returncode != 0 and verdict.group(2) == "0"):
            raise CTestFailure(f"{self.program.path.name} ended with {self.program.returncode}\n{output[-6000:]}")
        ran = int(verdict.group(1)) + int(verdict.group(2)) + len(re.findall(r"^skipped: ", output, re.MULTILINE))
        if ran != self.program.claims:
            raise CTestFailure(f"{self.program.path.name} ran {ran} tests of the {self.program.claims} of its source")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class CFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        source = self.path.read_text(encoding="utf-8")
        names = test_names(source)
        seeds = OVERTAKERS if self.path.parent.name == "team" and '"verbs"' in source else ()
        if not names:
            raise self.CollectError(f"{self.path.name} has no CHECK_TEST")
        last = flavours()[-1]
        for flavour in flavours():
            program = CProgram(flavour, self.path.stem, len(names))
            for name in names:
                yield CTest.from_parent(self, name=f"{name}[{flavour}]", program=program, claim=name)
            for seed in seeds if flavour == last else ():
                program = CProgram(flavour, self.path.stem, len(names), seed)
                for name in names:
                    label = f"{name}[{flavour}, overtaking {seed}]"
                    yield CTest.from_parent(self, name=label, program=program, claim=name)


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> CFile | None:
    if file_path.suffix == ".c" and file_path.name.startswith("test_"):
        return CFile.from_parent(parent, path=file_path)
    return None
