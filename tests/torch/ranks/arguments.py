"""The functions of ranks in test_arguments.py: calls with arguments that are wrong, or unusual and right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import regions
import torch
import torch.distributed as dist

C = torch._C._distributed_c10d
FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
Tensors = list[torch.Tensor]


def freed(*shape: int) -> torch.Tensor:
    """A tensor without memory, as FSDP leaves parameters: a view with an offset."""
    base = torch.ones(10_000)
    view = base[100 : 100 + torch.Size(shape).numel()].view(shape)
    base.untyped_storage().resize_(0)
    return view


def shrunk(count: int) -> torch.Tensor:
    tensor = torch.ones(count)
    tensor.untyped_storage().resize_(4 * (count - 1))
    return tensor


def twice(*shape: int) -> torch.Tensor:
    """Its elements lie in the same places."""
    return torch.zeros(1, *shape[1:]).expand(*shape)


def root(options: Any, rank: int) -> Any:
    options.rootRank = rank
    return options


def _outputs(size: int, tensor: torch.Tensor) -> Tensors:
    return [torch.zeros(tensor.shape) for _ in range(size - 1)] + [tensor]


def calls_of(rank: int, size: int, make: Callable[..., torch.Tensor]) -> dict[str, Callable[[], Any]]:
    """All operations that write to, or read, a tensor of 6 elements made so."""
    group = dist.group.WORLD
    assert group is not None
    full = [torch.ones(6) for _ in range(size)]
    other = (rank + 1) % size
    return {
        "all_reduce": lambda: dist.all_reduce(make(6)),
        "all_reduce_coalesced": lambda: dist.all_reduce_coalesced([torch.ones(2), make(6)]),
        "reduce": lambda: dist.reduce(make(6), 0),
        "broadcast": lambda: dist.broadcast(make(6), 0),
        "all_gather": lambda: dist.all_gather(_outputs(size, make(6)), torch.ones(6)),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(make(6 * size), torch.ones(6)),
        "all_gather_coalesced": lambda: dist.all_gather_coalesced(
            [[torch.ones(6)] for _ in range(size - 1)] + [[make(6)]], [torch.ones(6)]
        ),
        "gather": lambda: group.gather([_outputs(size, make(6))], [torch.ones(6)], root(C.GatherOptions(), rank)),
        "scatter": lambda: group.scatter([make(6)], [full], root(C.ScatterOptions(), rank)),
        "reduce_scatter": lambda: dist.reduce_scatter(make(6), full),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(make(6), torch.ones(6 * size)),
        "all_to_all": lambda: dist.all_to_all(_outputs(size, make(6)), full),
        "all_to_all_single": lambda: dist.all_to_all_single(make(6 * size), torch.ones(6 * size)),
        "recv": lambda: dist.irecv(make(6), other),
        "recv from anybody": lambda: dist.irecv(make(6)),
    }


def reading_of(rank: int, size: int, make: Callable[..., torch.Tensor]) -> dict[str, Callable[[], Any]]:
    group = dist.group.WORLD
    assert group is not None
    full, other = [torch.ones(6) for _ in range(size)], (rank + 1) % size
    return {
        "all_gather input": lambda: dist.all_gather([torch.ones(6) for _ in range(size)], make(6)),
        "all_gather_into_tensor input": lambda: dist.all_gather_into_tensor(torch.ones(6 * size), make(6)),
        "gather input": lambda: group.gather([full], [make(6)], root(C.GatherOptions(), rank)),
        "scatter input": lambda: group.scatter(
            [torch.ones(6)], [_outputs(size, make(6))], root(C.ScatterOptions(), rank)
        ),
        "reduce_scatter input": lambda: dist.reduce_scatter(torch.ones(6), _outputs(size, make(6))),
        "reduce_scatter_tensor input": lambda: dist.reduce_scatter_tensor(torch.ones(6), make(6 * size)),
        "all_to_all input": lambda: dist.all_to_all(full, _outputs(size, make(6))),
        "all_to_all_single input": lambda: dist.all_to_all_single(torch.ones(6 * size), make(6 * size)),
        "send": lambda: dist.send(make(6), other),
        "isend": lambda: dist.isend(make(6), other),
    }


def _said(call: Callable[[], Any]) -> list[str]:
    """The classes of what it raises, and the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            return [*(kind.__name__ for kind in type(error).__mro__), str(error)]
    return ["nothing"]


def refused(rank: int, size: int, what: str) -> dict[str, list[str]]:
    if what == "expanded":
        return {name: _said(call) for name, call in calls_of(rank, size, twice_of).items()}
    make = freed if what == "freed" else shrunk
    both = calls_of(rank, size, make) | reading_of(rank, size, make)
    return {name: _said(call) for name, call in both.items()}


def twice_of(count: int) -> torch.Tensor:
    return torch.zeros(1).expand(count)


def wrong(rank: int, size: int) -> dict[str, list[str]]:
    """Raised by torch's backends as RuntimeError, and with an index where there is a list."""
    group = dist.group.WORLD
    assert group is not None
    other = [torch.zeros(3, 2) for _ in range(size)]
    mixed = [torch.zeros(2, 3), *other[1:]]
    ours = torch.zeros(2, 3)
    same = torch.zeros(3)
    calls: dict[str, Callable[[], Any]] = {
        "all_gather at index 0": lambda: dist.all_gather(other, ours),
        "all_gather at index 1": lambda: dist.all_gather(mixed, ours),
        "gather at index 1": lambda: group.gather([mixed], [ours], root(C.GatherOptions(), rank)),
        "scatter at index 1": lambda: group.scatter([ours], [mixed], root(C.ScatterOptions(), rank)),
        "reduce_scatter at index": lambda: dist.reduce_scatter(torch.zeros(4), [torch.zeros(3) for _ in range(size)]),
        "all_gather list at index 0": lambda: dist.all_gather(other[1:], ours),
        "broadcast invalid root rank: 9": lambda: group.broadcast([ours], root(C.BroadcastOptions(), 9)),
        "send tag": lambda: group.send([ours], (rank + 1) % size, -1),
        "send rank 9": lambda: group.send([ours], 9, 0),
        "all_reduce BAND": lambda: dist.all_reduce(ours, dist.ReduceOp.BAND),
    }
    found = {name: _said(call) for name, call in calls.items()}
    shared: dict[str, Callable[[], Any]] = {
        "all_gather share memory": lambda: dist.all_gather([same] * size, torch.zeros(3)),
        "all_to_all share memory": lambda: dist.all_to_all([same] * size, [torch.zeros(3) for _ in range(size)]),
        "gather share memory": lambda: group.gather([[same] * size], [torch.zeros(3)], root(C.GatherOptions(), rank)),
    }
    found |= {name: _said(call) for name, call in shared.items()}
    return found


def unusual(rank: int, size: int) -> dict[str, Any]:
    """Arguments that Gloo takes, and its results for them."""
    found: dict[str, Any] = {}
    group = dist.group.WORLD
    assert group is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.tensor([1.0 + rank])
        dist.all_reduce_coalesced([one, one])
        found["coalesced twice"] = one
        base = torch.arange(6.0) + rank
        dist.all_reduce_coalesced([base[:4], base[2:]])
        found["coalesced overlapping"] = base
        for count in (1, 20_000):
            out = torch.zeros((rank + 1) * count)
            dist.reduce_scatter(out, [torch.full(((k + 1) * count,), 1.0 + rank + 10 * k) for k in range(size)])
            found[f"reduce_scatter uneven {count}"] = out
        several = [torch.full((5,), 1.0 + rank), torch.full((5,), 10.0 + rank)]
        group.allreduce(several).wait()
        found["all_reduce of several"] = several
        options = C.BroadcastOptions()
        options.rootRank, options.rootTensor = size - 1, 1
        both = [torch.full((5,), 1.0 + rank), torch.full((5,), 10.0 + rank)]
        group.broadcast(both, options).wait()
        found["broadcast of several"] = both
        lists = [[torch.zeros(3) for _ in range(2 * size)] for _ in range(2)]
        group.allgather(lists, [torch.full((3,), 1.0 + rank), torch.full((3,), 10.0 + rank)]).wait()
        found["all_gather of several"] = lists
        whole = torch.arange(4.0 * size) + 100 * rank
        dist.reduce_scatter_tensor(whole[:4], whole.clone())
        found["reduce_scatter_tensor"] = whole
    return found


def in_place(rank: int, size: int, count: int) -> list[bool]:
    """Inputs that lie in what is written."""
    found = []
    given = [torch.arange(float(count * size)) + 1000 * other for other in range(size)]
    mine = slice(rank * count, (rank + 1) * count)
    tensor = given[rank].clone()
    dist.all_gather_into_tensor(tensor, tensor[mine])
    found.append(
        torch.equal(tensor, torch.cat([given[other][other * count : (other + 1) * count] for other in range(size)]))
    )
    tensor = given[rank].clone()
    dist.all_gather_into_tensor(tensor, tensor[1 : 1 + count])
    found.append(torch.equal(tensor, torch.cat([given[other][1 : 1 + count] for other in range(size)])))
    for at in (mine, slice(0, count), slice(1, 1 + count)):
        tensor = given[rank].clone()
        dist.reduce_scatter_tensor(tensor[at], tensor)
        found.append(torch.equal(tensor[at], torch.stack(given).sum(0)[mine]))
    tensor = given[rank].clone()
    dist.all_to_all_single(tensor, tensor)
    found.append(torch.equal(tensor, torch.cat([given[other][mine] for other in range(size)])))
    tensor = given[rank].clone().view(count, size)  # outputs that interleave, and share nothing
    dist.all_gather(list(tensor.unbind(1)), torch.full((count,), float(rank)))
    found.append(torch.equal(tensor, torch.arange(float(size)).expand(count, size)))
    return found


def nan(rank: int, size: int, access: int | None) -> list[str]:
    """Where a minimum or maximum differs from torch's own over the same values."""
    found = []
    with regions.placed(access):
        for dtype in FLOATS:
            for name, own in (("MIN", torch.minimum), ("MAX", torch.maximum)):
                for count in (1, 7, 100, 40_003):
                    given = []
                    for other in range(size):
                        values = torch.randn(count, generator=torch.Generator().manual_seed(other + count))
                        values[other::5] = float("nan")
                        values[3::7] = float("inf")
                        given.append(values.to(getattr(torch, dtype)))
                    expected = given[0].to(torch.float64)
                    for other in given[1:]:
                        expected = own(expected, other.to(torch.float64))
                    tensor = given[rank].clone()
                    dist.all_reduce(tensor, getattr(dist.ReduceOp, name))
                    if not torch.equal(tensor.double().nan_to_num(99), expected.nan_to_num(99)):
                        found.append(f"{dtype} {name} {count}")
                del tensor, given
    return found


def inference(rank: int, size: int) -> list[list[float]]:
    """Strided inference tensors are received into, however the receive ends, and are outputs of calls."""
    found = []
    with torch.inference_mode():
        column = torch.zeros(4, 4)[:, 1]
        if rank == 0:
            dist.send(torch.full((4,), 5.0), 1)
            dist.send(torch.full((4,), 6.0), 1)
        else:
            work: Any = dist.irecv(column, 0)
            work.get_future().wait()
            work.wait()
            found.append(column.tolist())
            dist.recv(column, 0)
            found.append(column.tolist())
        mean = torch.full((4, 4), float(rank))[:, 2]
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    found.append(mean.tolist())
    with torch.inference_mode():
        outs = list(torch.zeros(3, size).unbind(1))
    works: Any = dist.all_gather(outs, torch.full((3,), float(rank)), async_op=True)
    works.wait()
    found += [out.tolist() for out in outs]
    return found


def different(rank: int, size: int, what: str) -> list[str]:
    """Members that wait for each other in calls of different kinds."""
    group = dist.new_group(list(range(size)))
    tensor = torch.ones(3)

    def call() -> None:
        if what == "two roots":
            dist.reduce(tensor, rank, group=group)
        elif what == "gather and scatter":
            if rank == 0:
                dist.gather(tensor, [torch.ones(3) for _ in range(size)], 0, group=group)
            else:
                dist.scatter(tensor, None, 0, group=group)
        elif rank == 0:
            dist.reduce(tensor, 0, group=group)
        else:
            dist.broadcast(tensor, 0, group=group)

    return _said(call)
