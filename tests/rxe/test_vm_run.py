"""`rdmatensor vm run`: how a run ends, what is seen of it meanwhile, and that nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machines import RUN_TIMEOUT, Vm, command, environment, machines_of

from rdmatensor.vm import packages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run under way, whose output can be read."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 5", 5), ("kill -SEGV $$", 128 + signal.SIGSEGV)], ids=str
)
def test_the_status_of_the_command_is_ours(vm: Vm, script: str, status: int) -> None:
    done = vm("--", "sh", "-c", script)
    assert done.returncode == status, done.stderr.decode()


def test_each_stream_carries_its_output_byte_by_byte(vm: Vm) -> None:
    done = vm("--", "bash", "-c", r"head -c 1000000 /dev/zero; printf '\x00\xff\r\n' >&2")
    assert done.stdout == bytes(1000000)
    assert done.stderr.endswith(b"\x00\xff\r\n")


def test_a_command_that_is_not_there_says_how_to_bring_it(vm: Vm) -> None:
    done = vm("--", "no-such-program")
    assert done.returncode == 127
    assert b"no-such-program: No such file or directory" in done.stderr
    assert b"--package" in done.stderr


def test_the_guest_has_an_active_device_and_says_so(vm: Vm) -> None:
    done = vm("--", "sh", "-c", "echo $RDMATENSOR_RXE $RDMATENSOR_RXE_DEVICES; ulimit -l; ibv_devinfo -d rxe0")
    assert done.stdout.startswith(b"1 rxe0\nunlimited\n")
    assert b"PORT_ACTIVE" in done.stdout
    assert re.search(rb"soft-RoCE in (an emulated machine|a virtual machine \(KVM\)), Linux ", done.stderr)


def test_files_are_shared_under_their_own_paths(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("from the host")
    done = vm("--", "sh", "-c", f"cat {tmp_path}/ours && echo from the guest >theirs")
    assert done.stdout == b"from the host"
    assert (tmp_path / "theirs").read_text() == "from the guest\n"


def test_output_is_seen_while_the_command_runs(prepared: None, tmp_path: Path) -> None:
    script = "echo first; until [ -e go ]; do sleep 0.02; done; echo second"
    with running(tmp_path, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        (tmp_path / "go").touch()
        assert process.stdout.read() == b"second\n"
        assert process.wait(RUN_TIMEOUT) == 0


def test_a_command_that_takes_too_long_is_124_and_its_output_is_kept(vm: Vm, tmp_path: Path) -> None:
    done = vm("--timeout", "2", "--", "sh", "-c", "echo begun; sleep 1000")
    assert done.returncode == 124
    assert done.stdout == b"begun\n"
    assert b"did not end within 2 s (--timeout)" in done.stderr
    assert machines_of(tmp_path) == []


def test_a_panic_of_the_guest_is_125_with_the_end_of_its_console(vm: Vm, tmp_path: Path) -> None:
    done = vm("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000")
    assert done.returncode == 125
    assert b"Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert machines_of(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=str)
def test_a_run_that_is_ended_leaves_no_machine(
    prepared: None, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with running(tmp_path, "--", "sh", "-c", "echo begun; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert machines_of(tmp_path) != []
        process.send_signal(number)
        assert process.wait(RUN_TIMEOUT) == status
    while machines_of(tmp_path):  # the kernel is ending it; pytest's timeout bounds this
        pass


def test_two_runs_at_once_do_not_meet(prepared: None, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    script = "touch here; until [ -e go ]; do sleep 0.02; done; ls /tmp; touch /tmp/mark"
    with (
        running(folders[0], "--", "sh", "-c", script) as first,
        running(folders[1], "--", "sh", "-c", script) as second,
    ):
        while not all((folder / "here").exists() for folder in folders):
            assert first.poll() is None and second.poll() is None
        for folder in folders:
            (folder / "go").touch()
        for process in (first, second):
            assert process.stdout is not None
            assert b"mark" not in process.stdout.read()
            assert process.wait(RUN_TIMEOUT) == 0


QEMU_WITH_A_KERNEL_THAT_PANICS_ONCE = """#!/bin/sh
case "$*" in
*-kernel*) mkdir {mark} 2>/dev/null && exec {qemu} "$@" -append "console=ttyS0 panic=-1 rdinit=/gone root=/dev/gone" ;;
esac
exec {qemu} "$@"
"""


def test_a_machine_whose_kernel_dies_before_the_command_begins_boots_again(prepared: None, tmp_path: Path) -> None:
    programs, mark = tmp_path / "bin", tmp_path / "booted"
    programs.mkdir()
    script = programs / "qemu-system-x86_64"
    qemu = packages.find(script.name)
    script.write_text(QEMU_WITH_A_KERNEL_THAT_PANICS_ONCE.format(mark=mark, qemu=qemu))
    script.chmod(0o755)
    done = subprocess.run(
        command("--plain", "--", "sh", "-c", "echo begun"),
        cwd=tmp_path,
        env={**environment(), "PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (0, b"begun\n"), done.stderr.decode()
    assert mark.is_dir()
    assert b"Kernel panic" in done.stderr and b"; attempt 1 of 3, the command had not begun\n" in done.stderr
