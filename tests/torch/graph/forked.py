"""New processes for each run, forked from one that has imported torch and opened nothing: for tests that kill some."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

HANG_S = 400.0
"""Ends a hang; a run takes seconds."""


def context() -> Any:
    """Makes such processes."""
    here = str(Path(__file__).parent)
    path = os.environ.get("PYTHONPATH", "")
    if here not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, path]))  # of the one that is forked
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["forked_before"])
    return made


def _live(pipe: Connection, function: Callable[..., Any], rank: int, size: int, store: str, given: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    hang = timedelta(seconds=HANG_S)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=hang)
    try:
        pipe.send(("done", pickle.dumps(function(rank, size, *given))))  # by value: a sent tensor is shared memory
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
    dist.destroy_process_group()


def outcomes(function: Callable[..., Any], size: int, *given: Any) -> list[tuple[str, Any]]:
    """By rank: ("done", result), ("failed", traceback) or ("died", None). The function, which stands at the top of a
    module, is called as `function(rank, size, *given)` in a process group over Gloo.
    """
    made = context()
    pairs = [made.Pipe() for _ in range(size)]
    found: list[tuple[str, Any]] = [("died", None)] * size
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            made.Process(target=_live, args=(theirs, function, rank, size, f"{folder}/store", given), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        try:
            for process, (_, theirs) in zip(processes, pairs, strict=True):
                process.start()
                theirs.close()
            left = {rank: ours for rank, (ours, _) in enumerate(pairs)}
            deadline = time.monotonic() + HANG_S
            while left:
                ready = wait(list(left.values()), max(deadline - time.monotonic(), 0))
                if not ready:
                    raise AssertionError(f"ranks {sorted(left)} do not end")
                for rank in [rank for rank, pipe in left.items() if pipe in ready]:
                    try:
                        found[rank] = left[rank].recv()
                    except EOFError:
                        del left[rank]
            for process in processes:
                process.join(HANG_S)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
    return [(word, pickle.loads(told) if word == "done" else told) for word, told in found]
