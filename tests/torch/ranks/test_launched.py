"""Scripts that torchrun starts: an elastic restart after a death, and Lightning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).with_name("scripts")


def torchrun(*words: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "--rdzv-endpoint=127.0.0.1:0", *words],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_lost_a_rank_is_restarted_and_finishes(tmp_path: Path) -> None:
    said = torchrun("--max-restarts=1", str(SCRIPTS / "elastic.py"), str(tmp_path))
    for rank in range(2):
        assert f"rank {rank} finished after restart 1" in said, said


def test_lightning_trains_as_over_gloo(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: `make torch-tests` installs it")
    states = []
    for backend in ("rdmatensor", "gloo"):
        torchrun(str(SCRIPTS / "lightning_fit.py"), backend, str(tmp_path / backend))
        states.append(torch.load(tmp_path / backend))
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name


def test_a_team_of_numpy_arrays_meets_by_the_store_of_torchrun() -> None:
    members = Path(__file__).parents[2] / "python" / "team" / "members.py"
    torchrun(str(members), "sends_find_their_receives")
