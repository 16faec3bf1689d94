"""Gradients that replicas average among themselves, by collective calls of a process group.

Each group of gradients is reduced where it lies: the call begins behind the last gradient of the
group, so it overlaps what is left of the backward pass, and is awaited before the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import fx

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import is_view, writes
from rdmatensor.torch.graph.place import nbytes

if TYPE_CHECKING:
    from rdmatensor.torch.graph.capture import Captured

__all__ = ["average", "group_name", "order"]

GROUP_BYTES = 4 << 20
"""Gradients are collected up to so many bytes before a call is made for them."""


def group_name(size: int) -> str:
    """The name of the default process group. InvalidArgument where there is none of this size."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        why = 'gradients are averaged by the default process group: call init_process_group("rdmatensor") before'
        raise InvalidArgument("open a plan", "AllReduce", why)
    if dist.get_world_size() != size:
        why = f"it is for {size} processes, and the default process group has {dist.get_world_size()}"
        raise InvalidArgument("open a plan", "AllReduce", why)
    group = dist.group.WORLD
    assert group is not None
    return str(group.group_name)


def average(graph: fx.Graph, gradients: Iterable[fx.Node], count: int, group: str, captured: Captured) -> None:
    """Puts the calls into the graph of one of `count` replicas, whose gradients are these nodes."""
    try:
        reduce = torch.ops._c10d_functional.all_reduce_coalesced_.default
        wait = torch.ops._c10d_functional.wait_tensor.default
    except AttributeError as error:
        why = f"torch {torch.__version__} lacks collective calls in graphs ({error})"
        raise Unsupported("make a part", "AllReduce", why) from error
    order = {node: number for number, node in enumerate(graph.nodes)}
    memories = sorted({_contiguous(node) for node in gradients}, key=order.__getitem__)
    update = next((node for node in graph.nodes if node.meta.get("phase") == "update"), None)
    if update is None or not memories:
        return
    for node in memories:
        late = [user for user in node.users if node in writes(user) and order[user] < order[update]]
        if late:
            why = f"{late[0]} writes it before the update ({captured.source(late[0])})"
            raise Unsupported("make a part", f"gradient {node}", why)
    for together in _groups(memories):
        last = together[-1]
        with graph.inserting_after(last):
            graph.call_function(reduce, (together, "sum", group)).meta = {"val": None, "role": last.meta.get("role")}
    with graph.inserting_before(update):
        for node in memories:
            waited = graph.call_function(wait, (node,))
            mean = graph.call_function(torch.ops.aten.div_.Scalar, (node, count))
            waited.meta = mean.meta = {"val": node.meta["val"], "role": node.meta.get("role")}


def order(captured: Captured) -> list[str]:
    """The tensors that are averaged, in the order in which the calls take them, by the parameters of which
    they are the gradients.
    """
    memories: dict[fx.Node, list[str]] = {}
    for name, gradient in zip(captured.names, captured.gradients, strict=True):
        if gradient is not None:
            memories.setdefault(_contiguous(gradient), []).append(name)
    return [
        f"{', '.join(memories[node])} {tuple(node.meta['val'].shape)} {node.meta['val'].dtype}"
        for node in captured.module.graph.nodes
        if node in memories
    ]


def _contiguous(node: fx.Node) -> fx.Node:
    """The tensor of which a gradient is a view with the same elements, as far back as there is one."""
    while is_view(node) and isinstance(node.args[0], fx.Node):
        viewed = node.args[0]
        if nbytes(viewed) != nbytes(node) or viewed.op != "call_function":
            break
        node = viewed
    return node


def _groups(memories: list[fx.Node]) -> Iterator[list[fx.Node]]:
    group: list[fx.Node] = []
    size = 0
    for node in memories:
        if group and (size >= GROUP_BYTES or group[0].meta["val"].dtype != node.meta["val"].dtype):
            yield group
            group, size = [], 0
        group.append(node)
        size += nbytes(node)
    yield group
