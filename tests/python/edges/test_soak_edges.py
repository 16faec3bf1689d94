"""The soak of edges in short: two processes, every kind of edge, and what it says when something is wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "soak_edges.py"
KINDS = (
    "static", "dynamic", "strided", "no elements", "verify", "staging", "flow loop", "stripes 4", "ordering immediate",
    "taken borrow", "taken out region", "taken out heap", "way bound", "way pairs", "way single", "way async",
    *(f"rank {rank}" for rank in range(17)), "dtype bool", "dtype bfloat16", "dtype complex128", "dtype float8_e8m0fnu",
)  # fmt: skip

pytestmark = pytest.mark.slow


def soak(*arguments: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(SCRIPT.parent))))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": path},  # under the sanitizers a script's own folder is not on the path
    )
    print(done.stdout, done.stderr)
    return done


def test_tensors_of_every_kind_arrive_bit_for_bit() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    done = soak("--seed", str(seed), "--tensors", "60000", "--epoch-size", "20000")
    assert done.returncode == 0
    assert "60,000 tensors over shm" in done.stdout
    seen = next(line for line in done.stdout.splitlines() if line.startswith("kinds "))
    assert [kind for kind in KINDS if f" {kind} " not in seen] == []


@pytest.mark.parametrize("damage", ["byte", "skip"])
def test_damage_is_found_and_can_be_repeated(damage: str) -> None:
    done = soak("--seed", "7", "--tensors", "20000", "--timeout", "8", "--damage", damage)
    assert done.returncode == 1
    assert "FAILED in epoch 0, seed 7: " in done.stdout
    assert "Edge '0." in done.stdout or "Mismatch: edge '0." in done.stdout  # one that is missing may be waited for
    assert "to repeat it: python tests/soak_edges.py --seed 7 " in done.stdout


def test_peers_that_die_are_told_and_what_came_is_whole() -> None:
    done = soak("--rounds", "12", script=SCRIPT.with_name("soak_deaths.py"))
    assert done.returncode == 0
    assert "12 peers killed" in done.stdout
