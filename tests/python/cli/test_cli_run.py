"""`rdmatensor run`: what its processes are told, and how they end together."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

LIMIT = 120


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rdmatensor", "run", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LIMIT, check=False)


def test_each_process_knows_its_rank(tmp_path: Path) -> None:
    done = run("-n", "3", "--program", "sh", "-c", f"touch {tmp_path}/$RANK-$LOCAL_RANK-$WORLD_SIZE")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["0-0-3", "1-1-3", "2-2-3"]


def test_a_script_gets_its_arguments(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:])")
    done = run("-n", "1", str(script), "-n", "7", "--x")
    assert done.stdout == "['-n', '7', '--x']\n"
    assert run("-n", "1", "-m", "this").stdout.startswith("The Zen of Python")


@pytest.mark.parametrize(
    ("script", "status", "how"), [("exit 7", 7, "status 7"), ("kill -SEGV $$", 128 + signal.SIGSEGV, "SIGSEGV")]
)
def test_one_that_fails_ends_all(script: str, status: int, how: str) -> None:
    done = run("-n", "3", "--program", "sh", "-c", f"if [ $RANK = 1 ]; then {script}; fi; exec sleep 1000")
    assert done.returncode == status
    assert "rank 1 " in done.stderr and how in done.stderr and "ending 2 others" in done.stderr


def test_one_that_ignores_its_end_is_killed() -> None:
    wait = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True)\n"
        "while True: signal.pause()"
    )
    with subprocess.Popen(
        command("-n", "1", "--program", sys.executable, "-c", wait), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
        assert process.stdout.read() == b""  # nobody holds it any more


def test_a_number_of_processes_is_needed() -> None:
    done = run("-n", "0", "x.py")
    assert done.returncode == 2
    assert "give 1 to 1024" in done.stderr


def test_lines_that_are_written_in_pieces_are_not_mixed() -> None:
    pieces = (
        "import sys\nfor i in range(200):\n"
        "    for c in 'abcdef\\n':\n        sys.stdout.write(c)\n        sys.stdout.flush()\n"
    )
    done = run("-n", "4", "--program", sys.executable, "-u", "-c", pieces)
    assert done.stdout.split("\n") == ["abcdef"] * 800 + [""]


def test_bytes_of_a_process_are_passed_on_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 4096 + b"without an end")
    done = subprocess.run(
        command("-n", "1", "--program", "sh", "-c", f"cat {path}; cat {path} >&2"),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout == done.stderr == path.read_bytes()


def test_the_beginning_of_a_line_is_shown_before_its_end() -> None:
    ask = "printf 'begun '; read answer; echo ended"
    with subprocess.Popen(
        command("-n", "1", "--program", "sh", "-c", ask), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(6) == b"begun "
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.read() == b"ended\n"
        assert process.wait(LIMIT) == 0


def test_a_reader_that_leaves_ends_the_writers() -> None:
    shell = subprocess.run(
        ["bash", "-c", "set -o pipefail; " + shlex.join(command("-n", "2", "--program", "yes")) + " | head -1"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert shell.stdout == "y\n"
    assert shell.returncode == 128 + signal.SIGPIPE, shell.stderr


def test_more_processes_than_the_usual_limit_of_descriptors_allows(tmp_path: Path) -> None:
    limited = "ulimit -Sn 40; exec " + shlex.join(command("-n", "40", "--program", "true"))
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_stands_still_does_not_keep_a_signal_from_ending_all() -> None:
    with subprocess.Popen(command("-n", "2", "--program", "yes"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        room, held = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ), 0
        while held < room // 2:
            held = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, b"0000"))[0]
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 128 + signal.SIGINT
        finally:
            process.kill()
