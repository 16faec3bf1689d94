"""The functions of ranks in test_group.py."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import regions
import torch
import torch.distributed as dist

import rdmatensor.torch

SMALL, LARGE = 1000, 100_003
"""Elements of float32: in one message, and in many or in one READ."""


def operations(rank: int, size: int, placed: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every kind of call, small and large. The results, and what was counted."""
    found: dict[str, torch.Tensor] = {}
    after, before = (rank + 1) % size, (rank - 1) % size
    with regions.placed(regions.WRITE if placed else None):
        for count in (SMALL, LARGE):
            whole = regions.numbers(count, rank)
            dist.all_reduce(whole)
            found[f"all_reduce {count}"] = whole.clone()
            dist.broadcast(whole, 1)
            gathered = torch.empty(size * count)
            dist.all_gather_into_tensor(gathered, regions.numbers(count, rank + 10))
            found[f"all_gather {count}"] = gathered.clone()
            part = torch.empty(count)
            dist.reduce_scatter_tensor(part, regions.numbers(size * count, rank + 20))
            found[f"reduce_scatter {count}"] = part.clone()
            exchanged = torch.empty(size * count)
            dist.all_to_all_single(exchanged, regions.numbers(size * count, rank + 30))
            found[f"all_to_all {count}"] = exchanged.clone()
            received, sent = torch.empty(count), regions.numbers(count, rank + 40)
            pairs = [dist.P2POp(dist.isend, sent, after), dist.P2POp(dist.irecv, received, before)]
            for work in dist.batch_isend_irecv(pairs):
                work.wait()
            found[f"ring {count}"] = received.clone()
            found[f"broadcast {count}"] = whole.clone()
        counted: dict[str, Any] = {}
        if dist.get_backend() == "rdmatensor":
            counted = {**rdmatensor.torch.stats(), "provider": rdmatensor.torch.device().provider}
    return {name: tensor.clone() for name, tensor in found.items()}, counted


def die_in_all_reduce(rank: int, _size: int) -> tuple[float, str]:
    """Rank 1 is killed in the midst of calls. How long rank 0 took to hear of it, and what it heard."""
    tensor = torch.ones(LARGE)
    for turn in range(1000):
        if rank == 1 and turn == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            heard = time.monotonic() - began, str(error)
            dist.destroy_process_group()
            dist.init_process_group("rdmatensor", store=dist.HashStore(), rank=0, world_size=1)  # for who destroys it
            return heard
    return 0.0, "nothing"
