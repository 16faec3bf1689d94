"""The model's layers in a row of processes: a stage for every node."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rdmatensor.errors import InvalidArgument
from rdmatensor.torch.graph.flops import elements, flops
from rdmatensor.torch.graph.inputs import flatten_batch
from rdmatensor.torch.graph.pipeline import Pipeline
from rdmatensor.torch.graph.place import ByFunction, Placed, nbytes
from rdmatensor.torch.graph.shapes import Dynamic, named
from rdmatensor.torch.graph.splitting import Split, Splitting

if TYPE_CHECKING:
    from rdmatensor.torch.graph.capture import Captured

__all__ = ["Stages"]

WHAT = "place a step"
SLACK = 1.1
"""A division whose heaviest stage is heavier than need be by no more than this is taken if it sends less."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The model's layers in a row of processes; each holds and updates the parameters of its own, and
    activations and their gradients cross.

    The forward pass is divided between layers (modules) so that the heaviest stage is as light as can be: the
    weight of a layer is the mean of its share in the bytes of parameters and its share in the operations.
    Or the model says it: `with torch.fx.traceback.annotate({"stage": 1}):` around the layers of stage 1.

    With `microbatches` the batch is divided, and the stages work on several parts at once, in the order of
    1F1B: stage k of n keeps the activations of at most n - k microbatches. The gradients are those of one
    process that runs the microbatches one after another and adds their gradients: with `loss="mean"` divided by
    their number, as if the loss were the mean of theirs, which the step's loss then is; with `loss="sum"` not
    divided, for a loss that is itself a sum over the batch. Batch norm takes the statistics of each microbatch.

    `split` is the dimension of the batch's tensors that is divided: the same of all (0), a name in `dynamic`
    ("batch"), one for each tensor ({"batch.0": 0, "batch.1": 1}; others go to every microbatch whole), or None
    where `step` gets a sequence of microbatches. The parts are equal; only with `loss="sum"` may the last one be
    smaller, where `dynamic` lets its size vary.

    Every stage that uses tensors of the batch (the first, and the last for the target) calls
    `step(batch)`; the last one's gives the loss.
    """

    stages: int = 2
    microbatches: int = 1
    split: Split = 0
    loss: str = "mean"

    def place(self, captured: Captured, size: int | None) -> Placed:
        """The roles. InvalidArgument for a number of stages that is not that of processes, or that the
        model has too few layers for.
        """
        self._check()
        roles = _Placing(captured, self.stages).roles()
        ranks = tuple(f"stage{number}" for number in range(self.stages))
        placed = ByFunction(lambda node: roles.get(node), ranks).place(captured, size)
        if self.microbatches == 1:
            return placed
        costs = _costs(captured, placed, self.stages)
        return replace(placed, pipeline=Pipeline(self.stages, self.microbatches, costs, self.loss == "mean"))

    def _check(self) -> None:
        if self.stages < 1 or self.microbatches < 1:
            why = f"it needs at least 1 stage and 1 microbatch, not {self.stages} and {self.microbatches}"
            raise InvalidArgument(WHAT, repr(self), why)
        if self.loss not in ("mean", "sum"):
            raise InvalidArgument(WHAT, repr(self), f'loss is "mean" or "sum", not {self.loss!r}')

    @property
    def splitting(self) -> Splitting:
        """The way in which batches are divided."""
        return Splitting(self.microbatches, self.split, uneven=self.loss == "sum")

    def example(self, batch: Any, dynamic: Dynamic | None) -> Any:
        """The microbatch to capture, of an example of a batch."""
        self._check()
        if self.microbatches == 1:
            return batch
        if self.split is None:
            return self.splitting.pieces(batch, {})[0]
        tensors, _ = flatten_batch(batch)
        names = {
            name: named(name, tensors[name], wanted) for name, wanted in (dynamic or {}).items() if name in tensors
        }
        return self.splitting.pieces(batch, names)[0]


def _costs(captured: Captured, placed: Placed, stages: int) -> tuple[tuple[float, float], ...]:
    """For each stage the operations of a forward and of a backward pass."""
    found = [[0.0, 0.0] for _ in range(stages)]
    for node in captured.module.graph.nodes:
        phase = node.meta.get("phase")
        if phase in ("forward", "backward") and node in placed.roles:
            stage = int(placed.roles[node].removeprefix("stage"))
            found[stage][phase == "backward"] += flops(node)
    return tuple((forward, backward) for forward, backward in found)


class _Placing:
    """The stages of one step's nodes."""

    def __init__(self, captured: Captured, stages: int) -> None:
        self.captured = captured
        self.stages = stages
        nodes = [node for node in captured.module.graph.nodes if node.op == "call_function"]
        self.forward = [node for node in nodes if node.meta.get("phase") == "forward"]
        self.backward = [node for node in nodes if node.meta.get("phase") == "backward"]
        self.stage: dict[fx.Node, int] = {}

    def roles(self) -> dict[fx.Node, str]:
        """The roles of inputs, forward and backward; the update follows its first argument."""
        if any(_mark(node) is not None for node in self.forward):
            self._marked()
        else:
            self._balanced()
        self._place_backward()
        found = {node: f"stage{stage}" for node, stage in self.stage.items()}
        found.update((node, f"stage{stage}") for node, stage in self._inputs().items())
        return found

    def _marked(self) -> None:
        """Forward by the model's annotations; a node without one goes with the node before it."""
        stage = 0
        for node in self.forward:
            mark = _mark(node)
            if mark is not None and (not isinstance(mark, int) or not 0 <= mark < self.stages):
                why = f"the model annotates it with stage {mark!r}: there are 0 to {self.stages - 1}"
                raise InvalidArgument(WHAT, f"{node} ({self.captured.source(node)})", why)
            stage = stage if mark is None else mark
            self.stage[node] = stage

    def _balanced(self) -> None:
        layers = self._layers()
        if len(layers) < self.stages:
            why = f"the model has {len(layers)} layers (modules with operators), too few for {self.stages} stages"
            raise InvalidArgument(WHAT, f"Stages({self.stages})", f"{why}: take fewer, or mark them in the model")
        ends = _divided(self._weights(layers), _crossing(layers), self.stages)
        for stage, (first, last) in enumerate(itertools.pairwise([0, *ends])):
            for node in itertools.chain(*layers[first:last]):
                before = (self.stage[one] for one in node.all_input_nodes if one in self.stage)
                self.stage[node] = max([stage, *before])

    def _layers(self) -> list[list[fx.Node]]:
        """The nodes of forward in groups that are not divided: each begins with the first node of a module."""
        layers: list[list[fx.Node]] = []
        modules: set[str] = set()
        for node in self.forward:
            module = node.meta.get("module", "")
            if not layers or (module and module not in modules):
                layers.append([])
            modules.add(module)
            layers[-1].append(node)
        return layers

    def _weights(self, layers: Sequence[Sequence[fx.Node]]) -> list[float]:
        """The weight of each layer: the mean of its shares in the parameters' bytes and in the operations."""
        work = [sum(map(flops, layer)) for layer in layers]
        seen: set[fx.Node] = set()
        held = []
        for layer in layers:
            new = {one for node in layer for one in node.all_input_nodes if self._is(one, "parameter")} - seen
            seen |= new
            held.append(sum(map(nbytes, new)))
        all_work, all_held = sum(work) or 1, sum(held) or 1
        return [one / all_work / 2 + other / all_held / 2 for one, other in zip(work, held, strict=True)]

    def _is(self, node: fx.Node, kind: str) -> bool:
        given = self.captured.inputs.get(node)
        return given is not None and given.kind == kind

    def _place_backward(self) -> None:
        """A node of backward goes to the stage of the operator whose gradient it computes, but not behind
        the gradients that it takes: those go back from stage to stage.
        """
        of_number: dict[int, int] = {}
        of_module: dict[str, int] = {}
        for node, stage in self.stage.items():
            of_number.setdefault(node.meta.get("number", -1), stage)
            of_module.setdefault(node.meta.get("module", ""), stage)
        of_number.pop(-1, None)
        for node in self.backward:
            given = [self.stage[one] for one in node.all_input_nodes if one in self.stage]
            backward = [
                self.stage[one]
                for one in node.all_input_nodes
                if one.meta.get("phase") == "backward" and one in self.stage
            ]
            number, module = node.meta.get("number", -1), node.meta.get("module", "")
            found = _mark(node)
            if not isinstance(found, int):
                found = of_number.get(number, of_module.get(module) if module else None)
            if found is None:
                found = min(backward, default=max(given, default=self.stages - 1))
            self.stage[node] = min([found, *backward])

    def _inputs(self) -> Mapping[fx.Node, int]:
        """An input lives in the first stage that uses it, a state with its parameter."""
        found: dict[fx.Node, int] = {}
        for node in self.forward:
            for one in node.all_input_nodes:
                if one in self.captured.inputs:
                    found[one] = min(found.get(one, self.stages), self.stage[node])
        of_parameter = {
            self.captured.inputs[node].index: stage for node, stage in found.items() if self._is(node, "parameter")
        }
        for node, given in self.captured.inputs.items():
            if given.kind == "state":
                found[node] = of_parameter.get(given.index, 0)
            elif given.kind != "number":
                found.setdefault(node, 0)
        return found


def _mark(node: fx.Node) -> object:
    """The stage that the model's annotation names, or None."""
    return (node.meta.get("custom") or {}).get("stage")


def _crossing(layers: Sequence[Sequence[fx.Node]]) -> list[int]:
    """The bytes that would cross in front of each layer if a stage began there."""
    of = {node: number for number, layer in enumerate(layers) for node in layer}
    changes: dict[int, int] = defaultdict(int)
    for node, first in of.items():
        last = max((of[user] for user in node.users if user in of), default=first)
        value = node.meta.get("val")
        if last > first and isinstance(value, torch.Tensor):
            changes[first + 1] += elements(node) * value.element_size()
            changes[last + 1] -= elements(node) * value.element_size()
    return list(itertools.accumulate(changes[number] for number in range(len(layers))))


def _divided(weights: Sequence[float], crossing: Sequence[int], stages: int) -> list[int]:
    """The ends of so many groups of neighbours, none empty, the heaviest as light as can be; of divisions that
    are as good but for `SLACK`, the one by which the fewest bytes cross.
    """
    sums = [0.0, *itertools.accumulate(weights)]
    count = len(weights)

    def best(limit: float) -> list[int] | None:
        """The division that sends least, with no group above a limit."""
        costs: list[float] = [0.0] + [float("inf")] * count
        backs: list[list[int]] = []
        for stage in range(stages):
            new, back = [float("inf")] * (count + 1), [-1] * (count + 1)
            for end in range(stage + 1, count - (stages - stage - 1) + 1):
                for begin in range(end - 1, -1, -1):
                    if sums[end] - sums[begin] > limit and begin < end - 1:
                        break
                    cost = costs[begin] + (crossing[begin] if begin else 0)
                    if cost < new[end] and sums[end] - sums[begin] <= limit:
                        new[end], back[end] = cost, begin
            costs = new
            backs.append(back)
        if costs[count] == float("inf"):
            return None
        ends = [count]
        for back in backs[:0:-1]:
            ends.append(back[ends[-1]])
        return ends[::-1]

    limit = _lightest(weights, stages)
    found = best(limit * SLACK)
    assert found is not None
    return found


def _lightest(weights: Sequence[float], stages: int) -> float:
    """The least weight that the heaviest of so many groups of neighbours, none empty, can have, but for rounding."""
    low, high = max(weights), sum(weights)
    for _ in range(40):
        middle = (low + high) / 2
        groups, held = 1, 0.0
        for weight in weights:
            if held + weight > middle:
                groups, held = groups + 1, 0.0
            held += weight
        low, high = (low, middle) if groups <= stages else (middle, high)
    return high
