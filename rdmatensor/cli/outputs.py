"""The outputs of several processes, passed on as whole lines: lines of different processes do not mix."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Outputs"]

HELD_BYTES_MAX = 64 * 1024
HELD_S_MAX = 1.0
STALL_S = 0.1

STDOUT, STDERR = 1, 2


@dataclass(slots=True)
class _Pipe:
    """The reading end of one output of one process."""

    file: int
    target: int
    """The output of ours that it goes to."""
    held: bytearray = field(default_factory=bytearray)
    """The beginning of a line whose end has not come."""
    since: float = 0.0
    """The time at which that beginning came."""


class Outputs:
    """Starts processes and passes on what they write to their standard and error outputs.

    A process that writes a line in pieces, as Python does under PYTHONUNBUFFERED=1, gets no other
    process's bytes between them. The beginning of a line waits for its end, for at most 1 s and
    64 KiB. The bytes of one process are neither changed nor reordered. Where an output of ours is a
    terminal, the processes write to it themselves and thus find a terminal too.

    While the reader of our output does not read, the processes wait too, until `stopping()`: what
    the reader does not take by then is dropped.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._selector = selectors.DefaultSelector()
        self._pipes: list[_Pipe] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts a process, which is the caller's; `wait` then returns early when it ends."""
        with contextlib.ExitStack() as given:
            ends = {target: self._new_pipe(target, given) for target in (STDOUT, STDERR) if not os.isatty(target)}
            process = subprocess.Popen(command, env=environment, stdout=ends.get(STDOUT), stderr=ends.get(STDERR))
        self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ)
        return process

    def wait(self, seconds: float) -> None:
        """Passes outputs on until a process ends or writes, at most that long."""
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, _Pipe):
                self._read(key.data)
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)
        self._pass_on_old_beginnings()

    def close(self) -> None:
        """Passes on what the processes have written so far, and reads no more: a process that they
        left behind may go on writing.
        """
        for pipe in self._pipes.copy():
            left = fcntl.fcntl(pipe.file, fcntl.F_GETPIPE_SZ)
            while left > 0 and (count := self._read(pipe)) > 0:
                left -= count
            self._pass_on(pipe, len(pipe.held))
            self._end(pipe)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def _new_pipe(self, target: int, given: contextlib.ExitStack) -> int:
        """The writing end of a new pipe, which `given` closes."""
        reading, writing = os.pipe()
        given.callback(os.close, writing)
        os.set_blocking(reading, False)
        pipe = _Pipe(reading, target)
        self._pipes.append(pipe)
        self._selector.register(reading, selectors.EVENT_READ, pipe)
        return writing

    def _end(self, pipe: _Pipe) -> None:
        """Closes a pipe. Its writer gets EPIPE or SIGPIPE, as from our own output."""
        if pipe in self._pipes:
            self._pipes.remove(pipe)
            self._selector.unregister(pipe.file)
            os.close(pipe.file)

    def _read(self, pipe: _Pipe) -> int:
        """Reads what is there and passes whole lines on; how many bytes there were."""
        if pipe not in self._pipes:
            return 0
        try:
            came = os.read(pipe.file, HELD_BYTES_MAX)
        except BlockingIOError:
            return 0
        if not came:
            self._pass_on(pipe, len(pipe.held))
            self._end(pipe)
            return 0
        if not pipe.held:
            pipe.since = time.monotonic()
        pipe.held += came
        end = 1 + max(pipe.held.rfind(b"\n"), pipe.held.rfind(b"\r"))
        self._pass_on(pipe, len(pipe.held) if len(pipe.held) > HELD_BYTES_MAX else end)
        return len(came)

    def _pass_on_old_beginnings(self) -> None:
        now = time.monotonic()
        for pipe in self._pipes.copy():
            if pipe.held and now - pipe.since > HELD_S_MAX:
                self._pass_on(pipe, len(pipe.held))

    def _pass_on(self, pipe: _Pipe, count: int) -> None:
        """Writes the first `count` bytes of what is held to the output of ours."""
        taken = bytes(pipe.held[:count])
        del pipe.held[:count]
        pipe.since = time.monotonic()
        try:
            self._write(pipe.target, taken)
        except OSError as error:
            if error.errno != errno.EPIPE:
                print(f"rdmatensor run: cannot write to output {pipe.target}: {error.strerror}", file=sys.stderr)
            for other in self._pipes.copy():
                if other.target == pipe.target:
                    self._end(other)

    def _write(self, file: int, taken: bytes) -> None:
        """Writes all of it, unless its reader stands still while we are to stop. A pipe that can be
        written to takes PIPE_BUF bytes without blocking.
        """
        while taken:
            if select.select((), (file,), (), STALL_S)[1]:
                with contextlib.suppress(BlockingIOError):
                    taken = taken[os.write(file, taken[: select.PIPE_BUF]) :]
            elif self._stopping():
                return
