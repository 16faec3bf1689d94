"""How much a node computes, from the shapes in the graph: floating-point operations, one for each element of what is
not a product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from rdmatensor.torch.graph.alias import is_view

__all__ = ["elements", "flops", "size_of"]


def size_of(size: Any) -> int:
    """A size as a number; of one that varies the value that it had when the step was captured."""
    if isinstance(size, int):
        return size
    hint = getattr(getattr(size, "node", None), "hint", None)
    return int(hint) if hint is not None else 0


def elements(node: fx.Node) -> int:
    """The elements of a node's results."""
    values = pytree.tree_leaves(node.meta.get("val"))
    return sum(math.prod(map(size_of, value.shape)) for value in values if isinstance(value, torch.Tensor))


def flops(node: fx.Node) -> int:
    """The operations of a node; 0 for a view."""
    if node.op != "call_function" or is_view(node):
        return 0
    target = node.target
    name = target._schema.name if isinstance(target, torch._ops.OpOverload) else ""
    count = _PRODUCTS.get(name)
    return elements(node) if count is None else count(node)


def _shape(node: fx.Node, place: int) -> list[int]:
    value = node.args[place]
    assert isinstance(value, fx.Node)
    return [size_of(size) for size in value.meta["val"].shape]


def _matrices(place: int) -> Callable[[fx.Node], int]:
    """Of a product whose left matrix is the argument at a place."""
    return lambda node: 2 * elements(node) * _shape(node, place)[-1]


def _convolution(node: fx.Node) -> int:
    weight = _shape(node, 1)
    transposed = bool(node.args[6])
    each = math.prod(weight) // max(weight[0], 1)
    return 2 * each * (math.prod(_shape(node, 0)) if transposed else elements(node))


def _convolution_backward(node: fx.Node) -> int:
    weight, mask = _shape(node, 2), node.args[10]
    assert isinstance(mask, (tuple, list))
    each = math.prod(weight) // max(weight[0], 1)
    transposed = bool(node.args[7])
    return 2 * each * math.prod(_shape(node, 1 if transposed else 0)) * sum(map(bool, mask[:2]))


def _recurrent(factor: int) -> Callable[[fx.Node], int]:
    """Of one layer of oneDNN: its input and its state times their weights, at every position."""

    def count(node: fx.Node) -> int:
        length, batch, _ = _shape(node, 0)
        return factor * length * batch * (math.prod(_shape(node, 1)) + math.prod(_shape(node, 2)))

    return count


def _attention(factor: int, query: int) -> Callable[[fx.Node], int]:
    """Of so many products of each query with each key."""
    return lambda node: factor * math.prod(_shape(node, query)) * _shape(node, query + 1)[-2]


_PRODUCTS: dict[str, Callable[[fx.Node], int]] = {
    "aten::mm": _matrices(0),
    "aten::bmm": _matrices(0),
    "aten::addmm": _matrices(1),
    "aten::baddbmm": _matrices(1),
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::mkldnn_rnn_layer": _recurrent(2),
    "aten::mkldnn_rnn_layer_backward": _recurrent(4),
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention(4, 0),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention(10, 1),
}
