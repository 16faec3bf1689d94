"""Many edges in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from rdmatensor import _core
from rdmatensor.arrived import Arrived, fetch_together
from rdmatensor.errors import CorruptError, DeadlineExceeded, InvalidArgument
from rdmatensor.recv_edge import RecvEdge
from rdmatensor.send_edge import SendEdge
from rdmatensor.sending import BoundSend
from rdmatensor.tensor import Tensor
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from rdmatensor.device import Device

__all__ = ["recv_many", "send_many", "wait_any"]

_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
# Loops over thousands of edges run in C, attribute by attribute.
_backlog, _edge, _handle, _pointer = map(attrgetter, ("_backlog", "_edge", "_handle", "_pointer"))
_device, _dtype, _nbytes, _shape, _waiting = map(attrgetter, ("device", "_dtype", "_nbytes", "_shape", "_waiting"))
_form, _packed, _ticket = map(attrgetter, ("_form", "_packed", "_ticket"))
_address, _dtype_of, _shape_of = attrgetter("address"), attrgetter("dtype"), attrgetter("shape")


def send_many(sends: Iterable[tuple[SendEdge, Any] | BoundSend], *, timeout: float | None = None) -> None:
    """Sends many tensors, each an (edge, tensor) pair or what `SendEdge.bind` gave, in order, in one call.

    As `SendEdge.send` for each: it blocks until every tensor is on its way, and those of static edges may be changed.
    `timeout` is for all together. After DeadlineExceeded and other errors those before the one that is named were sent,
    those from it on were not.
    """
    given = tuple(sends)
    if not given:
        return
    batch = _packed_bound(given) or _packed_tensors(given) or _packed_bound(tuple(map(_bind, given)))
    assert batch is not None
    edges, packed, keep = batch
    device = edges[0].device
    limit = timeout_ns(timeout, device._timeout_ns)
    for backlog in filter(None, map(_backlog, edges)):
        backlog[-1]._edge._finish_sending(backlog[-1], limit)
    count, done = len(given), 0
    lasting = not device.limits.completes_in_post or min(map(_nbytes, edges)) < 0  # some go on after the call
    before = {edge: edge._sequence_now() for edge in set(edges)} if lasting else {}
    at_once = True  # a slice was enough, and nothing that it sent is under way

    def step(ns: int) -> int:
        nonlocal done, at_once
        begun, status = _core.edges_send_many(packed, done, count - done, ns)
        done += begun
        at_once = at_once and status == _core.OK
        return _core.OK if done == count else status

    status = step(min(limit, _core.SLICE_NS))
    if status in _NOT_YET:
        status = _core.until(device._live(), step, max(limit - _core.SLICE_NS, 0))
    if before:
        _finish(before, zip(edges[:done], keep, strict=False), limit)
    elif not at_once:
        _finish_rest(edges[:done], keep, limit)
    if status == _core.AGAIN:
        why = f"no credit in {limit / 1e9:g} s; {done} of {count} were sent"
        raise DeadlineExceeded(f"send tensor {done} of many", repr(edges[done]), why, status="deadline")
    if status != _core.OK:
        raise edges[done]._refusal(status, f"send tensor {done} of many")


_Batch = tuple[tuple[SendEdge, ...], Any, Sequence[object]]  # edges, packed rt_edge_sending, and what must live


def _packed_bound(given: tuple[Any, ...]) -> _Batch | None:
    """Of what was bound before; None when there is something else."""
    if set(map(type, given)) != {BoundSend}:
        return None
    return tuple(map(_edge, given)), b"".join(map(_packed, given)), given


def _packed_tensors(given: tuple[Any, ...]) -> _Batch | None:
    """Of tensors in regions for static edges; None when there is something else, or something does not fit."""
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
    packed = np.zeros((len(given), 4), np.uint64)
    for column, values in ((0, map(_pointer, edges)), (2, map(_address, forms)), (3, map(_nbytes, edges))):
        packed[:, column] = np.fromiter(values, np.uint64, len(given))
    return edges, packed, tuple(zip(tensors, handles, strict=True))


def _bind(send: Any) -> BoundSend:
    if isinstance(send, BoundSend):
        return send
    if not isinstance(send, tuple) or len(send) != 2 or not isinstance(send[0], SendEdge):
        raise TypeError(f"what is sent is a pair (edge, tensor) or what edge.bind(tensor) gave, not {send!r}")
    return send[0].bind(send[1])


def _finish_rest(edges: Iterable[SendEdge], owner: object, limit: int) -> None:
    """Where a send is mostly over when the call returns, and some were not: keeps their tensors, and waits for them."""
    for edge in set(edges):
        edge._keep(edge._sequence_now(), owner)
        edge.drain(limit / 1e9)


def _finish(sequences: dict[SendEdge, int], sent: Iterable[tuple[SendEdge, object]], limit: int) -> None:
    """Keeps what is still needed, and waits until what lies on static edges was written."""
    for edge, owner in sent:
        sequences[edge] += 1
        edge._keep(sequences[edge], owner)
    for edge in sequences:
        if edge._nbytes >= 0:
            edge.drain(limit / 1e9)
        else:
            edge._sweep()


def recv_many(edges: Iterable[RecvEdge], *, timeout: float | None = None) -> list[Tensor]:
    """The next tensor of each edge, in one call; an edge that is named twice gives two. `timeout` is for all together.

    What dynamic edges have to fetch is READ when all have come, all at once. When one fails, or does not come in time,
    those that came are kept for the next call of their edges.
    """
    given = tuple(edges)
    if not given:
        return []
    device = _device_of(given)
    limit = timeout_ns(timeout, device._timeout_ns)
    received: list[Any] = []  # Tensor; of dynamic edges Arrived at first; None for one that cannot be had again
    try:
        if any(map(_waiting, given)):
            _receive_each(given, limit, received)
        elif None in map(_shape, given):
            _receive_mixed(given, limit, received)
        else:
            _receive_static(given, limit, received)
    except BaseException:
        for edge, tensor in zip(reversed(given[: len(received)]), reversed(received), strict=True):
            if tensor is not None:
                edge._put_back(tensor)
        raise
    return received


def _receive_each(given: tuple[RecvEdge, ...], limit: int, received: list[Tensor]) -> None:
    device = given[0].device
    deadline = _core.device_now_ns(device._live()) + limit
    for edge in given:
        received.append(edge.recv(max(deadline - _core.device_now_ns(device._live()), 0) / 1e9))


def _receive_static(given: tuple[RecvEdge, ...], limit: int, received: list[Tensor]) -> None:
    handles, pointers = _handles_of(given)

    def step(ns: int) -> int:
        first = len(received)
        sequences, status = _core.edges_receive_many(handles, pointers, first, ns)
        came = given[first : first + len(sequences)]
        received.extend(
            [
                Tensor((edge._forms or edge._learn())[number % edge._slots], edge._handle, edge, number)
                for edge, number in zip(came, sequences, strict=True)
            ]
        )
        return status

    _take(given, limit, received, step)


def _receive_mixed(given: tuple[RecvEdge, ...], limit: int, received: list[Any]) -> None:
    handles, pointers = _handles_of(given)
    device = given[0].device
    deadline = _core.device_now_ns(device._live()) + limit

    def left() -> int:
        return max(deadline - _core.device_now_ns(device._live()), 0)

    def step(ns: int) -> int:
        first = len(received)
        arrivals, status = _core.edges_receive_arrivals(handles, pointers, first, ns)
        received.extend(
            [edge._taken(arrival) for edge, arrival in zip(given[first : first + len(arrivals)], arrivals, strict=True)]
        )
        return status

    _take(given, limit, received, step)
    fetched = [index for index, tensor in enumerate(received) if type(tensor) is Arrived]
    if not fetched:
        return
    fetch_together([received[index] for index in fetched], left())
    for index in fetched:
        try:
            received[index] = received[index].hand_out(left() / 1e9, None, False)
        except CorruptError:
            received[index] = None  # released
            raise


def _take(given: tuple[RecvEdge, ...], limit: int, received: list[Any], step: Callable[[int], int]) -> None:
    """Asks for the next tensors until all came; raises what ends the wait."""
    status = step(min(limit, _core.SLICE_NS))
    if status in _NOT_YET:
        status = _core.until(given[0].device._live(), step, max(limit - _core.SLICE_NS, 0))
    if status == _core.AGAIN:
        why = f"nothing came in {limit / 1e9:g} s; {len(received)} of {len(given)} came"
        raise DeadlineExceeded("receive many", repr(given[len(received)]), why, status="deadline")
    if status < 0:
        raise given[len(received)]._refusal(status, "receive many")


def _handles_of(edges: Sequence[RecvEdge]) -> tuple[list[Any], bytes]:
    """The handles, which keep the C objects alive, and their pointers."""
    handles = list(map(_handle, edges))
    if None in handles:
        edges[handles.index(None)]._live()
    return handles, np.fromiter(map(_pointer, edges), np.uint64, len(edges)).tobytes()


def wait_any(edges: Sequence[RecvEdge], *, timeout: float | None = None) -> list[RecvEdge]:
    """Blocks until at least one of many receiving edges of one device is ready, in one call however many there are;
    gives all that are. DeadlineExceeded when none is in time.
    """
    if not edges:
        raise InvalidArgument("wait for edges", why="there are none")
    device = _device_of(edges)
    limit = timeout_ns(timeout, device._timeout_ns)
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

    status = _core.until(device._live(), step, limit)
    if status == _core.AGAIN:
        why = f"none of {len(edges)} is ready after {limit / 1e9:g} s"
        raise DeadlineExceeded("wait for edges", repr(device), why, status="deadline")
    if status != _core.OK:
        raise edges[0]._refusal(status, "wait for edges")
    return [edges[index] for index in found]


def _device_of(edges: Sequence[Any]) -> Device:
    if set(map(type, edges)) != {RecvEdge}:
        strange = next(edge for edge in edges if type(edge) is not RecvEdge)
        raise TypeError(f"a RecvEdge receives, not a {type(strange).__name__}")
    if len(set(map(_device, edges))) > 1:
        raise InvalidArgument("wait for edges", repr(edges[0]), "edges of several devices cannot be waited for at once")
    device: Device = edges[0].device
    return device
