"""The sending process: opens the edges of each epoch, and sends their tensors in the order of the plan."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rdmatensor as rt
from edge_soak.plan import Block, EdgePlan, Epoch, Promises
from edge_soak.pool import Entry, Pool

__all__ = ["Sender", "resident"]

TENSORS_SIZE = 64 << 20  # of the region for tensors of the library
TOKEN_WORDS = {"shape": (2,), "dtype": "uint64"}
CALL_MAX = 1024  # tensors of one send_many


def grouped(*parts: Mapping[str, object], **more: object) -> dict[str, Any]:
    """The options that a plan gives an edge, as the calls take them."""
    words: dict[str, Any] = dict(more)
    for part in parts:
        words |= part
    beside = {key: words.pop(key) for key in ("shape", "dtype") if key in words}
    return {**beside, "options": rt.EdgeOptions(**words)}


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Sender:
    """One end of a channel, over which it sends what the plan says. `damage` is a fault that the receiver must find:
    "byte" changes one, "skip" leaves out a tensor, once.
    """

    def __init__(
        self, url: str, seed: int, largest: int, pool_size: int, timeout: float, damage: str | None = None
    ) -> None:
        self.device = rt.Device(url, qps_per_peer=4, timeout=timeout)
        self.seed, self.damage = seed, damage
        self.promises = Promises.of(self.device, largest)
        region = self.device.region(2 * pool_size, access=rt.Access.REMOTE_READ)
        self.pools = {"region": Pool(seed, pool_size, region), "heap": Pool(seed, pool_size)}
        self.tensors = self.device.region(TENSORS_SIZE, access=rt.Access.REMOTE_READ)
        self.rng = random.Random(seed)
        self.block = -1  # the last that the receiver has finished
        self.edges: list[rt.SendEdge] = []

    def join(self, address: str) -> None:
        self.tokens = self.device.recv_edge("tokens", **grouped(TOKEN_WORDS, slots=16))
        self.channel = self.device.connect(address)

    def leave(self) -> None:
        """Closes what belongs to one peer."""
        for edge in self.edges:
            edge.close()
        self.edges = []
        self.tokens.close()
        self.channel.close()

    def epoch(self, number: int, count: int, progress: Callable[[], None] | None = None) -> list[list[int]]:
        """Sends the tensors of an epoch. Transfers and bytes of each edge."""
        plan = Epoch(self.seed, number, self.promises, self.pools["heap"].size)
        self.block = -1
        self.edges = edges = [
            self.channel.send_edge(edge.name, **grouped(edge.both, edge.sender)) for edge in plan.edges
        ]
        makers = [
            self.maker(edge, opened, plan.prepared[edge.index]) for edge, opened in zip(plan.edges, edges, strict=True)
        ]
        for block in plan.blocks(count):
            while self.block < block.number - 2:
                self.take_token(number)
            if progress is not None:
                progress()
            if block.group == "single":
                self.send_singly(plan, edges, makers, block)
            else:
                self.send_many(edges, makers, block)
        while self.block < block.number:
            self.take_token(number)
        for edge in edges:
            edge.flush()
        sent = [[edge.stats.transfers, edge.stats.bytes] for edge in edges]
        for edge in edges:
            edge.close()
        return sent

    def dump(self) -> str:
        """Who hangs?"""
        return "\n  ".join(edge.dump() for edge in self.edges if not edge.closed)

    def maker(self, edge: EdgePlan, opened: rt.SendEdge, prepared: list[int]) -> Callable[[int, int], Any]:
        """The function that gives the tensor of an entry and offset, as it is sent."""
        if edge.fresh:
            give, entries = self.pools[edge.source].give, edge.entries
            return lambda index, offset: give(entries[index], offset)
        if edge.source == "tensor":
            tensors: list[Any] = [
                self.pools["heap"].tensor(entry, offset, self.tensors)
                for entry, offset in zip(edge.entries, prepared, strict=True)
            ]
        else:
            tensors = list(map(self.pools[edge.source].give, edge.entries, prepared))
        bound = [opened.prepare(tensor) for tensor in tensors]
        return lambda index, _offset: bound[index]

    def take_token(self, epoch: int) -> None:
        with self.tokens.recv() as token:
            said, self.block = token.numpy().tolist()
        assert said == epoch, f"a token of epoch {said} in epoch {epoch}"

    def harm(self, entry: Entry, offset: int) -> tuple[bool, int]:
        """Whether to leave this one out, and its offset: other bytes when they are to be damaged."""
        if self.damage is None or entry.nbytes < 16 or entry.strides is not None:
            return False, offset
        damage, self.damage = self.damage, None
        return damage == "skip", offset ^ 1

    def send_many(self, edges: list[rt.SendEdge], makers: list[Callable[[int, int], Any]], block: Block) -> None:
        sends: list[Any] = []
        for edge, _sequence, index, offset in block.items():
            made = makers[edge](index, offset)
            sends.append(made if type(made) is rt.PreparedSend else (edges[edge], made))
        at = 0
        while at < len(sends):
            count = self.rng.randint(1, CALL_MAX)
            rt.send_many(sends[at : at + count])
            at += count

    def send_singly(
        self, plan: Epoch, edges: list[rt.SendEdge], makers: list[Callable[[int, int], Any]], block: Block
    ) -> None:
        sendings = []
        for edge, _sequence, index, offset in block.items():
            skip, offset = self.harm(plan.edges[edge].entries[index], offset)
            if skip:
                continue
            tensor = makers[edge](index, offset)
            if plan.edges[edge].way == "async":
                sendings.append(edges[edge].send_async(tensor))
            else:
                while not all(sending.done() for sending in sendings):  # the receiver takes these first
                    self.device.progress()
                edges[edge].send(tensor)
        for sending in sendings:
            sending.wait()
