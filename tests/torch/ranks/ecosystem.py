"""Ranks that use the libraries on top of torch.distributed. Each returns what must be equal over every backend."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(40, 200), nn.ReLU(), nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 10))


def batch(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(100 * rank + step)
    return torch.randn(16, 40, generator=made), torch.randint(10, (16,), generator=made)


def parameters(net: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def gradients(net: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def train(net: nn.Module, rank: int, steps: int, optimizer: Any = None) -> list[torch.Tensor]:
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        inputs, labels = batch(rank, step)
        loss = nn.functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def data_parallel(rank: int, size: int) -> list[torch.Tensor]:
    """Several buckets, gradients as views, gradients added up without a step between."""
    net = DistributedDataParallel(model(), bucket_cap_mb=0.1, gradient_as_bucket_view=True)
    losses = train(net, rank, 4)
    with net.no_sync():
        nn.functional.cross_entropy(net(batch(rank, 8)[0]), batch(rank, 8)[1]).backward()
    nn.functional.cross_entropy(net(batch(rank, 9)[0]), batch(rank, 9)[1]).backward()
    return (
        losses
        + parameters(net)
        + [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    )


def hooks(rank: int, size: int) -> list[torch.Tensor]:
    found = []
    for hook in (default_hooks.allreduce_hook, default_hooks.fp16_compress_hook):
        net = DistributedDataParallel(model(), bucket_cap_mb=0.1)
        net.register_comm_hook(None, hook)
        found += train(net, rank, 3) + parameters(net)
    return found


def uneven(rank: int, size: int) -> list[torch.Tensor]:
    """Ranks with more and with less to do, joined."""
    net = DistributedDataParallel(model())
    with Join([net]):
        losses = train(net, rank, 2 + rank)
    return losses + parameters(net)


def sharded(rank: int, size: int) -> list[torch.Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = model()
    mesh = init_device_mesh("cpu", (size,))
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    losses = train(net, rank, 3)
    return losses + [parameter.full_tensor().detach() for parameter in net.parameters()]  # type: ignore[attr-defined]


def pipeline(rank: int, size: int) -> list[torch.Tensor]:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    found = []
    for schedule in (ScheduleGPipe, Schedule1F1B):
        torch.manual_seed(5)
        layers = [nn.Linear(32, 32) for _ in range(size)]
        stage = PipelineStage(layers[rank], rank, size, torch.device("cpu"))
        runner = schedule(stage, n_microbatches=4, loss_fn=nn.functional.mse_loss)
        made = torch.Generator().manual_seed(1)
        inputs, target = torch.randn(16, 32, generator=made), torch.randn(16, 32, generator=made)
        losses: list[torch.Tensor] = []
        if rank == 0:
            runner.step(inputs)
        elif rank == size - 1:
            runner.step(target=target, losses=losses)
        else:
            runner.step()
        found += [loss.detach() for loss in losses] + [
            p.grad.clone() for p in layers[rank].parameters() if p.grad is not None
        ]
    return found


def redistributed(rank: int, size: int) -> list[torch.Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (size,))
    whole = torch.arange(35.0 * 12).view(35, 12)
    spread = distribute_tensor(whole, mesh, [Shard(0)])
    turned = spread.redistribute(placements=[Shard(1)])
    partial = DTensor.from_local(whole * (rank + 1), mesh, [Partial()])
    return [
        spread.to_local(),
        turned.to_local(),
        turned.redistribute(placements=[Replicate()]).to_local(),
        partial.redistribute(placements=[Replicate()]).to_local(),
        partial.redistribute(placements=[Shard(0)]).to_local(),
        spread.sum().full_tensor(),
    ]


def checkpointed(rank: int, size: int) -> list[torch.Tensor]:
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    folder = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folder)
    mesh = init_device_mesh("cpu", (size,))
    whole = torch.arange(40.0).view(10, 4)
    state: dict[str, Any] = {"spread": distribute_tensor(whole, mesh, [Shard(0)]), "same": torch.ones(3)}
    checkpoint.save(state, checkpoint_id=folder[0])
    loaded: dict[str, Any] = {"spread": distribute_tensor(whole * 0, mesh, [Shard(0)]), "same": torch.zeros(3)}
    checkpoint.load(loaded, checkpoint_id=folder[0])
    return [loaded["spread"].full_tensor(), loaded["same"]]


def zero(rank: int, size: int) -> list[torch.Tensor]:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=torch.optim.Adam, lr=0.01)
    losses = train(net, rank, 3, optimizer)
    optimizer.consolidate_state_dict(0)
    return losses + parameters(net)
