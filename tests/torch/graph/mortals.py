"""Processes of a plan of which one is ended at a random moment of a step, and what the others raise.

A round follows from its number alone: who dies, by which signal, in which step, and at which event of the step (a
segment that has run, a poll, a receive, a send, a sleep), or as an outsider's signal meets it.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import training
from forked import context

import rdmatensor.torch.graph as rg
from rdmatensor.torch.graph import engine

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EVENTS = ("_after", "_poll", "_take", "_send", "_sleep", "_release")
PLACEMENTS: dict[str, Callable[[], Any]] = {
    "servers": lambda: rg.ParameterServer(servers=1, workers=2),
    "stages": lambda: rg.Stages(3),
}
SIZE = 3
HANG_S = 240.0
"""Ends a hang; a round takes a second."""


@dataclass(frozen=True, slots=True)
class Death:
    """One round."""

    placement: str
    victim: int
    by: signal.Signals
    step: int
    event: int | None
    """The event of the step at which the process ends itself; None for a signal from outside."""

    @staticmethod
    def of(number: int) -> Death:
        drawn = random.Random(number)
        return Death(
            drawn.choice(list(PLACEMENTS)),
            drawn.randrange(SIZE),
            drawn.choice(SIGNALS),
            drawn.randrange(2, 6),  # by the second one all have opened the plan
            drawn.choice((None, drawn.randrange(40))),
        )


@dataclass(frozen=True, slots=True)
class Told:
    """The words of a process at its end."""

    process: str
    error: str
    at: float
    """When its step raised, in seconds of the clock that all processes share."""
    left: dict[str, tuple[int, int]]
    """Descriptors and threads before the plan was opened, and after it was closed."""


def held() -> dict[str, int]:
    """The descriptors and threads of this process."""
    gc.collect()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def live(pipe: Connection, folder: str, rank: int, death: Death) -> None:
    """One process: trains until it or another one ends, and tells of it."""
    plan, example = plans()[death.placement]
    for turn in range(2):  # the first run makes what a process keeps
        before = held()
        store = torch.distributed.FileStore(f"{folder}/store{turn}", SIZE)
        run = plan.open(store=store, rank=rank, world_size=SIZE, timeout=HANG_S, opening=HANG_S)
        if not turn:
            with run:
                _train(run, example, 1)
            del run, store
            continue
        if rank == death.victim:
            _doom(run, death, pipe, folder)
        try:
            with run:
                _train(run, example, 1000)
        except BaseException as error:
            at, text = time.monotonic(), f"{type(error).__name__}: {error}"
        process = run.process
        del run, store
        after = held()
        pipe.send(Told(process, text, at, {key: (count, after[key]) for key, count in before.items()}))


def _train(run: rg.Run, example: Any, steps: int) -> None:
    if run.serves:
        run.serve()
    else:
        for _ in range(steps):
            run.step(example)


def _doom(run: rg.Run, death: Death, pipe: Connection, folder: str) -> None:
    """Sees to it that this process ends as it should."""
    steps = 0
    left = -1 if death.event is None else death.event
    step = run._engine.step

    def counted(env: list[Any]) -> list[Any]:
        nonlocal steps
        steps += 1
        if death.event is None and steps == death.step:
            pipe.send("now")
        return step(env)

    run._engine.step = counted  # type: ignore[method-assign]

    def mortal(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Any, *given: Any, **words: Any) -> Any:
            nonlocal left
            if steps >= death.step and left >= 0:
                left -= 1
                if left < 0:
                    Path(folder, "died").write_text(repr(time.monotonic()))
                    os.kill(os.getpid(), death.by)
            return method(self, *given, **words)

        return wrapped

    for name in EVENTS:
        setattr(engine._Step, name, mortal(getattr(engine._Step, name)))


@cache
def plans() -> dict[str, tuple[rg.Plan, Any]]:
    """The plans, and a batch for each."""
    torch.set_num_threads(1)
    found = {}
    for name, placement in PLACEMENTS.items():
        model, example, loss_fn = training.made("fcn5")
        optimizer = training.OPTIMIZERS["sgd"](model)
        found[name] = rg.plan(model, loss_fn, optimizer, example, placement=placement(), processes=SIZE), example
    return found


def round_of(number: int, folder: Path) -> tuple[Death, dict[int, Told], float]:
    """Lives through one round: the death, what each other told, and how long the slowest took to raise."""
    death, made = Death.of(number), context()
    folder.mkdir()
    pairs = [made.Pipe() for _ in range(SIZE)]
    processes = [
        made.Process(target=live, args=(theirs, str(folder), rank, death), daemon=True)
        for rank, (_, theirs) in enumerate(pairs)
    ]
    try:
        for process, (_, theirs) in zip(processes, pairs, strict=True):
            process.start()
            theirs.close()
        told, died = _collect(death, [ours for ours, _ in pairs], processes)
        for process in processes:
            process.join(HANG_S)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    if death.event is not None:
        died = float(Path(folder, "died").read_text())
    return death, told, max(one.at for rank, one in told.items() if rank != death.victim) - died


def _collect(death: Death, pipes: list[Connection], processes: list[Any]) -> tuple[dict[int, Told], float]:
    told: dict[int, Told] = {}
    died = 0.0
    left = dict(enumerate(pipes))
    deadline = time.monotonic() + HANG_S
    while left:
        ready = wait(list(left.values()), max(deadline - time.monotonic(), 0))
        if not ready:
            raise AssertionError(f"{death}: ranks {sorted(left)} told nothing")
        for rank, pipe in tuple(left.items()):
            if pipe not in ready:
                continue
            try:
                word = pipe.recv()
            except EOFError:
                del left[rank]
                continue
            if word == "now":
                died = time.monotonic()
                os.kill(processes[rank].pid, death.by)
            else:
                told[rank] = word
    return told, died
