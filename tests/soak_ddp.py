"""A soak of training: one rank of a DDP run is killed with -9 at a random moment, many times.

    python tests/soak_ddp.py [--rounds 100] [--seed N]

Two or three ranks train over shm, their tensors in ordinary memory or in a region. Every other rank must raise within
the bound and name the one that died, or have finished before. Then all ranks start anew, go on from the last
checkpoint, and must end with the very weights of a run in which nobody died. At the end nothing may be left on the
host: processes, names of shared memory, sockets.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from soak import left_over
from torch import nn

import rdmatensor as rt
import rdmatensor.torch
from rdmatensor.torch import backend

BOUND = 5.0
"""Seconds within which the others must know. Before there is a group its store alone tells, when it waited TIMEOUT."""
TIMEOUT = 3.0
STEPS, SAVED_EVERY = 40, 4
LIMIT = 60.0
CONTEXT = multiprocessing.get_context("fork")  # torch is imported once; this process itself uses nothing of it
EVERY_STEP = ("forward", "backward", "between steps")
LATE = ("at the barrier", "ending", "ended")
"""From here on others may have finished when one dies."""
PHASES = ("setting up", "making the model", *EVERY_STEP, "ending")


# ---- a rank ----


def run_rank(pipe: Connection, others: list[Connection], *given: Any) -> None:
    """Trains, and tells each phase and how it ended. `others` are the parent's ends of pipes that this one inherits."""
    for other in others:
        other.close()

    def say(phase: str) -> None:
        with contextlib.suppress(OSError):  # the parent has heard enough
            pipe.send(("phase", phase, time.monotonic()))

    try:
        say("setting up")
        weights = train(*given, say)
        pipe.send(("finished", weights))
    except Exception as error:
        pipe.send(("raised", time.monotonic(), f"{type(error).__name__}: {error}"))
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()  # until the parent has looked
        os._exit(0)


def train(rank: int, size: int, folder: str, attempt: int, placed: bool, say: Any) -> str:
    torch.set_num_threads(1)
    limit = timedelta(seconds=TIMEOUT)
    store = f"file://{folder}/store {attempt}"
    dist.init_process_group("rdmatensor", init_method=store, rank=rank, world_size=size, timeout=limit)
    say("making the model")
    if placed:
        access = rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE
        rdmatensor.torch.allocate_in(rdmatensor.torch.device().region(32 << 20, access=access))
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(32, 1024), nn.Tanh(), nn.Linear(1024, 64))
    first, saved = 0, Path(folder) / "state.pt"
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        first = state["step"]
    net = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(first, STEPS):
        say("forward")
        inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(100 * step + rank))
        loss = net(inputs).square().mean()
        optimizer.zero_grad()
        say("backward")
        loss.backward()
        optimizer.step()
        say("between steps")
        if rank == 0 and step % SAVED_EVERY == 0:
            torch.save({"model": model.state_dict(), "step": step + 1}, f"{folder}/new.pt")
            os.replace(f"{folder}/new.pt", saved)
    say("at the barrier")  # who dies behind it may have let the others through
    dist.barrier()
    found = hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in model.parameters())).hexdigest()
    say("ending")
    rdmatensor.torch.allocate_in(None)
    dist.destroy_process_group()
    say("ended")
    return found


# ---- a round ----


@dataclass
class Rank:
    """A rank as the parent sees it."""

    process: Any
    pipe: Connection
    phase: str = "starting"
    begun: float = 0.0
    """When it began to set up."""
    outcome: tuple[Any, ...] = field(default_factory=tuple)

    def reach(self, phase: str, turn: int, until: float) -> None:
        """Hears it until it is in this phase, of those in every step for the given time."""
        seen = 0
        while not self.outcome and seen < (turn if phase in EVERY_STEP else 1) and time.monotonic() < until:
            self.heard(until)
            seen += self.phase == phase

    def heard(self, until: float) -> None:
        """The next of what it says."""
        try:
            word, *rest = self.pipe.recv() if self.pipe.poll(max(0.0, until - time.monotonic())) else ("silent",)
        except (EOFError, OSError):
            word, rest = "gone", []
        if word == "phase":
            self.phase = rest[0]
            self.begun = self.begun or rest[1]
        elif word != "silent":
            self.outcome = (word, *rest)

    def listen(self, until: float) -> None:
        """Hears it until it has said how it ended, or is gone, or the time is up."""
        while not self.outcome and time.monotonic() < until:
            self.heard(until)

    def end(self) -> None:
        self.pipe.close()  # who waits for us to look goes then
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(10)


class Failed(Exception):
    pass


def start(size: int, folder: str, attempt: int, placed: bool) -> list[Rank]:
    ranks = []
    for rank in range(size):
        here, there = CONTEXT.Pipe()
        others = [here, *(one.pipe for one in ranks)]
        process = CONTEXT.Process(target=run_rank, args=(there, others, rank, size, folder, attempt, placed))
        process.start()
        there.close()
        ranks.append(Rank(process, here))
    return ranks


def to_the_end(size: int, folder: str, attempt: int, placed: bool) -> str:
    """The weights of a run in which nobody dies, the same at all ranks."""
    ranks = start(size, folder, attempt, placed)
    try:
        for one in ranks:
            one.listen(time.monotonic() + LIMIT)
        if any(one.outcome[:1] != ("finished",) for one in ranks):
            raise Failed(f"a run without a death did not finish: {[(one.phase, one.outcome) for one in ranks]}")
    finally:
        for one in ranks:
            one.end()
    weights = {one.outcome[1] for one in ranks}
    if len(weights) != 1:
        raise Failed("the ranks have different weights")
    return str(weights.pop())


def names(text: str, victim: int) -> bool:
    """Whether the error says who it was; before there is a group, it is the store's with a key of that rank."""
    return re.search(rf"rank {victim}\b|(host|card|met)/{victim}\b", text) is not None


def play(rng: random.Random, expected: dict[int, str]) -> tuple[str, list[str], float]:
    """One death and the restart. The phase it was in, how the others ended, and the longest until one raised."""
    size, placed = rng.choice((2, 3)), rng.random() < 0.5
    victim, delay = rng.randrange(size), rng.choice((0.0, rng.uniform(0, 0.002), rng.uniform(0, 0.05)))
    phase, turn = rng.choice(PHASES), rng.randrange(1, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        ranks = start(size, folder, 0, placed)
        try:
            ranks[victim].reach(phase, turn, time.monotonic() + LIMIT)
            ranks[victim].listen(time.monotonic() + delay)
            ranks[victim].process.kill()
            killed_at = time.monotonic()
            ranks[victim].listen(killed_at + 1)
            others = [one for number, one in enumerate(ranks) if number != victim]
            ends, worst = [], 0.0
            for one in others:
                one.listen(killed_at + LIMIT)
                word = one.outcome[0] if one.outcome else "said nothing"
                if word == "raised":
                    seconds = one.outcome[1] - max(killed_at, one.begun)
                    worst = max(worst, seconds)
                    if seconds > BOUND or not names(one.outcome[2], victim):
                        raise Failed(f"rank {victim} died; after {seconds:.2f} s it was told: {one.outcome[2]}")
                elif word != "finished" or ranks[victim].phase not in LATE:
                    raise Failed(f"rank {victim} died while {ranks[victim].phase}; another {word} in {one.phase}")
                ends.append(word)
        finally:
            for one in ranks:
                one.end()
        if to_the_end(size, folder, 1, placed) != expected[size]:
            raise Failed("after the restart the weights are not those of a run without a death")
    return ranks[victim].phase, ends, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    backend.native()
    rng, worst = random.Random(options.seed), 0.0
    phases: collections.Counter[str] = collections.Counter()
    ended: collections.Counter[str] = collections.Counter()
    print(f"seed {options.seed}, {options.rounds} rounds, bound {BOUND} s", flush=True)
    expected = {}
    for size in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            expected[size] = to_the_end(size, folder, 0, placed=False)
    before: dict[str, Any] = left_over()
    for number in range(options.rounds):
        try:
            phase, ends, seconds = play(rng, expected)
        except Failed as why:
            sys.exit(f"round {number + 1}: {why}\nto repeat it: python tests/soak_ddp.py --seed {options.seed}")
        phases[phase] += 1
        ended.update(ends)
        worst = max(worst, seconds)
        if (number + 1) % 10 == 0:
            print(f"{number + 1} rounds, longest until a rank raised {worst:.2f} s", flush=True)
    after: dict[str, Any] = left_over()
    if (
        any(len(after[name]) > len(before[name]) for name in ("shm names", "children"))
        or after["sockets"] > before["sockets"]
    ):
        sys.exit(f"left behind: {after}, where before there was {before}\nseed {options.seed}")
    print(f"killed while: {dict(phases)}; the others: {dict(ended)}; longest {worst:.2f} s; nothing left behind")


if __name__ == "__main__":
    main()
