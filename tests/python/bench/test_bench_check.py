"""The judgement of `make bench-check` on figures; that it builds and runs two commits is seen when it is run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        specification = importlib.util.spec_from_file_location("bench_check", FOLDER / "check.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module
        specification.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


QUIET = [1.00e-6, 1.02e-6, 1.01e-6, 1.03e-6, 1.00e-6]


def test_a_planted_slowdown_is_caught(check: ModuleType) -> None:
    verdict = check.judge_times("memcpy", QUIET, [1.2 * one for one in QUIET])
    assert verdict.word == "WORSE"
    assert "+20.0 %" in verdict.cells()


def test_the_same_code_twice_is_quiet(check: ModuleType) -> None:
    assert check.judge_times("memcpy", QUIET, QUIET[::-1]).word == "same"


def test_noise_is_not_taken_for_a_slowdown(check: ModuleType) -> None:
    assert check.judge_times("memcpy", QUIET, [1.5e-6, 1.4e-6, 1.01e-6, 1.6e-6, 1.5e-6]).word == "same"


def test_faster_is_better(check: ModuleType) -> None:
    assert check.judge_times("memcpy", QUIET, [0.8 * one for one in QUIET]).word == "better"


def test_one_percent_of_instructions_is_noise_and_two_are_not(check: ModuleType) -> None:
    assert check.judge_instructions("copy", 1000, 1009).word == "same"
    assert check.judge_instructions("copy", 1000, 1020).word == "WORSE"
    assert check.judge_instructions("copy", 1000, 900).word == "better"
