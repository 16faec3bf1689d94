"""The examples run, between real processes, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_two_processes_exchange_arrays_and_check_them() -> None:
    command = [sys.executable, str(EXAMPLES / "exchange.py"), "--url", "shm://"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "provider shm" in done.stdout
    assert "400 of 400" in done.stdout
    assert "straight into the other, as one copy by the sender" in done.stdout
