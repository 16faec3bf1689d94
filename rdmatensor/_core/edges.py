"""Tensor edges: the receiving and the sending end, and calls on many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from rdmatensor import errors
from rdmatensor._core.base import (
    AGAIN,
    CLOSED,
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
    Life,
    Owner,
    RegionHandle,
    RemoteHandle,
    check,
    failure,
    report,
    text_of,
    until,
)
from rdmatensor._native import ffi, lib
from rdmatensor.stats import EdgeStats

STATIC = 1
DYNAMIC = 2
FLOWS: Mapping[str, int] = {"credit": 1, "loop": 2}
ORDERINGS: Mapping[str, int] = {"tail": 1, "chained": 2, "immediate": 3}
RANK_ANY = 255
SENDING_SIZE: int = ffi.sizeof("rt_edge_sending")

_KINDS = {PROTOCOL: errors.TransferError, REFUSED: errors.InvalidArgument, NOT_FOUND: errors.NameNotFound,
          EXISTS: errors.NameTaken}  # fmt: skip


class EdgeTerms(NamedTuple):
    """The terms that one end states for an edge; the words are those of rt_edge_options."""

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
    """The terms that both ends agreed on."""

    slots_address: int
    slot_stride: int
    slots: int
    stripes: int
    mode: int
    verify: bool
    eager_size: int
    trusting: bool
    ordering: str


def _options(terms: EdgeTerms) -> tuple[Any, object]:
    """The struct, and the objects that must live as long as it is in use."""
    name, dims = ffi.new("char[]", terms.name), ffi.new("uint64_t[]", [*terms.shape, 0])
    values = terms._asdict()
    del values["shape"]
    return ffi.new("rt_edge_options *", {**values, "name": name, "dims": dims}), (name, dims)


def edge_create(device: DeviceHandle, terms: EdgeTerms, region: RegionHandle | None, life: Life, on: str) -> EdgeHandle:
    """The receiving end. `life` tells the tensors in its slots, which may be finalized after it."""

    def drop(edge: Any, end: Callable[[Any], None] = lib.rt_edge_drop) -> None:
        end(edge)
        life.ended = True

    detail, owner = ffi.new("rt_detail *"), Owner("rt_edge **", drop, (device, region))
    options, _keep = _options(terms)
    status = lib.rt_edge_create(device, options, ffi.NULL if region is None else region, owner.out, detail)
    check(detail, status, "make an edge", on, _KINDS)
    return cast(EdgeHandle, owner.handle())


def edge_owner(device: DeviceHandle, channel: ChannelHandle) -> Owner:
    """The owner for a sending edge of the channel that is yet to be made."""
    return Owner("rt_edge **", lib.rt_edge_drop, (channel, device))


def edge_open(
    device: DeviceHandle,
    channel: ChannelHandle,
    terms: EdgeTerms,
    owner: Owner,
    timeout_ns: int,
    grace_ns: int,
    gone: Callable[[], bool],
    on: str,
) -> EdgeHandle:
    """The sending end, joined to the peer's. The peer waits `timeout_ns` for the edge to be made
    there; its answer may take `grace_ns` longer. If an earlier call already filled the owner, this
    call continues that opening.
    """
    detail, what = ffi.new("rt_detail *"), "open an edge"
    options, _keep = _options(terms)
    if not owner.filled:
        check(detail, lib.rt_edge_open(channel, options, timeout_ns, owner.out, detail), what, on, _KINDS)
    edge = cast(EdgeHandle, owner.handle())
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


def edge_obstacle(edge: EdgeHandle) -> str:
    """The reason why a send could not begin, in the core's words."""
    detail = ffi.new("rt_detail *")
    lib.rt_edge_explain(edge, AGAIN, detail)
    return text_of(detail.text)


def edge_failure(edge: EdgeHandle, on: str) -> errors.RdmaError | None:
    """The error that ended the edge, or None."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_edge_failure(edge, detail)
    return None if status == OK else failure(status, "use an edge", on, text_of(detail.text), kinds=_KINDS)


def edge_state(edge: EdgeHandle) -> str:
    """ "open", "closed", or "failed: " and the status that ended it."""
    status = lib.rt_edge_failure(edge, ffi.new("rt_detail *"))
    if status == OK:
        return "open"
    return "closed" if status == CLOSED else f"failed: {text_of(lib.rt_status_name(status))}"


def edge_slots_region(edge: EdgeHandle) -> RegionHandle | None:
    """The region in which the slots lie; its memory lives as long as the handle."""
    pointer = lib.rt_edge_slots_region(edge)
    return None if pointer == ffi.NULL else cast(RegionHandle, ffi.gc(pointer, lib.rt_region_drop))


# ---- tensors ----

_tensor_type = ffi.typeof("rt_edge_tensor *")
_new, _from_buffer = ffi.new, ffi.from_buffer
_edges_type = ffi.typeof("rt_edge *[]")


def edge_tensor(address: int, dtype: int, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> EdgeTensor:
    """The C description of a tensor in place. Strides are in bytes; None means contiguous."""
    made = _new(_tensor_type)
    made.address, made.dtype, made.rank, made.dims = address, dtype, len(shape), shape
    if strides is not None:
        made.strided, made.strides = 1, strides
    return cast(EdgeTensor, made)


def edge_tensor_at(template: EdgeTensor, address: int) -> EdgeTensor:
    """A copy of the description with another address."""
    made = _new(_tensor_type, template[0])  # type: ignore[index]
    made.address = address
    return cast(EdgeTensor, made)


def edge_tensor_pointer(tensor: EdgeTensor) -> int:
    """The address of the description, for an `rt_edge_sending`."""
    return int(ffi.cast("uintptr_t", tensor))


def edge_pointer(edge: EdgeHandle) -> int:
    """The C object's address, for an `rt_edge_sending`."""
    return int(ffi.cast("uintptr_t", edge))


# ---- the data path: the C functions themselves, bound once ----

edge_wait_sent: Callable[[EdgeHandle, int, int], int] = lib.rt_edge_wait_sent
edge_wait_released: Callable[[EdgeHandle, int, int], int] = lib.rt_edge_wait_released
edge_ready: Callable[[EdgeHandle], int] = lib.rt_edge_ready
edge_close: Callable[[EdgeHandle], None] = lib.rt_edge_close
edge_dump: Callable[[EdgeHandle], str] = partial(report, lib.rt_edge_dump)


def channel_ordering(channel: ChannelHandle) -> str:
    text = ffi.new("char[]", 512)
    lib.rt_channel_ordering(channel, text, 512)
    return text_of(text)


def edge_borrowed(edge: EdgeHandle, sequence: int) -> RemoteHandle:
    """The peer's range in which a borrowed tensor lies; it stays mapped as long as the handle lives."""
    return cast(RemoteHandle, ffi.gc(lib.rt_edge_borrowed(edge, sequence), lib.rt_remote_drop))


def edge_lent_from(edge: EdgeHandle) -> RemoteHandle | None:
    """The peer's range in which loans lie, which stays mapped as long as the handle lives; None
    where loans lie in memory of this end's.
    """
    pointer = lib.rt_edge_lent_from(edge)
    return None if pointer == ffi.NULL else cast(RemoteHandle, ffi.gc(pointer, lib.rt_remote_drop))


def edge_loan_region(edge: EdgeHandle) -> RegionHandle | None:
    """The region of a buffer that the open loan is; its memory lives as long as the handle."""
    pointer = lib.rt_edge_loan_region(edge)
    return None if pointer == ffi.NULL else cast(RegionHandle, ffi.gc(pointer, lib.rt_region_drop))


def edges_wait_any(edges: Sequence[EdgeHandle], pointers: bytes, timeout_ns: int) -> int | list[int]:
    """The indices of the edges that are ready, or a negative status. `pointers` are the handles'
    addresses.
    """
    count = len(edges)
    ready = _new("uint32_t[]", count)
    found = lib.rt_edges_wait_any(_from_buffer(_edges_type, pointers), count, timeout_ns, ready, count)
    return cast(int, found) if found < 0 else ffi.unpack(ready, found)
