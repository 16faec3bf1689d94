"""The inputs of a captured step: which live object stands behind each placeholder of the graph.

A step has as inputs the parameters and buffers of the model (and of a loss that is a module), the
optimizer's states, the numbers of its parameter groups, and the tensors of the batch, in this order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from rdmatensor.torch.graph.refusal import refusal

__all__ = ["Input", "Kind", "LossFn", "flatten_batch", "loss_of"]

Kind = Literal["parameter", "buffer", "state", "number", "batch"]
LossFn = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Input:
    """One placeholder of the graph.

    `name` is unique: "features.0.weight", "features.0.weight/momentum_buffer", "group0/lr",
    "batch.0". `index` counts parameters (for the kinds parameter and state), buffers, parameter
    groups (number) or tensors of the batch; `key` is the state's or the number's own name.
    """

    kind: Kind
    name: str
    index: int
    key: str = ""


def flatten_batch(batch: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """The tensors of a batch by name ("batch.0", "batch.ids", "batch.0.ids"), and its structure.

    Raises InvalidArgument for a member that is not a tensor.
    """
    leaves, structure = pytree.tree_flatten_with_path(batch)
    tensors: dict[str, torch.Tensor] = {}
    for path, leaf in leaves:
        name = ".".join(["batch", *(_step_of(entry) for entry in path)])
        if not isinstance(leaf, torch.Tensor):
            raise refusal(
                name,
                f"{type(leaf).__name__} {leaf!r:.60} is no tensor, and the graph would keep this one value for ever; "
                "pass torch.tensor(...), or bind the value in loss_fn if it never changes",
            )
        tensors[name] = leaf
    if not tensors:
        raise refusal("batch", "it has no tensor; pass at least one")
    return tensors, structure


def _step_of(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def loss_of(model: nn.Module, loss_fn: LossFn) -> Callable[[Any], torch.Tensor]:
    """The function from a batch to the loss, by the convention of `capture`."""
    if _takes_model(loss_fn):
        return lambda batch: loss_fn(model, batch)

    def loss(batch: Any) -> torch.Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise refusal(
                "batch",
                f"loss_fn(output, target) wants a tuple (*inputs, target), this is {type(batch).__name__}; "
                "write `def loss_fn(model, batch)` for a batch of another form",
            )
        return loss_fn(model(*batch[:-1]), batch[-1])

    return loss


def _takes_model(loss_fn: LossFn) -> bool:
    try:
        first = next(_positional(loss_fn), "")
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return first == "model"


def _positional(function: LossFn) -> Iterator[str]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            yield parameter.name
