"""Which memory the result of a node is, and which memory a node writes.

The answers come from the schemas of the operators, with a table of those that share or write memory
without saying so. Hazards and `explain()` rely on them; where a tensor is born at run time is traced
(`sites.py`), since no schema says which of an operator's allocations becomes its result.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["aliased", "is_view", "maker", "memories", "origin", "places_written", "writes"]

_SILENT_VIEWS = {
    "aten::_unsafe_view",
    "aten::unsafe_split",
    "aten::unsafe_split_with_sizes",
    "aten::unsafe_chunk",
    "aten::lift",
}
"""Operators whose result is memory of their first argument, though their schema has no alias."""

_SILENT_WRITES = {
    "aten::native_batch_norm": (3, 4),  # running_mean and running_var, in training
    "aten::batch_norm_update_stats": (1, 2),
    "aten::mkldnn_rnn_layer_backward": (22,),  # oneDNN's workspace, of which the backward pass uses up a part
}
"""Operators that write arguments, by position, though their schema does not mark them."""


def origin(node: fx.Node) -> fx.Node:
    """The node that stands for the memory of a node's result; two results share memory if it is the same.

    It is the end of the chain of views and of operators in place: a placeholder, a constant (the first
    node of several for the same), an operator that allocates, or the item of an operator with several
    results (each of them has memory of its own).
    """
    while True:
        if node.op == "get_attr":
            return next(one for one in node.graph.find_nodes(op="get_attr", target=node.target))
        if node.op == "call_function" and node.target is operator.getitem:
            node = _first_item(node)
        source = aliased(node)
        if source is None:
            return node
        node = source


def maker(node: fx.Node) -> fx.Node:
    """The operator that allocates the memory of a node's result, or the placeholder that brings it."""
    source = origin(node)
    while source.op == "call_function" and source.target is operator.getitem:
        container = source.args[0]
        assert isinstance(container, fx.Node)
        source = container
    return source


def aliased(node: fx.Node) -> fx.Node | None:
    """The argument whose memory a node's result is (a view of it, or itself after a write), or None."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:
        container, index = node.args
        assert isinstance(container, fx.Node)
        return _of_item(container, index)
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    place = next(iter(_shared(node.target)), None)
    return None if place is None else _node_at(node, place)


def is_view(node: fx.Node) -> bool:
    """Whether a node only gives other access to memory of an argument: it computes and writes nothing."""
    return aliased(node) is not None and not writes(node)


def writes(node: fx.Node) -> tuple[fx.Node, ...]:
    """The arguments whose memory a node changes, in the order of its schema."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ()
    if node.target._schema.name == "aten::native_batch_norm" and not _argument(node, 5):
        return ()  # not in training
    found = []
    for place in places_written(node.target):
        found += [leaf for leaf in pytree.tree_leaves(_argument(node, place)) if isinstance(leaf, fx.Node)]
    return tuple(found)


def memories(graph: fx.Graph) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """The nodes of a graph by the origin of their memory, both in the order of the graph."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op != "output":
            found.setdefault(origin(node), []).append(node)
    return {source: tuple(nodes) for source, nodes in found.items()}


def _first_item(node: fx.Node) -> fx.Node:
    """The first node that takes the same item of the same container."""
    container = node.args[0]
    assert isinstance(container, fx.Node)
    return next(user for user in container.users if user.target is operator.getitem and user.args == node.args)


def _of_item(container: fx.Node, index: Any) -> fx.Node | None:
    if container.op != "call_function" or not isinstance(container.target, torch._ops.OpOverload):
        return None
    returns = container.target._schema.returns
    shared = _shared(container.target)
    place = shared[0 if len(returns) == 1 else index]  # of a list all members are memory of one argument, or none
    return None if place is None else _node_at(container, place)


@cache
def _shared(target: torch._ops.OpOverload) -> tuple[int | None, ...]:
    """For each result, the position of the argument whose memory it is."""
    schema = target._schema
    if schema.name in _SILENT_VIEWS:
        return (0,)
    return tuple(next(_sharing(schema, result), None) for result in schema.returns)


def _sharing(schema: Any, result: Any) -> Iterator[int]:
    if result.alias_info is None:
        return
    names = result.alias_info.before_set
    for place, argument in enumerate(schema.arguments):
        info = argument.alias_info
        # a list's alias has no name of its own, and neither has its argument's after the call
        if info is not None and (not names or info.before_set & names):
            yield place


@cache
def places_written(target: torch._ops.OpOverload) -> tuple[int, ...]:
    """The positions of the arguments that an operator changes, in the order of its schema."""
    schema = target._schema
    said = [
        place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return tuple(said) or _SILENT_WRITES.get(schema.name, ())


def _argument(node: fx.Node, place: int) -> Any:
    if place < len(node.args):
        return node.args[place]
    assert isinstance(node.target, torch._ops.OpOverload)
    argument = node.target._schema.arguments[place]
    return node.kwargs.get(argument.name, argument.default_value)


def _node_at(node: fx.Node, place: int) -> fx.Node | None:
    argument = _argument(node, place)
    return argument if isinstance(argument, fx.Node) else None
