"""The functions of ranks in test_conventions.py: what torch offers beside the operations themselves."""

from __future__ import annotations

import time
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


def timeouts(rank: int, size: int, how: str) -> tuple[list[str], float]:
    """A group's timeout, changed after it was made; and what is warned of meanwhile."""
    group = dist.new_group(list(range(size)), timeout=timedelta(seconds=600))
    limit = timedelta(milliseconds=200)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if how == "of the backend":
            group._get_backend(torch.device("cpu"))._set_default_timeout(limit)
        else:
            distributed_c10d._set_pg_timeout(limit, group)
    said = [str(warning.message) for warning in caught]
    began = time.monotonic()
    if rank == 0:
        try:
            dist.all_reduce(torch.ones(3), group=group)
        except RuntimeError as error:
            said.append(str(error))
    return said, time.monotonic() - began


def notes(rank: int, size: int) -> list[tuple[str, Any]]:
    """The view of a profiler on communication: name and elements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.profiler import profile

        with profile(record_shapes=True) as seen:
            dist.all_reduce(torch.ones(6))
            dist.all_reduce(torch.ones(7), async_op=True).wait()  # type: ignore[union-attr]
            dist.all_gather([torch.ones(3) for _ in range(size)], torch.ones(3))
            if rank == 0:
                dist.send(torch.ones(5), 1)
            elif rank == 1:
                dist.recv(torch.ones(5), 0)
            dist.barrier()
        return [(event.name, event.input_shapes) for event in seen.events() if event.name == "record_param_comms"]
