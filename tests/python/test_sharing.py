"""Workers of pytest-xdist share the tests as tests/sharing.py says, and show what a single process would show."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed: `make test` installs it")

TESTS = Path(__file__).resolve().parents[1]
COPIED = ("conftest.py", "sharing.py", "rxe/runs.py", "rxe/machines.py")
MANY = "import pytest\n\n\n@pytest.mark.parametrize('n', range(20))\ndef test_one_of_many(n):\n    pass\n"
ELSEWHERE = """
import json, queue, types
import pytest
from runs import SAID, Shown

def test_there(request):
    run = types.SimpleNamespace(lines=queue.SimpleQueue(), process=types.SimpleNamespace(wait=lambda: 0))
    hook = request.config.hook
    def send(name, outcome, why=None):
        for when in ("setup", "call", "teardown"):
            report = pytest.TestReport(
                nodeid=f"there.py::{name}", location=("there.py", 0, name), keywords={}, when=when,
                outcome=outcome if when == "call" else "passed", longrepr=why if when == "call" else None,
            )
            data = hook.pytest_report_to_serializable(config=request.config, report=report)
            run.lines.put(json.dumps({"report": data}).encode())
    run.lines.put(SAID + b"running there]")
    run.lines.put(json.dumps({"collected": 3}).encode())
    send("test_good", "passed")
    send("test_bad", "failed", "bad bytes")
    send("test_not", "skipped", ["there.py", 7, "Skipped: no such thing there"])
    run.lines.put(None)
    run.lines.put(None)
    shown = Shown(request.session)
    assert shown.follow(run) == 0
    assert len(shown.ended) == shown.collected == 3
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project whose tests are shared as ours are."""
    (tmp_path / "pytest.ini").touch()
    for name in COPIED:
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TESTS / name, tmp_path / "tests" / name)
    for name in ("rxe/test_b.py", "rxe/test_c.py", "test_d.py", "test_e.py"):
        (tmp_path / "tests" / name).write_text(MANY)
    (tmp_path / "tests" / "rxe" / "test_a.py").write_text(ELSEWHERE)
    return tmp_path


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rfs"]
    return subprocess.run(
        [*command, *words, "tests"], cwd=tree, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_file_stays_with_one_worker_and_emulated_machines_come_first(tree: Path) -> None:
    said = run(tree, "-n", "2", "-v").stdout
    found = re.findall(r"^\[(gw\d)\] \[ *\d+%\] PASSED tests/(\S+)::", said, re.MULTILINE)
    assert len(found) == 81, said
    for name in ("rxe", "test_d.py", "test_e.py"):
        assert len({worker for worker, path in found if path.startswith(name)}) == 1, said
    (machines,) = {worker for worker, path in found if path.startswith("rxe")}
    assert next(path for worker, path in found if worker == machines).startswith("rxe"), said


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "shared"])
def test_tests_that_ran_elsewhere_are_shown_and_counted(tree: Path, workers: tuple[str, ...]) -> None:
    done = run(tree, *workers)
    assert "1 failed, 82 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "FAILED there.py::test_bad@soft-roce - bad bytes" in done.stdout
    assert "SKIPPED [1] there.py:7: no such thing there" in done.stdout
    assert max(map(int, re.findall(r"\[ *(\d+)%\]", done.stdout))) == 100, done.stdout
    assert "running there]" in done.stdout + done.stderr


def test_tests_that_are_listed_as_long_exist() -> None:
    sys.path.insert(0, str(TESTS))
    try:
        import sharing
    finally:
        sys.path.remove(str(TESTS))
    for name in (*sharing.SECONDS, *sharing.TOGETHER):
        assert (TESTS.parent / name).exists(), name
