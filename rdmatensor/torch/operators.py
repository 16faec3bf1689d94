"""torch.ops.rdmatensor: send, recv, send_dyn and recv_dyn, for graphs that cross processes. OPERATORS.md explains.

    rdmatensor::send(Tensor tensor, str edge, *, float? timeout=None) -> ()
    rdmatensor::recv(str edge, int[] shape, ScalarType dtype, *, float? timeout=None) -> Tensor
    rdmatensor::send_dyn(Tensor tensor, str edge, *, float? timeout=None) -> ()
    rdmatensor::recv_dyn(str edge, int rank, ScalarType dtype, *, float? timeout=None) -> Tensor

`timeout` in seconds, None for that of the edge's device. Defined when this module is imported.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import torch
from torch import library

from rdmatensor.errors import InvalidArgument, NameNotFound, NameTaken, Unsupported
from rdmatensor.layout import as_dtype
from rdmatensor.recv_edge import RecvEdge
from rdmatensor.send_edge import SendEdge
from rdmatensor.torch.tensors import as_tensor

__all__ = ["bind_edge", "unbind_edge"]

AnyEdge = TypeVar("AnyEdge", SendEdge, RecvEdge)

_lock = threading.Lock()
_sending: dict[str, SendEdge] = {}  # what a name in a graph means in this process
_receiving: dict[str, RecvEdge] = {}


def bind_edge(edge: AnyEdge, name: str | None = None) -> AnyEdge:
    """Lets graphs of this process reach an edge by a name, its own if none is given; gives the edge.

    It is kept alive until `unbind_edge`. Sending and receiving edges may have the same name. NameTaken where an open
    edge has it; Unsupported where this torch lacks what the operators need.
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
    """Graphs reach the edge no more, under any name. Twice is fine; the edge stays open."""
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
    """The edge that a name in a graph means, of the kind that the operator is for."""
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


# ---- what runs ----


def _send(tensor: torch.Tensor, edge: str, *, timeout: float | None = None) -> None:
    _edge_of(_sending, edge, "static", "send").send(tensor, timeout)


def _send_dyn(tensor: torch.Tensor, edge: str, *, timeout: float | None = None) -> None:
    """Returns when the tensor may be changed: what comes after in a graph may do so."""
    sender = _edge_of(_sending, edge, "dynamic", "send_dyn")
    limits = sender.device.limits
    if tensor.nbytes <= sender.eager_size:  # its bytes ride in the record
        sender.send(tensor if limits.completes_in_post else tensor.clone(), timeout)
        return
    sender.send(tensor, timeout)
    if _may_be_read_in_place(sender, tensor):
        sender.drain(timeout)


def _may_be_read_in_place(sender: SendEdge, tensor: torch.Tensor) -> bool:
    """Whether the receiver READs the tensor itself. Every region counts: one without the right is copied from, and then
    waiting for the receiver is not needed but harms nothing.
    """
    address = tensor.data_ptr()
    regions = tuple(sender.device._regions)
    return any(region.address <= address < region.address + region.nbytes for region in regions)


def _recv(edge: str, shape: list[int], dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    receiver = _edge_of(_receiving, edge, "static", "recv")
    if tuple(shape) != receiver.shape or as_dtype(dtype).name != receiver.dtype:
        why = f"the graph expects {as_dtype(dtype)} of {tuple(shape)}; nothing was taken"
        raise InvalidArgument("run rdmatensor::recv", repr(receiver), why)
    return as_tensor(receiver.recv(timeout))


def _recv_dyn(edge: str, rank: int, dtype: torch.dtype, *, timeout: float | None = None) -> torch.Tensor:
    receiver = _edge_of(_receiving, edge, "dynamic", "recv_dyn")
    tensor = receiver.recv(timeout)
    if len(tensor.shape) != rank or tensor.dtype != as_dtype(dtype).name:
        receiver._put_back(tensor)
        why = (
            f"{tensor.dtype} of {tensor.shape} has come, and the graph expects {as_dtype(dtype)} of rank {rank}; "
            "it waits for the next call"
        )
        raise InvalidArgument("run rdmatensor::recv_dyn", repr(receiver), why)
    return as_tensor(tensor)


# ---- what shape inference sees ----


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
    """Defines the operators; gives what this torch lacks for them, or nothing. Then none is defined: one that could be
    dropped from a graph or moved in it would be worse.
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
        has_side_effect(operator)  # what torch versions that ask no effects go by
    return ""


_missing = _define()
