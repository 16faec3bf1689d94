"""Processes that tests run functions in, one per rank, started once and used by many tests.

Each `run` makes a process group over the first `size` of them, calls the function as `function(rank, size, *given)` and
destroys the group again; so every test is one of making a group anew, too. Functions stand at the top of a module.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")
STARTED = 900.0
"""Seconds within which a rank must be up: importing torch, and compiling the backend the first time."""


def _rank(pipe: Connection) -> None:
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    import torch
    import torch.distributed as dist

    import rdmatensor.torch  # noqa: F401
    from rdmatensor.torch import backend as compiled

    torch.set_num_threads(1)
    compiled.native()
    pipe.send("up")
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        function, rank, size, backend, store, timeout, given = order
        try:
            torch.manual_seed(7)
            dist.init_process_group(
                backend, init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
            )
            result = function(rank, size, *given)
            dist.barrier()
            dist.destroy_process_group()
            pipe.send(("done", result))
        except BaseException:
            pipe.send(("failed", traceback.format_exc()))
            if dist.is_initialized():
                dist.destroy_process_group()


class Ranks:
    """Up to `count` processes. `close` ends them; a rank that died or did not answer is started anew."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []

    def _start(self) -> None:
        while len(self.processes) < self.count:
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_rank, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            if not pipe.poll(STARTED) or pipe.recv() != "up":
                self.close()
                raise RuntimeError("a rank did not come up")

    def run(
        self, function: Callable[..., Any], size: int, *given: Any, backend: str = "rdmatensor", timeout: float = 300
    ) -> list[Any]:
        """The results of the function, by rank. RuntimeError with the traceback of the ranks in which it failed; the
        next run begins with new processes, since what a failure leaves behind would fail others.
        """
        results = self.outcomes(function, size, *given, backend=backend, timeout=timeout)
        failed = [f"rank {rank}:\n{text}" for rank, (word, text) in enumerate(results) if word != "done"]
        if failed:
            self.close()
            raise RuntimeError("\n".join(failed))
        return [result for _, result in results]

    def outcomes(
        self, function: Callable[..., Any], size: int, *given: Any, backend: str = "rdmatensor", timeout: float = 300
    ) -> list[tuple[str, Any]]:
        """By rank: ("done", result), ("failed", traceback) or ("died", exit code)."""
        if not self.processes:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(size):
                self.pipes[rank].send((function, rank, size, backend, f"{folder}/store", timeout, given))
            found = self._collect(size, time.monotonic() + timeout + 30)
        if any(word in ("died", "silent") for word, _ in found):
            self.close()
        return found

    def _collect(self, size: int, deadline: float) -> list[tuple[str, Any]]:
        found: dict[int, tuple[str, Any]] = {}
        while len(found) < size:
            left = [rank for rank in range(size) if rank not in found]
            ready = wait([self.pipes[rank] for rank in left], max(deadline - time.monotonic(), 0))
            if not ready:
                found.update(dict.fromkeys(left, ("silent", "no answer in time")))
            for rank in left:
                if self.pipes[rank] in ready:
                    try:
                        found[rank] = self.pipes[rank].recv()
                    except EOFError:
                        self.processes[rank].join(10)
                        found[rank] = ("died", self.processes[rank].exitcode)
        return [found[rank] for rank in range(size)]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self.pipes.clear()
        self.processes.clear()
