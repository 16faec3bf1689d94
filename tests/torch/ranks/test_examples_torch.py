"""The examples that need torch run as a user runs them, and learn what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
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
    assert int(direct.replace(",", "")) > 3_000_000
    assert int(staged.replace(",", "")) < 150_000  # the 135,172 bytes of parameters, which DDP broadcasts once


def test_a_pipeline_of_two_stages_learns_what_one_process_does() -> None:
    said = said_by(sys.executable, str(EXAMPLES / "pipeline.py"))
    ours, theirs = re.findall(r"([\d.]+) in two stages, ([\d.]+) in one process", said)[0]
    assert abs(float(ours) - float(theirs)) <= 1e-5 * float(theirs)


def test_a_plan_is_explained_by_one_process_and_trains_under_torchrun() -> None:
    example = str(EXAMPLES / "graph_parameter_server.py")
    assert "8 static edges move" in said_by(sys.executable, example)
    said = said_by(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", example)
    assert "server0 served 40 steps" in said
    for worker in ("worker0", "worker1"):
        first, last = (float(re.findall(rf"{worker} step {step}: loss ([\d.]+)", said)[0]) for step in (0, 39))
        assert last < first / 3
