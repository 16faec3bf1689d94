"""Many edges in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.errors import DeadlineExceeded, InvalidArgument
from rdmatensor.recv_edge import RecvEdge
from rdmatensor.send_edge import SendEdge
from rdmatensor.sending import BoundSend
from rdmatensor.tensor import Tensor
from rdmatensor.timeouts import timeout_ns

if TYPE_CHECKING:
    from rdmatensor.device import Device

__all__ = ["recv_many", "send_many", "wait_any"]

_NOT_YET = (_core.AGAIN, _core.INTERRUPTED)
_packed = attrgetter("_packed")
_pointer = attrgetter("_pointer")
_nbytes = attrgetter("_nbytes")
_form = attrgetter("_form")


def send_many(sends: Iterable[tuple[SendEdge, Any] | BoundSend], *, timeout: float | None = None) -> None:
    """Sends many tensors, each an (edge, tensor) pair or what `SendEdge.bind` gave, in order, in one call.

    As `SendEdge.send` for each: it blocks until every tensor is on its way, and those of static edges may be changed.
    `timeout` is for all together. After DeadlineExceeded and other errors those before the one that is named were sent,
    those from it on were not.
    """
    given = tuple(sends)
    if not given:
        return
    bound: Any = given if set(map(type, given)) == {BoundSend} else tuple(map(_bind, given))
    edges = [send._edge for send in bound]
    for edge in edges:
        if edge._handle is None or edge._backlog:
            edge._start(lambda _ns: 0, timeout)
    _send_packed(b"".join(map(_packed, bound)), bound, edges, timeout)


def _bind(send: tuple[SendEdge, Any] | BoundSend) -> BoundSend:
    if isinstance(send, BoundSend):
        return send
    if not isinstance(send, tuple) or len(send) != 2 or not isinstance(send[0], SendEdge):
        raise TypeError(f"what is sent is a pair (edge, tensor) or what edge.bind(tensor) gave, not {send!r}")
    return send[0].bind(send[1])


def _send_packed(packed: bytes, bound: Sequence[BoundSend], edges: list[SendEdge], timeout: float | None) -> None:
    device = edges[0].device
    limit = timeout_ns(timeout, device._timeout_ns)
    count, done = len(bound), 0
    before = {edge: edge._sequence_now() for edge in set(edges) if edge._asynchronous()}
    at_once = True  # a slice was enough, and nothing that it sent is under way

    def step(ns: int) -> int:
        nonlocal done, at_once
        begun, status = _core.edges_send_many(packed, done, count - done, ns)
        done += begun
        at_once = at_once and status == _core.OK
        return _core.OK if done == count else status

    status = _core.until(device._live(), step, limit)
    if not at_once:
        _keep_unfinished(edges[:done], bound)
    if before:
        _finish(before, bound[:done], limit)
    if not at_once:
        _drain(edges[:done], limit)
    if status == _core.AGAIN:
        why = f"no credit in {limit / 1e9:g} s; {done} of {count} were sent"
        raise DeadlineExceeded(f"send tensor {done} of many", repr(edges[done]), why, status="deadline")
    if status != _core.OK:
        raise edges[done]._refusal(status, f"send tensor {done} of many")


def _keep_unfinished(edges: Sequence[SendEdge], owner: object) -> None:
    """Where a send is mostly over when the call returns, and some were not: keeps the tensors of static edges."""
    for edge in set(edges):
        if not edge._asynchronous():
            edge._keep(edge._sequence_now(), owner)


def _drain(edges: Sequence[SendEdge], limit: int) -> None:
    for edge in set(edges):
        if not edge._asynchronous():
            edge.drain(limit / 1e9)


def _finish(sequences: dict[SendEdge, int], sent: Sequence[BoundSend], limit: int) -> None:
    """Keeps what is still needed, and waits until what lies on static edges was written."""
    for send in sent:
        edge = send._edge
        if edge in sequences:
            sequences[edge] += 1
            edge._keep(sequences[edge], send)
    for edge in sequences:
        if edge._nbytes >= 0:
            edge.drain(limit / 1e9)
        else:
            edge._sweep()


def recv_many(edges: Iterable[RecvEdge], *, timeout: float | None = None) -> list[Tensor]:
    """The next tensor of each edge, in one call; an edge that is named twice gives two. `timeout` is for all together.

    When one fails, or does not come in time, those that came are kept for the next call of their edges.
    """
    given = tuple(edges)
    if not given:
        return []
    device = _device_of(given)
    deadline = _core.device_now_ns(device._live()) + timeout_ns(timeout, device._timeout_ns)
    received: list[Tensor] = []
    try:
        for edge in given:
            left = max(deadline - _core.device_now_ns(device._live()), 0)
            received.append(edge.recv(left / 1e9))
    except BaseException:
        for edge, tensor in zip(reversed(given[: len(received)]), reversed(received), strict=True):
            edge._put_back(tensor)
        raise
    return received


def wait_any(edges: Sequence[RecvEdge], *, timeout: float | None = None) -> list[RecvEdge]:
    """Blocks until at least one of many receiving edges of one device is ready, in one call however many there are;
    gives all that are. DeadlineExceeded when none is in time.
    """
    if not edges:
        raise InvalidArgument("wait for edges", why="there are none")
    device = _device_of(edges)
    limit = timeout_ns(timeout, device._timeout_ns)
    if any(edge._waiting for edge in edges):
        return [edge for edge in edges if edge.ready()]
    handles = [edge._handle or edge._live() for edge in edges]
    found: list[int] = []

    def step(ns: int) -> int:
        got = _core.edges_wait_any(handles, ns)
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
    for edge in edges:
        if not isinstance(edge, RecvEdge):
            raise TypeError(f"a RecvEdge receives, not a {type(edge).__name__}")
        if edge.device is not edges[0].device:
            raise InvalidArgument("wait for edges", repr(edge), "edges of several devices cannot be waited for at once")
    device: Device = edges[0].device
    return device
