"""torch.distributed over rdmatensor and Gloo, `Team`, and MPI, with any number of ranks: medians of calls by operation.

    python benchmarks/collectives.py [--ranks 4] [--backends rdmatensor rdmatensor-region team gloo mpi] [--json NAME]

For more ranks than `rdmatensor bench collectives` takes, and with send and receive, one backend after the other;
RDMATENSOR_TORCH_URL names another device than shared memory. rdmatensor-region has its tensors in a region. `team`
is rdmatensor.Team with prepared calls on NumPy arrays, team-region with arrays in a region. Every
rank calls the operation again and again with a tensor of its own; rank 0's time of a call counts. A send is
half of a send and the answer to it. MPI needs Open MPI's `mpirun` and mpi4py, and is left out, with a word, where they
are not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from measure import write

import rdmatensor
from rdmatensor.settings.config import torch_url

SIZES = (64, 4 << 10, 64 << 10, 1 << 20, 16 << 20)
OPERATIONS = ("all_reduce", "send", "broadcast", "all_gather", "reduce_scatter", "barrier")
SECONDS = 0.35
"""About how long one figure is measured."""


def timed(call: Callable[[], None], agree: Callable[[int], int]) -> float:
    """The median of a call in seconds. All ranks make the same number of calls: `agree` gives everybody rank 0's."""
    for _ in range(3):
        call()
    began = time.perf_counter()
    for _ in range(3):
        call()
    count = agree(int(min(max(SECONDS / max((time.perf_counter() - began) / 3, 1e-7), 7), 3000)))
    found = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def torch_calls(rank: int, size: int, nbytes: int) -> dict[str, Callable[[], None]]:
    import torch
    import torch.distributed as dist

    count = nbytes // 4
    whole, part = torch.ones(count), torch.ones(max(count // size, 1))
    spread = torch.ones(part.numel() * size)

    # torch 2.13 named two of them anew, and warns at each call by the old name
    all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
    reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

    def send() -> None:
        if rank == 0:
            dist.send(whole, 1)
            dist.recv(whole, 1)
        elif rank == 1:
            dist.recv(whole, 0)
            dist.send(whole, 0)

    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "send": send,
        "broadcast": lambda: dist.broadcast(whole, 0),
        "all_gather": lambda: all_gather(spread, part),
        "reduce_scatter": lambda: reduce_scatter(part, spread),
        "barrier": dist.barrier,
    }


def team_calls(team: rdmatensor.Team, region: rdmatensor.Region | None, nbytes: int) -> dict[str, Callable[[], None]]:
    import numpy as np

    def array(*shape: int) -> Any:
        if region is None:
            return np.ones(shape, np.float32)
        made = region.empty(shape, "float32").numpy()
        made.fill(1)
        return made

    count = nbytes // 4
    share = max(count // team.size, 1)
    whole, part, spread = array(count), array(share), array(team.size, share)

    def send() -> None:
        if team.rank == 0:
            team.send(whole, 1)
            team.recv(whole, 1)
        elif team.rank == 1:
            team.recv(whole, 0)
            team.send(whole, 0)

    prepare = team.prepare
    return {
        "all_reduce": prepare("all_reduce", whole, out=whole),
        "send": send,
        "broadcast": prepare("broadcast", whole, 0),
        "all_gather": prepare("all_gather", part, out=spread),
        "reduce_scatter": prepare("reduce_scatter", spread.reshape(-1), out=part),
        "barrier": prepare("barrier"),
    }


def team_rank(
    rank: int, size: int, backend: str, folder: str, sizes: list[int], operations: list[str], out: Any
) -> None:
    import numpy as np

    with rdmatensor.Team.join(rank=rank, size=size, folder=folder, url=torch_url(), timeout=600) as team:

        def agree(count: int) -> int:
            return int(team.broadcast(np.array([count]))[0])

        access = rdmatensor.Access.REMOTE_READ | rdmatensor.Access.REMOTE_WRITE
        in_region = backend.endswith("-region")
        for nbytes in sizes:
            region = team.device.region(4 * nbytes + (1 << 20), access=access) if in_region else None
            calls = team_calls(team, region, nbytes)
            for operation in operations:
                seconds = timed(calls[operation], agree)
                if rank == 0:
                    out.put((operation, nbytes, seconds / 2 if operation == "send" else seconds))
                team.barrier()
            del calls, region
    if rank == 0:
        out.put(None)


def torch_rank(
    rank: int, size: int, backend: str, store: str, sizes: list[int], operations: list[str], out: Any
) -> None:
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    import torch
    import torch.distributed as dist

    import rdmatensor.torch

    torch.set_num_threads(1)
    dist.init_process_group(backend.removesuffix("-region"), init_method=f"file://{store}", rank=rank, world_size=size)

    def agree(count: int) -> int:
        told = torch.tensor([count])
        dist.broadcast(told, 0)
        return int(told)

    if backend.endswith("-region"):
        access = rdmatensor.Access.REMOTE_READ | rdmatensor.Access.REMOTE_WRITE
        region = rdmatensor.torch.device().region(8 * max(sizes) + (1 << 20), access=access)
        rdmatensor.torch.allocate_in(region, when_full="raise")
    for nbytes in sizes:
        calls = torch_calls(rank, size, nbytes)
        for operation in operations:
            seconds = timed(calls[operation], agree)
            if rank == 0:
                out.put((operation, nbytes, seconds / 2 if operation == "send" else seconds))
            dist.barrier()
        del calls
    rdmatensor.torch.allocate_in(None)
    dist.destroy_process_group()
    if rank == 0:
        out.put(None)


def over_ranks(backend: str, size: int, sizes: list[int], operations: list[str]) -> dict[str, dict[int, float]]:
    context = multiprocessing.get_context("spawn")
    team = backend.startswith("team")
    with tempfile.TemporaryDirectory() as folder:
        out = context.Queue()
        ranks = [
            context.Process(
                target=team_rank if team else torch_rank,
                args=(rank, size, backend, folder if team else f"{folder}/store", sizes, operations, out),
            )
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        found: dict[str, dict[int, float]] = {operation: {} for operation in operations}
        while (row := out.get(timeout=600)) is not None:
            found[row[0]][row[1]] = row[2]
        for process in ranks:
            process.join(60)
    return found


def mpi_rank(sizes: list[int], operations: list[str]) -> None:
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    found: dict[str, dict[int, float]] = {operation: {} for operation in operations}
    for nbytes in sizes:
        count = nbytes // 4
        whole, result = np.ones(count, np.float32), np.ones(count, np.float32)
        part = np.ones(max(count // size, 1), np.float32)
        spread = np.ones(part.size * size, np.float32)

        def send(whole: Any = whole) -> None:
            if rank == 0:
                world.Send(whole, 1)
                world.Recv(whole, 1)
            elif rank == 1:
                world.Recv(whole, 0)
                world.Send(whole, 0)

        calls: dict[str, Callable[[], None]] = {
            "all_reduce": lambda whole=whole, result=result: world.Allreduce(whole, result),
            "send": send,
            "broadcast": lambda whole=whole: world.Bcast(whole, 0),
            "all_gather": lambda part=part, spread=spread: world.Allgather(part, spread),
            "reduce_scatter": lambda part=part, spread=spread: world.Reduce_scatter_block(spread, part),
            "barrier": world.Barrier,
        }
        for operation in operations:
            seconds = timed(calls[operation], lambda count: int(world.bcast(count, 0)))
            found[operation][nbytes] = seconds / 2 if operation == "send" else seconds
            world.Barrier()
    if rank == 0:
        print(json.dumps(found))


def over_mpi(size: int, sizes: list[int], operations: list[str]) -> dict[str, dict[int, float]] | None:
    if shutil.which("mpirun") is None:
        print("mpi: left out, there is no mpirun (apt-get install openmpi-bin libopenmpi-dev; pip install mpi4py)")
        return None
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(size), "--mca", "btl", "self,vader"]
    given = [sys.executable, __file__, "--mpi-rank", "--sizes", *map(str, sizes), "--operations", *operations]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        print(f"mpi: left out: {done.stderr.strip()[-300:]}")
        return None
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    return {operation: {int(nbytes): seconds for nbytes, seconds in row.items()} for operation, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument(
        "--backends", nargs="*", default=["rdmatensor", "rdmatensor-region", "team", "team-region", "gloo", "mpi"]
    )
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--operations", nargs="*", default=list(OPERATIONS))
    parser.add_argument("--json", help="name of the result in benchmarks/results")
    parser.add_argument("--mpi-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mpi_rank:
        mpi_rank(options.sizes, options.operations)
        return
    found: dict[str, Any] = {}
    for backend in options.backends:
        rows = (
            over_mpi(options.ranks, options.sizes, options.operations)
            if backend == "mpi"
            else over_ranks(backend, options.ranks, options.sizes, options.operations)
        )
        if rows is not None:
            found[backend] = rows
    for operation in options.operations:
        print(f"\n{operation}, {options.ranks} ranks, microseconds")
        print("     bytes " + "".join(f"{name:>18}" for name in found))
        for nbytes in options.sizes:
            print(f"{nbytes:>10} " + "".join(f"{found[name][operation][nbytes] * 1e6:>18.1f}" for name in found))
    if options.json:
        results = [
            {"backend": name, "operation": operation, "ranks": options.ranks, "bytes": nbytes, "seconds": seconds}
            for name, rows in found.items()
            for operation, row in rows.items()
            for nbytes, seconds in row.items()
        ]
        provider = torch_url().partition("://")[0] or "shm"
        print(f"written to {write(options.json, results, provider, load=os.environ.get('HOST_LOAD'))}")


if __name__ == "__main__":
    main()
