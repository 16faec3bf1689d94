"""Segments: the nodes of a part between communications, each run as one generated function.

A queue of single nodes costs more than small nodes themselves, so the queue of `run.py` holds
segments. A segment ends behind the node that makes a tensor to be sent, and before the first node
that needs a tensor which no earlier node needed. Small tensors to be sent wait for each other up to
a bound, so that one call sends them.

The order of segments follows from data and from memory: a segment that writes memory waits for all
segments and sends that read it, one that reads memory for the segment that wrote it last. Random
numbers come from one generator, which counts as memory that every such node writes.

In a stage of a pipeline a segment belongs to one pass of one microbatch. It waits for the same pass
of the microbatch before it, a backward pass for its forward pass, and a forward pass for the
backward pass of the microbatch that it takes the place of: so many, and no more, are in the stage at
once (`Part.keeps`).
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rdmatensor.errors import Unsupported
from rdmatensor.torch.graph.alias import is_view, origin, writes
from rdmatensor.torch.graph.place import nbytes

if TYPE_CHECKING:
    from rdmatensor.torch.graph.cut import Edge
    from rdmatensor.torch.graph.parts import Part

__all__ = ["Code", "Receive", "Schedule", "Segment", "Send"]

LARGE = 1 << 16
"""Bytes from which a tensor is sent as soon as it is made; smaller ones are collected …"""
TOGETHER_BYTES = 1 << 18
TOGETHER_NODES = 32
"""… up to so many bytes, or so many nodes behind the first of them."""
LIGHT = 64
"""Bytes of a result up to which an operator counts as one that costs nothing."""

Code = Callable[[list[Any], list[int]], None]
"""A segment's function. It reads and writes values by their places in the first list; the second
counts the uses of each value that are still due in this step.
"""


@dataclass(eq=False, slots=True)
class Receive:
    """A tensor that the part receives in each step."""

    number: int
    edge: Edge
    place: int
    next: list[Segment] = field(default_factory=list)
    """The segments that wait for it."""
    then: Receive | None = None
    """The next tensor of the step that comes over the same edge."""


@dataclass(eq=False, slots=True)
class Send:
    """A tensor that the part sends in each step."""

    edge: Edge
    place: int
    node: fx.Node
    """The node whose value is sent."""
    next: list[Segment] = field(default_factory=list)
    """The segments that write its memory later, and so wait until it is sent."""


@dataclass(eq=False, slots=True)
class Segment:
    """Nodes that run together, and what follows them."""

    number: int
    nodes: tuple[fx.Node, ...]
    waits: int = 0
    """How many receives, segments and sends of the same step come before."""
    sends: list[Send] = field(default_factory=list)
    next: list[Segment] = field(default_factory=list)
    task: tuple[str, int] | None = None
    """In a pipeline, the pass and the microbatch: ("F", 3)."""

    @property
    def name(self) -> str:
        """Words for traces."""
        if not self.nodes:
            return f"segment {self.number}"
        first, last = self.nodes[0].name, self.nodes[-1].name
        task = "" if self.task is None else f"{self.task[0]}{self.task[1]}, "
        return f"{task}segment {self.number}: {first}" + ("" if first == last else f" … {last}")


class Schedule:
    """The segments of a part, its receives and sends, and where their values lie."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.nodes = tuple(part.module.graph.nodes)
        self.numbers = {node: number for number, node in enumerate(self.nodes)}
        self.receives: list[Receive] = []
        self.segments: list[Segment] = []
        self.inputs = {node: self.numbers[node] for node in part.inputs}
        _Grouping(self).run()
        self.uses = self._uses()
        """How many segments, sends and results use the value of each node."""

    @property
    def first_receives(self) -> list[Receive]:
        """The first tensor of the step over each edge."""
        later = {id(receive.then) for receive in self.receives}
        return [receive for receive in self.receives if id(receive) not in later]

    @property
    def sends(self) -> Iterator[Send]:
        for segment in self.segments:
            yield from segment.sends

    def _uses(self) -> list[int]:
        uses = [0] * len(self.nodes)
        for segment in self.segments:
            for node in _needs(segment):
                uses[self.numbers[node]] += 1
        for send in self.sends:
            uses[send.place] += 1
        for node in self.nodes[-1].all_input_nodes:
            uses[self.numbers[node]] += 1
        return uses

    def compile(
        self, enter: object = None, leave: object = None, marked: Collection[int] = (), lock: object = None
    ) -> list[Code | None]:
        """The functions of the segments; None for one without nodes. Before each node whose number
        is in `marked` the function calls `enter` with the number, and behind it `leave`. Functions
        that several threads run at once take values under the lock.
        """
        writer = _Writer(self, enter, leave, frozenset(marked), lock)
        return writer.functions()


def _needs(segment: Segment) -> list[fx.Node]:
    """The values that a segment takes from outside, once each, in the order of their first use."""
    inside = set(segment.nodes)
    found: dict[fx.Node, None] = {}
    for node in segment.nodes:
        for argument in node.all_input_nodes:
            if argument not in inside and argument.op != "get_attr":
                found[argument] = None
    return list(found)


class _Grouping:
    """One walk over a part's nodes that groups them."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.part = schedule.part
        self.mask: dict[fx.Node, int] = {}  # the receives that a node depends on, as bits
        self.stained: dict[object, int] = defaultdict(int)  # the same for memory, by what was written to it
        self.made: dict[fx.Node, Segment | Receive] = {}
        self.by: dict[object, Segment | Receive] = {}  # by memory: where it was made or written last
        self.readers: dict[object, list[Segment | Send]] = defaultdict(list)  # since then
        self.before: set[tuple[int, int]] = set()
        self.open: list[fx.Node] = []
        self.pending: list[Send] = []  # made in the open segment, and sent behind it
        self.pending_bytes = self.pending_since = 0
        self.segment = Segment(0, ())
        self.key = 0  # the receives that the open segment waits for
        self.light = False  # whether all its nodes cost next to nothing
        self.task: tuple[str, int] | None = None  # that the open segment belongs to
        self.of_task: dict[tuple[str, int], list[Segment]] = defaultdict(list)
        self.newest: dict[str, Receive] = {}  # by edge

    def run(self) -> None:
        for node in self.schedule.nodes:
            if node.op not in ("placeholder", "output") and node.meta.get("task") != self.task:
                self._close()
                self.task = node.meta.get("task")
            if node.op == "placeholder":
                self.mask[node] = 0
            elif node in self.part.recvs:
                self._receive(node)
            elif node in self.part.sends:
                self._send(node)
            elif node.op == "get_attr":
                self.mask[node] = 0
            elif node.op != "output":
                self._compute(node)
        self._close()

    def _receive(self, node: fx.Node) -> None:
        number = len(self.schedule.receives)
        receive = Receive(number, self.part.recvs[node], self.schedule.numbers[node])
        self.schedule.receives.append(receive)
        before = self.newest.get(receive.edge.name)
        if before is not None:
            before.then = receive
        self.newest[receive.edge.name] = receive
        self.mask[node] = 1 << number
        self.made[node] = self.by[node] = receive

    def _compute(self, node: fx.Node) -> None:
        touched: list[object] = [origin(argument) for argument in node.all_input_nodes]
        written: list[object] = [origin(argument) for argument in writes(node)]
        if _draws(node):
            written.append("generator")
        mask = 0
        for argument in node.all_input_nodes:
            mask |= self.mask[argument] | self.stained[origin(argument)]
        light = _is_light(node)
        if self.open and self._ends(mask, written, light):
            self._close()
        self.key = mask if not self.open else self.key | mask
        self.light = light and (self.light or not self.open)
        self.open.append(node)
        self.mask[node] = mask
        self.made[node] = self.segment
        for argument in node.all_input_nodes:
            self._follow(self.made.get(argument))
        for memory in touched:
            self._follow(self.by.get(memory))
            self.readers[memory].append(self.segment)
        for memory in written:
            self._follow(self.by.get(memory))
            for reader in self.readers[memory]:
                self._follow(reader)
            self.readers[memory] = []
            self.by[memory] = self.segment
            self.stained[memory] |= mask
        own = origin(node)
        if own is node:
            self.by[own] = self.segment

    def _ends(self, mask: int, written: list[object], light: bool) -> bool:
        """Whether the open segment ends before a node. A node that costs next to nothing runs with
        its neighbours, even if it could run before.
        """
        later, earlier = mask & ~self.key, self.key & ~mask
        if (later and (self.pending or not self.light)) or (earlier and not light):
            return True  # also where a receive may wait for what a tensor sent from here makes possible
        if not self.pending:
            return False
        late = len(self.open) - self.pending_since >= TOGETHER_NODES
        return late or any(origin(send.node) in written for send in self.pending)

    def _send(self, node: fx.Node) -> None:
        value = node.args[0]
        assert isinstance(value, fx.Node)
        send = Send(self.part.sends[node], self.schedule.numbers[value], value)
        memory = origin(value)
        makers = self.made.get(value), self.by.get(memory)
        if self.segment not in makers:
            self._close()
            for maker in makers:
                self._follow(maker)
        elif not self.pending:
            self.pending_since = len(self.open)
        self.pending.append(send)
        self.readers[memory].append(send)
        self.pending_bytes += send.edge.bytes or LARGE
        if not self.open or self.pending_bytes >= TOGETHER_BYTES or (send.edge.bytes or LARGE) >= LARGE:
            self._close()

    def _close(self) -> None:
        """Ends the open segment and begins the next."""
        if not self.open and not self.pending:
            return
        self._follow_tasks()
        done = self.segment
        done.task = self.task
        done.nodes, done.sends = tuple(self.open), self.pending
        self.schedule.segments.append(done)
        self.open, self.pending, self.pending_bytes = [], [], 0
        self.segment = Segment(done.number + 1, ())

    def _follow_tasks(self) -> None:
        """Notes what the order of a pipeline lets the open segment wait for."""
        if self.task is None:
            return
        kind, number = self.task
        earlier = [(kind, number - 1), ("B", number - self.part.keeps) if kind == "F" else ("F", number)]
        for task in earlier:
            for segment in self.of_task.get(task, ()):
                self._follow(segment)
        self.of_task[self.task].append(self.segment)

    def _follow(self, before: Segment | Receive | Send | None) -> None:
        """Notes that the open segment waits for something."""
        if before is None or before is self.segment or (id(before), self.segment.number) in self.before:
            return
        self.before.add((id(before), self.segment.number))
        before.next.append(self.segment)
        self.segment.waits += 1


def _is_light(node: fx.Node) -> bool:
    """Whether a node costs next to nothing: it makes a view, a number or a tiny tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return not isinstance(value, (tuple, list))
    return is_view(node) or all(0 < nbytes(one) <= LIGHT for one in (node, *node.all_input_nodes))


def _draws(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


class _Writer:
    """Writes the functions of all segments of a part as one Python source."""

    def __init__(self, schedule: Schedule, enter: object, leave: object, marked: frozenset[int], lock: object) -> None:
        self.schedule = schedule
        self.marked = marked
        self.locks = lock is not None
        self.names: dict[str, Any] = {"enter": enter, "leave": leave, "lock": lock}
        self.objects: dict[int, str] = {}
        self.lines: list[str] = []
        self.kept = {schedule.numbers[node] for node in schedule.part.inputs}

    def functions(self) -> list[Code | None]:
        for segment in self.schedule.segments:
            if segment.nodes:
                self._segment(segment)
        source = "\n".join(self.lines)
        exec(compile(source, f"<segments of {self.schedule.part.process}>", "exec"), self.names)
        return [
            self.names[f"segment_{segment.number}"] if segment.nodes else None for segment in self.schedule.segments
        ]

    def _segment(self, segment: Segment) -> None:
        numbers, uses = self.schedule.numbers, self.schedule.uses
        last: dict[fx.Node, fx.Node] = {}
        for node in segment.nodes:
            last[node] = node
            for argument in node.all_input_nodes:
                last[argument] = node
        ends: dict[fx.Node, list[str]] = defaultdict(list)
        for value, user in last.items():
            if value.op != "get_attr":
                ends[user].append(f"v{numbers[value]}")
        self.lines.append(f"def segment_{segment.number}(env, uses):")
        taken = list(self._taken(segment))
        if self.locks and taken:
            self.lines.append("    with lock:")
        self.lines += [f"        {line}" if self.locks else f"    {line}" for line in taken]
        for node in segment.nodes:
            place = numbers[node]
            marked = place in self.marked
            if marked:
                self.lines.append(f"    enter({place})")
            self.lines.append(f"    v{place} = {self._call(node)}")
            if marked:
                self.lines.append("    leave()")
            if uses[place]:
                self.lines.append(f"    env[{place}] = v{place}")
            if node in ends:
                self.lines.append(f"    del {', '.join(ends[node])}")

    def _taken(self, segment: Segment) -> Iterator[str]:
        """Lines that take the values of other segments, and free each that is used nowhere else."""
        for node in _needs(segment):
            place = self.schedule.numbers[node]
            yield f"v{place} = env[{place}]"
            if place in self.kept:
                continue
            if self.schedule.uses[place] > 1:
                yield f"uses[{place}] -= 1"
                yield f"if not uses[{place}]: env[{place}] = None"
            else:
                yield f"env[{place}] = None"

    def _call(self, node: fx.Node) -> str:
        arguments = [self._text(argument) for argument in node.args]
        arguments += [f"{key}={self._text(argument)}" for key, argument in node.kwargs.items()]
        if node.op == "call_method":
            return f"{arguments[0]}.{node.target}({', '.join(arguments[1:])})"
        if node.op != "call_function":
            raise Unsupported("generate code", str(node), f"a node of the kind {node.op} does not occur in a step")
        if node.target is operator.getitem:
            return f"{arguments[0]}[{arguments[1]}]"
        return f"{self._object(_callable(node.target), node.name)}({', '.join(arguments)})"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                return self._object(_attribute(self.schedule.part.module, str(value.target)), str(value.target))
            return f"v{self.schedule.numbers[value]}"
        if isinstance(value, (list, tuple)):
            inside = ", ".join(map(self._text, value))
            return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key!r}: {self._text(one)}" for key, one in value.items()) + "}"
        if isinstance(value, slice):
            return f"slice({self._text(value.start)}, {self._text(value.stop)}, {self._text(value.step)})"
        if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
            return repr(value)
        return self._object(value, "value")

    def _object(self, value: Any, hint: str) -> str:
        """A global name for an object."""
        name = self.objects.get(id(value))
        if name is None:
            name = self.objects[id(value)] = f"o{len(self.objects)}_{''.join(c for c in hint if c.isalnum())}"
            self.names[name] = value  # which keeps the object alive, and so its id its own
        return name


def _callable(target: Any) -> Any:
    """The function to call for a node's target: for an operator the dispatcher itself, a Python frame less."""
    return getattr(target, "_op", target) if isinstance(target, torch._ops.OpOverload) else target


def _attribute(module: torch.nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
