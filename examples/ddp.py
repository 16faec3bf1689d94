"""The smallest training with DistributedDataParallel over rdmatensor. Only the backend's name differs from any other.

    python examples/ddp.py                                 two ranks on this machine
    torchrun --nproc-per-node 2 examples/ddp.py            the same under torchrun; with --nnodes between hosts

DDP asks the group for the memory of its buckets, so gradients are reduced where they lie.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

import rdmatensor.torch

STEPS = 50


def train(rank: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("RANK", str(rank))
    dist.init_process_group("rdmatensor")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(dist.get_rank())  # each rank has data of its own
    first = 0.0
    for step in range(STEPS):
        inputs = torch.randn(32, 64)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = first or loss.item()
        dist.all_reduce(loss.detach(), op=dist.ReduceOp.AVG)
        if dist.get_rank() == 0 and (step + 1) % 10 == 0:
            print(f"step {step + 1:>3}  loss {loss.item():.3f}", flush=True)
    if dist.get_rank() == 0:
        stats = rdmatensor.torch.stats()
        print(f"{rdmatensor.torch.provider()}://, the loss fell from {first:.2f} to {loss.item():.2f}")
        print(
            f"read from the other's tensors: {stats['direct_bytes']:,} bytes; staged: {stats['staged_bytes']:,} bytes"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        train(int(os.environ["RANK"]))
    else:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29471", WORLD_SIZE="2")
        torch.multiprocessing.spawn(train, nprocs=2)
