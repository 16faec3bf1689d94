"""Worker threads: they compute at once, and whatever happens in one reaches the step.

The engine is that of a server, over edges of the test's own: what is sent is noted, and what is received comes when the
test says so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training

import rdmatensor.torch.graph as rg
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, PeerLost
from rdmatensor.torch.graph import engine as module
from rdmatensor.torch.graph.capture import capture
from rdmatensor.torch.graph.cut import Cut, Edge
from rdmatensor.torch.graph.engine import Engine
from rdmatensor.torch.graph.place import ParameterServer
from rdmatensor.torch.graph.segment import Schedule, Segment
from rdmatensor.torch.graph.threaded import Threads
from rdmatensor.torch.graph.workers import THREADS_MAX

HANG_S = 100.0


class Receiving:
    """A receiving end whose tensor is there from the beginning, or once `come` is set."""

    def __init__(self, edge: Edge) -> None:
        self.shape, self.dtype = edge.shape, str(edge.dtype).removeprefix("torch.")
        self.come = threading.Event()
        self.come.set()
        self.takers: list[int] = []

    def ready(self) -> bool:
        return self.come.is_set()

    def recv(self) -> np.ndarray[Any, Any]:
        self.takers.append(threading.get_ident())
        return np.ones(self.shape, self.dtype)


class Flying:
    """A send under way: it is done when `end` is set."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def done(self) -> bool:
        return self.end.is_set()

    def wait(self, timeout: float | None = None) -> None:
        assert self.end.wait(HANG_S if timeout is None else timeout)


class Sending:
    """A sending end, which notes what was sent. `lost` is raised instead, if given; `flying` stands for its sends."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.lost: PeerLost | None = None
        self.flying: Flying | None = None

    def send(self, tensor: torch.Tensor, timeout: float | None = None) -> None:
        if self.lost is not None:
            raise self.lost
        if self.flying is not None:
            raise DeadlineExceeded("send", "", "no slot is free", status="deadline")
        self.sent.append(tensor.clone())

    def send_async(self, tensor: torch.Tensor, timeout: float | None = None) -> Flying:
        assert self.flying is not None
        self.sent.append(tensor.clone())
        return self.flying


class Notes:
    """Notes of a process without peers. Only the thread that made it may use it."""

    process = "server0"

    def __init__(self) -> None:
        self.reader = threading.get_ident()

    def _check(self) -> None:
        assert threading.get_ident() == self.reader, "a worker thread uses the notes"

    def read(self) -> None:
        self._check()

    def edges(self) -> list[Any]:
        self._check()
        return []

    def explained(self, error: PeerLost, peer: str, edge: str) -> PeerLost:
        self._check()
        return PeerLost("run a step", self.process, f"{peer} is gone ({edge})")


@cache
def captured() -> tuple[Schedule, dict[int, Any]]:
    """The server's part, and the inputs of its first step by their places."""
    model, batch, loss_fn = training.made("fcn5")
    step = capture(model, loss_fn, training.OPTIMIZERS["adam"](model), batch)
    schedule = Schedule(Cut(step, ParameterServer(1).place(step, 2)).part("server0"))
    values = step.restricted(schedule.part.inputs).values()
    return schedule, dict(zip(schedule.inputs.values(), values, strict=True))


class Server:
    """A server's engine, its edges, and the inputs of a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int, timeout: float = HANG_S) -> None:
        self.schedule, values = captured()
        self.recvs = {receive.edge.name: Receiving(receive.edge) for receive in self.schedule.receives}
        self.sends = {send.edge.name: Sending() for send in self.schedule.sends}
        limits = SimpleNamespace(completes_in_post=True, local_anywhere=True)
        device = SimpleNamespace(limits=limits, holds=lambda address: True)
        wires: Any = SimpleNamespace(device=device, region=None, recvs=self.recvs, sends=self.sends, analysis=False)
        notes: Any = Notes()
        monkeypatch.setattr(module, "send_many", lambda pairs, timeout: [edge.send(one) for edge, one in pairs])
        monkeypatch.setattr(module, "as_tensor", torch.from_numpy)
        monkeypatch.setattr(module, "wait_any", self.wait)
        self.pauses = 0
        self.paused: Callable[[int], None] = lambda pauses: None
        self.workers = Threads("server0", threads) if threads > 1 else None
        self.engine = Engine(self.schedule, wires, notes, timeout, self.workers)
        self.values = {
            place: value.clone() if isinstance(value, torch.Tensor) else value for place, value in values.items()
        }

    def wait(self, edges: list[Any], timeout: float) -> list[Any]:
        """Stands for `wait_any`: takes no time, and nothing has come unless the test says so."""
        self.pauses += 1
        self.paused(self.pauses)
        came = [edge for edge in edges if edge.ready()]
        if not came:
            raise DeadlineExceeded("wait", "", "nothing came", status="deadline")
        return came

    def step(self) -> None:
        env: list[Any] = [None] * len(self.schedule.nodes)
        for place, value in self.values.items():
            env[place] = value
        self.engine.step(env)

    def independent(self) -> list[Segment]:
        """Segments that wait for receives alone, each for others."""
        found = []
        for segment in self.schedule.segments:
            of_receives = sum(segment in receive.next for receive in self.schedule.receives)
            if segment.waits == of_receives:
                found.append(segment)
        return found

    def before(self, segment: Segment, does: Callable[[], Any]) -> None:
        """Calls a function before a segment."""
        code = self.engine._codes[segment.number]

        def both(env: list[Any], uses: list[int]) -> None:
            does()
            code(env, uses)

        self.engine._codes[segment.number] = both

    def close(self) -> None:
        self.engine.close()
        if self.workers is not None:
            self.workers.close(HANG_S)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Makes a server, and closes it."""
    servers: list[Server] = []

    def make(threads: int, timeout: float = HANG_S) -> Server:
        servers.append(Server(monkeypatch, threads, timeout))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@contextmanager
def no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_segments_that_wait_for_receives_alone_run_at_once(made: Callable[..., Server]) -> None:
    server = made(threads=3)
    meeting = threading.Barrier(3, timeout=HANG_S)
    for segment in server.independent()[:3]:
        server.before(segment, meeting.wait)
    server.step()
    assert all(edge.sent for edge in server.sends.values())


def test_one_thread_computes_everything_by_default(made: Callable[..., Server]) -> None:
    server = made(threads=1)
    runners: set[int] = set()
    for segment in server.schedule.segments:
        server.before(segment, lambda: runners.add(threading.get_ident()))
    server.step()
    assert runners == {threading.get_ident()}


def test_every_number_of_threads_sends_the_same(made: Callable[..., Server]) -> None:
    sent = []
    for threads in (1, 2, 4):
        server = made(threads)
        for _ in range(3):
            server.step()
        sent.append({name: edge.sent for name, edge in server.sends.items()})
    for other in sent[1:]:
        for name, tensors in sent[0].items():
            assert len(tensors) == len(other[name]) == 3
            assert all(torch.equal(one, two) for one, two in zip(tensors, other[name], strict=True)), name


def test_the_thread_of_the_caller_receives_and_workers_compute(made: Callable[..., Server]) -> None:
    server = made(threads=2)
    runners: set[int] = set()
    for segment in server.schedule.segments:
        server.before(segment, lambda: runners.add(threading.get_ident()))
    server.step()
    assert threading.get_ident() not in runners
    assert {taker for edge in server.recvs.values() for taker in edge.takers} == {threading.get_ident()}


def test_an_operator_uses_as_many_threads_as_those_of_the_caller(made: Callable[..., Server]) -> None:
    server = made(threads=2)
    found: set[int] = set()
    for segment in server.schedule.segments:
        server.before(segment, lambda: found.add(torch.get_num_threads()))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.clear()
        server.step()
        assert found == {threads}


def test_an_error_in_a_worker_thread_is_raised_by_the_step(made: Callable[..., Server]) -> None:
    with no_thread_left():
        server = made(threads=2)

        def fails() -> None:
            raise IndexError("index out of range in self")

        server.before(server.independent()[1], fails)
        with pytest.raises(IndexError, match="out of range") as raised:
            server.step()
        assert raised.traceback[-1].name == "fails"
        server.close()


def test_a_peer_that_dies_while_a_worker_sends_is_named_by_the_step(made: Callable[..., Server]) -> None:
    server = made(threads=2)
    name, edge = next(iter(server.sends.items()))
    edge.lost = PeerLost("send", repr(name), "it died")
    with pytest.raises(PeerLost, match="worker0 is gone"):
        server.step()


def test_nothing_that_comes_in_time_is_told_with_the_edge(made: Callable[..., Server]) -> None:
    server = made(threads=2, timeout=0.0)
    name, edge = next(iter(server.recvs.items()))
    edge.come.clear()
    with pytest.raises(DeadlineExceeded, match=name):
        server.step()


def test_a_long_segment_is_no_wait_for_peers(made: Callable[..., Server]) -> None:
    server = made(threads=2, timeout=0.0)
    late = server.schedule.receives[-1]
    edge = server.recvs[late.edge.name]
    edge.come.clear()
    computing, over = threading.Event(), threading.Event()

    def long() -> None:
        computing.set()
        assert over.wait(HANG_S)

    segment = next(one for one in server.independent() if one not in late.next)
    server.before(segment, long)

    def paused(pauses: int) -> None:
        assert computing.wait(HANG_S)
        if server.pauses == 5:
            edge.come.set()
            over.set()

    server.paused = paused
    try:
        server.step()
    finally:
        over.set()
    assert server.pauses >= 5


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_that_rests_for_a_send_keeps_no_lock(made: Callable[..., Server], threads: int) -> None:
    """Another thread gets the workers' lock while the step waits for its last send, and then lets that be done."""
    server = made(threads)
    edge = list(server.sends.values())[-1]
    edge.flying = Flying()
    got: list[bool] = []

    def other() -> None:
        while not edge.sent:
            threading.Event().wait(0.001)
        threading.Event().wait(0.1)
        if server.workers is not None:
            got.append(server.workers.lock.acquire(timeout=HANG_S))
            server.workers.lock.release()
        assert edge.flying is not None
        edge.flying.end.set()

    thread = threading.Thread(target=other)
    thread.start()
    server.step()
    thread.join()
    assert edge.flying.done() and got == [True] * (threads > 1)


def test_a_send_that_is_never_done_is_told_with_the_edge_and_its_receiver(made: Callable[..., Server]) -> None:
    server = made(threads=2, timeout=0.5)
    name, edge = list(server.sends.items())[-1]
    edge.flying = Flying()
    with pytest.raises(DeadlineExceeded, match=f"{name} was not sent in 0.5 s: see what worker"):
        server.step()


def test_an_interrupt_ends_the_step_while_a_worker_computes(made: Callable[..., Server]) -> None:
    with no_thread_left():
        server = made(threads=2)
        over = threading.Event()

        def interrupted() -> None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert over.wait(HANG_S)

        server.before(server.independent()[0], interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.step()
        assert server.workers is not None
        with pytest.warns(RuntimeWarning, match="still in an operator"):
            server.workers.close(0)
        left = [one for one in threading.enumerate() if one.name.startswith("rdmatensor server0")]
        over.set()  # it goes on, and uses nothing that is closed
        for thread in left:
            thread.join(HANG_S)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, THREADS_MAX + 1])
def test_a_number_of_threads_that_cannot_be_meant_is_refused(threads: Any) -> None:
    model, batch, loss_fn = training.made("fcn5")
    plan = rg.plan(model, loss_fn, training.OPTIMIZERS["sgd"](model), batch, processes=2)
    with pytest.raises(InvalidArgument, match="threads"):
        plan.open(threads=threads)
