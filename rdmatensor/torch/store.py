"""torchrun's store, for teams that are made without a process group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

__all__ = ["torchrun_store"]


def torchrun_store(rank: int, size: int, prefix: str, timeout: float) -> Any:
    """A part of the store at MASTER_ADDR and MASTER_PORT: names that begin with `prefix`. `timeout` in
    seconds.
    """
    reached = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))[0]
    return dist.PrefixStore(prefix, reached)
