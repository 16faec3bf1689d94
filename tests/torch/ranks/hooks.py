"""The functions of ranks in test_hooks.py: DDP trains with each of torch's communication hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    quantization_hooks,
)
from torch.nn.parallel import DistributedDataParallel

STEPS = 6
Hook = tuple[Any, Callable[..., Any]]


def _power(**options: Any) -> Any:
    return powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2, **options)


def _local() -> Any:
    return post_localSGD_hook.PostLocalSGDState(None, dist.new_group([dist.get_rank()]), 2)


SMALL, WHOLE = 0.005, 25.0
"""MiB of a bucket of gradients: several buckets, or one. PowerSGD's calls for several buckets come in another order at
each rank, over every backend of the CPU."""

HOOKS: dict[str, tuple[float, Callable[[], Hook]]] = {
    "allreduce": (SMALL, lambda: (None, default_hooks.allreduce_hook)),
    "fp16": (SMALL, lambda: (None, default_hooks.fp16_compress_hook)),
    "fp16 around allreduce": (SMALL, lambda: (None, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook))),
    "PowerSGD": (WHOLE, lambda: (_power(), powerSGD_hook.powerSGD_hook)),
    "PowerSGD cold": (WHOLE, lambda: (_power(warm_start=False, use_error_feedback=False), powerSGD_hook.powerSGD_hook)),
    "PowerSGD in fp16": (WHOLE, lambda: (_power(), default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook))),
    "post-local SGD": (SMALL, lambda: (_local(), post_localSGD_hook.post_localSGD_hook)),
    "noop": (SMALL, lambda: (None, debugging_hooks.noop_hook)),
}

REFUSED: dict[str, tuple[float, Callable[[], Hook]]] = {
    "bf16": (SMALL, lambda: (None, default_hooks.bf16_compress_hook)),
    "bf16 around allreduce": (SMALL, lambda: (None, default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook))),
    "batched PowerSGD": (WHOLE, lambda: (_power(), powerSGD_hook.batched_powerSGD_hook)),
    "quantized per tensor": (WHOLE, lambda: (None, quantization_hooks.quantization_pertensor_hook)),
    "quantized per channel": (WHOLE, lambda: (None, quantization_hooks.quantization_perchannel_hook)),
}
"""Hooks that torch refuses without CUDA, that take a future's value for NCCL's, or that fail at an assertion of their
own: over Gloo, too, they end with their own error."""


def train(rank: int, size: int, name: str) -> list[torch.Tensor]:
    """The weights, after steps with data of this rank."""
    torch.manual_seed(3)
    bucket, make = (HOOKS | REFUSED)[name]
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5))
    trained = DistributedDataParallel(model, bucket_cap_mb=bucket)
    state, hook = make()
    trained.register_comm_hook(state, hook)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for step in range(STEPS):
        data = torch.randn(16, 30, generator=torch.Generator().manual_seed(100 * step + rank))
        optimizer.zero_grad()
        trained(data).square().mean().backward()
        optimizer.step()
    return [weight.detach().clone() for weight in model.parameters()]
