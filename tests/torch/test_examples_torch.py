"""The examples that need torch run as a user runs them, and learn what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]], ids=["alone", "torchrun"]
)
def test_ddp_learns_and_stages_no_gradient(launcher: list[str]) -> None:
    said = said_by(sys.executable, *launcher, str(EXAMPLES / "ddp.py"))
    first, last = re.findall(r"the loss fell from ([\d.]+) to ([\d.]+)", said)[0]
    assert float(last) < float(first) / 10
    direct, staged = re.findall(r"tensors: ([\d,]+) bytes; staged: ([\d,]+) bytes", said)[0]
    assert int(direct.replace(",", "")) > 3_000_000 and int(staged.replace(",", "")) < 100_000


def test_a_pipeline_of_two_stages_learns_what_one_process_does() -> None:
    said = said_by(sys.executable, str(EXAMPLES / "pipeline.py"))
    ours, theirs = re.findall(r"([\d.]+) in two stages, ([\d.]+) in one process", said)[0]
    assert abs(float(ours) - float(theirs)) <= 1e-5 * float(theirs)
