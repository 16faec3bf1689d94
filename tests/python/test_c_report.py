"""The report of tests/c/conftest.py on a C test program: a claim passes only when the program ran it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "c" / "conftest.py"
SOURCE = """#define CHECK_TEST(function) {#function, function}
static const place places[] = {CHECK_TEST(no_claim)};
static const check_test tests[] = {
    CHECK_TEST(a_is_b),
    CHECK_TEST(c_is_d),
};
"""


PROGRAMS = {
    "passes": ("2 passed, 0 failed", 0),
    "fails": ("FAILED: c_is_d\n1 passed, 1 failed", 1),
    "skips": ("skipped: a_is_b: no card\n1 skipped\n1 passed, 0 failed", 0),
    "runs_one": ("1 passed, 0 failed", 0),
    "ends_badly": ("2 passed, 0 failed", 1),
    "says_nothing": ("", 0),
}
"""The output of a program and its end."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How pytest shows the two claims of each program."""
    root = tmp_path_factory.mktemp("project")
    (root / "pytest.ini").touch()
    sources, programs = root / "tests" / "c", root / "build" / "plain" / "tests" / "c"
    for folder in (sources, programs):
        folder.mkdir(parents=True)
    shutil.copy(CONFTEST, sources)
    for name, (said, status) in PROGRAMS.items():
        (sources / f"test_{name}.c").write_text(SOURCE)
        program = programs / f"test_{name}"
        program.write_text(f"#!/bin/sh\ncat <<'end'\n{said}\nend\nexit {status}\n")
        program.chmod(0o755)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "tests"]
    environment = {**os.environ, "RT_C_FLAVOURS": "plain"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    found: dict[str, str] = {}
    for name, outcome in re.findall(r"^tests/c/test_(\w+)\.c::\w+\[plain\] ([A-Z]+)", done.stdout, re.MULTILINE):
        found[name] = f"{found.get(name, '')} {outcome}".strip()
    return found


@pytest.mark.parametrize(
    ("program", "outcomes"),
    [
        ("passes", "PASSED PASSED"),
        ("fails", "PASSED FAILED"),
        ("skips", "SKIPPED PASSED"),
        ("runs_one", "FAILED FAILED"),  # nobody knows which of them did not run
        ("ends_badly", "FAILED FAILED"),
        ("says_nothing", "FAILED FAILED"),
    ],
)
def test_a_claim_passes_when_the_program_ran_it(shown: dict[str, str], program: str, outcomes: str) -> None:
    assert shown[program] == outcomes
