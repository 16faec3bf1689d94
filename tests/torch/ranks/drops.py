"""The functions of ranks in test_drops.py: sends and receives whose Work nobody keeps."""

from __future__ import annotations

import gc
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

CHUNK = 16_384  # float32 values of the largest message that travels at once
COUNTS = (CHUNK, CHUNK + 1, 3 * CHUNK, 1_000_000)


def sends(rank: int, size: int, strided: bool) -> list[float]:
    """Nothing but the group holds the tensors, and the sender does nothing more."""
    if rank == 0:
        for count in COUNTS:
            tensor = torch.full((count, 2 if strided else 1), float(count))[:, 0]
            dist.isend(tensor, 1)
            del tensor
            gc.collect()
        dist.distributed_c10d._get_default_store().wait(["received"], timedelta(seconds=60))
        return []
    found = []
    for count in COUNTS:
        got = torch.zeros(count)
        dist.recv(got, 0)
        found.append(got.min().item())
    dist.distributed_c10d._get_default_store().set("received", "yes")
    return found


def receives(rank: int, size: int) -> list[float]:
    """Into tensors that are still looked at, or not."""
    if rank == 1:
        for count in COUNTS:
            dist.send(torch.full((count,), float(count)), 0, tag=count)
        dist.send(torch.ones(10), 0, tag=5)
        return []
    tensors = [torch.zeros(count) for count in COUNTS]
    for count, tensor in zip(COUNTS, tensors, strict=True):
        dist.irecv(tensor, 1, tag=count)
    dist.irecv(torch.zeros(10), 1, tag=5)
    gc.collect()
    store = dist.distributed_c10d._get_default_store()
    end = time.monotonic() + 60
    while any(tensor[-1].item() == 0 for tensor in tensors) and time.monotonic() < end:
        store.check(["nothing"])
    return [tensor.min().item() for tensor in tensors]


def sends_and_ends(rank: int, size: int) -> float:
    """The group ends at the sender before the receiver asks."""
    group = dist.new_group([0, 1])
    store = dist.distributed_c10d._get_default_store()
    got = torch.zeros(COUNTS[-1])
    if rank == 0:
        dist.isend(torch.full_like(got, 7.0), 1, group=group)
        store.set("sent", "yes")
    else:
        store.wait(["sent"], timedelta(seconds=60))
        dist.recv(got, 0, group=group)
    dist.destroy_process_group(group)
    return got.min().item()


def sends_in_vain(rank: int, size: int) -> tuple[str, float]:
    """The receiver leaves, and asks only then."""
    group = dist.new_group([0, 1])
    began = time.monotonic()
    if rank == 0:
        work: Any = dist.isend(torch.ones(COUNTS[-1]), 1, group=group)
        dist.destroy_process_group(group)
        try:
            work.wait()
        except RuntimeError as error:
            return str(error), time.monotonic() - began
        return "nothing", 0
    dist.destroy_process_group(group)
    return "", time.monotonic() - began


def times_out(rank: int, size: int) -> list[float]:
    """A receive that was waited for in vain does not take what comes later."""
    found = []
    if rank == 0:
        first, second = torch.zeros(4), torch.zeros(4)
        try:
            dist.irecv(first, 1).wait(timedelta(milliseconds=50))  # type: ignore[union-attr]
        except RuntimeError:
            found.append(-1.0)
        dist.barrier()
        dist.recv(second, 1)
        found += [first[0].item(), second[0].item()]
    else:
        dist.barrier()
        dist.send(torch.full((4,), 3.0), 0)
    return found
