"""Edges between threads: nobody waits out another's wait, and what one thread sends is not taken for another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rdmatensor as rt
from rdmatensor import _core
from rdmatensor.locks import OrderedLock, Rank, check_none_held

LONG = 60.0  # seconds that no call here waits: it is ended before


@pytest.fixture
def here() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


@pytest.fixture
def there() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


@pytest.fixture
def channel(here: rt.Device, there: rt.Device) -> Iterator[rt.Channel]:
    with here.listen() as listener:
        connected = there.connect(listener.address)
        accepted = listener.accept()
    yield connected
    accepted.close()


class Waiter:
    """A thread that is in a call, and how the call ended."""

    def __init__(self, edge: Any, call: Callable[[], object]) -> None:
        self.ended: list[BaseException | None] = []
        self._call = call
        self._thread = threading.Thread(target=self._run)
        before = edge.stats.waits
        self._thread.start()
        while edge.stats.waits == before and self._thread.is_alive():
            pass  # until C has counted the wait

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.ended.append(error)
        else:
            self.ended.append(None)

    def outcome(self) -> BaseException | None:
        self._thread.join()
        return self.ended[0]


KINDS: dict[str, tuple[dict[str, Any], Callable[[rt.RecvEdge], object]]] = {
    "static": ({"shape": 3}, lambda edge: edge.recv(LONG)),
    "static, out": ({"shape": 3}, lambda edge: edge.recv(LONG, out=np.zeros(3, np.float32))),
    "dynamic": ({}, lambda edge: edge.recv(LONG)),
    "many": ({}, lambda edge: rt.recv_many([edge, edge], timeout=LONG)),
}


@pytest.mark.parametrize("closes", ["edge", "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_closing_ends_a_receive_of_another_thread_at_once(
    kind: str, closes: str, here: rt.Device, channel: rt.Channel
) -> None:
    words, call = KINDS[kind]
    edge = here.recv_edge("waits", **words)
    sending = channel.send_edge("waits", **words)
    waiter = Waiter(edge, lambda: call(edge))
    (edge if closes == "edge" else here).close()
    assert isinstance(waiter.outcome(), rt.ClosedError)
    assert sending.name == "waits"


@pytest.mark.parametrize("kind", KINDS)
def test_a_receive_that_only_looks_does_not_wait_for_one_that_waits(
    kind: str, here: rt.Device, channel: rt.Channel
) -> None:
    words, call = KINDS[kind]
    edge, sending = here.recv_edge("looks", **words), channel.send_edge("looks", **words)
    waiter = Waiter(edge, lambda: call(edge))
    with pytest.raises(rt.DeadlineExceeded, match="no tensor came in 0 s"):
        edge.recv(0)
    assert not waiter.ended
    for _ in range(2):
        sending.send(np.zeros(3, np.float32))
    assert waiter.outcome() is None


def test_closing_a_device_beside_a_receive_of_large_tensors_ends() -> None:
    for _ in range(30):
        here, there = rt.Device("shm://"), rt.Device("shm://")
        with here.listen() as listener:
            channel, accepted = there.connect(listener.address), listener.accept()
        edge, sending = here.recv_edge("large"), channel.send_edge("large")
        received = threading.Event()

        def receive(edge: rt.RecvEdge = edge, received: threading.Event = received) -> None:
            while True:
                edge.recv(LONG)
                received.set()

        def send(sending: rt.SendEdge = sending) -> None:
            while True:
                sending.send(np.zeros(20_000, np.float32), timeout=LONG)

        waiter = Waiter(edge, receive)
        ended: list[BaseException] = []

        def run(call: Callable[[], None] = send, ended: list[BaseException] = ended) -> None:
            with pytest.raises(rt.RdmaError) as caught:
                call()
            ended.append(caught.value)

        sender = threading.Thread(target=run)
        sender.start()
        received.wait()
        here.close()
        there.close()
        sender.join()
        assert isinstance(waiter.outcome(), (rt.ClosedError, rt.PeerLost))
        assert ended
        assert accepted.closed


def test_closing_ends_a_send_that_waits_for_credit(here: rt.Device, channel: rt.Channel) -> None:
    edge = here.recv_edge("full", shape=3, options=rt.EdgeOptions(slots=1))
    sending = channel.send_edge("full", shape=3)
    sending.send(np.zeros(3, np.float32))
    waiter = Waiter(sending, lambda: sending.send(np.zeros(3, np.float32), LONG))
    sending.close()
    assert isinstance(waiter.outcome(), rt.ClosedError)
    assert edge.name == "full"


def test_send_many_keeps_each_tensor_under_its_own_sequence_beside_another_send(
    here: rt.Device, there: rt.Device, channel: rt.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge, sending = here.recv_edge("both", options=rt.EdgeOptions(slots=8)), channel.send_edge("both")
    region = there.region(1 << 22, access=rt.Access.REMOTE_READ)
    tensors = [region.empty((100_000,)) for _ in range(2)]
    for index, tensor in enumerate(tensors):
        tensor.numpy()[:] = index
    send_many = _core.send_many

    def send_beside(*arguments: Any) -> Any:
        other = threading.Thread(target=sending.send, args=(tensors[1],))
        other.start()
        other.join()
        return send_many(*arguments)

    monkeypatch.setattr(_core, "send_many", send_beside)
    rt.send_many([(sending, tensors[0])])

    def holds(owner: object, tensor: rt.Tensor) -> bool:
        if isinstance(owner, tuple):
            return any(holds(one, tensor) for one in owner)
        parts = getattr(getattr(owner, "_begin", None), "args", ())
        return owner is tensor or any(holds(one, tensor) for one in parts)

    kept = {sequence: [holds(owner, tensor) for tensor in tensors] for sequence, owner in sending._kept}
    assert kept == {1: [False, True], 2: [True, False]}
    assert [int(edge.recv(LONG).numpy()[0]) for _ in range(2)] == [1, 0]


def test_many_tensors_of_one_edge_come_in_one_call_whatever_its_slots(here: rt.Device, channel: rt.Channel) -> None:
    edge, sending = here.recv_edge("state"), channel.send_edge("state")
    tensors = [np.full((64, index + 1), index, np.float32) for index in range(60)]
    sender = threading.Thread(target=rt.send_many, args=([(sending, tensor) for tensor in tensors],))
    sender.start()
    received = rt.recv_many([edge] * 60, timeout=LONG)
    sender.join()
    assert all(np.array_equal(one.numpy(), two) for one, two in zip(received, tensors, strict=True))


def test_more_tensors_of_a_static_edge_than_it_has_slots_are_refused_with_advice(
    here: rt.Device, channel: rt.Channel
) -> None:
    edge, sending = here.recv_edge("three", shape=3), channel.send_edge("three", shape=3)
    for index in range(2):
        sending.send(np.full(3, index, np.float32))
    with pytest.raises(rt.RegionBusy, match="names it 3 times: name it at most 2 times, or make it with more slots"):
        rt.recv_many([edge] * 3, timeout=LONG)
    assert [int(edge.recv(0).numpy()[0]) for _ in range(2)] == [0, 1]


def test_a_small_dynamic_tensor_may_be_changed_before_it_is_received(here: rt.Device, channel: rt.Channel) -> None:
    edge, sending = here.recv_edge("small"), channel.send_edge("small")
    sending.send_async(np.ones(5)).wait(LONG)
    sending.drain(LONG)
    assert edge.recv(LONG).numpy().sum() == 5


def test_a_large_dynamic_tensor_is_kept_until_it_is_received(
    here: rt.Device, there: rt.Device, channel: rt.Channel
) -> None:
    edge, sending = here.recv_edge("mixed"), channel.send_edge("mixed")
    large = there.region(1 << 20, access=rt.Access.REMOTE_READ).empty((50_000,))
    sending.send(large)
    sending.send(np.ones(5))  # done before the one that was sent before it
    with pytest.raises(rt.DeadlineExceeded):
        sending.drain(0)
    rt.recv_many([edge, edge], timeout=LONG)
    sending.drain(LONG)


def test_a_sender_that_comes_back_waits_until_the_dead_ones_edge_is_made_anew(here: rt.Device) -> None:
    edge = here.recv_edge("producer")
    with here.listen() as listener, rt.Device("shm://") as back:
        with rt.Device("shm://") as first:
            first.connect(listener.address).send_edge("producer")
        with pytest.raises(rt.PeerClosed):
            edge.recv(LONG)
        assert "failed: peer-closed" in repr(edge)
        channel = back.connect(listener.address)
        with pytest.raises(rt.NameNotFound, match="its sender is gone, and the receiver did not close the edge"):
            channel.send_edge("producer", timeout=0)
        opened: list[rt.SendEdge] = []
        opening = threading.Thread(target=lambda: opened.append(channel.send_edge("producer", timeout=LONG)))
        opening.start()
        edge.close()
        again = here.recv_edge("producer")
        opening.join()
        opened[0].send(np.ones(2))
        assert again.recv(LONG).numpy().sum() == 2


def test_locks_are_taken_in_their_order_only() -> None:
    edge, channel = OrderedLock(Rank.EDGE), OrderedLock(Rank.CHANNEL)
    with edge, channel, edge:
        pass
    with channel, pytest.raises(AssertionError, match="the lock EDGE is taken under CHANNEL"), edge:
        pass
    with edge, pytest.raises(AssertionError, match="waiting with the lock EDGE held"):
        check_none_held("waiting")
    check_none_held("waiting")


def test_the_locks_of_this_run_check_their_order(here: rt.Device, channel: rt.Channel) -> None:
    edge = here.recv_edge("checked")
    assert isinstance(channel.send_edge("checked")._lock, OrderedLock)
    assert edge.name == "checked"
