"""`rdmatensor run`: starts the processes of a team on this machine, and ends them together."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from rdmatensor.cli.outputs import Outputs
from rdmatensor.settings.launchers import TEAM_FOLDER

__all__ = ["add", "run"]

GRACE_S = 5.0
"""The time from SIGTERM to SIGKILL for processes that are to end because another one failed."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    command = commands.add_parser(
        "run",
        help="start the processes of a team: rdmatensor run -n 4 script.py",
        description="Starts a program several times on this machine; rdmatensor.Team.join() joins the processes. Each "
        "has RANK, LOCAL_RANK and WORLD_SIZE in its environment. Lines that they write are not mixed. When one fails, "
        "the others are ended, and its status is that of the command; 128 + the signal where a signal ended it.",
    )
    command.add_argument("-n", type=_number, required=True, metavar="N", help="the number of processes")
    command.add_argument("-m", dest="module", action="store_true", help="the program is a module, as in python -m")
    command.add_argument("--program", action="store_true", help="the program is no Python script, but a command")
    command.add_argument("script", help="the script, module or command")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    command.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes: give 1 to 1024")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Starts the processes and waits for them."""
    python = [] if options.program else [sys.executable, *(["-m"] if options.module else [])]
    command = [*python, options.script, *options.arguments]
    _raise_limit_of_descriptors(options.n)
    with (
        tempfile.TemporaryDirectory(prefix="rdmatensor-run-") as folder,
        _passed_on() as received,
        contextlib.closing(Outputs(lambda: bool(received))) as outputs,
    ):
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(options.n):
                about = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(options.n)}
                processes.append(outputs.start(command, {**os.environ, **about, TEAM_FOLDER: folder}))
            return _follow(processes, outputs, received)
        finally:
            _end(processes, outputs)


def _raise_limit_of_descriptors(count: int) -> None:
    """Each process takes three descriptors here: two outputs, and one that tells its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * count + 64
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _follow(processes: Sequence[subprocess.Popen[bytes]], outputs: Outputs, received: list[int]) -> int:
    """Waits until all have ended well, one has failed, or a signal came; gives the status."""
    running = dict(enumerate(processes))
    while running:
        if received:
            return 128 + received[0]
        for rank, process in list(running.items()):
            status = process.poll()
            if status is None:
                continue
            del running[rank]
            if status != 0:
                how = f"ended with status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"
                others = f"; ending {len(running)} others" if running else ""
                print(f"rdmatensor run: rank {rank} {how}{others}", file=sys.stderr, flush=True)
                return status if status > 0 else 128 - status
        outputs.wait(0.1)
    return 0


def _end(processes: Sequence[subprocess.Popen[bytes]], outputs: Outputs) -> None:
    """Ends those that run; their outputs are passed on meanwhile, so that none waits for a reader."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE_S
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        outputs.wait(0.05)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _passed_on() -> Iterator[list[int]]:
    """SIGINT and SIGTERM end the processes too: the numbers of those received. A terminal sends
    Ctrl-C to all of them anyway.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
