"""The ranks of test_callbacks.py: futures whose callbacks use the group, groups that end with something pending."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

DEEP = 6
GROUPS = 8  # that are made and ended to see what is left
CPU = torch.device("cpu")


def started(tensor: torch.Tensor, group: Any = None) -> Any:
    """The future of an all_reduce."""
    return dist.all_reduce(tensor, group=group, async_op=True).get_future()  # type: ignore[union-attr]


def waits_deep(rank: int, size: int, count: int) -> list[float]:
    """Each callback starts the next call, and waits for a future whose callback does the same."""
    found: list[float] = []

    def next_one(level: int) -> Any:
        def callback(future: Any) -> torch.Tensor:
            found.append(future.value()[0][0].item())
            return future.value()[0] if level == DEEP else next_one(level + 1).wait()

        return started(torch.full((count,), float(level))).then(callback)

    next_one(1).wait()
    return found


def waits_for_one_before(rank: int, size: int) -> float:
    """A callback waits for a future that was made before it, and that completes after it."""
    store = dist.distributed_c10d._get_default_store()
    if rank > 0:  # the first future must not be complete before it has its callback
        store.wait(["added"], timedelta(seconds=60))
        found = [started(torch.full((3,), value)).wait()[0][0].item() for value in (1.0, 2.0)]
        return float(sum(found))
    first, both = started(torch.ones(3)), []
    ready = threading.Event()

    def callback(future: Any) -> float:
        ready.wait(60)
        return both[0].wait()[0][0].item() + future.value()[0][0].item()  # type: ignore[no-any-return]

    outcome = first.then(callback)
    both.append(started(torch.full((3,), 2.0)).then(lambda future: future.value()))
    store.set("added", "")
    ready.set()
    return float(outcome.wait())


def calls_and_waits(rank: int, size: int) -> list[float]:
    """Synchronous calls, sends and receives from a callback."""
    found = []

    def callback(future: Any) -> None:
        tensor = torch.full((5,), float(rank + 1))
        dist.all_reduce(tensor)
        found.append(tensor[0].item())
        sending = dist.isend(tensor + rank, (rank + 1) % size)
        got = torch.zeros(5)
        dist.recv(got, (rank - 1) % size)
        sending.wait()  # type: ignore[union-attr]
        found.append(got[0].item())
        dist.barrier()

    started(torch.ones(5)).then(callback).wait()
    return found


def ends_its_group(rank: int, size: int) -> str:
    group = dist.new_group(list(range(size)))

    def callback(future: Any) -> str:
        dist.destroy_process_group(group)
        return "ended"

    return str(started(torch.ones(3), group).then(callback).wait())


def asks_its_own_work(rank: int, size: int) -> list[bool]:
    """A receive's callback against a thread that polls, and against itself."""
    if rank != 0:
        for number in range(20):
            dist.recv(torch.zeros(1), 0)  # the receive and its callback are there
            dist.send(torch.full((4,), float(number)), 0)
        return []
    found = []
    for number in range(20):
        tensor = torch.zeros(4)
        work: Any = dist.irecv(tensor, 1)
        said: list[bool] = []
        done = work.get_future().then(
            lambda future, work=work, said=said: said.append(work.is_completed() and work.wait())
        )
        dist.send(torch.zeros(1), 1)
        while not work.is_completed():
            pass
        done.wait()
        found.append(said == [True] and tensor[0].item() == number)
    return found


def is_there_after_wait(rank: int, size: int) -> list[bool]:
    """A future has its value once its work was waited for, as over Gloo."""
    found = []
    for _ in range(50):
        work: Any = dist.all_reduce(torch.ones(3), async_op=True)
        future = work.get_future()
        work.wait()
        found.append(future.done() and work.is_completed())
    return found


def note(order: list[int], number: int, _future: Any) -> None:
    order.append(number)


def comes_in_order(rank: int, size: int) -> list[tuple[list[int], float]]:
    """Rounds of callbacks until one came in order: what came, and how long the round took."""
    rounds: list[tuple[list[int], float]] = []
    agreed = torch.zeros(1)
    while len(rounds) < 50 and agreed.item() < size:
        order: list[int] = []
        began = time.monotonic()
        noted = [partial(note, order, number) for number in range(50)]
        torch.futures.wait_all([started(torch.ones(100)).then(callback) for callback in noted])
        rounds.append((order, time.monotonic() - began))
        agreed.fill_(any(order == sorted(order) for order, _ in rounds))
        dist.all_reduce(agreed)
    return rounds


class Noisy:
    """Makes a call of the group when it is freed, and waits for it."""

    def __init__(self, group: Any, heard: threading.Event) -> None:
        self.group, self.heard = group, heard

    def __call__(self) -> None:
        dist.all_reduce(torch.ones(2), group=self.group)
        self.heard.set()


def frees_in_peace(rank: int, size: int) -> bool:
    """A tensor's finalizer that calls the group: whoever frees the last reference must not be the group's worker."""
    tensor, heard = torch.ones(1000), threading.Event()
    weakref.finalize(tensor, Noisy(dist.group.WORLD, heard)).atexit = False
    dist.all_reduce(tensor, async_op=True)
    del tensor
    return heard.wait(30)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def starts_no_thread(rank: int, size: int) -> tuple[int, int]:
    group = dist.new_group(list(range(size)))
    dist.barrier(group=group)
    before = threads()
    for _ in range(20):
        dist.all_reduce(torch.ones(10), group=group)
        dist.broadcast(torch.ones(100_000), 0, group=group)
    after = threads()
    dist.destroy_process_group(group)
    return before, after


def pending_at_the_end(rank: int, size: int) -> list[str]:
    """Receives whose sends never come: of their futures, of their works, and after they were dropped."""
    group = dist.new_group(list(range(size)))
    work: Any = dist.irecv(torch.zeros(5), 1 - rank, group=group, tag=3)
    future = work.get_future()
    told: list[str] = []
    chained = future.then(lambda done: told.append("called"))
    dist.irecv(torch.zeros(5), 1 - rank, group=group, tag=4)
    dist.barrier(group=group)
    dist.destroy_process_group(group)
    found = [str(future.done()), *told]
    for wait in (future.wait, work.wait, chained.wait):
        try:
            wait()
            found.append("nothing")
        except RuntimeError as error:
            found.append(str(error))
    return found


def calls_that_end(rank: int, size: int) -> str:
    """A collective call that the peer never makes, ended by an abort."""
    group = dist.new_group(list(range(size)))
    if rank == 0:
        future = started(torch.ones(5), group)
        group._get_backend(CPU).abort()
        try:
            future.wait()
        except RuntimeError as error:
            return str(error)
    return "nothing"


def leave_nothing(rank: int, size: int, how: str) -> tuple[int, int, int]:
    """The remains of groups that were destroyed with something pending, or dropped: objects, descriptors, threads."""
    from rdmatensor.torch import backend as made

    def one() -> Any:
        store = dist.PrefixStore(str(len(seen)), dist.distributed_c10d._get_default_store())
        group = made._make(store, rank, size, timedelta(seconds=30))
        tensor = torch.ones(10)
        group.allreduce([tensor]).wait()
        received = torch.zeros(5)
        work = group.recv([received], 1 - rank, 7)
        if how == "future":
            work.get_future()
        if how == "dropped":
            group.recv([torch.zeros(5)], 1 - rank, 8)
        group.barrier().wait()
        seen.append(weakref.ref(received))
        if how != "never destroyed":
            group.shutdown()
        return None

    seen: list[Any] = []

    def state() -> tuple[int, int]:
        gc.collect()
        dist.barrier()
        return len(os.listdir("/proc/self/fd")), threads()

    for _ in range(2):
        one()
    dist.barrier()
    before = state()
    for _ in range(GROUPS):
        one()
        dist.barrier()
    after = state()
    return sum(reference() is not None for reference in seen), after[0] - before[0], after[1] - before[1]
