"""Buckets: batches of sizes for which the first plan does not hold get plans of their own.

All buckets of a run share the parameters, the states, the order of the optimizer's steps, and every
edge that is the same in both plans. Two kinds of placement want two ways:

Where the workers are replicas, each has a batch, and sizes, of its own. Weights and gradients are the
same in every plan, so a bucket is the matter of one worker: its plan must have exactly the first
one's edges, and leave every other process's part as it is; else it is refused, and nothing is sent.

In a row of stages all work on one batch, and activations have other sizes in each bucket. The first
rank names the bucket at the beginning of each step. A new one is planned by each process for itself,
from the sizes that the first rank tells; each process makes its receiving ends, tells its peers, and
compares fingerprints, before the sending ends are opened and the step begins.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import fx
from torch.utils import _pytree as pytree

from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.torch.graph.averaging import order
from rdmatensor.torch.graph.capture import hashed
from rdmatensor.torch.graph.engine import Engine
from rdmatensor.torch.graph.holdings import Holdings
from rdmatensor.torch.graph.inputs import flatten_batch
from rdmatensor.torch.graph.memory import sent_memory
from rdmatensor.torch.graph.opening import extend
from rdmatensor.torch.graph.segment import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rdmatensor.torch.graph.cut import Cut, Edge
    from rdmatensor.torch.graph.notes import Notes
    from rdmatensor.torch.graph.opening import Wires
    from rdmatensor.torch.graph.parts import Part

__all__ = ["Bucket", "Buckets", "Planning"]

WHAT = "run a step"

Key = tuple[str, str, str, int]
"""An edge by its meaning: source, target, tensor, and which of several of these it is. Names of nodes differ
between plans, names of parameters do not.
"""


@dataclass(frozen=True, slots=True)
class Planning:
    """How the plans of further buckets are made."""

    limit: int
    """The most plans of a run, the first included."""
    cut: Callable[[Any], Cut]
    """The cut step for an example batch."""
    group: str
    """The process group of replicas that average among themselves, or ""."""


@dataclass(slots=True)
class Bucket:
    """An open plan in one process."""

    cut: Cut
    schedule: Schedule
    engine: Engine
    held: Holdings


class Buckets:
    """The open plans of one process's run. The first is that of the opened plan."""

    def __init__(self, first: Bucket, wires: Wires, notes: Notes, planning: Planning, timeout: float) -> None:
        self.open = [first]
        self.replicated = bool(first.cut.placed.replicas)
        self._wires = wires
        self._notes = notes
        self._planning = planning
        self._timeout = timeout
        self._keys = _keys(first.cut)
        self._opened = {(key, _signature(edge)): edge.name for key, edge in self._keys.items()}

    @property
    def may_grow(self) -> bool:
        """Whether there may be more plans than one."""
        return self._planning.limit > 1

    def find(self, batch: Any) -> int | None:
        """The number of the first plan that holds for a batch."""
        for number, bucket in enumerate(self.open):
            if bucket.cut.captured.guards.check(batch) is None:
                return number
        return None

    def plan(self, batch: Any) -> Cut:
        """A plan for a batch that has none. InvalidArgument where the batch differs in more than
        sizes, where there are as many plans as may be, and for what cannot be captured; Unsupported
        where the plan does not go with the first.
        """
        first = self.open[0].cut
        differs = first.captured.guards.differs(batch)
        broken = differs or first.captured.guards.check(batch)
        if differs or self._planning.limit < 2:
            remedy = "" if differs else "; open buckets for batches of other sizes: rg.plan(..., buckets=8)"
            raise InvalidArgument(WHAT, "batch", f"the captured graph does not hold for it: {broken}{remedy}")
        if len(self.open) >= self._planning.limit:
            why = (
                f"it needs a plan of its own ({broken}), and buckets={self._planning.limit} are in use: "
                "bring batches to fewer sizes (padding), name sizes that vary in dynamic=, or raise buckets="
            )
            raise InvalidArgument(WHAT, "batch", why)
        sizes = {name: list(tensor.shape) for name, tensor in flatten_batch(batch)[0].items()}
        return self._planned(sizes)

    def _planned(self, sizes: Mapping[str, Sequence[int]]) -> Cut:
        first = self.open[0].cut
        example = first.captured.guards.example(sizes)
        cut = self._planning.cut(example)
        cut.captured.follow(first.captured)
        if self.replicated:
            _check_same(first, self._keys, cut)
        else:
            self._check_joined(cut)
        return cut

    def _check_joined(self, cut: Cut) -> None:
        """Refuses a plan that joins processes which the first does not, and one that sends other
        tensors ahead: the first step of a bucket has no step of it before.
        """
        first = self.open[0].cut
        joined = {(edge.source, edge.target) for edge in first.edges}
        ahead = {_signature(edge) for edge in first.edges if edge.ahead}
        for edge in cut.edges:
            if (edge.source, edge.target) not in joined and (edge.target, edge.source) not in joined:
                raise _unlike(edge.name, "joins processes that the first plan does not")
            if edge.ahead and _signature(edge) not in ahead:
                raise _unlike(edge.name, "is sent for the next step, and the first plan has no such edge")
        if ahead - {_signature(edge) for edge in cut.edges if edge.ahead}:
            raise _unlike("a parameter", "is sent for the next step in the first plan, and not in this one")

    # ---- opening ----

    def begin(self, cut: Cut, takers: Sequence[str]) -> int:
        """Opens the plan of a new bucket, of which the first rank has told its takers. Gives its number."""
        number = len(self.open)
        if self.replicated:
            mine = _keys(cut)
            wires = extend(self._wires, {mine[key].name: self._keys[key].name for key in mine}, {}, 0, lambda: None)
            self._add(cut, wires, self.schedule(cut))
            return number
        batch = {name: list(shape) for name, shape in cut.captured.guards.sizes.items()}
        self._notes.announce(takers, number, batch, self._timeout)
        self._join(cut)
        return number

    def follow(self, number: int) -> int:
        """Opens the plan of a bucket that the first rank has announced, if it is not open here. Gives
        the number by which this process has it: 0 beside replicas, which have buckets for themselves.
        """
        if self.replicated:
            return 0
        if number == len(self.open):
            self._join(self._planned(self._notes.awaited(number, self._timeout)))
        return number

    def _join(self, cut: Cut) -> None:
        """Opens a plan together with all processes."""
        number = len(self.open)
        shared: dict[str, str] = {}
        new: dict[str, Edge] = {}
        for place, (key, edge) in enumerate(_keys(cut).items()):
            meaning = key, _signature(edge)
            if meaning in self._opened:
                shared[edge.name] = self._opened[meaning]
            else:
                name = self._opened[meaning] = f"{edge.source}>{edge.target}@{number}.{place}"
                new[name] = edge
        digest = hashlib.sha256(cut.captured.fingerprint.encode())
        digest.update(repr((shared, [(name, _signature(edge)) for name, edge in new.items()])).encode())
        schedule = self.schedule(cut)
        nbytes = sent_memory(schedule.part).region_bytes

        def agree() -> None:
            self._notes.prepare(number, digest.hexdigest(), self._timeout)

        try:
            wires = extend(self._wires, shared, new, nbytes, agree)
        except RdmaError as error:
            lost = next((edge for name, edge in new.items() if repr(name) in error.on), None)
            if lost is None or lost.source != self._wires.process:
                raise
            raise self._notes.explained(error, lost.target, lost.name) from error
        for name, edge in new.items():
            if edge.name in wires.sends:
                self._wires.sends[name] = wires.sends[edge.name]
            elif edge.name in wires.recvs:
                self._wires.recvs[name] = wires.recvs[edge.name]
        self._add(cut, wires, schedule)

    def schedule(self, cut: Cut) -> Schedule:
        """This process's part of a plan, in segments."""
        return Schedule(cut.part(self._wires.process, self._planning.group))

    def _add(self, cut: Cut, wires: Wires, schedule: Schedule) -> None:
        first = self.open[0]
        engine = Engine(schedule, wires, self._notes, self._timeout, first.engine.workers, first.engine.stale)
        replicated = cut.placed.replicas.get(schedule.part.role, 1) > 1
        held = Holdings(cut.captured, schedule.part, None, replicated, first.held)
        self.open.append(Bucket(cut, schedule, engine, held))


# ---- comparing plans ----


def _keys(cut: Cut) -> dict[Key, Edge]:
    """The edges of a plan by their meaning."""
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    found: dict[Key, Edge] = {}
    for edge in cut.edges:
        same = edge.source, edge.target, edge.tensor
        found[edge.source, edge.target, edge.tensor, counts[same]] = edge
        counts[same] += 1
    return found


def _signature(edge: Edge) -> tuple[object, ...]:
    """Everything by which the ends of an edge are made, and that its two processes must agree on."""
    return edge.source, edge.target, edge.shape, str(edge.dtype), edge.kind, edge.slots, edge.flow, edge.ahead


def _unlike(what: str, why: str) -> InvalidArgument:
    remedy = "let all batches have sizes for which one plan holds (dynamic=, padding)"
    return InvalidArgument(WHAT, "batch", f"its sizes need a plan in which {what} {why}: {remedy}")


def _check_same(first: Cut, keys: Mapping[Key, Edge], other: Cut) -> None:
    """Refuses a plan whose edges are not the first one's, or in which another role than the
    replicated ones does something else.
    """
    mine = _keys(other)
    for key in sorted(keys.keys() ^ mine.keys()):
        source, target, tensor, _ = key
        word = "does not cross" if key in keys else "crosses, which it does not in the first plan"
        raise _unlike(f"{tensor} ({source} > {target})", word)
    for key, edge in mine.items():
        if _signature(edge) != _signature(keys[key]):
            raise _unlike(
                f"edge {edge.name}", f"is {_signature(edge)[2:]}, and in the first {_signature(keys[key])[2:]}"
            )
    for role in (one for one in first.roles if one not in first.placed.replicas):
        if _Texts(first, role).lines != _Texts(other, role).lines:
            raise _unlike(role, "computes something else than in the first")
    if first.placed.collective and order(first.captured) != order(other.captured):
        raise _unlike("the gradients", "are averaged in another order than in the first, and so by other ranks")


class _Texts:
    """A role's part, as text that does not depend on names of nodes."""

    def __init__(self, cut: Cut, role: str) -> None:
        self.cut = cut
        self.part: Part = cut.part(role)
        self.key = {edge.name: key for key, edge in _keys(cut).items()}
        self.number = {node: number for number, node in enumerate(self.part.module.graph.nodes)}

    @cached_property
    def lines(self) -> list[str]:
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        for node in self.part.module.graph.nodes:
            given = self.part.inputs.get(node)
            target = given.name if given else str(node.target)
            value = node.meta.get("val")
            arguments = [self._told(leaf) for leaf in pytree.tree_leaves((node.args, node.kwargs))]
            yield f"{node.op} {target} {arguments} {getattr(value, 'shape', '')} {getattr(value, 'dtype', '')}"
            if node.op == "get_attr":
                yield hashed(getattr(self.part.module, str(node.target)))

    def _told(self, leaf: Any) -> str:
        if isinstance(leaf, fx.Node):
            return f"%{self.number[leaf]}"
        return str(self.key.get(leaf, leaf)) if isinstance(leaf, str) else repr(leaf)
