"""The plan of a run: edges of every kind for an epoch, and the order of their tensors. Both processes derive the same.

An epoch has edges of its own. Its tensors go in blocks. The receiver takes the tensors of a block in batches, in which
no edge occurs more often than it has slots, and returns a token after each block; a sender that promised the order of a
loop (flow="loop") sends at most half its slots in a block, and begins a block after the token of the last but one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rdmatensor as rt
from edge_soak.pool import Entry, make_entry
from rdmatensor.memory.layout import DTYPES, DType, Shape, contiguous_strides

__all__ = ["ENTRIES", "Block", "EdgePlan", "Epoch", "Promises"]

ENTRIES = 256  # tensors of an edge that are prepared; a power of two
DEEP, SHALLOW, SINGLE = 32, 16, 16  # edges of an epoch, by group
GROUPS = ("deep", "shallow", "single")
BLOCK = {"deep": 4096, "shallow": 512, "single": 256}  # tensors of a block
SHARES = (0.6, 0.2, 0.2)  # of the blocks


@dataclass(frozen=True, slots=True)
class Promises:
    """The facts that decide which kinds of edges there can be: promises of the device, and a limit of this run."""

    orderings: tuple[str, ...]
    maps_remote: bool
    qps: int
    orders_writes: bool
    largest: int
    """Bytes of a tensor."""

    @classmethod
    def of(cls, device: rt.Device, largest: int) -> Promises:
        limits = device.limits
        carried = {
            "chained": limits.orders_writes and limits.places_words_whole,
            "immediate": limits.carries_immediate,
            "tail": limits.orders_writes and limits.orders_bytes_within_a_write,
        }
        orderings = tuple(name for name, promised in carried.items() if promised)
        return cls(orderings, limits.maps_remote, device.qps_per_peer, limits.orders_writes, largest)


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """One edge of an epoch."""

    index: int
    name: str
    group: str
    static: bool
    slots: int
    way: str
    """How it is sent: bound or pairs (send_many), single (send), async (send_async)."""
    source: str
    """Where its tensors lie: region, heap, tensor (of the library)."""
    take: str
    """How it is received: plain, out region, out heap, borrow."""
    both: dict[str, object]
    """Words that both ends say."""
    sender: dict[str, object]
    receiver: dict[str, object]
    own_region: bool
    """Fetched tensors go to a region of the caller's."""
    entries: tuple[Entry, ...]

    @property
    def fresh(self) -> bool:
        """Whether every tensor has an offset of its own, and not one of those that were prepared."""
        return self.way != "bound"

    @property
    def loop(self) -> bool:
        return self.both.get("flow") == "loop"

    def __str__(self) -> str:
        words = {**self.both, **self.sender, **self.receiver}
        what = "static" if self.static else "dynamic"
        return f"edge {self.name!r} ({what}, {self.way} from {self.source}, taken {self.take}, {words})"


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors in the order in which they are sent: of which edge, its sequence, which entry, from which offset."""

    number: int
    group: str
    edges: list[int]
    sequences: list[int]
    indices: list[int]
    offsets: list[int]

    def items(self) -> Iterator[tuple[int, int, int, int]]:
        return zip(self.edges, self.sequences, self.indices, self.offsets, strict=True)


def random_shape(rng: random.Random, rank: int, count: int) -> Shape:
    """A shape of this rank with about `count` elements; sometimes none."""
    if rank == 0:
        return ()
    cuts = [rng.random() ** 3 for _ in range(rank)]
    whole = sum(cuts)
    shape = [max(1, int(count ** (cut / whole))) for cut in cuts]
    if rng.random() < 0.06:
        shape[rng.randrange(rank)] = 0
    return tuple(shape)


def random_strides(rng: random.Random, shape: Shape, itemsize: int) -> Shape | None:
    """Of a tensor that is cut from a larger one, transposed, reversed or expanded; None: contiguous."""
    how = rng.choice(("step", "gap", "transposed", "reversed", "expanded", "step and reversed"))
    strides = list(contiguous_strides(shape, itemsize))
    if how.startswith("step"):
        strides = [step * 3 for step in strides]
    if how == "gap":
        strides = list(contiguous_strides((*shape[:-1], shape[-1] * 3), itemsize))
    if how == "transposed":
        strides = list(reversed(contiguous_strides(tuple(reversed(shape)), itemsize)))
    if how.endswith("reversed"):
        strides[0] = -strides[0]
    if how == "expanded":
        strides[rng.randrange(len(strides))] = 0
    return tuple(strides)


class Epoch:
    """The edges of an epoch, and their blocks."""

    def __init__(self, seed: int, number: int, promises: Promises, pool_size: int) -> None:
        self.seed, self.number, self.promises, self.pool_size = seed, number, promises, pool_size
        self._rng = random.Random(f"{seed} {number}")
        groups = ["deep"] * DEEP + ["shallow"] * SHALLOW + ["single"] * SINGLE
        self.edges = [self._edge(index, group) for index, group in enumerate(groups)]
        spans = [[entry.span for entry in edge.entries] for edge in self.edges]
        self._room = pool_size - np.array(spans, np.uint64)
        salts = np.arange(len(groups), dtype=np.uint64)[:, None] * np.uint64(0x1_0000_0001) + np.uint64(number)
        prepared = mixed(salts * np.uint64(ENTRIES) + np.arange(ENTRIES, dtype=np.uint64), seed) % self._room
        self.prepared: list[list[int]] = prepared.tolist()
        self._prepared = prepared
        self._fresh = np.array([edge.fresh for edge in self.edges])
        self.sent = [0] * len(groups)

    # ---- edges ----

    def _dtype(self, index: int) -> DType:
        return DTYPES[(index + self.number * 5) % len(DTYPES)]

    def _entry(self, group: str, dtype: DType, shape: Shape | None, rank: int, strided: bool) -> Entry:
        rng = self._rng
        if shape is None:
            shape = random_shape(rng, rank, max(1, self._size(group) // dtype.itemsize))
        strides = None
        if strided and shape and 0 not in shape and rng.random() < 0.7:
            strides = random_strides(rng, shape, dtype.itemsize)
        entry = make_entry(dtype, shape, strides)
        return entry if entry.span < self.pool_size // 4 else make_entry(dtype, shape, None)

    def _size(self, group: str) -> int:
        """Bytes of a tensor: mostly small."""
        rng = self._rng
        top = {"deep": 4096, "shallow": self.promises.largest, "single": self.promises.largest}[group]
        if rng.random() < 0.85:
            top = min(top, 16384)
        return int(min(top, self.promises.largest) ** rng.random())

    def _edge(self, index: int, group: str) -> EdgePlan:
        rng, promises = self._rng, self.promises
        static = rng.random() < 0.55
        slots = {"deep": (64, 100, 128), "shallow": (1, 2, 3, 8), "single": (1, 2, 5, 16)}[group]
        way = rng.choice(("bound", "bound", "pairs") if group != "single" else ("single", "async"))
        strided = way != "bound" and rng.random() < 0.3
        dtype, rank = self._dtype(index), rng.randrange(17)
        both: dict[str, object] = {"stripes": rng.choice([n for n in (1, 1, 1, 2, 4) if n <= promises.qps])}
        sender: dict[str, object] = {"staging": rng.random() < 0.15}
        receiver: dict[str, object] = {"slots": rng.choice(slots)}
        rng.choice((both, sender, receiver)).update(verify="crc32c" if rng.random() < 0.25 else None)
        both["ordering"] = rng.choice((None, *promises.orderings))
        if group == "deep" and both["ordering"] == "immediate":
            both["ordering"] = None  # it takes receives, of which a QP has few
        if both["ordering"] == "immediate" or not promises.orders_writes:
            receiver["slots"], both["stripes"] = min(int(str(receiver["slots"])), 2), 1
        if both["ordering"] == "tail":
            both["stripes"] = 1
        shape = None
        if static:
            shape = self._entry(group, dtype, None, rank, False).shape
            both.update(shape=shape, dtype=dtype.name)
            if int(str(receiver["slots"])) > 1 and rng.random() < 0.25 and way != "async":
                both["flow"] = "loop"
                receiver["check_loop"] = promises.orders_writes and rng.random() < 0.5
        else:
            both.update(dtype=rng.choice((None, dtype.name)), rank=rng.choice((None, rank)))
            receiver["eager"] = rng.choice((0, 64, 512, 4096, 65536, None))
        entries = []
        for number in range(ENTRIES):
            kind = dtype if both["dtype"] else DTYPES[(index + number) % len(DTYPES)]
            dims = rank if shape is not None or both["rank"] is not None else rng.randrange(17)
            entries.append(self._entry(group, kind, shape, dims, strided))
        takes = (
            "plain",
            "plain",
            "out region",
            "out heap",
            *(("borrow",) if promises.maps_remote and not static else ()),
        )
        return EdgePlan(
            index=index, name=f"{self.number}.{index}", group=group, static=static, slots=int(str(receiver["slots"])),
            way=way, source=rng.choice(("region", "heap", "tensor" if (way, group) == ("bound", "deep") else "region")),
            take="plain" if group == "deep" and rng.random() < 0.8 else rng.choice(takes),
            both=both, sender=sender, receiver=receiver, own_region=rng.random() < 0.5, entries=tuple(entries),
        )  # fmt: skip

    # ---- blocks ----

    def blocks(self, count: int) -> Iterator[Block]:
        """`count` tensors in blocks."""
        rng = np.random.default_rng([self.seed, self.number])
        members = {group: np.array([edge.index for edge in self.edges if edge.group == group]) for group in GROUPS}
        number = 0
        while count:
            group = GROUPS[number] if number < len(GROUPS) else str(rng.choice(GROUPS, p=SHARES))
            order = rng.choice(members[group], BLOCK[group])
            block = self._block(number, group, order, count)
            count -= len(block.edges)
            number += 1
            yield block

    def _block(self, number: int, group: str, order: NDArray[np.int64], count: int) -> Block:
        ranks = occurrence(order)
        limits = np.array([edge.slots // 2 if edge.loop else len(order) for edge in self.edges])
        keep = ranks < limits[order]
        order, ranks = order[keep][:count], ranks[keep][:count]
        sequences = np.array(self.sent)[order] + ranks + 1
        for edge, more in zip(*np.unique(order, return_counts=True), strict=True):
            self.sent[int(edge)] += int(more)
        keys = order.astype(np.uint64) << np.uint64(40) | sequences.astype(np.uint64)
        hashed = mixed(keys, self.seed + self.number)
        indices = (hashed & np.uint64(ENTRIES - 1)).astype(np.int64)
        own = (hashed >> np.uint64(8)) % self._room[order, indices]
        offsets = np.where(self._fresh[order], own, self._prepared[order, indices])
        return Block(number, group, order.tolist(), sequences.tolist(), indices.tolist(), offsets.tolist())


def occurrence(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurred before it."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(order), np.int64)
    ranks[by_value] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return ranks


def mixed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Well-spread 64-bit numbers (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        found: NDArray[np.uint64] = keys + np.uint64(seed & 0xFFFF_FFFF) * np.uint64(0x9E37_79B9_7F4A_7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        return found ^ (found >> np.uint64(31))
