"""The step of a pipeline: the graph of one microbatch, repeated for each, and one update.

The nodes of forward and backward are copied once for each microbatch, in an order in which every
stage follows 1F1B (`pipeline.py`). The gradients of the microbatches are added in their order, where
they are made, and divided by their number if the loss is a mean; the loss likewise. The update, and
the joint norm of clipping, follow once. The result is a step like any other: what crosses between
stages, waits for what, and lies where is found by those who know nothing of microbatches.

A copy has in its meta `microbatch` (a number), `template` (the name of the node that was copied) and
`task` (the pass of the microbatch that it belongs to).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import memories, origin, writes
from rdmatensor.torch.graph.capture import Captured
from rdmatensor.torch.graph.inputs import Input, flatten_batch
from rdmatensor.torch.graph.pipeline import Kind, Task
from rdmatensor.torch.graph.place import Placed
from rdmatensor.torch.graph.shapes import Guards

if TYPE_CHECKING:
    from rdmatensor.torch.graph.pipeline import Pipeline
    from rdmatensor.torch.graph.splitting import Splitting

__all__ = ["Microbatched", "WholeGuards", "repeated"]

WHAT = "repeat a step for microbatches"


class Microbatched(Captured):
    """A captured step that takes a batch as several microbatches. Its graph is another than that of
    the step it was made of, all else is shared.
    """

    def __init__(self, one: Captured, made: _Repeating, splitting: Splitting) -> None:
        vars(self).update(vars(one))
        self.module = fx.GraphModule(one.module, made.graph, class_name="Microbatched")
        self.inputs = made.inputs
        assert made.loss is not None
        self.loss = made.loss
        self.gradients = tuple(None if node is None else made.totals[node] for node in one.gradients)
        self.guards = WholeGuards(one.guards, splitting)
        self._splitting = splitting
        digest = hashlib.sha256(f"{one.fingerprint} {splitting!r} {made.pipeline!r}".encode())
        self.fingerprint = digest.hexdigest()

    def _laid_out(self, batch: Any) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for piece in self._splitting.pieces(batch, self.guards.names):
            found += super()._laid_out(piece)
        return found


class WholeGuards(Guards):
    """The conditions for a batch that is divided into microbatches: those of one, for each."""

    def __init__(self, one: Guards, splitting: Splitting) -> None:
        vars(self).update(vars(one))
        self._one = one
        self._splitting = splitting
        batch = splitting.whole(one.example_shapes(), one.names)
        tensors, self._structure = flatten_batch(batch)
        self._batch = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}

    def check(self, batch: Any) -> str | None:
        """None if the graph holds for every microbatch of a batch, or which condition is broken."""
        try:
            pieces = self._splitting.pieces(batch, self.names)
        except InvalidArgument as error:
            return f"{error.on}: {error.why}"
        for number, piece in enumerate(pieces):
            broken = self._one.check(piece)
            if broken:
                return f"in microbatch {number}, {broken}"
        return None


def repeated(captured: Captured, placed: Placed, pipeline: Pipeline, splitting: Splitting) -> tuple[Captured, Placed]:
    """The step for all microbatches, and its placement. `captured` is the step for one, `placed` says
    which stage ("stage0", ...) runs which of its nodes.

    Unsupported, with the line of the user's program, for a step whose stages are no row, or whose
    memory would have other values in the order of the pipeline than in that of the microbatches.
    """
    made = _Repeating(captured, placed, pipeline)
    made.run()
    return Microbatched(captured, made, splitting), Placed(made.roles, {}, placed.ranks, pipeline=pipeline)


class _Repeating:
    def __init__(self, captured: Captured, placed: Placed, pipeline: Pipeline) -> None:
        self.captured = captured
        self.placed = placed
        self.pipeline = pipeline
        self.graph = fx.Graph()
        self.roles: dict[fx.Node, str] = {}
        self.inputs: dict[fx.Node, Input] = {}
        self.totals: dict[fx.Node, fx.Node] = {}  # by what each microbatch makes, what the update takes
        self.loss: fx.Node | None = None
        self.task_of: dict[fx.Node, tuple[Kind, int]] = {}  # kind and stage of each node of a microbatch
        self.body: dict[tuple[Kind, int], list[fx.Node]] = defaultdict(list)
        self.update: list[fx.Node] = []
        self.shared: dict[fx.Node, fx.Node] = {}
        self.copies: list[dict[fx.Node, fx.Node]] = [{} for _ in range(pipeline.microbatches)]

    def run(self) -> None:
        self._divide()
        self._check_row()
        self._check_memory()
        self._copy_inputs()
        summed = self._summed()
        for task in self.pipeline.interleaved():
            self._copy_task(task, summed)
        for node in summed:
            self._mean(node)
        self.loss = self.totals[self.captured.loss]
        for node in self.update:
            self._copy_update(node)
        self.graph.output((self.loss,))
        self.graph.lint()

    # ---- what belongs where ----

    def _divide(self) -> None:
        """Tells nodes of the microbatches from those of the update, and places the former in a task."""
        for node in self.captured.module.graph.nodes:
            if node.op in ("placeholder", "output", "get_attr"):
                continue
            phase = node.meta.get("phase", "forward")
            if phase == "update" and not self._keeps_a_buffer(node):
                self.update.append(node)
                continue
            role = self.placed.roles.get(node)
            if role is None:
                self._refuse(node, "no stage runs it, since it is made of numbers of the optimizer alone")
            kind: Kind = "B" if phase == "backward" else "F"
            self.task_of[node] = kind, self.pipeline.stage_of(str(role))
            self.body[self.task_of[node]].append(node)

    def _keeps_a_buffer(self, node: fx.Node) -> bool:
        """Whether a node writes into a buffer the tensor by which forward replaced it."""
        return any(self._kind(origin(one)) == "buffer" for one in writes(node))

    def _kind(self, node: fx.Node) -> str:
        given = self.captured.inputs.get(node)
        return "" if given is None else given.kind

    def _place(self, node: fx.Node) -> tuple[int, int]:
        """The place of a node's task among those of a microbatch."""
        kind, stage = self.task_of[node]
        return (0, stage) if kind == "F" else (1, -stage)

    def _refuse(self, node: fx.Node, why: str) -> None:
        raise Unsupported(WHAT, f"{node} ({self.captured.source(node)})", why)

    def _check_row(self) -> None:
        for node in self.task_of:
            late = [one for one in node.all_input_nodes if one in self.task_of and self._place(one) > self._place(node)]
            if late:
                _, mine = self.task_of[node]
                other, stage = self.task_of[late[0]]
                passed = "forward" if other == "F" else "backward"
                why = (
                    f"stage {mine} runs it, and it reads {late[0]} ({self.captured.source(late[0])}), which the "
                    f"{passed} pass of stage {stage} makes: with microbatches tensors go forward from stage to stage, "
                    "and gradients back; mark the two for one stage, or leave the division to the plan"
                )
                self._refuse(node, why)

    def _check_memory(self) -> None:
        """Refuses memory whose reads and writes the pipeline would put into another order."""
        number = {node: place for place, node in enumerate(self.task_of)}
        for memory, nodes in memories(self.captured.module.graph).items():
            users = {user for one in nodes for user in one.users if user in number}
            written = {user for user in users if any(origin(one) is memory for one in writes(user))}
            if not written:
                continue
            uses = sorted((user for user in users if not _ignores(user, memory)), key=number.__getitem__)
            self._check_order(uses, written)
            kind = self._kind(memory)
            if kind in ("parameter", "state"):
                node = min(written, key=uses.index)
                self._refuse(node, f"it writes {self.captured.inputs[memory].name} in every microbatch")
            strange = [user for user in uses if self.task_of[user] != ("F", self.task_of[uses[0]][1])]
            if kind == "buffer" and strange:
                name = self.captured.inputs[memory].name
                why = (
                    f"forward changes buffer {name}, and it is used here too: another microbatch has changed it by "
                    "then; use a copy of what forward read, in one stage"
                )
                self._refuse(strange[0], why)

    def _check_order(self, uses: list[fx.Node], written: set[fx.Node]) -> None:
        before: dict[fx.Node, int] = {}
        count = 0
        for user in uses:  # in the order of the graph
            count += user in written
            before[user] = 2 * count - (user in written)
        newest = 0
        for user in sorted(uses, key=self._place):
            if before[user] < newest:
                why = (
                    "it shares memory with a node that writes it, and in the order of a pipeline the two change "
                    "places: work on a copy (clone), or let one stage do both in forward"
                )
                self._refuse(user, why)
            newest = before[user]

    def _summed(self) -> list[fx.Node]:
        """The values that are added over the microbatches: the loss, and the gradients, which the update takes."""
        found = {self.captured.loss: None}
        taken = [one for node in self.update for one in node.all_input_nodes]
        for one in (*self.captured.gradients, *taken):
            if one is not None and one in self.task_of:
                found[one] = None
        for node in found:
            if node is not self.captured.loss and self.task_of[node][0] == "F":
                self._refuse(node, "the update uses a result of forward, of which each microbatch has another")
        return list(found)

    # ---- copies ----

    def _copy_inputs(self) -> None:
        tensors = sum(given.kind == "batch" for given in self.captured.inputs.values())
        for node, given in self.captured.inputs.items():
            if given.kind != "batch":
                self.shared[node] = self._input(node, given, "")
        for number, copies in enumerate(self.copies):
            for node, given in self.captured.inputs.items():
                if given.kind == "batch":
                    of = Input("batch", f"{given.name}@{number}", number * tensors + given.index)
                    copies[node] = made = self._input(node, of, f"_m{number}")
                    made.meta.update(microbatch=number, template=node.name)
        for node in self.captured.module.graph.find_nodes(op="get_attr"):
            self.shared[node] = self._made(self.graph.node_copy(node), node)

    def _input(self, node: fx.Node, given: Input, ending: str) -> fx.Node:
        placeholder = self.graph.create_node("placeholder", f"{node.target}{ending}", name=f"{node.name}{ending}")
        made = self._made(placeholder, node)
        self.inputs[made] = given
        return made

    def _made(self, made: fx.Node, of: fx.Node, **meta: object) -> fx.Node:
        """A new node, with the notes and the role of the one it stands for."""
        made.meta = {**of.meta, **meta}
        role = self.placed.roles.get(of)
        if role is not None:
            self.roles[made] = role
        return made

    def _copy_task(self, task: Task, summed: list[fx.Node]) -> None:
        copies = self.copies[task.microbatch]
        for node in self.body[task.kind, task.stage]:
            made = self.graph.node_copy(node, lambda one: self.shared[one] if one in self.shared else copies[one])
            meta = {"microbatch": task.microbatch, "template": node.name, "task": (task.kind, task.microbatch)}
            made._rename(f"{node.name}_m{task.microbatch}")
            copies[node] = self._made(made, node, **meta)
            _forget_statistics(made)
        for node in summed:
            if self.task_of[node] == (task.kind, task.stage):
                self._add(node, copies[node], task)

    def _add(self, node: fx.Node, copy: fx.Node, task: Task) -> None:
        """Adds a microbatch's gradient to the sum of those before it. The first two make new memory: other
        nodes may still read the gradient.
        """
        total = self.totals.get(node)
        if total is None:
            self.totals[node] = copy
            return
        in_place = total.meta.get("sum", False)
        target = torch.ops.aten.add_.Tensor if in_place else torch.ops.aten.add.Tensor
        self.totals[node] = self._call(target, (total, copy), node, task=(task.kind, task.microbatch), sum=True)

    def _mean(self, node: fx.Node) -> None:
        total = self.totals[node]
        if self.pipeline.mean:
            self.totals[node] = self._call(torch.ops.aten.div_.Scalar, (total, len(self.copies)), node)

    def _call(self, target: torch._ops.OpOverload, arguments: tuple[Any, ...], of: fx.Node, **meta: object) -> fx.Node:
        made = self.graph.call_function(target, arguments)
        value = target(*(one.meta["val"] if isinstance(one, fx.Node) else one for one in arguments))
        return self._made(made, of, val=value, **meta)

    def _copy_update(self, node: fx.Node) -> None:
        def of(one: fx.Node) -> fx.Node:
            return self.shared[one] if one in self.shared else self.totals[one]

        self.shared[node] = self._made(self.graph.node_copy(node, of), node)


def _is_training_norm(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.native_batch_norm_backward.default and node.args[7] is True


def _ignores(node: fx.Node, memory: fx.Node) -> bool:
    """Whether a node has memory as an argument that it does not read: batch norm's gradient in training takes the
    statistics of the batch, not the running ones.
    """
    if not _is_training_norm(node):
        return False
    return all(
        place in (3, 4) for place, one in enumerate(node.args) if isinstance(one, fx.Node) and origin(one) is memory
    )


def _forget_statistics(node: fx.Node) -> None:
    """Takes the running statistics, which it does not read, from batch norm's gradient: the next
    microbatch has written them by then.
    """
    if _is_training_norm(node):
        node.args = (*node.args[:3], None, None, *node.args[5:])
