"""Capture: one training step (forward, loss, backward, update) as one graph of torch operators.

    captured = capture(model, loss_fn, optimizer, batch)
    (loss,) = captured.module(*captured.values(batch))  # trains the model in place

The step runs once, on fake tensors: nothing is computed, and model, optimizer, gradients and random
generators are afterwards as before. GRAPH.md says what is refused and why.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from rdmatensor.torch.graph.inputs import Input, Kind, LossFn, flatten_batch, loss_of
from rdmatensor.torch.graph.refusal import refusal
from rdmatensor.torch.graph.shapes import Dynamic
from rdmatensor.torch.graph.subject import Subject, check_plain
from rdmatensor.torch.graph.tracing import Clipping, Traced, trace
from rdmatensor.torch.graph.updating import changed_since, check, constants, fresh_state, is_copied_first, value_of

__all__ = ["Captured", "Input", "Kind", "capture", "hashed"]


class Captured:
    """A captured step. It keeps the user's model and optimizer, whose tensors it works on.

    `module` takes the values of `inputs` in the order of its placeholders, updates parameters,
    buffers and states in place, and returns (loss,). Each node's `meta["val"]` is a fake tensor with
    the shape and the type of its result; `meta["phase"]` is "forward", "backward" or "update",
    `meta["module"]` the name of the module, `meta["custom"]` what `torch.fx.traceback.annotate` said
    there, for a node of the backward pass what was said in forward. `gradients` has by index of the
    parameter the node that makes its gradient, or None where the step updates nothing. Ranks whose
    `fingerprint` is equal run the same graph. `guards` says for which batches it holds.

    Run `module` with gradients enabled, torch's default (the values need none): oneDNN's recurrent
    layers make their workspace only then.
    """

    def __init__(self, traced: Traced, subject: Subject, optimizer: Optimizer, batch: Sequence[torch.Tensor]) -> None:
        self.module = traced.module
        self.inputs: dict[fx.Node, Input] = traced.inputs
        self.loss = traced.loss
        self.gradients: tuple[fx.Node | None, ...] = traced.gradients
        self.names = tuple(subject.parameters)
        self.guards = traced.guards
        self._subject = subject
        self._optimizer = optimizer
        self._parameters = tuple(subject.parameters.values())
        self._group_of = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._constants = tuple(constants(optimizer))
        self._strides = [tensor.stride() for tensor in batch]
        self._numbers: dict[str, float] = {}  # that were checked
        self._fresh: dict[torch.Tensor, int] = {}  # momenta made here, with their versions before the first update
        self._settled: set[int] = set()  # groups that took their first step
        self.fingerprint = _fingerprint(self)

    @property
    def optimizer(self) -> Optimizer:
        """The user's optimizer."""
        return self._optimizer

    def restricted(self, inputs: Mapping[fx.Node, Input]) -> Captured:
        """The same step for a process that has some of the inputs only: `values` gives theirs alone, and
        makes no state of others. The nodes may be those of another graph.
        """
        some = copy.copy(self)
        some.inputs = dict(inputs)
        return some

    def follow(self, other: Captured) -> None:
        """Goes on where another capture of this model and optimizer is: a momentum that the other made
        counts here too as one that no step has written. InvalidArgument for what has changed since
        that other capture.
        """
        other._check_unchanged()
        self._fresh, self._settled = other._fresh, other._settled

    def values(self, batch: Any = None) -> list[torch.Tensor | float]:
        """The live tensors and numbers for one step, in the order of the placeholders.

        Parameters share their memory with the model. States that do not exist yet are made here,
        as the optimizer's first step would make them. Raises InvalidArgument for a batch for which
        the graph does not hold (`guards`), and for what the graph holds as a constant and has changed
        since: settings of the optimizer that choose a formula, train() and eval(), frozen parameters.
        """
        members = self._members(batch) if any(source.kind == "batch" for source in self.inputs.values()) else []
        self._check_unchanged()
        self._check_numbers()
        values = [self._value(source, members) for source in self.inputs.values()]
        self._optimizer._opt_called = True  # else schedulers warn that no step was taken
        return values

    def _members(self, batch: Any) -> list[torch.Tensor]:
        """The tensors of a batch, checked and laid out as the graph takes them."""
        broken = self.guards.check(batch)
        if broken:
            raise refusal("batch", f"the captured graph does not hold for it: {broken}")
        return self._laid_out(batch)

    def _laid_out(self, batch: Any) -> list[torch.Tensor]:
        """The tensors of a batch for which the graph holds, laid out as it takes them."""
        tensors, _ = flatten_batch(batch)
        return [
            self.guards.laid_out(name, tensor, strides)
            for (name, tensor), strides in zip(tensors.items(), self._strides, strict=True)
        ]

    def source(self, node: fx.Node) -> str:
        """Where the user's program makes a node: "model.py:12 in forward", for a node of the backward
        pass the line of its forward. Where only torch's code takes part: the module, or the update.
        """
        if node in self.inputs:
            return self.inputs[node].name
        if node.meta.get("phase") == "update":
            return f"the update of {type(self._optimizer).__name__}"
        module = str(node.meta.get("module", ""))
        return str(node.meta.get("source", "")) or (f"module {module}" if module else "the loss")

    def _value(self, source: Input, batch: list[torch.Tensor]) -> torch.Tensor | float:
        if source.kind == "parameter":
            return self._parameters[source.index].detach()
        if source.kind == "state":
            return self._state(self._parameters[source.index], source.key)
        if source.kind == "batch":
            return batch[source.index]
        if source.kind == "buffer":
            return self._subject.buffer(source.name)
        return self._number(source.index, source.key)

    def _state(self, parameter: torch.Tensor, key: str) -> torch.Tensor:
        state = self._optimizer.state[parameter]
        if state.get(key) is None:
            state.update(fresh_state(self._optimizer, self._group_of[parameter], parameter))
            if is_copied_first(self._optimizer, key):
                self._fresh[state[key]] = state[key]._version
        value = state[key]
        assert isinstance(value, torch.Tensor)
        return value

    def _number(self, index: int, key: str) -> torch.Tensor | float:
        if key == "dampening" and self._is_first(index):
            return 0.0
        value = value_of(self._optimizer, index, key)
        return value if isinstance(value, torch.Tensor) else float(value)

    def _is_first(self, index: int) -> bool:
        """Whether the momenta of a group of SGD are as `fresh_state` made them.

        SGD's first step copies the gradient without dampening: with a momentum of zeros that is the
        formula of every other step, with a dampening of 0.
        """
        if index in self._settled:
            return False
        first = set()
        for source in self.inputs.values():
            parameter = self._parameters[source.index] if source.kind == "state" else None
            if parameter is not None and self._group_of[parameter] == index:
                momentum = self._state(parameter, source.key)
                first.add(self._fresh.get(momentum) == momentum._version)
        if len(first) == 2:
            raise refusal(
                f"SGD, group {index}",
                "some of its parameters have a momentum and others take their first step, which are two formulas if "
                "dampening is not 0; give the others a group of their own",
            )
        if first == {False}:
            self._settled.add(index)
        return first == {True}

    def _check_unchanged(self) -> None:
        """Raises InvalidArgument if something that the graph holds as it was has changed since."""
        changed = self._subject.changed_since() or changed_since(self._optimizer, self._constants)
        if changed:
            raise refusal(changed, "the graph holds it as it was at the capture; capture again")

    def _check_numbers(self) -> None:
        """Raises InvalidArgument for numbers with which the optimizer would take another formula."""
        if not self.guards.on_numbers:
            return
        numbers: dict[str, float] = {}
        for source in self.inputs.values():
            value = value_of(self._optimizer, source.index, source.key) if source.kind == "number" else None
            if isinstance(value, (int, float)):
                numbers[source.name] = float(value)
        if numbers != self._numbers:
            broken = self.guards.check_numbers(numbers)
            if broken:
                raise refusal(type(self._optimizer).__name__, f"another formula than at the capture: {broken}")
            self._numbers = numbers


def capture(
    model: nn.Module,
    loss_fn: LossFn,
    optimizer: Optimizer,
    batch: Any,
    *,
    dynamic: Dynamic | None = None,
    clip_grad_norm: float | None = None,
    clip_grad_value: float | None = None,
) -> Captured:
    """One step of training as a graph.

    `loss_fn(output, target)` gets what the model makes of `batch = (*inputs, target)`; a function
    whose first parameter is named `model`, `loss_fn(model, batch)`, gets any structure of tensors.
    It returns the loss, one element. `dynamic` names dimensions that vary from batch to batch
    (`{"batch.0": (0, 1)}` or `{"batch.0": {0: "batch", 1: "length"}}`; equal names are equal sizes).
    `clip_grad_norm` limits the norm of all gradients together, as
    `torch.nn.utils.clip_grad_norm_(model.parameters(), ...)` before the update does,
    `clip_grad_value` each of their values.

    Nothing is computed; model, optimizer, gradients and random generators are afterwards as before.
    Raises InvalidArgument, with the line of the user's program where there is one, for what cannot
    be captured; GRAPH.md lists it.
    """
    subject = Subject(model, loss_fn)
    check(optimizer, set(subject.parameters.values()))
    tensors, structure = flatten_batch(batch)
    for name, tensor in tensors.items():
        check_plain(name, tensor)
    traced = trace(
        subject,
        loss_of(model, loss_fn),
        optimizer,
        tensors,
        structure,
        dynamic=dynamic or {},
        clipping=Clipping(clip_grad_norm, clip_grad_value),
    )
    return Captured(traced, subject, optimizer, list(tensors.values()))


def _fingerprint(captured: Captured) -> str:
    """A hash of everything that makes two graphs the same."""
    digest = hashlib.sha256()
    for line in _described(captured):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _described(captured: Captured) -> Iterator[str]:
    yield torch.__version__
    yield from captured.guards.texts
    for parameter, name in zip(captured._parameters, captured.names, strict=True):
        yield f"{name} {parameter.dtype} {tuple(parameter.shape)} {parameter.requires_grad}"
    number = {node: index for index, node in enumerate(captured.module.graph.nodes)}

    def told(leaf: Any) -> str:
        return f"%{number[leaf]}" if isinstance(leaf, fx.Node) else repr(leaf)

    for node in captured.module.graph.nodes:
        source = captured.inputs.get(node)
        target = source.name if source else str(node.target)
        value = node.meta.get("val")
        shape = captured.guards.shape_of(node)
        strides = value.stride() if shape.kind == "static" and isinstance(value, torch.Tensor) else ""
        arguments = [told(leaf) for leaf in pytree.tree_leaves((node.args, node.kwargs))]
        yield f"{node.op} {target} {arguments} {shape} {strides}"
        if node.op == "get_attr":
            yield hashed(getattr(captured.module, str(node.target)))


def hashed(tensor: torch.Tensor) -> str:
    """A hash of a tensor's bytes."""
    return hashlib.sha256(bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())).hexdigest()
