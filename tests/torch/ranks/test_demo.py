"""The script of `make demo`, with few steps: three ways to train whose losses must agree to the last bit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: `make demo` installs it")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: `make demo` installs it")

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    specification = importlib.util.spec_from_file_location("digits", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["digits"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_one_process_gloo_and_rdmatensor_learn_the_same_to_the_last_bit(tmp_path: Path) -> None:
    picture = tmp_path / "digits.png"
    command = [sys.executable, str(SCRIPT), "--steps", "7", "--picture", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all three loss curves are the same to the last bit in all 7 steps" in done.stdout
    assert "rdmatensor over shm://, no fallback" in done.stdout
    for way in ("one process", "gloo", "rdmatensor"):
        assert f"{way:<12} step    7 of 7" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def outcomes(digits: ModuleType) -> list[object]:
    used = {"backend": "rdmatensor", "bytes_sent": 4, "bytes_received": 4, "gradients": 8}
    return [digits.Outcome(way, [[1.0, 2.0], [0.5, 0.25]], {"w"}, 1.0, [1.0], [1.0], used) for way in digits.WAYS]


def test_the_demo_tells_what_does_not_agree(digits: ModuleType) -> None:
    good = outcomes(digits)
    assert digits.differences(good) == []
    other = replace(good[2], losses=[[1.0, 2.0], [0.5, 0.25 + 2**-54]])
    assert digits.differences([*good[:2], other]) == [
        "rdmatensor: the loss differs from one process's in 1 steps, first 1"
    ]
    other = replace(good[1], weights={"w", "v"})
    assert digits.differences([good[0], other, good[2]]) == ["gloo: the weights are not those of one process"]
    other = replace(good[2], carried={"backend": "rdmatensor", "bytes_sent": 4, "bytes_received": 3, "gradients": 8})
    assert "did not carry the gradients" in digits.differences([*good[:2], other])[0]


def test_the_time_of_communication_leaves_out_who_was_late_and_counts_overlap_once(digits: ModuleType) -> None:
    early, late = [(0.0, 5.0), (4.5, 6.0)], [(3.0, 5.5), (4.0, 6.5)]
    assert digits.covered((early, late)) == pytest.approx(3.5)
    assert digits.covered((early[:1], late[:1])) == pytest.approx(2.5)
