"""The examples run, between real processes, and say what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_tensor_goes_back_and_forth_without_a_copy() -> None:
    said = run("ping_pong.py")
    assert "500 tensors of 262,144 bytes there and back over shm://" in said or "over verbs://" in said
    assert "copies beside the transfer: 0" in said


def test_a_parameter_server_and_its_workers_learn() -> None:
    said = run("parameter_server.py", "--workers", "2")
    assert "copies beside the transfers: 0" in said
    first, last = re.findall(r"error of the weights: ([\d.]+) at first, ([\d.]+) at last", said)[0]
    assert float(last) < float(first) / 2


def test_a_late_joiner_reads_the_weights() -> None:
    assert "67,108,864 bytes of weights read over" in run("late_joiner.py")


def test_two_processes_exchange_arrays_and_check_them() -> None:
    said = run("exchange.py", "--url", "shm://")
    assert "provider shm" in said
    assert "400 of 400" in said
    assert "straight into the other, as one copy by the sender" in said


def test_processes_of_a_team_fit_the_same_line() -> None:
    command = [sys.executable, "-m", "rdmatensor", "run", "-n", "2", str(EXAMPLES / "team.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    assert "2 processes, 200,000 points: y = 3.00" in done.stdout
    assert "the same line everywhere: True" in done.stdout
