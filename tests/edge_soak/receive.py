"""The receiving process: makes the edges of each epoch, takes their tensors in every way, and compares every byte."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice

import numpy as np

import rdmatensor as rt
from edge_soak.plan import Block, EdgePlan, Epoch, Promises
from edge_soak.pool import Entry, Piece, Pool, make_entry, memcmp
from edge_soak.send import TOKEN_WORDS, grouped

__all__ = ["Mismatch", "Receiver"]

AHEAD = 4  # blocks that a sender may have begun before the first of them is taken
BATCH_MAX = 512  # tensors of one recv_many
PAYLOADS_SIZE = 64 << 20

Item = tuple[int, int, int, int]  # edge, sequence, entry, offset


class Mismatch(Exception):
    """Something came that was not sent."""


class Receiver:
    """One end of a channel, at which it takes and checks what the plan says."""

    def __init__(self, url: str, seed: int, largest: int, pool_size: int, timeout: float) -> None:
        self.device = rt.Device(url, qps_per_peer=4, timeout=timeout)
        self.listener = self.device.listen("127.0.0.1:0")
        self.seed = seed
        self.promises = Promises.of(self.device, largest)
        self.pool = Pool(seed, pool_size)
        self.payloads = self.device.region(PAYLOADS_SIZE)
        self.outs = {
            "out region": np.frombuffer(self.device.region(largest + 64)[:].view(), np.uint8),
            "out heap": np.zeros(largest + 64, np.uint8),
        }
        self.starts = {where: memory.ctypes.data for where, memory in self.outs.items()}
        self.rng = random.Random(seed)
        self.edges: list[rt.RecvEdge] = []
        self.taken: list[int] = []  # of each edge
        self.coming: list[Block] = []  # the block that is being taken, and the next ones
        self.seen: Counter[str] = Counter()  # kinds of tensors that arrived

    def join(self) -> None:
        self.channel = self.listener.accept(timeout=300)
        self.tokens = self.channel.send_edge("tokens", **TOKEN_WORDS)  # type: ignore[arg-type]

    # ---- an epoch ----

    def epoch(self, number: int, count: int, progress: Callable[[int], None]) -> list[list[int]]:
        """Takes the tensors of an epoch. Returns transfers and bytes of each edge, once its sender has closed it."""
        plan = Epoch(self.seed, number, self.promises, self.pool.size)
        self.plans = plan.edges
        self.taken = [0] * len(plan.edges)
        self.edges = [self.make(edge) for edge in plan.edges]
        blocks = plan.blocks(count)
        self.coming = list(islice(blocks, AHEAD))
        while self.coming:
            block = self.coming[0]
            how = self.rng.choice((self.take_in_order, self.take_in_order, self.take_any))
            how(block)
            self.note(block)
            self.tokens.send(np.array([number, block.number], np.uint64))
            progress(len(block.edges))
            self.coming = [*self.coming[1:], *islice(blocks, 1)]
        received = [[edge.stats.transfers, edge.stats.bytes] for edge in self.edges]
        for edge, what in zip(self.edges, plan.edges, strict=True):
            self.take_end(edge, what)
        assert [transfers for transfers, _ in received] == plan.sent, f"{received} received, and {plan.sent} sent"
        return received

    def make(self, edge: EdgePlan) -> rt.RecvEdge:
        region = self.payloads if edge.own_region and not edge.static else None
        return self.device.recv_edge(edge.name, **grouped(edge.both, edge.receiver, region=region))

    def dump(self) -> str:
        """Who hangs?"""
        return "\n  ".join(edge.dump() for edge in self.edges if not edge.closed)

    def take_end(self, edge: rt.RecvEdge, what: EdgePlan) -> None:
        """The sender has closed the edge: nothing more may come."""
        try:
            tensor = edge.recv()
        except rt.PeerClosed:
            edge.close()
            return
        raise Mismatch(f"{what}: {tensor!r} came after the last tensor")

    # ---- a block ----

    def take_in_order(self, block: Block) -> None:
        """In the order in which they were sent: many at a time, or one by one those that are not simply taken, and
        those
        whose sender waits for their release.
        """
        batch: list[Item] = []
        held = [0] * len(self.edges)
        most = self.rng.randint(1, BATCH_MAX)
        plans = self.plans
        for item in block.items():
            edge = item[0]
            if plans[edge].take != "plain" or block.group == "single":
                self.take_one(item)
                continue
            if held[edge] == plans[edge].slots or len(batch) == most:
                self.take_batch(batch)
                batch, held, most = [], [0] * len(self.edges), self.rng.randint(1, BATCH_MAX)
            batch.append(item)
            held[edge] += 1
        self.take_batch(batch)

    def take_batch(self, batch: list[Item]) -> None:
        edges, plans = self.edges, self.plans
        tensors = rt.recv_many([edges[item[0]] for item in batch])
        pool = self.pool.address
        for item, tensor in zip(batch, tensors, strict=True):
            edge, _, index, offset = item
            self.taken[edge] += 1
            entry = plans[edge].entries[index]
            if entry.strides is None and entry.dtype.code != 1:
                wrong = memcmp(tensor.address, pool + offset, entry.nbytes)
            else:
                wrong = self.pool.differs(entry, offset, tensor.address)
            if wrong or tensor.shape != entry.shape or tensor.dtype != entry.name:
                self.fail(item, tensor.dtype, tensor.shape, tensor.address)
        if self.rng.random() < 0.5:
            self.rng.shuffle(tensors)
        if self.rng.random() < 0.9:
            for tensor in tensors:
                tensor.release()
        # the others are released when they are forgotten

    def take_any(self, block: Block) -> None:
        """Takes any tensor that is ready."""
        pending: dict[int, deque[Item]] = {}
        for item in block.items():
            pending.setdefault(item[0], deque()).append(item)
        numbers = {self.edges[edge]: edge for edge in pending}
        while pending:
            for ready in rt.wait_any([self.edges[edge] for edge in pending]):
                edge = numbers[ready]
                self.take_one(pending[edge].popleft())
                if not pending[edge]:
                    del pending[edge]

    def take_one(self, item: Item) -> None:
        edge, _, index, _ = item
        plan, receiver = self.plans[edge], self.edges[edge]
        entry = plan.entries[index]
        if plan.take.startswith("out"):
            out = self.out(plan.take, entry)
            if receiver.recv(out=out) is not out:
                raise Mismatch(f"{plan}: what came back is not out")
            self.taken[edge] += 1
            self.check(item, entry.name, entry.shape, out.address)
            return
        with receiver.recv(borrow=plan.take == "borrow") as tensor:
            self.taken[edge] += 1
            self.check(item, tensor.dtype, tensor.shape, tensor.address)
            if (
                plan.group == "single"
                and entry.dtype.numpy is not None
                and tensor.numpy().tobytes() != bytes(tensor.view())
            ):
                raise Mismatch(f"{plan}: array and view differ")

    def out(self, where: str, entry: Entry) -> Piece:
        """Where a tensor is to be put: not on what it holds."""
        start = self.rng.randrange(64)
        self.outs[where][start : start + entry.nbytes] ^= 0xFF
        contiguous = entry if entry.strides is None else make_entry(entry.dtype, entry.shape, None)
        return Piece(contiguous, self.starts[where] + start)

    # ---- a sender that is lost ----

    def take_rest(self) -> int:
        """Takes a dead sender's tensors: whole ones in order, then PeerLost, on every edge. Returns their number."""
        due = {
            (edge, sequence): item for block in self.coming for item in block.items() for edge, sequence in (item[:2],)
        }
        rest = 0
        for edge, receiver in enumerate(self.edges):
            while True:
                try:
                    tensor = receiver.recv(5.0)
                except rt.PeerLost as error:
                    if isinstance(error, rt.PeerClosed):
                        raise Mismatch(f"{self.plans[edge]}: told of a close: {error}") from error
                    break
                self.taken[edge] += 1
                rest += 1
                with tensor:
                    self.check(due[edge, self.taken[edge]], tensor.dtype, tensor.shape, tensor.address)
        return rest

    def leave(self) -> None:
        """Closes what belongs to one peer."""
        for edge in self.edges:
            edge.close()
        self.edges, self.coming = [], []
        self.tokens.close()
        self.channel.close()

    # ---- checks ----

    def check(self, item: Item, dtype: str, shape: tuple[int, ...], address: int) -> None:
        edge, _, index, offset = item
        entry = self.plans[edge].entries[index]
        if dtype != entry.name or shape != entry.shape or self.pool.differs(entry, offset, address):
            self.fail(item, dtype, shape, address)

    def fail(self, item: Item, dtype: str, shape: tuple[int, ...], address: int) -> None:
        edge, sequence, index, offset = item
        plan = self.plans[edge]
        entry = plan.entries[index]
        what = f"{plan}, sequence {sequence}, {entry.name} of {entry.shape}: "
        if (dtype, shape) != (entry.name, entry.shape):
            raise Mismatch(f"{what}{dtype} of {shape} came; {self.edges[edge].dump()}")
        raise Mismatch(f"{what}{self.pool.difference(entry, offset, address)}; {self.edges[edge].dump()}")

    def note(self, block: Block) -> None:
        """Counts what kinds of tensors and edges there were."""
        seen = self.seen
        for edge, index in set(zip(block.edges, block.indices, strict=True)):
            plan = self.plans[edge]
            entry = plan.entries[index]
            seen[f"dtype {entry.name}"] += 1
            seen[f"rank {len(entry.shape)}"] += 1
            if entry.nbytes == 0:
                seen["no elements"] += 1
            if entry.strides is not None:
                seen["strided"] += 1
        for edge in set(block.edges):
            plan = self.plans[edge]
            seen["static" if plan.static else "dynamic"] += 1
            seen[f"way {plan.way}"] += 1
            seen[f"from {plan.source}"] += 1
            seen[f"taken {plan.take}"] += 1
            seen[f"flow {plan.both.get('flow', 'credit')}"] += 1
            seen[f"stripes {plan.both['stripes']}"] += 1
            seen[f"ordering {plan.both['ordering']}"] += 1
            for words in (plan.both, plan.sender, plan.receiver):
                for word in ("verify", "staging", "check_loop"):
                    if words.get(word):
                        seen[word] += 1
