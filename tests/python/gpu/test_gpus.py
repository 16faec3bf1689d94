"""The list of GPUs over the fake CUDA driver, with each kind of GPU that it has, and on machines without a driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FAKE = Path(os.environ.get("RDMATENSOR_FAKE_CUDA", ROOT / "build" / "plain" / "libfakecuda.so"))


def devices(**environment: str) -> list[dict[str, Any]]:
    """The GPUs that `rdmatensor devices` finds in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "rdmatensor", "devices", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [entry for entry in json.loads(done.stdout) if "gpu" in entry]


def faked(**environment: str) -> list[dict[str, Any]]:
    if not FAKE.exists():
        pytest.skip(f"{FAKE} is not built; `make` does it")
    return devices(RDMATENSOR_LIBCUDA=str(FAKE), **environment)


@pytest.mark.parametrize(
    ("kind", "dma_buf", "direct", "visibility", "driver", "reason"),
    [
        ("h200", True, True, "ordered", "13.0", ""),
        ("a100", True, True, "ordered", "13.0", ""),
        ("t4", False, True, "flush", "13.0", "gives no dma-buf"),
        ("geforce", False, False, "read", "13.0", "a data centre or professional GPU"),
        ("old", False, True, "flush", "11.6", "driver of CUDA 11.6) gives no dma-buf: that takes CUDA 11.7"),
    ],
)
def test_each_kind_of_gpu_is_described(
    kind: str, dma_buf: bool, direct: bool, visibility: str, driver: str, reason: str
) -> None:
    first, second = faked(FAKE_CUDA_GPU=kind)
    assert (first["gpu"], second["gpu"]) == ("cuda:0", "cuda:1")
    assert (first["name"], first["pci"], first["nbytes"]) == ("Fake GPU 0", "0000:17:00.0", 16 << 30)
    assert (first["shares"], first["dma_buf"], first["peer_direct"]) == (True, dma_buf, direct)
    assert (first["visibility"], first["driver"]) == (visibility, driver)
    assert reason in first["why_not"]
    assert bool(reason) == bool(first["why_not"])


def test_a_machine_without_a_gpu_says_what_to_look_at() -> None:
    (entry,) = faked(FAKE_CUDA_DEVICES="0")
    assert entry["gpu"] is None
    assert "no GPU is visible; look at `nvidia-smi -L` and at CUDA_VISIBLE_DEVICES" in entry["why_not"]


def test_a_machine_without_a_driver_names_the_library() -> None:
    (entry,) = devices(RDMATENSOR_LIBCUDA="/nowhere/libcuda.so.1")
    assert "cannot load /nowhere/libcuda.so.1, which RDMATENSOR_LIBCUDA names" in entry["why_not"]


def said(script: str, library: str) -> str:
    """The output of a program of Python."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nimport rdmatensor as rt\n{script}"],
        env={**os.environ, "RDMATENSOR_LIBCUDA": library},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


LISTS = """
try:
    print([gpu.device for gpu in rt.gpus()], flush=True)
except rt.RdmaError as error:
    print(type(error).__name__, error.why, flush=True)
"""
FORKS = f"""
rt.gpus()
child = os.fork()
if child == 0:
    {LISTS.strip().replace(chr(10), chr(10) + "    ")}
    os._exit(0)
os.waitpid(child, 0)
"""


def test_python_lists_gpus() -> None:
    if not FAKE.exists():
        pytest.skip(f"{FAKE} is not built; `make` does it")
    assert said(LISTS, str(FAKE)) == "['cuda:0', 'cuda:1']"


def test_python_raises_where_there_is_no_driver() -> None:
    assert said(LISTS, "/nowhere").startswith("ProviderUnavailable cannot load /nowhere")


def test_a_child_of_a_process_that_used_cuda_is_told_that_it_cannot() -> None:
    if not FAKE.exists():
        pytest.skip(f"{FAKE} is not built; `make` does it")
    assert said(FORKS, str(FAKE)).startswith("ForkedProcessError cannot use a GPU in a child made by fork")
