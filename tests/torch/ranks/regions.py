"""The ranks of test_regions.py: collective calls and DDP, of tensors that lie in a region of the groups' device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rdmatensor as rt
import rdmatensor.torch

COUNTS = (100, 40_000, 300_001)  # of float32: through slots, and twice as they lie
READ = rt.Access.REMOTE_READ
WRITE = rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE


@contextlib.contextmanager
def placed(access: int | None, nbytes: int = 64 << 20) -> Iterator[None]:
    """Tensors of all threads in a region with these rights; None: as ever."""
    if access is None:
        yield
        return
    with rdmatensor.torch.device().region(nbytes, access=rt.Access(access)) as region:
        rdmatensor.torch.allocate_in(region, when_full="raise")
        try:
            yield
        finally:
            rdmatensor.torch.allocate_in(None)


def numbers(count: int, rank: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(100 * count + rank))


def collectives(rank: int, size: int, access: list[int | None]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    found: dict[str, torch.Tensor] = {}
    with placed(access[rank]):
        for count in COUNTS:
            tensor = numbers(count, rank)
            dist.all_reduce(tensor)
            found[f"all_reduce {count}"] = tensor.clone()
            dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
            found[f"mean {count}"] = tensor.clone()
            dist.reduce(tensor, size - 1)
            found[f"reduce {count}"] = tensor.clone() if rank == size - 1 else torch.empty(0)
            dist.broadcast(tensor, size - 1)
            found[f"broadcast {count}"] = tensor.clone()
            gathered = torch.empty(size * count)
            dist.all_gather_into_tensor(gathered, numbers(count, rank))
            found[f"all_gather {count}"] = gathered.clone()
            part = torch.empty(count)
            dist.reduce_scatter(part, [numbers(count, rank + 10 * other) for other in range(size)])
            found[f"reduce_scatter {count}"] = part.clone()
            exchanged = torch.empty(size * count)
            dist.all_to_all_single(exchanged, numbers(size * count, rank))
            found[f"all_to_all {count}"] = exchanged.clone()
            parts = [torch.empty(count) for _ in range(size)] if rank == 0 else None
            dist.gather(numbers(count, rank), parts, 0)
            found[f"gather {count}"] = torch.cat(parts) if parts is not None else torch.empty(0)
            dist.scatter(
                tensor, [numbers(count, other) for other in range(size)] if rank == size - 1 else None, size - 1
            )
            found[f"scatter {count}"] = tensor.clone()
            work = dist.all_reduce(part, async_op=True)
            assert work is not None
            work.wait()
            found[f"async {count}"] = part.clone()
        stats = rdmatensor.torch.stats()
    return {name: tensor.clone() for name, tensor in found.items()}, stats


def ring(rank: int, size: int, access: list[int | None]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Everybody sends to the next and receives from the one before."""
    found: dict[str, torch.Tensor] = {}
    with placed(access[rank]):
        for count in COUNTS:
            tensor, received = numbers(count, rank), torch.empty(count)
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, tensor, (rank + 1) % size),
                    dist.P2POp(dist.irecv, received, (rank - 1) % size),
                ]
            )
            for work in works:
                work.wait()
            found[f"ring {count}"] = received.clone()
        stats = rdmatensor.torch.stats()
    return {name: tensor.clone() for name, tensor in found.items()}, stats


@contextlib.contextmanager
def ddp_memory(disabled: str) -> Iterator[None]:
    """As a user who sets torch's variable."""
    before, os.environ["DDP_DISABLE_COMM_MEM"] = os.environ["DDP_DISABLE_COMM_MEM"], disabled
    try:
        yield
    finally:
        os.environ["DDP_DISABLE_COMM_MEM"] = before


def train(rank: int, size: int, access: int | None) -> tuple[list[torch.Tensor], dict[str, int], int]:
    """Three steps of DDP, whose buckets are ordinary tensors. The parameters, what the steps moved, and how many bytes
    the gradients have.
    """
    with ddp_memory("1"), placed(access):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(200, 900), torch.nn.ReLU(), torch.nn.Linear(900, 300))
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
        before: dict[str, int] = {}
        for step in range(4):
            if step == 1:  # DDP orders its buckets anew after the first
                before = rdmatensor.torch.stats()
            optimizer.zero_grad()
            data = numbers(8 * 200, 1000 * step + rank).view(8, 200)
            parallel(data).square().mean().backward()
            optimizer.step()
        after = rdmatensor.torch.stats()
        size_of_all = sum(parameter.nbytes for parameter in model.parameters())
        parameters = [parameter.detach() for parameter in model.parameters()]
    return [parameter.clone() for parameter in parameters], {k: after[k] - before[k] for k in after}, 3 * size_of_all


def moved(steps: Callable[[], None]) -> dict[str, int]:
    """The bytes that the steps moved: nothing is known of other backends."""
    if dist.get_backend() != "rdmatensor":
        steps()
        return {}
    before = rdmatensor.torch.stats()
    steps()
    after = rdmatensor.torch.stats()
    return {name: after[name] - before[name] for name in after}


def buckets(rank: int, size: int, view: bool) -> tuple[list[torch.Tensor], dict[str, int], int]:
    """A DDP script that knows nothing of this backend: the parameters, what its last four steps moved, the bytes of one
    step's gradients.
    """
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(200, 900), torch.nn.ReLU(), torch.nn.Linear(900, 300))
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=view, bucket_cap_mb=1)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9)

    def steps(first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            parallel(numbers(8 * 200, 1000 * step + rank).view(8, 200)).square().mean().backward()
            optimizer.step()

    steps(0, 2)  # after the first, DDP orders its buckets anew
    found = moved(lambda: steps(2, 6))
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    return parameters, found, sum(parameter.nbytes for parameter in parameters)


def disabled_buckets(rank: int, size: int) -> tuple[list[torch.Tensor], dict[str, int], int]:
    with ddp_memory("1"):
        return buckets(rank, size, False)


def shards(rank: int, size: int, asks: bool) -> tuple[list[torch.Tensor], dict[str, int]]:
    """FSDP2, which asks the group for its buffers or not: losses and parameters, and what the last four steps moved."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    torch.manual_seed(4)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    mesh = init_device_mesh("cpu", (size,))
    for part in (net[0], net[2], net):
        fully_shard(part, mesh=mesh)
        assert isinstance(part, FSDPModule)
        part.set_allocate_memory_from_process_group_for_comm(asks)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []

    def steps(first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            loss = net(numbers(8 * 256, 1000 * step + rank).view(8, 256)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

    steps(0, 2)
    found = moved(lambda: steps(2, 6))
    whole = [parameter.full_tensor().detach().clone() for parameter in net.parameters()]  # type: ignore[attr-defined]
    return losses + whole, found


def buckets_that_outlive_their_group(rank: int, size: int, folder: str) -> None:
    """The gradients, which are views of the buckets, are read after the last group has ended, and used in another."""
    model = torch.nn.Linear(300, 300)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    parallel(torch.ones(4, 300)).sum().backward()
    assert rdmatensor.torch.stats()["buffer_bytes"] > model.weight.nbytes
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    before = [gradient.clone() for gradient in gradients]
    del parallel
    dist.destroy_process_group()
    dist.init_process_group("rdmatensor", init_method=f"file://{folder}/again", rank=rank, world_size=size)
    assert rdmatensor.torch.stats()["buffer_bytes"] == 0
    assert all(map(torch.equal, before, gradients))
    dist.all_reduce(gradients[0])
    assert torch.equal(gradients[0], before[0] * size)


def region_that_is_busy(rank: int, size: int) -> str:
    """A region that is closed while its tensors are still there: later calls go through slots."""
    device: Any = rdmatensor.torch.device()
    region = device.region(1 << 22, access=WRITE)
    tensor = rdmatensor.torch.as_tensor(region.empty((200_000,), "float32"))
    tensor[:] = rank + 1
    dist.all_reduce(tensor)
    first = rdmatensor.torch.stats()["staged_bytes"]
    if rank == 0:
        region.close()
    dist.all_reduce(tensor)
    second = rdmatensor.torch.stats()["staged_bytes"]
    assert first < 10_000 < second, (first, second)
    total = size * (size + 1) // 2
    assert torch.equal(tensor, torch.full((200_000,), float(total * size)))
    return "closed"


def no_group(rank: int, size: int) -> str:
    return str(rdmatensor.torch.device().provider)
