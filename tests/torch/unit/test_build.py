"""The modules compiled for the installed torch: once, by one process at a time, and with words when it cannot be."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
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
    monkeypatch.setattr(build, "_own", None)
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


def test_a_compiled_extension_is_found_without_a_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = built(source)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert built(source) == library


def test_messages_of_the_compiler_are_passed_on_and_nothing_is_kept(source: Path) -> None:
    source.write_text("not C++")
    with pytest.raises(rt.RdmaError, match=r"(?s)ended with status 1 and printed.*error"):
        built(source)
    source.write_text(SOURCE)
    assert built(source).exists()


def test_a_wait_for_another_process_ends_at_the_deadline(source: Path) -> None:
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


@pytest.mark.parametrize("level", [0, 1, 2])
def test_nothing_is_loaded_from_where_others_can_write(source: Path, level: int) -> None:
    """The cache itself, and every directory above it, in which it could be swapped for another."""
    kept = built(source)
    directory = kept.parents[level]
    directory.chmod(0o777)
    try:
        with pytest.warns(RuntimeWarning, match=f"others can write to {directory}; .* for this process alone"):
            library = built(source)
        assert library != kept and library.parent.stat().st_mode & 0o777 == 0o700
        assert built(source) == library, "it was compiled twice"
    finally:
        directory.chmod(0o700)
    assert built(source) == kept


def test_a_library_that_others_could_write_to_is_compiled_anew(source: Path) -> None:
    library = built(source)
    before = library.read_bytes()
    library.write_bytes(b"swapped")
    library.chmod(0o666)
    assert built(source) == library
    assert len(library.read_bytes()) == len(before) and library.stat().st_mode & 0o022 == 0


def test_a_library_that_is_a_link_is_not_loaded(source: Path, tmp_path: Path) -> None:
    library = built(source)
    library.rename(tmp_path / "elsewhere")
    library.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="symbolic links"):
        assert built(source).parent != library.parent


def test_a_cache_that_cannot_be_made_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    with pytest.warns(RuntimeWarning, match="cannot be used: .*XDG_CACHE_HOME"):
        assert built(source).exists()


def test_a_compiler_may_have_arguments(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"env WORD='two words' {'g++' if shutil.which('g++') else 'c++'}")
    assert built(source).exists()


ELSEWHERE = """
import os, sys, warnings
from pathlib import Path
import torch
from rdmatensor.torch.build import built
os.environ.pop("XDG_CACHE_HOME", None)
os.environ.pop("HOME", None)
os.setgroups([]); os.setgid(65432); os.setuid(65432)  # nobody has an entry for it
os.environ.update(eval(sys.argv[2]))
if not os.access(torch.__file__, os.R_OK):
    print("unreadable")
    sys.exit()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    library = built(Path(sys.argv[1]))
assert library.stat().st_uid == 65432
print(*(str(warning.message).split(";")[0] for warning in told))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "this user has no home directory: HOME is not set, and the system has no entry for the user"),
        ({"HOME": "/root"}, "/root/.cache"),
        ({"XDG_CACHE_HOME": "/root"}, "/root/rdmatensor/torch cannot be used"),
        ({"HOME": ""}, "this user has no home directory"),
    ],
)
def test_a_user_without_a_home_of_its_own_compiles_for_itself(environment: dict[str, str], told: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # which others can read, as pytest's own cannot be
        Path(name).chmod(0o755)
        source = Path(name, "answer.cpp")
        source.write_text(SOURCE)
        command = [sys.executable, "-c", ELSEWHERE, str(source), repr(environment)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.stdout == "unreadable\n":
        pytest.skip("another user cannot read torch, as it is installed here")
    assert done.returncode == 0 and told in done.stdout, done.stderr + done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_cache_of_another_user_is_not_loaded_from(source: Path) -> None:
    library = built(source)
    os.chown(library.parent, 65432, 65432)
    with pytest.warns(RuntimeWarning, match=f"{library.parent} belongs to user 65432"):
        assert built(source) != library


BUILDER = """
import sys
from pathlib import Path
from rdmatensor.torch.build import built
built(Path(sys.argv[1]))
"""


def gone(process: int) -> bool:
    """Whether a process has ended, with or without having been waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_builder_that_is_killed_leaves_no_compiler_and_nothing_that_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\ntail -f /dev/null & echo $$ $! >{told}\nwait\n")
    slow.chmod(0o700)
    monkeypatch.setenv("CXX", str(slow))
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, str(source)])
    compilers = [int(word) for word in told.read_text().split()]
    cache = tmp_path / "cache" / "rdmatensor" / "torch"
    assert list(cache.glob("*.scratch-*"))
    (lock,) = cache.glob("*.lock")
    assert lock.read_text() == f"process {builder.pid}"
    with pytest.raises(rt.DeadlineExceeded, match=f"process {builder.pid} is compiling"):
        built(source, timeout=0.05)
    builder.kill()
    builder.wait()
    while not all(map(gone, compilers)):  # ended by pytest's timeout at the latest
        os.sched_yield()
    monkeypatch.delenv("CXX")
    assert built(source).exists()
    assert not list(cache.glob("*.scratch-*"))


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
