"""Calls on many edges at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from rdmatensor import _core
from rdmatensor.edges.arrived import Arrived
from rdmatensor.edges.prepared import PreparedSend
from rdmatensor.edges.recv import RecvEdge
from rdmatensor.edges.send import SendEdge
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, RegionBusy
from rdmatensor.memory.layout import dtype_of_code
from rdmatensor.memory.tensor import Tensor
from rdmatensor.settings.arguments import timeout_ns

if TYPE_CHECKING:
    from rdmatensor.owners import OwningDevice

__all__ = ["recv_many", "send_many", "wait_any"]

_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
# Loops over thousands of edges run in C, one attribute at a time.
_backlog, _edge, _handle, _pointer = map(attrgetter, ("_backlog", "_edge", "_handle", "_pointer"))
_device, _dtype, _nbytes, _shape, _waiting = map(attrgetter, ("device", "_dtype", "_nbytes", "_shape", "_waiting"))
_form, _kept, _packed, _ticket = map(attrgetter, ("_form", "_kept", "_packed", "_ticket"))
_address, _dtype_of, _shape_of = attrgetter("address"), attrgetter("dtype"), attrgetter("shape")


def send_many(sends: Iterable[tuple[SendEdge, Any] | PreparedSend], *, timeout: float | None = None) -> None:
    """Sends many tensors in order, in one call. Each is an (edge, tensor) pair or a PreparedSend.

    As `SendEdge.send` for each: the call blocks until every tensor is on its way, and tensors of
    static edges may be changed afterwards. `timeout` covers all of them together. After
    DeadlineExceeded and other errors, the tensors before the named one were sent; that one and
    those after it were not.
    """
    given = tuple(sends)
    if not given:
        return
    batch = _packed_prepared(given) or _packed_tensors(given) or _packed_prepared(tuple(map(_prepare, given)))
    assert batch is not None
    edges, packed, keep = batch
    device = edges[0].device
    limit = timeout_ns(timeout, device.timeout_ns)
    for backlog in filter(None, map(_backlog, edges)):
        backlog[-1]._edge._finish_sending(backlog[-1], limit)
    count, done = len(given), 0

    def step(ns: int) -> int:
        nonlocal done
        begun, status = _core.send_many(edges, packed, keep, done, ns)
        done += begun
        return _core.OK if done == count else status

    status = step(min(limit, _core.SLICE_NS))
    if status in _NOT_YET:
        status = _core.until(device.live(), step, max(limit - _core.SLICE_NS, 0))
    for edge in filter(_kept, set(edges)):  # each keeps the tensors that C needs after the call
        if edge._nbytes >= 0:
            edge.drain(limit / 1e9)
        else:
            edge._sweep()
    if status == _core.AGAIN:
        handle = edges[done]._handle
        why = "the edge was closed meanwhile" if handle is None else _core.edge_obstacle(handle)
        why = f"{done} of {count} were sent in {limit / 1e9:g} s: {why}"
        raise DeadlineExceeded(f"send tensor {done} of many", repr(edges[done]), why, status="deadline")
    if status != _core.OK:
        raise edges[done]._refusal(status, f"send tensor {done} of many")


_Batch = tuple[tuple[SendEdge, ...], bytearray, tuple[object, ...]]  # edges, packed rt_edge_sending, objects to keep


def _packed_prepared(given: tuple[Any, ...]) -> _Batch | None:
    """A batch of sends that were all prepared before; None when anything else is among them."""
    if set(map(type, given)) != {PreparedSend}:
        return None
    return tuple(map(_edge, given)), bytearray().join(map(_packed, given)), given


def _packed_tensors(given: tuple[Any, ...]) -> _Batch | None:
    """A batch of tensors in regions for static edges; None when any entry is something else or does
    not fit.
    """
    try:
        edges, tensors = zip(*given, strict=True)
        if set(map(type, edges)) != {SendEdge} or set(map(type, tensors)) != {Tensor}:
            return None
    except (TypeError, ValueError):
        return None
    forms, handles = tuple(map(_form, tensors)), tuple(map(_handle, edges))
    fits = list(map(_shape, edges)) == list(map(_shape_of, forms)) and list(map(_dtype, edges)) == list(
        map(_dtype_of, forms)
    )
    if not fits or None in handles or min(map(_ticket, tensors)) < 0:
        return None
    packed = np.zeros((len(given), _core.SENDING_SIZE // 8), np.uint64)
    for column, values in ((0, map(_pointer, edges)), (2, map(_address, forms)), (3, map(_nbytes, edges))):
        packed[:, column] = np.fromiter(values, np.uint64, len(given))
    return edges, bytearray(packed), tuple(zip(tensors, handles, strict=True))


def _prepare(send: Any) -> PreparedSend:
    if isinstance(send, PreparedSend):
        return send
    if not isinstance(send, tuple) or len(send) != 2 or not isinstance(send[0], SendEdge):
        raise TypeError(f"expected a pair (edge, tensor) or a PreparedSend of edge.prepare(tensor), not {send!r}")
    return send[0].prepare(send[1])


def _recv_many(taken: list[Any], edges: Iterable[RecvEdge], *, timeout: float | None = None) -> None:
    """The next tensor of each edge, in one call; an edge named twice gives two. `timeout` covers
    all of them together.

    Tensors that dynamic edges must fetch are READ all at once, after all have arrived. Small
    tensors that hold every slot of their edge are copied out of their slots, which `stats.copies`
    counts. When one fails, or does not arrive in time, those that arrived are kept for the next
    call on their edges.
    """
    given = tuple(edges)
    if not given:
        return
    device = _device_of(given)
    limit = timeout_ns(timeout, device.timeout_ns)
    deadline = _core.device_now_ns(device.live()) + limit

    def left() -> int:
        return max(deadline - _core.device_now_ns(device.live()), 0)

    def late(edge: RecvEdge) -> DeadlineExceeded:
        why = f"nothing came in {limit / 1e9:g} s; {len(taken)} of {len(given)} came"
        return DeadlineExceeded("receive many", repr(edge), why, status="deadline")

    if any(map(_waiting, given)):
        for edge in given:
            try:
                edge._receive(taken, left(), None, False, None, many=True)
            except DeadlineExceeded:
                raise late(edge) from None
            except RegionBusy as error:
                if not _make_room(edge, taken, left()):
                    raise _too_often(edge, given) from error
                edge._receive(taken, left(), None, False, None, many=True)
        return
    while (status := _take(given, taken, left())) == _core.BUSY and _make_room(given[len(taken)], taken, left()):
        pass
    if status == _core.AGAIN:
        raise late(given[len(taken)])
    if status == _core.BUSY:
        raise _too_often(given[len(taken)], given)
    if status < 0:
        raise given[len(taken)]._refusal(status, "receive many")
    if any(isinstance(item, Arrived) for _, item in taken):
        _fetch(taken, left())


if TYPE_CHECKING:

    def recv_many(edges: Iterable[RecvEdge], *, timeout: float | None = None) -> list[Tensor]: ...

else:
    recv_many = _core.receiving_many(_recv_many)


def _take(given: tuple[RecvEdge, ...], taken: list[Any], limit: int) -> int:
    """Takes the next tensors until all have come; gives the status of the first that has not."""

    def step(ns: int) -> int:
        return _core.take_many(taken, given, ns, Arrived)

    status = step(min(limit, _core.SLICE_NS))
    if status in _NOT_YET:
        status = _core.until(given[0].device.live(), step, max(limit - _core.SLICE_NS, 0))
    return status


def _fetch(taken: list[Any], limit: int) -> None:
    """READs the tensors that lie at senders, all at once; a READ that does not end in time
    continues.
    """
    device = taken[0][0].device
    for edge, item in taken:
        if isinstance(item, Arrived) and item.form is None and not (item.address or item.borrowed):
            item.choose(edge, dtype_of_code(item.code), item.dims)

    def step(ns: int) -> int:
        return _core.AGAIN if _core.fetch_many(taken, ns) else _core.OK

    status = step(min(limit, _core.SLICE_NS))
    if status != _core.OK:
        status = _core.until(device.live(), step, max(limit - _core.SLICE_NS, 0))
    for index, (edge, item) in enumerate(taken):
        if isinstance(item, Arrived):
            status = item.ready(edge, 0, None, False, None)
            if status == _core.CORRUPT:
                taken[index] = edge, None  # C has released it
            if status in _NOT_YET:
                why = f"its READ was not done in {limit / 1e9:g} s, and goes on: ask again"
                raise DeadlineExceeded("receive many", repr(edge), why, status="deadline")
            if status:
                raise edge._refusal(status, "receive many")


def _make_room(edge: RecvEdge, taken: list[Any], limit: int) -> bool:
    """Frees slots of a dynamic edge for more tensors: READs those of this call that lie at the
    sender, and copies out those that lie in slots. Returns whether there were any.
    """
    mine = [item for one, item in taken if one is edge and edge.shape is None and isinstance(item, Arrived)]
    here = [item for item in mine if (item.address or item.borrowed) and not item.left]
    for item in here:
        item.leave_slot(edge)
    there = any(not (item.address or item.borrowed) and item.fetched == _core.AGAIN for item in mine)
    if there:
        _fetch(taken, limit)
    return bool(here or there)


def _too_often(edge: RecvEdge, given: tuple[RecvEdge, ...]) -> RegionBusy:
    count, slots = given.count(edge), edge._slots
    why = f"it has {slots} slots, and all are held: release tensors of it that were received before"
    if count > 1:
        why += f"; this call names it {count} times: name it at most {slots} times, or make it with more slots"
    return RegionBusy("receive many", repr(edge), why, status="busy")


def _handles_of(edges: Sequence[RecvEdge]) -> tuple[list[Any], bytes]:
    """The handles, which keep the C objects alive, and the objects' addresses."""
    handles = list(map(_handle, edges))
    if None in handles:
        edges[handles.index(None)].live()
    return handles, np.fromiter(map(_pointer, edges), np.uint64, len(edges)).tobytes()


def wait_any(edges: Sequence[RecvEdge], *, timeout: float | None = None) -> list[RecvEdge]:
    """Blocks until at least one of many receiving edges of one device is ready; gives all that are.
    One call serves any number of edges. DeadlineExceeded when none is ready in time.
    """
    if not edges:
        raise InvalidArgument("wait for edges", why="the list is empty: give at least one edge")
    device = _device_of(edges)
    limit = timeout_ns(timeout, device.timeout_ns)
    if any(map(_waiting, edges)):
        return [edge for edge in edges if edge.ready()]
    handles, pointers = _handles_of(edges)
    found: list[int] = []

    def step(ns: int) -> int:
        got = _core.edges_wait_any(handles, pointers, ns)
        if isinstance(got, int):
            return got
        found.extend(got)
        return _core.OK

    status = _core.until(device.live(), step, limit)
    if status == _core.AGAIN:
        why = f"none of {len(edges)} is ready after {limit / 1e9:g} s"
        raise DeadlineExceeded("wait for edges", repr(device), why, status="deadline")
    if status != _core.OK:
        raise edges[0]._refusal(status, "wait for edges")
    return [edges[index] for index in found]


def _device_of(edges: Sequence[Any]) -> OwningDevice:
    if set(map(type, edges)) != {RecvEdge}:
        strange = next(edge for edge in edges if type(edge) is not RecvEdge)
        raise TypeError(f"expected a RecvEdge, not a {type(strange).__name__}")
    if len(set(map(_device, edges))) > 1:
        raise InvalidArgument(
            "wait for edges",
            repr(edges[0]),
            "the edges belong to several devices: wait for those of one device at a time",
        )
    device: OwningDevice = edges[0].device
    return device
