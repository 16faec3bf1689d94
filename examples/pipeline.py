"""Two pipeline stages (torch.distributed.pipelining) over rdmatensor: activations forward, their gradients back.

    python examples/pipeline.py                            two stages on this machine, compared with one process

The schedule is torch's own; it sends and receives through the backend. The loss must be that of one process.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

import rdmatensor.torch

STEPS, PARTS, BATCH, WIDTH = 20, 4, 64, 128


def stages() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(16, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)),
        nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, 1)),
    ]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(step))
    return inputs, inputs.square().sum(1, keepdim=True)


def one_process() -> float:
    """The loss after all steps, without a pipeline."""
    model = nn.Sequential(*stages())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    losses = []
    for step in range(STEPS):
        inputs, targets = batch(step)
        pairs = zip(inputs.chunk(PARTS), targets.chunk(PARTS), strict=True)
        losses = [nn.functional.mse_loss(model(some), wanted) for some, wanted in pairs]
        optimizer.zero_grad()
        (sum(losses[1:], losses[0]) / PARTS).backward()
        optimizer.step()
    return float(sum(loss.item() for loss in losses) / PARTS)


def run(rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("rdmatensor", rank=rank, world_size=2)
    module = stages()[rank]
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, PARTS, loss_fn=nn.functional.mse_loss)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001)
    losses: list[torch.Tensor] = []
    for step in range(STEPS):
        inputs, targets = batch(step)
        losses.clear()
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(inputs)
        else:
            schedule.step(target=targets, losses=losses)
        optimizer.step()
    if rank == 1:
        ours, theirs = sum(loss.item() for loss in losses) / PARTS, one_process()
        sent = rdmatensor.torch.stats()["bytes_sent"]
        print(f"loss after {STEPS} steps: {ours:.6f} in two stages, {theirs:.6f} in one process")
        print(f"stage 1 sent {sent:,} bytes of gradients back, over {rdmatensor.torch.provider()}://")
        if abs(ours - theirs) > 1e-5 * abs(theirs):
            raise SystemExit("the pipeline did not learn the same")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29472")
    torch.multiprocessing.spawn(run, nprocs=2)
