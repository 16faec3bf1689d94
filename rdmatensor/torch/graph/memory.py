"""Bytes of the region from which a process sends: which memory lies there, and for how long in a step.

A tensor that is sent lies in the memory of the allocation that made it, which other tensors may
share; so memory counts by allocation, as sites do (`sites.py`), not by tensor and not by node: an
operator with several results has made several. It is alive from that node to its last use in the
order of the code. A parameter that is sent is alive throughout.

    memory = sent_memory(part)
    region = device.region(memory.region_bytes, ...)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rdmatensor.torch.graph.alias import maker, origin

if TYPE_CHECKING:
    from rdmatensor.torch.graph.cut import Part
    from rdmatensor.torch.graph.sites import Site

__all__ = ["Memory", "SentMemory", "sent_memory", "site_bytes"]

ALIGNMENT = 64
"""Of torch's CPU allocations, and of those in a region."""
PER_BLOCK = 256
"""Bytes of a region kept for each block beside its own: the allocator's, and what alignment leaves free."""
ROOM = 1 << 16
"""Bytes of a region kept besides."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that one allocation makes, and in which tensors lie that are sent."""

    maker: str
    """The node that allocates it; for a tensor that comes from elsewhere, and is cloned, that node."""
    sent: tuple[str, ...]
    """The nodes that are sent from it, in order."""
    nbytes: int
    """Its bytes; for a shape that varies those of the example batch."""
    varies: bool
    """Whether the bytes differ from step to step."""
    first: int
    """The place in the code of the node that allocates it."""
    last: int
    """The place in the code of its last use."""
    lasts: bool
    """Whether it is kept from step to step, as a parameter is."""
    again: bool = False
    """Whether it takes the place of an earlier microbatch's memory, which is free by then."""

    @property
    def taken(self) -> int:
        """The bytes that it takes in a region."""
        return -(-max(self.nbytes, 1) // ALIGNMENT) * ALIGNMENT + PER_BLOCK


@dataclass(frozen=True, slots=True)
class SentMemory:
    """All memory of one process from which it sends, in the order of the code."""

    memories: tuple[Memory, ...]

    @property
    def sum(self) -> int:
        """Bytes if nothing were freed before the step ends. Enough for sends that complete at any time
        in the step.
        """
        return sum(memory.nbytes for memory in self.memories)

    @property
    def peak(self) -> int:
        """The most bytes that are alive at once if each send completes before the code goes on."""
        lasting = sum(memory.nbytes for memory in self.memories if memory.lasts)
        changes: dict[int, int] = {}
        for memory in self.memories:
            if not memory.lasts:
                changes[memory.first] = changes.get(memory.first, 0) + memory.nbytes
                changes[memory.last + 1] = changes.get(memory.last + 1, 0) - memory.nbytes
        alive = most = lasting
        for place in sorted(changes):
            alive += changes[place]
            most = max(most, alive)
        return most

    @property
    def region_bytes(self) -> int:
        """The size of a region in which everything finds room: the sum, with what the allocator adds;
        twice the bytes of what varies. Of a pipeline's microbatches those count that are on their way at once.
        """
        return ROOM + sum(memory.taken * (2 if memory.varies else 1) for memory in self.memories if not memory.again)


def sent_memory(part: Part) -> SentMemory:
    """The memory from which the process of a part sends."""
    nodes = list(part.module.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    lasting = {origin(node) for _, node in part.ahead}
    sends: dict[fx.Node, list[tuple[fx.Node, int]]] = {}  # what is sent and where, by the memory it lies in
    for node in part.sends:
        value = node.args[0]
        assert isinstance(value, fx.Node)
        sends.setdefault(origin(value), []).append((value, place[node]))
    last = dict.fromkeys(sends, 0)
    for node in nodes:
        for used in (node, *node.all_input_nodes):
            if origin(used) in last:
                last[origin(used)] = place[node]
    found: list[Memory] = []
    slots: dict[fx.Node, int] = {}  # by memory, the most of an edge on which it is sent
    for node, edge in part.sends.items():
        value = node.args[0]
        assert isinstance(value, fx.Node)
        slots[origin(value)] = max(slots.get(origin(value), 0), edge.slots)
    for root, sent in sends.items():
        again = root.meta.get("microbatch", 0) > max(part.keeps, slots[root])
        names = tuple(dict.fromkeys(value.name for value, _ in sent))
        if root in lasting:
            found.append(Memory(root.name, names, *_bytes(root), 0, len(nodes), True))
        elif _is_foreign(root):  # a copy for each send
            for value, number in sent:
                found.append(Memory(root.name, (value.name,), *_bytes(value), number, number, False))
        else:
            first = place[maker(root)]
            found.append(Memory(maker(root).name, names, *_bytes(root), first, last[root], False, again))
    return SentMemory(tuple(found))


def site_bytes(sites: Iterable[Site]) -> int:
    """The bytes of a region in which the allocations of all these sites find room at once: what a
    trace found, where `sent_memory` tells from the graph.
    """
    return ROOM + sum(-(-max(site.nbytes, 1) // ALIGNMENT) * ALIGNMENT + PER_BLOCK for site in sites)


def _is_foreign(root: fx.Node) -> bool:
    """Whether no node of the part allocates the memory: an input, or a slot in which a tensor came."""
    return root.op != "call_function" or str(root.target).startswith(("rdmatensor.recv", "rdmatensor::recv"))


def _bytes(node: fx.Node) -> tuple[int, bool]:
    """The bytes of a node's storage, and whether they vary."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return 0, False
    size = value.untyped_storage().nbytes()
    if isinstance(size, int):
        return size, False
    return _hint(size), True


def _hint(size: Any) -> int:
    """The value that a size had when the step was captured."""
    hint = getattr(getattr(size, "node", None), "hint", None)
    return int(hint) if hint is not None else 0
