"""The types that a checker sees of the calls that are made through C, and of the compiled module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import numpy as np
import rdmatensor as rt

device = rt.Device()
channel = device.connect("127.0.0.1:1")
reveal_type(device.listen().accept())
with channel.send_edge("x", shape=(2, 3)) as sender, device.recv_edge("y") as receiver:
    reveal_type(sender)
    reveal_type(receiver)
    reveal_type(receiver.recv())
    reveal_type(receiver.recv(1.0, borrow=True))
    reveal_type(receiver.recv(out=np.zeros(3, np.float32)))
    reveal_type(rt.recv_many([receiver]))
    sender.send(np.zeros(3), timeout=1.0)


async def both() -> None:
    reveal_type(await receiver.recv_async(1.0))
"""
EXPECTED = [
    "rdmatensor.channel.Channel",
    "rdmatensor.edges.send.SendEdge",
    "rdmatensor.edges.recv.RecvEdge",
    "rdmatensor.memory.tensor.Tensor",
    "rdmatensor.memory.tensor.Tensor",
    "numpy.ndarray",
    "list[rdmatensor.memory.tensor.Tensor]",
    "rdmatensor.memory.tensor.Tensor",
]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy", reason="mypy is not installed: `make lint` installs it")
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_objects_that_are_received_and_opened_have_types(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ended = run(
        "mypy",
        "--strict",
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "--python-version",
        "3.10",
        str(tmp_path / "program.py"),
    )
    assert "Success" in ended.stdout, ended.stdout + ended.stderr
    revealed = [line.split('"')[1] for line in ended.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == len(EXPECTED)
    assert all(found.startswith(name) for found, name in zip(revealed, EXPECTED, strict=True)), revealed


def test_the_stub_of_the_compiled_module_has_its_classes_functions_and_signatures() -> None:
    ended = run("mypy.stubtest", "rdmatensor._native", "--mypy-config-file", "pyproject.toml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
