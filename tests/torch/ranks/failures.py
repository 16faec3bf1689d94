"""The functions of ranks while something goes wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def killed(rank: int, size: int, victim: int, operation: str) -> tuple[str, float]:
    """One rank is killed in the middle; the others say what they were told, and how long after it."""
    dist.all_reduce(torch.ones(10))
    if rank == victim:
        dist.send(torch.tensor([time.monotonic()]).double(), (victim + 1) % size)
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    if rank == (victim + 1) % size:
        dist.recv(torch.zeros(1).double(), victim)
    try:
        for _ in range(1000):
            if operation == "all_reduce":
                dist.all_reduce(torch.ones(300_000))
            elif operation == "recv":
                dist.recv(torch.ones(300_000), victim)
            elif operation == "send":
                dist.send(torch.ones(300_000), victim)
            elif operation == "asynchronous":
                for work in [dist.all_reduce(torch.ones(1000), async_op=True) for _ in range(4)]:
                    work.wait()  # type: ignore[union-attr]
            else:
                dist.recv(torch.ones(5))
    except RuntimeError as error:
        told = str(error), time.monotonic() - began
        dist.destroy_process_group()
        dist.init_process_group("rdmatensor", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        return told
    return "nothing", 0.0


def late(rank: int, size: int) -> str:
    """Rank 1 does not come; the others name it. Afterwards the group is over, and a new one works."""
    group = dist.new_group(list(range(size)), timeout=timedelta(seconds=1))
    if rank == 1:
        dist.barrier()
        return ""
    try:
        dist.all_reduce(torch.ones(5), group=group)
    except RuntimeError as error:
        dist.barrier()
        return str(error)
    return "nothing"


def different(rank: int, size: int, what: str) -> str:
    """Two ranks that do not do the same."""
    group = dist.new_group(list(range(size)), timeout=timedelta(seconds=20))
    try:
        if what == "sizes":
            dist.all_reduce(torch.ones(5 + rank), group=group)
        elif what == "types":
            dist.all_reduce(torch.ones(4, dtype=torch.float32 if rank else torch.float64), group=group)
        elif what == "calls":
            if rank:
                dist.all_reduce(torch.ones(5), group=group)
            else:
                dist.all_gather([torch.ones(5) for _ in range(size)], torch.ones(5), group=group)
        elif rank:
            dist.send(torch.ones(200_000), 0, group=group)
        else:
            dist.recv(torch.ones(200_001), 1, group=group)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "nothing"


def late_to_barrier(rank: int, size: int) -> str:
    from rdmatensor.torch import monitored_barrier

    monitored_barrier()
    if rank == 1:
        dist.barrier()
        return ""
    said = ""
    try:
        monitored_barrier(timeout=timedelta(milliseconds=300), wait_all_ranks=True)
    except RuntimeError as error:
        said = str(error)
    dist.barrier()
    return said


def aborted(rank: int, size: int) -> str:
    group = dist.new_group(list(range(size)))
    if rank == 0:
        work = dist.irecv(torch.ones(5), 1, group=group)
        group._get_backend(torch.device("cpu")).abort()
        try:
            work.wait()  # type: ignore[union-attr]
        except RuntimeError as error:
            return str(error)
        return "nothing"
    try:
        dist.barrier(group=group)
        dist.barrier(group=group)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def signalled(rank: int, size: int) -> tuple[str, float]:
    """The handler of a signal lets rank 1 come, and then raises: rank 0 has what it waits for, and is interrupted."""
    group, helper = dist.new_group(list(range(size))), dist.new_group(list(range(size)))
    tensor = torch.ones(3)

    def handler(number: int, frame: object) -> None:
        for _ in range(2):  # rank 1 is let into its call, and comes out of it
            dist.barrier(group=helper)
        raise ArithmeticError("from the handler")

    said = "nothing"
    dist.barrier()
    if rank == 0:
        before = signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        try:
            dist.all_reduce(tensor, group=group)
        except ArithmeticError as error:
            said = str(error)
        signal.signal(signal.SIGUSR1, before)
    else:
        dist.barrier(group=helper)
        dist.all_reduce(tensor, group=group)
        dist.barrier(group=helper)
    dist.barrier(group=group)
    return said, tensor[0].item()
