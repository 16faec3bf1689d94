"""torch.ops.rdmatensor: send, recv, send_dyn and recv_dyn, for graphs that cross processes. OPERATORS.md explains.

    rdmatensor::send(Tensor tensor, str edge, *, float? timeout=None) -> ()
    rdmatensor::recv(str edge, int[] shape, ScalarType dtype, *, float? timeout=None) -> Tensor
    rdmatensor::send_dyn(Tensor tensor, str edge, *, float? timeout=None) -> ()
    rdmatensor::recv_dyn(str edge, int rank, ScalarType dtype, *, float? timeout=None) -> Tensor

`timeout` is in seconds, None takes that of the edge's device. Importing this module defines the
operators.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import library

from rdmatensor.edges.recv import RecvEdge
from rdmatensor.edges.send import SendEdge
from rdmatensor.errors import InvalidArgument, NameNotFound, NameTaken, Unsupported
from rdmatensor.locks import Rank, ordered_lock
from rdmatensor.memory.describe import describe
from rdmatensor.memory.layout import DType, Shape, as_dtype
from rdmatensor.torch.tensors import as_tensor

__all__ = ["bind_edge", "unbind_edge"]

AnyEdge = TypeVar("AnyEdge", SendEdge, RecvEdge)

_lock = ordered_lock(Rank.OPERATORS)
_sending: dict[str, SendEdge] = {}  # the edges that names in graphs mean in this process
_receiving: dict[str, RecvEdge] = {}


def bind_edge(edge: AnyEdge, name: str | None = None) -> AnyEdge:
    """Lets graphs of this process reach an edge by a name, by default its own; returns the edge.

    The edge is kept alive until `unbind_edge`. A sending and a receiving edge may have the same
    name. NameTaken where another open edge has it; Unsupported where this torch lacks what the
    operators need.
    """
    if _missing:
        raise Unsupported("bind an edge", repr(edge), _missing)
    table = _table_of(edge)
    name = edge.name if name is None else name
    with _lock:
        before = table.get(name)
        if before is not None and before is not edge and not before.closed:
            why = f"{name!r} means {before!r}: unbind or close that first"
            raise NameTaken("bind an edge", repr(edge), why)
        table[name] = edge
    return edge


def unbind_edge(edge: SendEdge | RecvEdge) -> None:
    """Removes all names of an edge from graphs. Twice is fine; the edge stays open."""
    table = _table_of(edge)
    with _lock:
        for name in [name for name, bound in table.items() if bound is edge]:
            del table[name]


def _table_of(edge: Any) -> dict[str, Any]:
    if isinstance(edge, SendEdge):
        return _sending
    if isinstance(edge, RecvEdge):
        return _receiving
    raise TypeError(f"a SendEdge or a RecvEdge has a name in graphs, not a {type(edge).__name__}")


def _edge_of(table: dict[str, Any], name: str, kind: str, operator: str) -> Any:
    """The edge that a name in a graph means, of the kind that the operator needs."""
    what = f"run rdmatensor::{operator}"
    edge = table.get(name)
    if edge is None:
        verb = "sending" if table is _sending else "receiving"
        known = ", ".join(sorted(map(repr, table))) or "none"
        why = f"no {verb} edge is bound to that name in this process ({known} is): rdmatensor.torch.bind_edge(edge)"
        raise NameNotFound(what, repr(name), why)
    if edge.kind != kind:
        other = operator.removesuffix("_dyn") if edge.kind == "static" else f"{operator}_dyn"
        raise InvalidArgument(what, repr(edge), f"the edge is {edge.kind}: the graph needs rdmatensor::{other} for it")
    return edge


# ---- implementations ----


def _send(tensor: torch.Tensor, edge: str, *, timeout: float | None = None) -> None:
    _edge_of(_sending, edge, "static", "send").send(tensor, timeout)


def _send_dyn(tensor: torch.Tensor, edge: str, *, timeout: float | None = None) -> None:
    """Sends, and returns when the tensor may be changed: later operators of the graph may do so."""
    sender = _edge_of(_sending, edge, "dynamic", "send_dyn")
    limits = sender.device.limits
    describe(tensor)  # refuses a tensor without memory, which cannot be cloned either
    if tensor.nbytes <= sender.eager_size:  # its bytes travel in the record
        sender.send(tensor if limits.completes_in_post else tensor.clone(), timeout)
        return
    sender.send(tensor, timeout)
    if _may_be_read_in_place(sender, tensor):
        sender.drain(timeout)


def _may_be_read_in_place(sender: SendEdge, tensor: torch.Tensor) -> bool:
    """Whether the receiver may READ the tensor in place. Every region counts: a tensor in a region
    without the right is copied, and the wait for the receiver is then unnecessary but harmless.
    """
    return sender.device.holds(tensor.data_ptr())


def _recv(edge: str, shape: list[int], dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    receiver = _edge_of(_receiving, edge, "static", "recv")
    if tuple(shape) != receiver.shape or as_dtype(dtype).name != receiver.dtype:
        why = f"the graph expects {as_dtype(dtype)} of {tuple(shape)}; nothing was taken"
        raise InvalidArgument("run rdmatensor::recv", repr(receiver), why)
    return as_tensor(receiver.recv(timeout))


def _recv_dyn(edge: str, rank: int, dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    receiver = _edge_of(_receiving, edge, "dynamic", "recv_dyn")

    def fits(kind: DType, shape: Shape) -> None:
        if len(shape) != rank or kind is not as_dtype(dtype):
            why = (
                f"{kind} of {shape} has come, and the graph expects {as_dtype(dtype)} of rank {rank}; "
                "it waits for the next call"
            )
            raise InvalidArgument("run rdmatensor::recv_dyn", repr(receiver), why)

    return as_tensor(receiver.recv(timeout, fits=fits))


# ---- for shape inference ----


def _fake_send(tensor: torch.Tensor, edge: str, *, timeout: float | None = None) -> None:
    return None


def _fake_recv(edge: str, shape: list[int], dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")


def _fake_recv_dyn(edge: str, rank: int, dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    context = library.get_ctx()
    return torch.empty([context.new_dynamic_size() for _ in range(rank)], dtype=dtype, device="cpu")


# ---- definition ----

_OPERATORS = (
    ("send(Tensor tensor, str edge, *, float? timeout=None) -> ()", _send, _fake_send),
    ("recv(str edge, int[] shape, ScalarType dtype, *, float? timeout=None) -> Tensor", _recv, _fake_recv),
    ("send_dyn(Tensor tensor, str edge, *, float? timeout=None) -> ()", _send_dyn, _fake_send),
    ("recv_dyn(str edge, int rank, ScalarType dtype, *, float? timeout=None) -> Tensor", _recv_dyn, _fake_recv_dyn),
)


def _define() -> str:
    """Defines the operators; returns the name of a missing feature of this torch, or an empty text.
    If one is missing, no operator is defined: an operator that could be dropped from a graph or
    moved in it would be worse.
    """
    try:
        from torch._higher_order_ops.effects import _EffectType, _register_effectful_op
        from torch.fx.node import has_side_effect

        register_fake = library.register_fake
    except (ImportError, AttributeError) as error:
        return f"torch {torch.__version__} lacks what keeps them in graphs ({error}): it needs 2.4 or later"
    for schema, run, fake in _OPERATORS:
        name, bracket, rest = schema.partition("(")
        full = f"rdmatensor::{name}"
        library.define(full, bracket + rest, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(full, "CompositeExplicitAutograd", run)
        register_fake(full, fake)
        operator = getattr(torch.ops.rdmatensor, name).default
        _register_effectful_op(operator, _EffectType.ORDERED)
        has_side_effect(operator)  # for torch versions that do not look at effects
    return ""


_missing = _define()
