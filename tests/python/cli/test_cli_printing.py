"""The command when it cannot print, or the system refuses something: one line, a status, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = ["bench", "--provider", "shm", "--duration", "0.01", "--rounds", "2", "--modes", "memcpy", "--sizes", "64"]


def run(arguments: list[str], **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rdmatensor", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **how)  # type: ignore[call-overload, no-any-return]


def test_measurements_are_kept_though_nobody_reads_the_table(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run([*BENCH, "--json", str(tmp_path / "now.json")], stdout=writer)
    os.close(writer)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    (row,) = json.loads((tmp_path / "now.json").read_text())["results"]
    assert row["mode"] == "memcpy"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8_gets_the_table(tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    with (tmp_path / "out").open("wb") as out:
        done = run([*BENCH, "--json", str(tmp_path / "now.json")], stdout=out, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    text = (tmp_path / "out").read_text(encoding)
    assert "memcpy" in text and "load" in text
    assert (tmp_path / "now.json").exists()


@pytest.mark.parametrize("command", [["devices"], ["devices", "--json"], ["vm", "status"], [*BENCH]])
def test_a_full_disk_behind_the_output_is_told_in_one_line(command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run(command, stdout=full)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", [["devices"], ["vm", "status"]])
def test_a_command_without_any_output_ends_quietly(command: list[str]) -> None:
    shell = ["/bin/sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "rdmatensor", *command]
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bench_that_measured_nothing_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rdmatensor.bench.modes import MODES
    from rdmatensor.cli import main

    monkeypatch.setattr(MODES["grpc"], "package", "no-such-package-at-all")
    path = tmp_path / "now.json"
    assert main([*BENCH[:-4], "--modes", "grpc", "--sizes", "64", "--json", str(path)]) == 1
    said = capsys.readouterr().err
    assert "nothing was measured: grpc: " in said and "pip install grpcio" in said
    assert json.loads(path.read_text())["results"] == []
