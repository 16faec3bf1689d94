"""Tensor edges: the receiving and the sending end, and calls on many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NewType, cast

from rdmatensor import errors
from rdmatensor._core.base import (
    AGAIN,
    DEADLINE,
    EXISTS,
    NOT_FOUND,
    OK,
    PROTOCOL,
    REFUSED,
    ChannelHandle,
    DeviceHandle,
    EdgeHandle,
    EdgeTensor,
    RegionHandle,
    RemoteHandle,
    check,
    failure,
    owned,
    pointer_of,
    report,
    text_of,
    until,
)
from rdmatensor._native import ffi, lib
from rdmatensor.life import Life
from rdmatensor.stats import EdgeStats

STATIC = 1
DYNAMIC = 2
FLOWS: Mapping[str, int] = {"credit": 1, "loop": 2}
ORDERINGS: Mapping[str, int] = {"tail": 1, "chained": 2, "immediate": 3}
RANK_ANY = 255
FetchingMany = NewType("FetchingMany", object)
SENDING_SIZE: int = ffi.sizeof("rt_edge_sending")

_KINDS = {PROTOCOL: errors.TransferError, REFUSED: errors.InvalidArgument, NOT_FOUND: errors.NameNotFound,
          EXISTS: errors.NameTaken}  # fmt: skip


class EdgeTerms(NamedTuple):
    """What one end says of an edge; the words are those of rt_edge_options."""

    name: bytes
    kind: int
    shape: tuple[int, ...]  # static
    dtype: int
    rank: int
    flow: int
    ordering: int
    verify: bool
    stripes: int
    slots: int = 0
    loop_check: bool = False
    staging: bool = False
    qp: int = -1
    alignment: int = 0
    eager_size: int = 0


class EdgeInfo(NamedTuple):
    """What both ends agreed on."""

    slots_address: int
    slot_stride: int
    slots: int
    stripes: int
    mode: int
    verify: bool
    eager_size: int
    trusting: bool
    ordering: str


class Arrival(NamedTuple):
    """A tensor that arrived on a dynamic edge. Address 0: it still lies at the sender."""

    sequence: int
    address: int
    dtype: int
    shape: tuple[int, ...]
    nbytes: int


def _options(terms: EdgeTerms) -> tuple[Any, object]:
    """The struct, and what must live as long as it is used."""
    name, dims = ffi.new("char[]", terms.name), ffi.new("uint64_t[]", [*terms.shape, 0])
    values = terms._asdict()
    del values["shape"]
    return ffi.new("rt_edge_options *", {**values, "name": name, "dims": dims}), (name, dims)


def edge_create(device: DeviceHandle, terms: EdgeTerms, region: RegionHandle | None, life: Life, on: str) -> EdgeHandle:
    """The receiving end. `life` tells tensors in its slots, which the garbage collector may end after it."""
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_edge **")
    options, _keep = _options(terms)
    status = lib.rt_edge_create(device, options, ffi.NULL if region is None else region, out, detail)
    check(detail, status, "make an edge", on, _KINDS)

    def drop(edge: Any, end: Callable[[Any], None] = lib.rt_edge_drop) -> None:
        end(edge)
        life.ended = True

    return cast(EdgeHandle, owned(out[0], drop, (device, region)))


def edge_open(
    device: DeviceHandle,
    channel: ChannelHandle,
    terms: EdgeTerms,
    timeout_ns: int,
    grace_ns: int,
    gone: Callable[[], bool],
    on: str,
) -> EdgeHandle:
    """The sending end, joined to the peer's. The peer waits `timeout_ns` for the edge to be made there; its answer may
    take `grace_ns` more.
    """
    detail, out, what = ffi.new("rt_detail *"), ffi.new("rt_edge **"), "open an edge"
    options, _keep = _options(terms)
    check(detail, lib.rt_edge_open(channel, options, timeout_ns, out, detail), what, on, _KINDS)
    edge = cast(EdgeHandle, owned(out[0], lib.rt_edge_drop, (channel, device)))
    status = until(device, lambda ns: cast(int, lib.rt_edge_wait_open(edge, ns, detail)), timeout_ns + grace_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, what, on, "the peer did not answer in time")
    check(detail, status, what, on, _KINDS)
    return edge


def edge_info(edge: EdgeHandle) -> EdgeInfo:
    out = ffi.new("rt_edge_info *")
    lib.rt_edge_get_info(edge, out)
    values = {name: getattr(out, name) for name in EdgeInfo._fields}
    values.update(verify=bool(out.verify), trusting=bool(out.trusting), ordering=text_of(out.ordering))
    return EdgeInfo(**values)


def edge_stats(edge: EdgeHandle) -> dict[str, int]:
    """Counters, by the names of EdgeStats."""
    out = ffi.new("rt_edge_stats *")
    lib.rt_edge_get_stats(edge, out)
    return {name: getattr(out, name) for name in EdgeStats.__annotations__}


def edge_refusal(edge: EdgeHandle, status: int, what: str, on: str) -> errors.RdmaError:
    """The exception for a status that a call on the edge gave, with the core's words."""
    detail = ffi.new("rt_detail *")
    lib.rt_edge_explain(edge, status, detail)
    return failure(status, what, on, text_of(detail.text), kinds=_KINDS)


def edge_failure(edge: EdgeHandle, on: str) -> errors.RdmaError | None:
    """Why the edge is at its end, or None."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_edge_failure(edge, detail)
    return None if status == OK else failure(status, "use an edge", on, text_of(detail.text), kinds=_KINDS)


def edge_slots_region(edge: EdgeHandle) -> RegionHandle | None:
    """The region in which the slots lie: its memory lives as long as the handle."""
    pointer = lib.rt_edge_slots_region(edge)
    return None if pointer == ffi.NULL else cast(RegionHandle, ffi.gc(pointer, lib.rt_region_drop))


# ---- tensors ----

_tensor_type = ffi.typeof("rt_edge_tensor *")
_new, _from_buffer = ffi.new, ffi.from_buffer
_edges_type = ffi.typeof("rt_edge *[]")


def edge_tensor(address: int, dtype: int, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> EdgeTensor:
    """A tensor where it lies, as C has it. Strides in bytes; None: contiguous."""
    made = _new(_tensor_type)
    made.address, made.dtype, made.rank, made.dims = address, dtype, len(shape), shape
    if strides is not None:
        made.strided, made.strides = 1, strides
    return cast(EdgeTensor, made)


def edge_tensor_at(template: EdgeTensor, address: int) -> EdgeTensor:
    """The same somewhere else."""
    made = _new(_tensor_type, template[0])  # type: ignore[index]
    made.address = address
    return cast(EdgeTensor, made)


def edge_tensor_pointer(tensor: EdgeTensor) -> int:
    """Its address, for an `rt_edge_sending`."""
    return int(ffi.cast("uintptr_t", tensor))


def edge_pointer(edge: EdgeHandle) -> int:
    """The C object's address, for an `rt_edge_sending`."""
    return int(ffi.cast("uintptr_t", edge))


# ---- the data path: as they are in C, bound once ----

edge_send: Callable[[EdgeHandle, int, int, int], int] = lib.rt_edge_send
edge_send_tensor: Callable[[EdgeHandle, EdgeTensor, int], int] = lib.rt_edge_send_tensor
edge_wait_sent: Callable[[EdgeHandle, int, int], int] = lib.rt_edge_wait_sent
edge_wait_released: Callable[[EdgeHandle, int, int], int] = lib.rt_edge_wait_released
edge_receive_static: Callable[[EdgeHandle, int], int] = lib.rt_edge_receive_static
edge_release: Callable[[EdgeHandle, int], int] = lib.rt_edge_release
edge_ready: Callable[[EdgeHandle], int] = lib.rt_edge_ready
edge_close: Callable[[EdgeHandle], None] = lib.rt_edge_close
edge_dump: Callable[[EdgeHandle], str] = partial(report, lib.rt_edge_dump)


def channel_ordering(channel: ChannelHandle) -> str:
    text = ffi.new("char[]", 512)
    lib.rt_channel_ordering(channel, text, 512)
    return text_of(text)


_ARRIVAL_WORDS: int = ffi.sizeof("rt_edge_arrival") // 8
_arrival_type = ffi.typeof("rt_edge_arrival *")


def edge_receive(edge: EdgeHandle, timeout_ns: int) -> int | Arrival:
    """The next tensor of a dynamic edge, or a negative status."""
    out = _new(_arrival_type)
    status: int = lib.rt_edge_receive(edge, timeout_ns, out)
    if status:
        return status
    return _arrival(out)


def _arrival(out: Any) -> Arrival:
    return Arrival(out.sequence, out.address, out.dtype, tuple(ffi.unpack(out.dims, out.rank)), out.size)


def edge_fetch(edge: EdgeHandle, sequence: int, region: RegionHandle | None, offset: int, timeout_ns: int) -> int:
    """READs a tensor into a region, or to an address where the provider needs no registration (region None)."""
    status: int = lib.rt_edge_fetch(edge, sequence, ffi.NULL if region is None else region, offset, timeout_ns)
    return status


def edge_borrow(edge: EdgeHandle, sequence: int) -> int:
    """Where a tensor that lies at the sender can be read in place, or a negative status."""
    address = _new("uint64_t *")
    status: int = lib.rt_edge_borrow(edge, sequence, address)
    return cast(int, address[0]) if status == OK else status


def edge_borrowed(edge: EdgeHandle, sequence: int) -> RemoteHandle:
    """The peer's range in which a borrowed tensor lies: mapped as long as the handle lives."""
    return cast(RemoteHandle, ffi.gc(lib.rt_edge_borrowed(edge, sequence), lib.rt_remote_drop))


def edges_wait_any(edges: Sequence[EdgeHandle], pointers: bytes, timeout_ns: int) -> int | list[int]:
    """The indices of those that are ready, or a negative status. `pointers` are those of the handles."""
    count = len(edges)
    ready = _new("uint32_t[]", count)
    found = lib.rt_edges_wait_any(_from_buffer(_edges_type, pointers), count, timeout_ns, ready, count)
    return cast(int, found) if found < 0 else ffi.unpack(ready, found)


def _receive_many(edges: Sequence[EdgeHandle], pointers: bytes, first: int, timeout_ns: int) -> tuple[Any, int, int]:
    count = len(edges) - first
    arrivals, status = _new("rt_edge_arrival[]", count), _new("int32_t *")
    came = lib.rt_edges_receive_many(_from_buffer(_edges_type, pointers) + first, count, timeout_ns, arrivals, status)
    return arrivals, came, status[0]


def edges_receive_many(
    edges: Sequence[EdgeHandle], pointers: bytes, first: int, timeout_ns: int
) -> tuple[list[int], int]:
    """The sequences received of static edges from the `first` on, and the status of the one that did not come."""
    arrivals, came, status = _receive_many(edges, pointers, first, timeout_ns)
    words = memoryview(ffi.buffer(arrivals)).cast("Q")  # a sequence begins each arrival
    return words[: came * _ARRIVAL_WORDS : _ARRIVAL_WORDS].tolist(), status


def edges_receive_arrivals(
    edges: Sequence[EdgeHandle], pointers: bytes, first: int, timeout_ns: int
) -> tuple[list[Arrival], int]:
    """As `edges_receive_many`, of edges of any kind."""
    arrivals, came, status = _receive_many(edges, pointers, first, timeout_ns)
    return [_arrival(arrivals[index]) for index in range(came)], status


def fetching_create(reads: Sequence[tuple[int, RegionHandle | None, int, int]]) -> FetchingMany:
    """READs that begin together: the edge's pointer, region (None: an address), offset, sequence; edges and regions are
    the caller's to keep.
    """
    many = _new("rt_edge_fetching[]", len(reads))
    for item, (edge, region, offset, sequence) in zip(many, reads, strict=True):
        item.edge, item.offset, item.sequence, item.status = edge, offset, sequence, AGAIN
        item.region = 0 if region is None else pointer_of(region)
    return cast(FetchingMany, many)


def edges_fetch_many(many: FetchingMany, timeout_ns: int) -> int:
    """How many have not ended yet."""
    pending: int = lib.rt_edges_fetch_many(many, len(cast(Any, many)), timeout_ns)
    return pending


def fetching_statuses(many: FetchingMany) -> list[int]:
    """How each ended: AGAIN where it has not."""
    return [item.status for item in cast(Any, many)]


def edges_send_many(packed: Any, first: int, count: int, timeout_ns: int) -> tuple[int, int]:
    """Sends `count` of the packed rt_edge_sending from the `first` on. How many were begun, and the status of the one
    that could not be.
    """
    status = _new("int32_t *")
    sends = _from_buffer("rt_edge_sending[]", packed) + first
    begun = lib.rt_edges_send_many(sends, count, timeout_ns, status)
    return begun, status[0]
