"""What is compiled for the installed torch: once, by one process at a time, and with words when it cannot be."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import rdmatensor as rt
from rdmatensor.torch import build
from rdmatensor.torch.build import built

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE)
    return path


def test_a_source_is_compiled_once_and_again_when_it_changes(source: Path) -> None:
    import ctypes

    library = built(source)
    assert ctypes.CDLL(str(library)).answer() == 42
    stamp = library.stat().st_mtime_ns
    assert built(source) == library
    assert library.stat().st_mtime_ns == stamp
    source.write_text(SOURCE.replace("42", "43"))
    assert built(source) != library


def test_a_missing_compiler_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(rt.Unsupported, match=r"tried no-such-compiler\. Install one .*g\+\+.*CXX"):
        built(source)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(rt.Unsupported, match=r"tried c\+\+, g\+\+, clang\+\+"):
        built(source)


def test_what_was_compiled_is_found_without_a_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = built(source)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert built(source) == library


def test_what_the_compiler_says_is_passed_on_and_nothing_is_kept(source: Path) -> None:
    source.write_text("not C++")
    with pytest.raises(rt.RdmaError, match=r"(?s)ended with status 1 and said.*error"):
        built(source)
    source.write_text(SOURCE)
    assert built(source).exists()


def test_who_waits_for_another_process_waits_until_the_deadline(source: Path) -> None:
    library = built(source)
    library.unlink()
    with library.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(rt.DeadlineExceeded, match="another process is compiling"):
            built(source, timeout=0.05)
    assert built(source).exists()


def test_a_compiler_that_hangs_is_ended(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    slow.chmod(0o700)
    monkeypatch.setenv("CXX", str(slow))
    with pytest.raises(rt.DeadlineExceeded, match="was not done"):
        built(source, timeout=0.3)


def test_nothing_is_loaded_from_where_others_can_write(source: Path) -> None:
    directory = built(source).parent
    directory.chmod(0o777)
    with pytest.raises(rt.RdmaError, match="others can write there"):
        built(source)
    directory.chmod(0o700)


def test_a_cache_that_cannot_be_made_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    with pytest.raises(rt.RdmaError, match="XDG_CACHE_HOME"):
        built(source)


def test_without_torch_the_context_says_what_to_install() -> None:
    code = """
import sys
sys.modules["torch"] = None  # importing it fails, as where it is not installed
import rdmatensor as rt
with rt.Device("shm://") as device:
    try:
        device.region(4096).allocating()
    except rt.Unsupported as error:
        assert "pip install torch" in str(error), error
        print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")


def test_a_torch_that_is_too_old_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rdmatensor.torch import backend

    for version, old in (
        ("2.8.0+cu128", True),
        ("1.13.1", True),
        ("2.9.0", False),
        ("2.13.0a0+git1", False),
        ("3.0.0", False),
    ):
        monkeypatch.setattr(torch, "__version__", version)
        if old:
            with pytest.raises(rt.Unsupported, match=r"needs torch 2\.9 or later"):
                backend.native()
        else:
            build.require(2, 9, "make a process group")
