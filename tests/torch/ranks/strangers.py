"""Runs ranks as a newcomer would, without paying for `import torch` each time.

A process that has imported torch, and holds nothing of rdmatensor, forks them. They end after the interpreter's exit
functions, and where a group was left behind through the whole of its end.

Started as a program by test_strangers_day.py, which writes one order (JSON) a line and reads one answer a line. An
order names one of the functions here that begin with `day_`, the number of ranks, and signals: the rank that gets one,
its name, and the seconds after "ready" was said. With --user the process becomes that user first, who has no entry in
the system's list and no HOME.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import os
import selectors
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

# Modules that ranks import later are imported here: another user may not be able to read the interpreter's files.
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.algorithms.ddp_comm_hooks.default_hooks as hooks
from torch.nn.parallel import DistributedDataParallel

import rdmatensor.team.joining
import rdmatensor.torch.backend
import rdmatensor.torch.build

LARGE = 1 << 22  # elements: more than a message of a group can hold, so that a send of it waits for its receiver

# ---- what a newcomer does ----


def day_hello(rank: int, size: int) -> None:
    pass


def day_groups(rank: int, size: int) -> None:
    """A group in which nothing happens."""
    dist.destroy_process_group(dist.new_group())


def day_threads(rank: int, size: int) -> None:
    """Two groups, made in two threads at once, and used there."""
    store = dist.distributed_c10d._get_default_store()
    found: dict[str, float] = {}

    def run(name: str) -> None:
        group = dist.ProcessGroup(dist.PrefixStore(name, store), rank, size)
        backend = rdmatensor.torch.backend.create_split(
            dist.PrefixStore(f"{name}/backend", store), rank, size, timedelta(seconds=900)
        )
        group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.CUSTOM, backend)
        tensor = torch.ones(100) * (rank + 1)
        backend.allreduce([tensor]).wait()
        found[name] = tensor[0].item()

    names = ["a", "b"] if rank % 2 == 0 else ["b", "a"]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = float(sum(range(1, size + 1)))
    assert found == {"a": total, "b": total}, found


def day_hook(rank: int, size: int) -> None:
    """DDP whose gradients go through a hook in half precision; all ranks end with the same parameters."""
    torch.manual_seed(rank)
    model = DistributedDataParallel(torch.nn.Linear(8, 8))
    model.register_comm_hook(None, hooks.fp16_compress_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    mine = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(theirs, mine)
    assert all(torch.equal(mine, other) for other in theirs)


def day_fork(rank: int, size: int) -> None:
    """A child in the middle, as a data loader makes, that ends on its own; the group goes on."""
    tensor = torch.ones(10)
    dist.all_reduce(tensor)
    child = os.fork()
    if child == 0:
        sys.exit(0)  # through atexit, with the group it has from its parent
    assert os.waitpid(child, 0)[1] == 0
    dist.all_reduce(tensor)
    assert tensor[0].item() == size * size


def day_leave(rank: int, size: int) -> None:
    """A last call, and out, without destroy_process_group."""
    dist.all_reduce(torch.ones(10))
    sys.exit(0)


def day_recv(rank: int, size: int) -> None:
    _met("ready" if rank == 0 else "waits")
    dist.recv(torch.zeros(4), 1 if rank == 0 else 0)


def day_barrier(rank: int, size: int) -> None:
    _blocked(rank, dist.barrier)


def day_all_reduce(rank: int, size: int) -> None:
    _blocked(rank, lambda: dist.all_reduce(torch.ones(100_000)))


def day_send(rank: int, size: int) -> None:
    _blocked(rank, lambda: dist.send(torch.ones(LARGE), 1))


def day_new_group(rank: int, size: int) -> None:
    _blocked(rank, dist.new_group)


def day_late(rank: int, size: int) -> None:
    """The others make a group that rank 0 never comes to."""
    _met("ready" if rank == 0 else "waits")
    if rank == 0:
        dist.recv(torch.zeros(4), 1)
    else:
        dist.new_group()


def day_everything(rank: int, size: int) -> None:
    """All ranks call one thing after the other, for ever: the signal meets any moment of any of them."""
    _met("ready" if rank == 0 else "works")
    for _ in range(10_000_000):
        dist.all_reduce(torch.ones(1000))
        dist.barrier()
        group = dist.new_group()
        dist.all_reduce(torch.ones(100_000), group=group)
        dist.destroy_process_group(group)


def _blocked(rank: int, call: Callable[[], Any]) -> None:
    """Rank 0 calls what the others do not join, but wait in a receive from it."""
    _met("ready" if rank == 0 else "waits")
    if rank == 0:
        call()
    else:
        dist.recv(torch.zeros(4), 0, tag=9)


def _met(word: str) -> None:
    dist.barrier()
    print(word, flush=True)


# ---- one rank ----


def _rank(order: dict[str, Any], rank: int, folder: str, ports: tuple[int, int]) -> None:
    """Init, the function, destroy. An exception ends the program, as it would a newcomer's."""
    size = int(order["size"])
    store: dist.Store
    if order["store"] == "file":
        store = dist.FileStore(f"{folder}/store", size)
    elif rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
        os.write(ports[1], f"{store.port:8d}".encode() * (size - 1))
    else:
        store = dist.TCPStore("127.0.0.1", int(os.read(ports[0], 8)), size, is_master=False)
    dist.init_process_group("rdmatensor", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=900))
    print(f"hello from {rank} of {size}", flush=True)
    globals()[f"day_{order['day']}"](rank, size)
    dist.destroy_process_group()


def _ended(order: dict[str, Any], rank: int, folder: str, ports: tuple[int, int]) -> int:
    """Runs a rank up to the interpreter's exit functions, and what is raised is printed: its exit code."""
    code = 0
    try:
        _rank(order, rank, folder, ports)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code


def _become_rank(order: dict[str, Any], rank: int, folder: str, ports: tuple[int, int], said: int) -> None:
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(said)
    os.close(0)
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    torch.set_num_threads(1)
    if order["day"] != "leave":
        # The rest of the interpreter's end takes down torch, which costs more than all before it.
        os._exit(_ended(order, rank, folder, ports))
    _rank(order, rank, folder, ports)


# ---- the ranks of one order ----


class Rank:
    """One that was forked: its process, what it said, and how it ended."""

    def __init__(self, process: int, pipe: int) -> None:
        self.process = process
        self.pipe = pipe
        self.said = ""
        self.code: int | None = None


def _watch(ranks: list[Rank], order: dict[str, Any]) -> bool:
    """Until all have ended: passes signals on when they are due. Whether all ended in time."""
    signals = [(int(rank), str(name), float(delay)) for rank, name, delay in order["signals"]]
    due: list[tuple[float, int, str]] = []
    deadline = time.monotonic() + float(order["limit"])
    with selectors.DefaultSelector() as selector:
        for index, rank in enumerate(ranks):
            selector.register(rank.pipe, selectors.EVENT_READ, index)
        while selector.get_map():
            now = time.monotonic()
            for entry in [entry for entry in due if entry[0] <= now]:
                due.remove(entry)
                os.kill(ranks[entry[1]].process, getattr(signal, entry[2]))
            if now > deadline:
                return False
            until = min([deadline, *(moment for moment, _, _ in due)])
            for key, _ in selector.select(max(until - now, 0.0)):
                rank = ranks[key.data]
                text = os.read(rank.pipe, 1 << 16)
                if not text:
                    selector.unregister(rank.pipe)
                    rank.code = os.waitstatus_to_exitcode(os.waitpid(rank.process, 0)[1])
                    continue
                fresh = "ready" not in rank.said
                rank.said += text.decode(errors="replace")
                if fresh and "ready" in rank.said:
                    due += [(time.monotonic() + delay, who, name) for who, name, delay in signals]
    return True


def _end(ranks: list[Rank]) -> None:
    """Those that hang: first they say where."""
    for rank in ranks:
        if rank.code is None:
            os.kill(rank.process, signal.SIGUSR1)
    for rank in ranks:
        if rank.code is None:
            with selectors.DefaultSelector() as selector:
                selector.register(rank.pipe, selectors.EVENT_READ)
                if selector.select(5.0):
                    rank.said += os.read(rank.pipe, 1 << 16).decode(errors="replace")
            os.kill(rank.process, signal.SIGKILL)
            os.waitpid(rank.process, 0)


def _run(order: dict[str, Any], folder: str) -> dict[str, Any] | None:
    """Forks the ranks of an order, and tells how they ended; None in a rank, which has to end now."""
    ports = os.pipe()
    ranks: list[Rank] = []
    for index in range(int(order["size"])):
        ours, theirs = os.pipe()
        process = os.fork()
        if process == 0:
            _become_rank(order, index, folder, ports, theirs)
            return None
        os.close(theirs)
        ranks.append(Rank(process, ours))
    os.close(ports[0])
    os.close(ports[1])
    in_time = _watch(ranks, order)
    if not in_time:
        _end(ranks)
    for rank in ranks:
        os.close(rank.pipe)
    return {
        "codes": [rank.code for rank in ranks],
        "said": [rank.said for rank in ranks],
    }


def main() -> None:
    if sys.argv[1:2] == ["--user"]:
        user = int(sys.argv[2])
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    gc.freeze()  # a rank's collections leave torch's pages shared
    print("up", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        folder = tempfile.mkdtemp(dir=order["folder"])
        answer = _run(order, folder)
        if answer is None:
            return
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
