"""The functions of ranks that make, use and leave groups, early, late, in threads and in great number."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import rdmatensor as rt
import rdmatensor.torch
from rdmatensor.team import fabric, joining


def make_and_leave(rank: int, size: int, rounds: int) -> int:
    """Groups in which nothing happens: whoever is quick has left before others have begun."""
    for _ in range(rounds):
        group = dist.new_group()
        dist.destroy_process_group(group)
    return rounds


def begin_and_end(rank: int, size: int, folder: str, rounds: int) -> int:
    """`init_process_group`, a line, `destroy_process_group`: in a process that was in another group before."""
    dist.barrier()
    dist.destroy_process_group()
    for index in range(rounds):
        store = f"file://{folder}/hello-{index}"
        dist.init_process_group(
            "rdmatensor", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
        dist.destroy_process_group()
    dist.init_process_group("rdmatensor", init_method=f"file://{folder}/last", rank=rank, world_size=size)
    return rounds


def _joined(store: dist.Store, name: str, rank: int, size: int, members: dict[str, object]) -> None:
    try:
        members[name] = joining.join(dist.PrefixStore(name, store), rank, size, 60)
    except Exception as error:
        members[name] = error


def opposite_orders(rank: int, size: int, folder: str) -> list[str]:
    """Two threads make two groups; which of them begins first differs from rank to rank."""
    store = dist.FileStore(f"{folder}/orders", size)
    members: dict[str, object] = {}
    names = ["a", "b"] if rank % 2 == 0 else ["b", "a"]
    first = threading.Thread(target=_joined, args=(store, names[0], rank, size, members))
    first.start()
    store.set(f"begun-{rank}", "")
    store.wait([f"begun-{peer}" for peer in range(size)], timedelta(seconds=60))  # every rank is inside its first
    second = threading.Thread(target=_joined, args=(store, names[1], rank, size, members))
    second.start()
    for thread in (first, second):
        thread.join(90)
    found = sorted(name if isinstance(member, joining.Member) else str(member) for name, member in members.items())
    for member in members.values():
        if isinstance(member, joining.Member):
            member.end()
    return found


def questions_meanwhile(rank: int, size: int, folder: str) -> tuple[bool, float]:
    """The answers of `provider`, `device` and `stats` while a group awaits its last member, and their times."""
    store = dist.FileStore(f"{folder}/questions", size)
    members: dict[str, object] = {}
    if rank == size - 1:
        store.wait([f"asked-{peer}" for peer in range(size - 1)], timedelta(seconds=60))
    thread = threading.Thread(target=_joined, args=(store, "late", rank, size, members))
    thread.start()
    took = 0.0
    if rank < size - 1:
        store.wait([f"late/host/{rank}"], timedelta(seconds=60))  # it is in the making
        began = time.monotonic()
        rdmatensor.torch.provider()
        rdmatensor.torch.device()
        rdmatensor.torch.stats()
        took = time.monotonic() - began
        store.set(f"asked-{rank}", "")
    thread.join(90)
    made = isinstance(members.get("late"), joining.Member)
    if made:
        members["late"].end()  # type: ignore[attr-defined]
    return made, took


def one_gives_up(rank: int, size: int, folder: str) -> tuple[str, float]:
    """The last rank fails after its card is there; returns the words that the others are told, and after how long."""
    store = dist.PrefixStore("trouble", dist.FileStore(f"{folder}/trouble", size))
    began = time.monotonic()
    if rank == size - 1:
        meeting = joining._Meeting(store, rank, size, 60)
        made = fabric.acquire(meeting.hosts)
        meeting.put(card={"nonce": meeting.nonce, "places": {}, **made.card, "device": bytes(16).hex()})
        meeting.give_up(RuntimeError("no memory for this group"))
        made.release(None)
        return "gave up", 0.0
    try:
        joining.join(store, rank, size, 60)
    except rt.PeerLost as error:
        return str(error), time.monotonic() - began
    return "made", 0.0


def one_never_begins(rank: int, size: int, folder: str) -> str:
    """The last rank fails before its card is there; returns the words that the others are told."""
    store = dist.PrefixStore("begins", dist.FileStore(f"{folder}/begins", size))
    if rank == size - 1:
        joining._Meeting(store, rank, size, 60).give_up(RuntimeError("no device for this group"))
        return "gave up"
    try:
        joining.join(store, rank, size, 60)
    except rt.PeerLost as error:
        return str(error)
    return "made"


def answers_that_come_late(rank: int, size: int, folder: str) -> int:
    """How many questions of this member were not answered in their time, on the way to a group."""
    lookup = rt.Channel.lookup
    late = 0

    def slow(channel: rt.Channel, name: str, *, timeout: float | None = None) -> rt.Remote:
        nonlocal late
        if late < 3:
            late += 1
            raise rt.DeadlineExceeded("look up", name, "the peer did not answer in time")
        return lookup(channel, name, timeout=timeout)

    rt.Channel.lookup = slow  # type: ignore[assignment,method-assign]
    member = joining.join(dist.FileStore(f"{folder}/late", size), rank, size, 60)
    rt.Channel.lookup = lookup  # type: ignore[method-assign]
    dist.barrier()
    member.end()
    return late


def names_asked_for(rank: int, size: int, groups: int) -> list[int]:
    """How many names a process asks its peers for, for each of some groups with the same members."""
    asked = 0
    lookup = rt.Channel.lookup

    def counted(channel: rt.Channel, name: str, *, timeout: float | None = None) -> rt.Remote:
        nonlocal asked
        asked += 1
        return lookup(channel, name, timeout=timeout)

    rt.Channel.lookup = counted  # type: ignore[assignment,method-assign]
    counts = []
    made = []
    for _ in range(groups):
        before = asked
        made.append(dist.new_group())
        counts.append(asked - before)
        tensor = torch.ones(4) * (rank + 1)
        dist.all_reduce(tensor, group=made[-1])
        assert tensor[0].item() == size * (size + 1) / 2
    rt.Channel.lookup = lookup  # type: ignore[method-assign]
    for group in made:
        dist.destroy_process_group(group)
    return counts


def cards_of_others(rank: int, size: int, folder: str) -> bool:
    """Makes a group in whose store a card of another process stands at first, under the last rank."""
    store = dist.FileStore(f"{folder}/others", size)
    if rank == 0:
        meeting = joining._Meeting(dist.PrefixStore("0", store), size - 1, size, 60)
        made = fabric.acquire(meeting.hosts)
        places = {str(peer): f"{'0' * 16}/0/0/5000" for peer in range(size)}
        card = {"nonce": "old", "renewed": False, "places": places, **made.card, "device": bytes(16).hex()}
        meeting.put(card=card)
        made.release(None)
        store.set("put", "")
    store.wait(["put"], timedelta(seconds=60))
    if rank == size - 1:
        store.wait([f"begun-{peer}" for peer in range(size - 1)], timedelta(seconds=60))
    else:
        store.set(f"begun-{rank}", "")
    return _join_and_leave(store, rank, size)


def _join_and_leave(store: dist.Store, rank: int, size: int) -> bool:
    member = joining.join(dist.PrefixStore("0", store), rank, size, 60, range(size))
    try:
        member.team.check()
        dist.barrier()
    finally:
        member.end()
    return True


def card_that_changes(rank: int, size: int, folder: str, places: bool) -> bool:
    """Makes a group in whose store a card of rank 0 stands at first that another card of the same process replaces,
    once the others have told their blocks to all and look for those of rank 0.
    """
    store = dist.FileStore(f"{folder}/changes", size)
    inner = dist.PrefixStore("0", store)
    if rank == 0:
        meeting = joining._Meeting(inner, 0, size, 60, range(size))
        made = fabric.acquire(meeting.hosts)
        meeting._put_card(made, renewed=not places)
        store.set("put", "")
        store.wait([f"tied-{peer}" for peer in range(1, size)], timedelta(seconds=60))
        made.release(None)
    else:
        attach = joining._Attempt.attach

        def attach_after(attempt: joining._Attempt, peer: int) -> None:
            store.set(f"tied-{rank}", "")
            attach(attempt, peer)

        store.wait(["put"], timedelta(seconds=60))
        joining._Attempt.attach = attach_after  # type: ignore[method-assign]
    try:
        return _join_and_leave(store, rank, size)
    finally:
        if rank != 0:
            joining._Attempt.attach = attach  # type: ignore[method-assign]


def _kib() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError("no Pss in smaps_rollup")


def _left() -> tuple[int, int]:
    """Descriptors and threads."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def memory_of_groups(rank: int, size: int, count: int) -> tuple[float, int, int]:
    """KiB that a group adds once its members know each other; and, from the second time on, what many leave behind:
    descriptors, threads.
    """
    tensor = torch.ones(300_000)

    def use(group: dist.ProcessGroup | None) -> None:
        dist.all_reduce(torch.ones(4), group=group)
        dist.all_reduce(tensor, group=group)

    def make_and_end() -> float:
        before = _kib()
        groups = [dist.new_group() for _ in range(count)]
        for group in groups:
            use(group)
        dist.barrier()
        grown = (_kib() - before) / count
        for group in groups:
            dist.destroy_process_group(group)
        dist.barrier()  # all have left; the next group that is made sweeps
        dist.destroy_process_group(dist.new_group())
        dist.barrier()
        return grown

    use(None)
    dist.destroy_process_group(dist.new_group())
    dist.barrier()
    grown = make_and_end()
    files, threads = _left()
    make_and_end()
    files_after, threads_after = _left()
    return grown, files_after - files, threads_after - threads


def many_at_once(rank: int, size: int, count: int) -> bool:
    """Asynchronous calls of many groups between the same ranks, in an order of each rank's own."""
    groups = [dist.new_group() for _ in range(count)]
    tensors = [torch.full((200_000,), float(index + rank)) for index in range(count)]
    order = list(range(count)) if rank % 2 == 0 else list(reversed(range(count)))
    works = [dist.all_reduce(tensors[index], group=groups[index], async_op=True) for index in order]
    for work in works:
        work.wait()  # type: ignore[union-attr]
    right = all(
        torch.equal(tensors[index], torch.full((200_000,), float(size * index + sum(range(size)))))
        for index in range(count)
    )
    for group in groups:
        dist.destroy_process_group(group)
    return right


def flood(rank: int, size: int, count: int) -> dict[str, int]:
    """Rank 0 sends what rank 1 does not receive yet; rank 1 waits for something else, then receives all in order."""
    if rank == 0:
        works = [dist.isend(torch.full((2000,), float(index)), 1, tag=5) for index in range(count)]
        dist.send(torch.ones(1), 1, tag=6)
        for work in works:
            work.wait()  # type: ignore[union-attr]
        return rdmatensor.torch.stats()
    dist.recv(torch.zeros(1), 0, tag=6)
    kept = rdmatensor.torch.stats()
    received = torch.zeros(2000)
    for index in range(count):
        dist.recv(received, 0, tag=5)
        if not torch.equal(received, torch.full((2000,), float(index))):
            raise AssertionError(f"message {index} is {received[0]}")
    return kept
