"""The functions of ranks in tests: each function runs in every rank of a group, and returns what is compared."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

REDUCTIONS = ("SUM", "PRODUCT", "MIN", "MAX")
FLOATS = ("float16", "float32", "float64")
WHOLES = ("uint8", "int8", "int32", "int64")
SIZES = (1, 5, 1000, 70_001, 400_003)


def values(dtype: str, count: int, rank: int) -> torch.Tensor:
    """Small whole numbers, so that every order of adding gives the same."""
    return ((torch.arange(count) * (rank + 3) + rank) % 5 + 1).to(getattr(torch, dtype))


def reduces(rank: int, size: int) -> dict[str, torch.Tensor]:
    found = {}
    for dtype in FLOATS + WHOLES:
        for name in REDUCTIONS:
            for count in SIZES:
                tensor = values(dtype, count, rank)
                dist.all_reduce(tensor, getattr(dist.ReduceOp, name))
                found[f"all_reduce {dtype} {name} {count}"] = tensor
    for root in range(size):
        for count in SIZES:
            tensor = values("float32", count, rank)
            dist.reduce(tensor, root)
            if rank == root:
                found[f"reduce {root} {count}"] = tensor
    return found


def bits(rank: int, size: int) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("BAND", "BOR", "BXOR"):
        for dtype in WHOLES:
            tensor = values(dtype, 1000, rank)
            dist.all_reduce(tensor, getattr(dist.ReduceOp, name))
            found[f"{dtype} {name}"] = tensor
    return found


def spreads(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Broadcast, gather, scatter, all of the all-to-alls, and the reduce-scatters."""
    found = {}
    for dtype in (*FLOATS, *WHOLES, "bool"):
        for count in SIZES:
            for root in range(size):
                tensor = values(dtype, count, rank)
                dist.broadcast(tensor, root)
                found[f"broadcast {dtype} {count} {root}"] = tensor
    for count in SIZES:
        mine = values("float32", count, rank)
        parts = [torch.empty(count) for _ in range(size)]
        dist.all_gather(parts, mine)
        found[f"all_gather {count}"] = torch.stack(parts)
        whole = torch.empty(size * count)
        dist.all_gather_into_tensor(whole, mine)
        found[f"all_gather_into_tensor {count}"] = whole
        for root in range(size):
            kept = [torch.empty(count) for _ in range(size)] if rank == root else None
            dist.gather(mine, kept, root)
            if kept is not None:
                found[f"gather {count} {root}"] = torch.stack(kept)
            out = torch.empty(count)
            dist.scatter(
                out, [values("float32", count, other + 7) for other in range(size)] if rank == root else None, root
            )
            found[f"scatter {count} {root}"] = out
        out = torch.empty(count)
        dist.reduce_scatter(out, [values("float32", count, rank + 10 * other) for other in range(size)])
        found[f"reduce_scatter {count}"] = out
        out = torch.empty(count)
        dist.reduce_scatter_tensor(
            out, torch.cat([values("float32", count, rank + 10 * other) for other in range(size)])
        )
        found[f"reduce_scatter_tensor {count}"] = out
        out = torch.empty(size * count)
        dist.all_to_all_single(out, torch.cat([values("float32", count, rank + 10 * other) for other in range(size)]))
        found[f"all_to_all_single {count}"] = out
    # uneven: rank r sends (r + other) % 3 rows to `other`
    sends = [(rank + other) % 3 for other in range(size)]
    out = torch.empty(sum(sends), 5)
    dist.all_to_all_single(out, values("float32", sum(sends) * 5, rank).view(-1, 5), sends, sends)
    found["all_to_all_single uneven"] = out
    return found


def all_to_all_lists(rank: int, size: int) -> torch.Tensor:
    out = [torch.empty(other + rank + 1) for other in range(size)]
    dist.all_to_all(out, [torch.full((other + rank + 1,), float(10 * rank + other)) for other in range(size)])
    return torch.cat(out)


def passes(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Sends and receives: around the ring, with tags out of order, from anybody, batched, both ways at once."""
    found = {}
    after, before = (rank + 1) % size, (rank - 1) % size
    for count in (0, *SIZES, 2_000_000):
        send = dist.isend(values("float32", count, rank), after)
        got = torch.empty(count)
        dist.recv(got, before)
        send.wait()
        found[f"ring {count}"] = got
    for count in (10, 100_000):
        sends = [dist.isend(values("int64", count, rank * 100 + tag), after, tag=tag) for tag in range(4)]
        for tag in (2, 0, 3, 1):
            got = torch.empty(count, dtype=torch.int64)
            dist.recv(got, before, tag=tag)
            found[f"tag {tag} {count}"] = got
        for send in sends:
            send.wait()
    if rank == 0:
        got = torch.zeros(size, dtype=torch.int64)
        for _ in range(size - 1):
            one = torch.zeros(1, dtype=torch.int64)
            source = dist.recv(one, tag=9)
            got[source] = one
        found["from anybody"] = got
    else:
        dist.send(torch.tensor([rank * 11]), 0, tag=9)
    out = torch.empty(300_000)
    operations = [
        dist.P2POp(dist.isend, torch.full((300_000,), float(rank)), after),
        dist.P2POp(dist.irecv, out, before),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    found["batch"] = out
    return found


def objects(rank: int, size: int) -> list[Any]:
    everybody: list[Any] = [None] * size
    dist.all_gather_object(everybody, {"rank": rank, "text": "x" * (rank * 1000)})
    told = [f"from {rank}", rank]
    dist.broadcast_object_list(told, src=size - 1)
    kept: list[Any] | None = [None] * size if rank == 0 else None
    dist.gather_object((rank, "g"), kept)
    got: list[Any] = [None]
    dist.scatter_object_list(got, [f"for {other}" for other in range(size)] if rank == 0 else None)
    return [everybody, told, kept, got]


def strides(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Tensors that are not contiguous."""
    found = {}
    turned = values("float32", 6000, rank).view(60, 100).t()
    dist.all_reduce(turned)
    found["all_reduce"] = turned.contiguous()
    sparse = torch.zeros(1000)[::2]
    if rank == 0:
        sparse.copy_(values("float32", 500, 3))
    dist.broadcast(sparse, 0)
    found["broadcast"] = sparse.contiguous()
    return found


def groups(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Groups of some of the members; every one with all; each used again after others."""
    found = {}
    made = {f"without {left}": [other for other in range(size) if other != left] for left in range(size)}
    handles = {name: dist.new_group(members) for name, members in made.items()}
    for _ in range(2):
        for name, members in made.items():
            if rank in members:
                tensor = values("float32", 30_000, rank)
                dist.all_reduce(tensor, group=handles[name])
                found[name] = tensor
    for name, members in made.items():
        if rank in members:
            dist.destroy_process_group(handles[name])
    tensor = values("float32", 1000, rank)
    dist.all_reduce(tensor)
    found["world"] = tensor
    return found


def overlaps(rank: int, size: int) -> list[torch.Tensor]:
    """Many at once, waited for out of order; futures with callbacks; sends between collectives."""
    tensors = [values("float32", 1000 * (index + 1), rank + index) for index in range(8)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    assert works[0] is not None
    got = torch.empty(50_000)
    receive = dist.irecv(got, (rank - 1) % size)
    send = dist.isend(values("float32", 50_000, rank), (rank + 1) % size)
    doubled = works[3].get_future().then(lambda future: future.value()[0] * 2)  # type: ignore[union-attr]
    for work in reversed(works):
        work.wait()  # type: ignore[union-attr]
    receive.wait()  # type: ignore[union-attr]
    send.wait()  # type: ignore[union-attr]
    return [*tensors, got, doubled.wait()]


def coalesced(rank: int, size: int) -> list[torch.Tensor]:
    tensors = [values("float32", count, rank) for count in (3, 70_000, 11)]
    dist.all_reduce_coalesced(tensors)
    outputs = [[torch.empty(4), torch.empty(2, 3)] for _ in range(size)]
    dist.all_gather_coalesced(outputs, [values("float32", 4, rank), values("float32", 6, rank).view(2, 3)])
    return [*tensors, *(tensor for part in outputs for tensor in part)]


def sparse(rank: int, size: int) -> torch.Tensor:
    indices = torch.tensor([[0, rank + 1, 9]])
    tensor = torch.sparse_coo_tensor(indices, values("float32", 3, rank), (10,))
    dist.all_reduce(tensor)
    return tensor.to_dense()


def averages(rank: int, size: int) -> dict[str, Any]:
    """Operations that Gloo does not have: averages, and element types it does not take."""
    found = {}
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        tensor = values(dtype, 1001, rank)
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
        found[f"AVG {dtype}"] = (tensor, sum(values(dtype, 1001, other) for other in range(size)) / size)
    for dtype in ("bfloat16", "int16", "uint16", "uint32", "uint64"):
        for name, both in (("SUM", torch.add), ("MAX", torch.maximum)):
            tensor = values(dtype, 70_001, rank)
            dist.all_reduce(tensor, getattr(dist.ReduceOp, name))
            expected = values("int64", 70_001, 0)
            for other in range(1, size):
                expected = both(expected, values("int64", 70_001, other))
            found[f"{name} {dtype}"] = (tensor, expected.to(getattr(torch, dtype)))
    for dtype in ("float8_e4m3fn", "float8_e5m2", "uint64", "complex64", "bool"):
        tensor = values("float32", 999, rank).to(getattr(torch, dtype))
        expected = values("float32", 999, 1).to(getattr(torch, dtype))
        dist.broadcast(tensor, 1)
        found[f"broadcast {dtype}"] = (tensor.view(torch.uint8), expected.view(torch.uint8))
    truth = torch.tensor([rank == 0, True, False])
    dist.all_reduce(truth, dist.ReduceOp.MAX)
    found["bool MAX"] = (truth, torch.tensor([True, True, False]))
    return found


def provider(rank: int, size: int) -> str:
    from rdmatensor.torch import provider

    return provider()
