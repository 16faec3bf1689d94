"""Parts: the graph of one process, made of what its role does.

A part is a graph of torch operators, with `torch.ops.rdmatensor.send` and `recv` (`_dyn` where a
shape varies) between them; in the order of its nodes it runs without waiting for itself. Where a
role is replicated, a tensor that leaves it is received from each replica, and the mean is taken.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import fx

from rdmatensor.torch.graph.alias import is_view, writes
from rdmatensor.torch.graph.averaging import average

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdmatensor.torch.graph.capture import Captured
    from rdmatensor.torch.graph.crossing import Action, Crossing, Edge
    from rdmatensor.torch.graph.inputs import Input
    from rdmatensor.torch.graph.place import Placed

__all__ = ["Making", "Part", "lint", "tasks_of"]


class Walked(Protocol):
    """A cut, as far as parts are made of it."""

    captured: Captured
    placed: Placed
    edges: tuple[Edge, ...]

    @property
    def actions(self) -> Mapping[str, Sequence[Action]]: ...

    @property
    def after(self) -> Mapping[tuple[str, fx.Node], Sequence[Crossing]]: ...

    @property
    def by_name(self) -> Mapping[str, Edge]: ...

    def role_of(self, process: str) -> str: ...

    def name_of(self, crossing: Crossing, source: str, target: str) -> str: ...

    def part(self, process: str) -> Part: ...


@dataclass(frozen=True, slots=True)
class Part:
    """The graph of one process."""

    process: str
    role: str
    module: fx.GraphModule
    inputs: dict[fx.Node, Input]
    """The placeholders, in order."""
    loss: bool
    """Whether its output is the loss."""
    sends: dict[fx.Node, Edge]
    recvs: dict[fx.Node, Edge]
    ahead: tuple[tuple[Edge, fx.Node], ...]
    """Edges of the next step's inputs, and the placeholders to send before the first step."""
    keeps: int = 0
    """Of a stage with microbatches, in how many it may be at once; 0 for any other part."""


def _prune(graph: fx.Graph) -> None:
    """Removes views that no node of the part uses: their users are in other parts."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op == "call_function" and not writes(node) and is_view(node):
            graph.erase_node(node)


class Making:
    """The graph of one process, made of its role's actions."""

    def __init__(self, cut: Walked, process: str, group: str) -> None:
        self.cut = cut
        self.group = group
        self.process = process
        self.role = cut.role_of(process)
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.inputs: dict[fx.Node, Input] = {}
        self.sends: dict[fx.Node, Edge] = {}
        self.recvs: dict[fx.Node, Edge] = {}
        self.ahead: list[tuple[Edge, fx.Node]] = []
        self.task: object = None  # of the nodes that are being made

    def make(self) -> Part:
        captured = self.cut.captured
        actions = self.cut.actions[self.role]
        ordered = sorted(actions, key=lambda one: one.node.op != "placeholder" or one.crossing is not None)
        for action, task in zip(ordered, tasks_of(ordered), strict=True):
            self.task = task
            self._do(action)
            for crossing in () if action.kind == "recv" else self.cut.after.get((self.role, action.node), ()):
                self._send(crossing)
        placed, loss = self.cut.placed, captured.loss
        if placed.collective:
            gradients = [self.env[gradient] for gradient in captured.gradients if gradient is not None]
            average(self.graph, gradients, placed.replicas[self.role], self.group, captured)
        home = placed.roles.get(loss) == self.role
        out = self.graph.output((self.env[loss],) if home else ())
        out.meta["role"] = self.process
        _prune(self.graph)
        self.graph.lint()
        module = fx.GraphModule(captured.module, self.graph, class_name=f"Part_{self.process}")
        ahead = tuple(self.ahead)
        keeps = placed.pipeline.keeps(placed.pipeline.stage_of(self.role)) if placed.pipeline else 0
        return Part(self.process, self.role, module, self.inputs, home, self.sends, self.recvs, ahead, keeps)

    def _do(self, action: Action) -> None:
        node = action.node
        if action.crossing is not None:
            self.env[node] = self._receive(action.crossing)
            return
        if action.size is not None:
            tensor, dimension = action.size
            made = self.graph.call_function(torch.ops.aten.sym_size.int, (self.env[tensor], dimension))
        else:
            made = self.graph.node_copy(node, lambda one: self.env[one])
        made.meta = dict(node.meta, role=self.process, task=self.task)
        self.env[node] = made
        if node.op == "placeholder":
            self.inputs[made] = self.cut.captured.inputs[node]

    def _receive(self, crossing: Crossing) -> fx.Node:
        """The tensor of one process, or the mean of those of all replicas, added in their order."""
        got = [self._recv(crossing, source) for source in self.cut.placed.processes(crossing.source)]
        result = got[0]
        for one in got[1:]:
            result = self._call(torch.ops.aten.add_.Tensor, crossing, (result, one))
        if len(got) > 1:
            result = self._call(torch.ops.aten.div_.Scalar, crossing, (result, len(got)))
        return result

    def _recv(self, crossing: Crossing, source: str) -> fx.Node:
        edge = self.cut.by_name[self.cut.name_of(crossing, source, self.process)]
        ops = torch.ops.rdmatensor
        if edge.kind == "static":
            made = self._call(ops.recv.default, crossing, (edge.name, list(edge.shape), edge.dtype))
        else:
            made = self._call(ops.recv_dyn.default, crossing, (edge.name, len(edge.shape), edge.dtype))
        self.recvs[made] = edge
        return made

    def _send(self, crossing: Crossing) -> None:
        ops = torch.ops.rdmatensor
        for target in self.cut.placed.processes(crossing.target):
            edge = self.cut.by_name[self.cut.name_of(crossing, self.process, target)]
            operator = ops.send.default if edge.kind == "static" else ops.send_dyn.default
            value = self.env[crossing.node]
            made = self._call(operator, crossing, (value, edge.name))
            made.meta["val"] = None
            self.sends[made] = edge
            if edge.ahead:
                self.ahead.append((edge, value))

    def _call(self, target: torch._ops.OpOverload, crossing: Crossing, arguments: tuple[object, ...]) -> fx.Node:
        made = self.graph.call_function(target, arguments)
        value = crossing.node.meta["val"]
        made.meta = {"val": value, "role": self.process, "task": self.task}
        return made


def tasks_of(actions: Sequence[Action]) -> list[object]:
    """The pass of a microbatch that each action belongs to: that of the node for which it is done."""
    found: list[object] = []
    task: object = None
    for action in reversed(actions):
        if action.kind == "run" and action.node.op != "placeholder":
            task = action.node.meta.get("task")
        found.append(task)
    return found[::-1]


def lint(cut: Walked) -> None:
    """Checks that each edge has one send and one receive, in the processes that it names. Makes
    every part: for tests.
    """
    sent: dict[str, list[str]] = defaultdict(list)
    received: dict[str, list[str]] = defaultdict(list)
    for process in cut.placed.ranks:
        part = cut.part(process)
        for found, edges in ((sent, part.sends), (received, part.recvs)):
            for edge in edges.values():
                found[edge.name].append(process)
    for edge in cut.edges:
        ends = [edge.source] * edge.times, [edge.target] * edge.times
        if (sent.pop(edge.name, None), received.pop(edge.name, None)) != ends:
            raise AssertionError(f"{edge} has not one send and one receive for each of its tensors")
    if sent or received:
        raise AssertionError(f"nodes name edges that there are not: {[*sent, *received]}")
