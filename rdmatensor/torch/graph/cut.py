"""Parts and edges: what each role runs, and which tensors cross between roles.

`Cut` walks the nodes once in their order and notes for each role what it runs, what it must send
and what it receives. It keeps account of memory: a value is known by its node and by how often the
memory under it was written before, so a tensor that is written in place crosses with the bytes that
its reader would have seen in one process. `part` makes the graph of one process of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import fx

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import is_view, origin, writes
from rdmatensor.torch.graph.crossing import Action, Crossing, Edge
from rdmatensor.torch.graph.parts import Making, Part
from rdmatensor.torch.graph.place import nbytes
from rdmatensor.torch.graph.promises import Promises

if TYPE_CHECKING:
    from rdmatensor.torch.graph.capture import Captured
    from rdmatensor.torch.graph.inputs import Input
    from rdmatensor.torch.graph.place import Placed

__all__ = ["Cut", "Edge", "Part"]

WHAT = "cut a step"
_NAME_MAX = 128  # bytes of an edge's name


class Cut:
    """A captured step, cut by a placement. Unsupported for a placement that the step's memory or
    values contradict.
    """

    def __init__(self, captured: Captured, placed: Placed) -> None:
        self.captured = captured
        self.placed = placed
        self.actions: dict[str, list[Action]] = defaultdict(list)
        self.after: dict[tuple[str, fx.Node], list[Crossing]] = defaultdict(list)
        self.crossings: list[Crossing] = []
        _Walk(self).run()
        self._lanes = _lanes(self.crossings, placed.pipeline.microbatches if placed.pipeline else 1)
        self._names = self._named()
        self._needs = {role: _dependencies(self, role) for role in self.roles}
        pipeline = placed.pipeline
        self._promises = None if pipeline is None else Promises(pipeline, self.actions, self.after, self._needs)
        self.edges: tuple[Edge, ...] = tuple(self._edges())
        """Every edge, in the order in which one process would make the tensors."""
        self.by_name = {edge.name: edge for edge in self.edges}

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles, replicated ones once, in the order of ranks."""
        found = {self.role_of(process): None for process in self.placed.ranks}
        return tuple(found)

    def role_of(self, process: str) -> str:
        """The role of a process."""
        for role, count in self.placed.replicas.items():
            if process in (f"{role}{number}" for number in range(count)):
                return role
        return process

    def nodes(self, role: str) -> int:
        """The number of operators that a process of a role runs in a step."""
        return sum(action.kind != "recv" and action.node.op != "placeholder" for action in self.actions[role])

    # ---- edges ----

    def _edges(self) -> Iterator[Edge]:
        for crossing in self.crossings:
            if self._lanes[crossing.number][0] is crossing:
                for source, target in self._ends(crossing):
                    yield self._edge(crossing, source, target)

    def _ends(self, crossing: Crossing) -> Iterator[tuple[str, str]]:
        """The pairs of processes that a crossing joins."""
        for target in self.placed.processes(crossing.target):
            for source in self.placed.processes(crossing.source):
                yield source, target

    def name_of(self, crossing: Crossing, source: str, target: str) -> str:
        """An edge's name, the same in every process; that of the first microbatch's for those that share it."""
        number = self._lanes[crossing.number][0].number
        name = f"{source}>{target}:{self._names[number]}"
        return name if len(name) <= _NAME_MAX else f"{source}>{target}:{number}"

    def _named(self) -> list[str]:
        """The crossings' names: the node's, with a number where it crosses to a role again."""
        names: list[str] = []
        seen: set[tuple[str, str, str]] = set()
        for crossing in self.crossings:
            node = crossing.node
            name = node.meta.get("template", node.name) if len(self._lanes[crossing.number]) > 1 else node.name
            key = name, crossing.source, crossing.target
            names.append(f"{name}.{crossing.number}" if key in seen else name)
            seen.add(key)
        return names

    def _edge(self, crossing: Crossing, source: str, target: str) -> Edge:
        node = crossing.node
        value = node.meta["val"]
        static = all(isinstance(size, int) for size in value.shape)
        slots, flow, why = self._flow(crossing) if static else (self._in_flight(crossing), "credit", "its shape varies")
        return Edge(
            name=self.name_of(crossing, source, target),
            source=source,
            target=target,
            node=node.name,
            tensor=self._words(node),
            shape=self.captured.guards.shape_of(node).sizes,
            dtype=value.dtype,
            kind="static" if static else "dynamic",
            bytes=nbytes(node) if static else None,
            slots=slots,
            flow=flow,
            ahead=crossing.ahead,
            born=_born(node, self.captured.inputs),
            why=why,
            times=len(self._lanes[crossing.number]),
        )

    def _flow(self, crossing: Crossing) -> tuple[int, str, str]:
        """Slots, flow and the reason. A slot is used again `slots` steps later. Where the tensor
        that is then sent depends on one that came from the receiver in that step, the receiver had
        ended an earlier step by then: the one before, or, if that tensor was sent ahead, the one
        before that. If that is the step that used the slot, no credit is needed. Where a worker's
        parameters may lack updates, what it took was sent so many steps earlier, and what it holds
        is so many versions older.
        """
        lane = self._lanes[crossing.number]
        if self._promises is not None and len(lane) > 1:
            most = self._in_flight(crossing)
            slots = self._promises.slots(lane, most)
            if slots is None:
                return most, "credit", "the order of the microbatches does not tell when a slot is free"
            return slots, "loop", "when a microbatch is sent, the receiver has ended the one that used its slot"
        answers = self._needs[crossing.source].get(crossing.number, frozenset())
        lags = [one.ahead for one in answers if one.source == crossing.target]
        if not lags:
            return 2, "credit", "no tensor of the receiver precedes it in a step, so slots are released by credits"
        late = self.placed.staleness if {crossing.source, crossing.target} & self.placed.replicas.keys() else 0
        count = 1 + crossing.ahead + min(lags) + late
        why = f" or in one of the {late} before" if late else ""
        return max(count, 2), "loop", f"it depends on what the receiver sent in the same step{why}"

    def _in_flight(self, crossing: Crossing) -> int:
        """Slots for all tensors that may be on their way at once: of a pipeline, those of the microbatches in which
        either stage is.
        """
        pipeline = self.placed.pipeline
        if pipeline is None or len(self._lanes[crossing.number]) == 1:
            return 2
        ends = (crossing.source, crossing.target)
        return min(pipeline.microbatches, 1 + max(pipeline.keeps(pipeline.stage_of(end)) for end in ends))

    def _words(self, node: fx.Node) -> str:
        given = self.captured.inputs.get(node)
        if given is not None:
            return f"{given.kind} {given.name.partition('@')[0]}"
        names = [
            name
            for name, gradient in zip(self._parameter_names, self.captured.gradients, strict=True)
            if gradient is not None and _same_elements(gradient, node)
        ]
        return f"gradient of {', '.join(names)}" if names else str(node.meta.get("template", node.name))

    @cached_property
    def _parameter_names(self) -> list[str]:
        given = [one for one in self.captured.inputs.values() if one.kind == "parameter"]
        return [one.name for one in sorted(given, key=lambda one: one.index)]

    # ---- parts ----

    def part(self, process: str, group: str = "world") -> Part:
        """The graph of one process. InvalidArgument for a process that there is not. `group` is the
        process group by which replicas average gradients, where the placement says that they do.
        """
        if process not in self.placed.ranks:
            why = f"there are {', '.join(self.placed.ranks)}"
            raise InvalidArgument("make a part", process, why)
        return Making(self, process, group).make()


def _lanes(crossings: list[Crossing], microbatches: int) -> list[list[Crossing]]:
    """For each crossing those that share an edge with it, in order: the same tensor of every microbatch."""
    lanes: dict[tuple[str, str, str, int], list[Crossing]] = defaultdict(list)
    times: dict[tuple[str, str, str, int], int] = defaultdict(int)  # of a node's crossings in a microbatch
    found: list[list[Crossing]] = []
    for crossing in crossings:
        number, template = crossing.node.meta.get("microbatch"), crossing.node.meta.get("template")
        if number is None or template is None:
            found.append([crossing])
            continue
        own = template, crossing.source, crossing.target, number
        lane = lanes[template, crossing.source, crossing.target, times[own]]
        times[own] += 1
        lane.append(crossing)
        found.append(lane)
    return [lane if len(lane) == microbatches else [one] for one, lane in zip(crossings, found, strict=True)]


def _same_elements(view: fx.Node, node: fx.Node) -> bool:
    """Whether a tensor has the elements of another, perhaps in other shape or order."""
    while view is not node and is_view(view) and nbytes(view.all_input_nodes[0]) == nbytes(view):
        view = view.all_input_nodes[0]
    return view is node


def _born(node: fx.Node, inputs: Mapping[fx.Node, Input]) -> str:
    source = origin(node)
    if source in inputs and inputs[source].kind == "batch":
        return f"input {source.name}, in memory of the user's: copied where a device sends registered memory alone"
    if source.op == "placeholder":
        return f"input {source.name}, kept in the region"
    return f"node {source.name}" + ("" if source is node else f", of which {node.name} is a view or which it writes")


class _Walk:
    """One walk over the nodes in order: what each role runs, receives and sends."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.captured, self.placed = cut.captured, cut.placed
        self.version: dict[fx.Node, int] = defaultdict(int)  # writes to an origin's memory so far
        self.writer: dict[fx.Node, tuple[str, fx.Node]] = {}  # the role and the node that wrote it last
        self.have: dict[str, dict[fx.Node, int]] = defaultdict(dict)  # the version that a role has of a node
        self.base: dict[str, dict[fx.Node, fx.Node]] = defaultdict(dict)  # the node whose memory that is, in the role
        self.aliases: dict[tuple[str, fx.Node], list[fx.Node]] = defaultdict(list)  # by role, what has that base
        self.sizes: dict[tuple[str, object, object], tuple[fx.Node, int]] = {}  # by role, microbatch and size

    def run(self) -> None:
        for node in self.captured.module.graph.nodes:
            role = self.placed.roles.get(node)
            if node.op != "output" and role is not None:
                for argument in node.all_input_nodes:
                    self.provide(argument, role, node)
                self.add(Action("run", node), role)
                for argument in writes(node):
                    self.wrote(argument, node, role)
        loss = self.captured.loss
        home = self.placed.roles.get(loss)
        if home is None or self.have[home].get(loss) is None:
            raise Unsupported(WHAT, str(loss), "no role computes the loss: give its node a role")
        self._close_the_loop()

    def add(self, action: Action, role: str) -> None:
        """Notes an action, and that the role has its node as of now."""
        node = action.node
        self.cut.actions[role].append(action)
        memory = origin(node)
        self.have[role][node] = self.version[memory]
        viewed = next((one for one in node.all_input_nodes if origin(one) is memory), None)
        kept = action.kind != "recv" and viewed is not None
        base = self.base[role][viewed] if kept and viewed is not None else node
        self.base[role][node] = base
        self.aliases[role, base].append(node)
        value = node.meta.get("val")
        for dimension, size in enumerate(value.shape) if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                self.sizes.setdefault((role, node.meta.get("microbatch"), size.node.expr), (node, dimension))

    def provide(self, node: fx.Node, role: str, user: fx.Node) -> None:
        """Sees to it that a role has a node as one process would read it now."""
        memory = origin(node)
        if self.have[role].get(node) == self.version[memory]:
            return
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and node.op == "call_function":
            size = self.sizes.get((role, node.meta.get("microbatch"), value.node.expr))
            if size is not None:  # of a tensor that came before: the batch need not cross for it
                self.add(Action("size", node, size=size), role)
                return
        if self._rebuilds(node):
            for argument in node.all_input_nodes:
                self.provide(argument, role, user)
            self.add(Action("copy", node), role)
            return
        source = self._holder(node, user)
        if source == role:
            why = f"{role} has it in several copies, of which an earlier one was written"
            raise Unsupported(WHAT, str(node), f"{why} ({self.captured.source(user)}): use the written tensor")
        self._check(node, source, role, user)
        anchor = self.writer[memory][1] if memory in self.writer and self.writer[memory][0] == source else node
        if anchor is node and node.op == "placeholder" and "microbatch" in node.meta:
            anchor = next((one for one in node.users if self.placed.roles.get(one) == source), node)  # not all at once
        given = self.captured.inputs.get(node)
        lasts = given is not None and given.kind in ("parameter", "buffer", "state")
        ahead = lasts and self.version[memory] == 0
        crossing = Crossing(len(self.cut.crossings), node, source, role, ahead)
        self.cut.crossings.append(crossing)
        if not ahead:
            self.cut.after[source, anchor].append(crossing)
        self.add(Action("recv", node, crossing), role)

    def _holder(self, node: fx.Node, user: fx.Node) -> str:
        """The role that has a node as it is now."""
        memory = origin(node)
        writer = self.writer.get(memory)
        for role in (self.placed.roles.get(node), writer[0] if writer else None):
            if role is not None and self.have[role].get(node) == self.version[memory]:
                return role
        why = "no role has it: give its node a role"
        if writer is not None:
            why = f"{writer[1]} writes its memory in {writer[0]}, which has no such view: let one role do both"
        raise Unsupported(WHAT, f"{node}, which {user} reads ({self.captured.source(user)})", why)

    def _rebuilds(self, node: fx.Node) -> bool:
        """Whether a role may run a node again for itself: a view that is no smaller than what it
        views, or a value made of numbers, or of sizes of the batch, alone.
        """
        if node.op == "get_attr" or (node.op == "placeholder" and node not in self.placed.roles):
            return True
        if node.op != "call_function" or writes(node):
            return False
        arguments = node.all_input_nodes
        if self._is_size(node):
            return True
        if is_view(node) and len(arguments) == 1 and isinstance(arguments[0].meta.get("val"), torch.Tensor):
            return nbytes(arguments[0]) <= nbytes(node) or arguments[0].op == "placeholder"
        return node not in self.placed.roles or (not arguments and _is_constant(node))

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a node is a size of the batch, or a number made of such: a role computes it for itself,
        and receives the tensor of the batch.
        """
        if isinstance(node.meta.get("val"), torch.Tensor) or node.op != "call_function" or not node.all_input_nodes:
            return False
        if not isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)):
            return False
        inputs = self.captured.inputs
        return all(
            (one in inputs and inputs[one].kind == "batch") or self._is_size(one) for one in node.all_input_nodes
        )

    def _check(self, node: fx.Node, source: str, role: str, user: fx.Node) -> None:
        """Refuses what cannot cross."""
        value = node.meta.get("val")
        where = f"{node}, which {user} of {role} reads ({self.captured.source(user)})"
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            why = f"a {kind} does not cross between processes, only tensors do: let one role run {node} and {user}"
            raise Unsupported(WHAT, where, why)
        if value.device.type != "cpu":
            raise Unsupported(WHAT, where, f"it is on {value.device}: only tensors on the CPU cross")
        replicas = self.placed.replicas.get(source, 1)
        if replicas == 1:
            return
        gradients = (gradient for gradient in self.captured.gradients if gradient is not None)
        if not value.dtype.is_floating_point or not any(_same_elements(one, node) for one in gradients):
            why = f"{replicas} processes make one each, and only of gradients {role} can use the mean"
            raise Unsupported(WHAT, where, f"{why}: place {user} in {source}")

    def wrote(self, argument: fx.Node, node: fx.Node, role: str) -> None:
        """Notes that a role wrote to memory: its own aliases of it are up to date, others are not."""
        memory = origin(argument)
        written = self.base[role][argument]
        self.version[memory] += 1
        self.writer[memory] = role, node
        for one in self.aliases[role, written]:
            if self.base[role][one] is written:
                self.have[role][one] = self.version[memory]

    def _close_the_loop(self) -> None:
        """Places the sends of the next step's inputs behind the last write of this step."""
        for node in self.captured.inputs:
            owner, writer = self.placed.roles.get(node), self.writer.get(node)
            if writer is not None and writer[0] != owner:
                why = (
                    f"{writer[1]} of {writer[0]} writes it, and it lives in {owner} ({self.captured.source(writer[1])})"
                )
                raise Unsupported(WHAT, f"input {node}", f"{why}: place the two together")
        for crossing in self.cut.crossings:
            if crossing.ahead:
                writer = self.writer.get(crossing.node)
                self.cut.after[crossing.source, writer[1] if writer else crossing.node].append(crossing)


def _is_constant(node: fx.Node) -> bool:
    """Whether an operator without tensors gives the same each time."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


def _dependencies(cut: Cut, role: str) -> dict[int, frozenset[Crossing]]:
    """For each crossing that a role sends: the crossings received in the same step that it depends
    on, by data or by memory.
    """
    found: dict[int, frozenset[Crossing]] = {}
    needs: dict[fx.Node, frozenset[Crossing]] = {}
    memory: dict[fx.Node, frozenset[Crossing]] = defaultdict(frozenset)  # of what was written to an origin
    for action in cut.actions[role]:
        node = action.node
        if action.crossing is not None:
            needs[node] = frozenset((action.crossing,))
            continue
        given = node.all_input_nodes if action.size is None else [action.size[0]]
        needs[node] = frozenset().union(*(needs[one] | memory[origin(one)] for one in given))
        for argument in writes(node):
            memory[origin(argument)] |= needs[node]
        for crossing in cut.after.get((role, node), ()):
            found[crossing.number] = needs[crossing.node] | memory[origin(crossing.node)]
    return found
