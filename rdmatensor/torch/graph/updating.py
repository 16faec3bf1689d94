"""The optimizer of a captured step: a shadow of the user's object that works on the trace's tensors.

The user's optimizer is never changed by a capture. States that it would make in its first step are
made by its own code, when the first step's values are asked for.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import LBFGS, SGD, Optimizer, SparseAdam

from rdmatensor.torch.graph.refusal import refusal

__all__ = [
    "State",
    "changed_since",
    "check",
    "constants",
    "fresh_state",
    "is_copied_first",
    "numbers",
    "shadow",
    "value_of",
]

State = dict[str, Any]
_PER_TENSOR = {"foreach": False, "fused": False}
_NOT_VALUES = {"params", "param_names", "foreach", "fused"}


def check(optimizer: Optimizer, known: set[torch.Tensor]) -> None:
    """Raises InvalidArgument for an optimizer whose step is not a function of tensors.

    `known` are the parameters of the model.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, (LBFGS, SparseAdam)):
        why = "wants a closure and runs the model itself" if isinstance(optimizer, LBFGS) else "wants sparse gradients"
        raise refusal(name, f"it {why}; use SGD, Adam, AdamW, RMSprop or Adagrad")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise refusal(name, "it has step hooks, which a graph cannot call; remove them")
    for index, group in enumerate(optimizer.param_groups):
        for key in ("differentiable", "capturable"):
            if group.get(key):
                raise refusal(f"{name}, group {index}", f"{key}=True is for other uses; leave it False")
        for position, parameter in enumerate(group["params"]):
            if parameter not in known:
                raise refusal(
                    f"{name}, parameter {position} of group {index}",
                    "it belongs neither to the model nor to loss_fn; make the loss an nn.Module that holds it",
                )


def numbers(optimizer: Optimizer) -> Iterator[tuple[int, str, Any]]:
    """(group, key, value) of what may change from step to step: lr, and every float that is not 0.

    A member of a tuple has the key "betas.0". Zeros choose another formula (no momentum), so they
    are constants: `constants`.
    """
    for index, group in enumerate(optimizer.param_groups):
        for key, value in _entries(group):
            if _is_number(key, value):
                yield index, key, value


def constants(optimizer: Optimizer) -> Iterator[tuple[int, str, Any]]:
    """(group, key, value) of what the graph keeps: flags, integers and zeros."""
    for index, group in enumerate(optimizer.param_groups):
        for key, value in _entries(group):
            if not _is_number(key, value):
                yield index, key, value


def value_of(optimizer: Optimizer, index: int, key: str) -> Any:
    """A setting of a group, by the key that `numbers` and `constants` give it."""
    name, _, member = key.partition(".")
    value = optimizer.param_groups[index].get(name)
    return value[int(member)] if member else value


def changed_since(optimizer: Optimizer, then: Sequence[tuple[int, str, Any]]) -> str:
    """Which of the settings that `constants` gave has another value now, in words, or ""."""
    for index, key, value in then:
        now = value_of(optimizer, index, key)
        if now is not value and now != value:
            return f"{type(optimizer).__name__}, group {index}, where {key} was {value!r} and is {now!r}"
    return ""


def _entries(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if (
            key in _NOT_VALUES
            or key.startswith("initial_")
            or key in ("max_lr", "min_lr", "max_momentum", "base_momentum")
        ):
            continue
        if isinstance(value, (tuple, list)):
            yield from ((f"{key}.{i}", member) for i, member in enumerate(value))
        else:
            yield key, value


def _is_number(key: str, value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    return key == "lr" or (type(value) is float and value != 0.0)


def shadow(
    optimizer: Optimizer,
    groups: Sequence[Sequence[torch.Tensor]],
    states: Mapping[torch.Tensor, State],
    values: Mapping[tuple[int, str], Any],
) -> Optimizer:
    """An optimizer of the same class and settings over other parameters, states and numbers.

    `groups` are the parameters by group, `values` stand for what `numbers` gives. It updates each
    parameter by operators of its own (no foreach, no fused kernel).
    """
    other = object.__new__(type(optimizer))
    other.__dict__.update(optimizer.__dict__)
    other.__dict__.pop("step", None)  # a scheduler's wrapper, bound to the user's object
    other.state = defaultdict(dict)
    other.state.update({parameter: dict(state) for parameter, state in states.items()})
    other.param_groups = []
    for index, (group, parameters) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        mine = dict(group, params=list(parameters))
        mine.update({key: off for key, off in _PER_TENSOR.items() if key in group})
        for key, value in group.items():
            if key in _NOT_VALUES:
                continue
            if (index, key) in values:
                mine[key] = values[index, key]
            elif isinstance(value, (tuple, list)):
                mine[key] = type(value)(values.get((index, f"{key}.{i}"), member) for i, member in enumerate(value))
        other.param_groups.append(mine)
    return other


def fresh_state(optimizer: Optimizer, index: int, parameter: torch.Tensor) -> State:
    """The state of a parameter before the first step, as the optimizer's own code makes it.

    `parameter` is any tensor of the right shape (in a trace a fake one), `index` its group. SGD
    copies the first gradient into its momentum; here that begins as zeros, and `Captured.values`
    makes the first step equal. Raises InvalidArgument for a class that cannot be asked.
    """
    group = optimizer.param_groups[index]
    if isinstance(optimizer, SGD):
        return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] != 0 else {}
    init = getattr(type(optimizer), "_init_group", None)
    if init is None:
        raise refusal(
            type(optimizer).__name__,
            "its state does not exist yet, and only a step of its own makes it; run one step before, "
            "or use an optimizer of torch.optim",
        )
    stand_in = parameter.detach()
    stand_in.grad = parameter.detach()
    groups: list[list[torch.Tensor]] = [[] for _ in optimizer.param_groups]
    groups[index] = [stand_in]
    other = shadow(optimizer, groups, {}, {})
    lists: list[list[Any]] = [[] for name in inspect.signature(init).parameters if name not in ("self", "group")]
    with torch.no_grad():
        init(other, other.param_groups[index], *lists)
    return dict(other.state[stand_in])


def is_copied_first(optimizer: Optimizer, key: str) -> bool:
    """Whether an optimizer's first step makes a state from the gradient: SGD's momentum."""
    return isinstance(optimizer, SGD) and key == "momentum_buffer"
