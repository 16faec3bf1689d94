"""Ctrl-C at any moment of a call that takes something over loses nothing: the next call gives it."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import rdmatensor as rt
from rdmatensor import _core, locks

INTERRUPTS = 200
PACKAGE = str(Path(rt.__file__).parent)
LARGE = 20_000  # elements of a tensor that is READ


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler: a shell that runs the tests in the background starts them with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def here() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


@pytest.fixture
def there() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


class Pest:
    """A thread that interrupts the main thread, each time within 2 ms of being asked to.

    The two share attributes and no lock: a main thread that is interrupted in a method of an Event, between taking its
    lock and the block that gives it back, would keep the lock for ever.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._asked = self._over = self._ended = False
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        moments, naps, left = random.Random(7), threading.Event(), self._count
        while left and not self._ended:
            naps.wait(moments.random() * 0.002)
            if self._asked:
                self._asked = False
                left -= 1
                assert self._main is not None
                signal.pthread_kill(self._main, signal.SIGINT)
        self._over = True

    def pester(self, step: Callable[[], None]) -> int:
        """Calls `step` again and again until all interrupts have come; how many met it."""
        met = 0
        try:
            while True:
                try:
                    while not self._over:
                        self._asked = True
                        step()
                    for _ in range(10_000):  # the last one may be on its way
                        pass
                    break
                except KeyboardInterrupt:
                    met += 1
        finally:
            self._ended = True
        self._thread.join()
        return met


class Sender:
    """A thread that sends 0, 1, 2, … until it is stopped."""

    def __init__(self, edge: rt.SendEdge, size: int) -> None:
        self.edge, self.size, self.sent = edge, size, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        moments = random.Random(3)
        while not self._stop.wait(moments.random() * 0.001):
            try:
                self.edge.send(np.full(self.size, self.sent, np.float32), timeout=0.1)
            except rt.DeadlineExceeded:
                continue
            self.sent += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.sent


def receive_one(edge: rt.RecvEdge, came: list[Any]) -> None:
    came.append(edge.recv(10))  # without an instruction between the call and the list


def receive_into(edge: rt.RecvEdge, came: list[Any]) -> None:
    came.append(edge.recv(10, out=np.empty(edge.shape or (LARGE,), np.float32)))


def receive_borrowed(edge: rt.RecvEdge, came: list[Any]) -> None:
    came.append(edge.recv(10, borrow=True))


def receive_many(edge: rt.RecvEdge, came: list[Any]) -> None:
    came.extend(rt.recv_many([edge, edge], timeout=10))


RECEIVES = {
    "static": (receive_one, 4, True),
    "static, out": (receive_into, 4, True),
    "static, many": (receive_many, 4, True),
    "in the record": (receive_one, 4, False),
    "fetched": (receive_one, LARGE, False),
    "fetched, out": (receive_into, LARGE, False),
    "fetched, many": (receive_many, LARGE, False),
    "borrowed": (receive_borrowed, LARGE, False),
}


def value_of(tensor: Any) -> int:
    return int(np.asarray(tensor).flat[0])


def wire(here: rt.Device, there: rt.Device, size: int, static: bool) -> tuple[rt.RecvEdge, rt.SendEdge]:
    shape = size if static else None
    edge = here.recv_edge("numbers", shape=shape, options=rt.EdgeOptions(slots=8))
    with here.listen() as listener:
        channel = there.connect(listener.address)
        there.kept = channel, listener.accept()  # type: ignore[attr-defined]
    return edge, channel.send_edge("numbers", shape=shape)


class Values:
    """The contents of the tensors of a list, each noted once, and released then."""

    def __init__(self) -> None:
        self.came: list[Any] = []
        self.seen: dict[int, int] = {}

    def note(self) -> None:
        for index in range(len(self.seen), len(self.came)):
            self.seen.setdefault(index, value_of(self.came[index]))
        for tensor in self.came[-8:]:
            if isinstance(tensor, rt.Tensor):
                tensor.release()
        self.came[:-8] = [None] * len(self.came[:-8])


@pytest.mark.parametrize("kind", RECEIVES)
def test_no_tensor_and_no_credit_is_lost_to_an_interrupted_receive(
    kind: str, here: rt.Device, there: rt.Device
) -> None:
    receive, size, static = RECEIVES[kind]
    edge, sending = wire(here, there, size, static)
    values, sender = Values(), Sender(sending, size)

    def step() -> None:
        receive(edge, values.came)
        values.note()

    met = Pest(INTERRUPTS).pester(step)
    values.note()
    sent = sender.stop()
    while len(values.seen) < sent:
        receive_one(edge, values.came)
        values.note()
    assert met > INTERRUPTS // 4
    assert sorted(values.seen.values()) == list(range(sent))
    sending.flush(10)
    assert sending.stats.released == sending.stats.sequence == sent


def test_no_channel_is_lost_to_an_interrupted_accept(here: rt.Device, there: rt.Device) -> None:
    connected: list[rt.Channel] = []
    accepted: list[rt.Channel] = []
    ended = threading.Event()
    with here.listen() as listener:

        def dial() -> None:
            while not ended.is_set():
                connected.append(there.connect(listener.address))

        dialler = threading.Thread(target=dial)
        dialler.start()
        Pest(INTERRUPTS).pester(lambda: accepted.append(listener.accept(10)))
        ended.set()
        dialler.join()
        while len(accepted) < len(connected):
            accepted.append(listener.accept(10))
        assert {channel.state for channel in connected + accepted} == {"ready"}


# ---- at every instruction ----


class Tripwire:
    """Raises KeyboardInterrupt before the n-th instruction of Python that the package executes in a call."""

    def __init__(self, after: int) -> None:
        self.left = after

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file == locks.__file__:  # outside of tests, locks are C
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace

    def call(self, function: Callable[[], None]) -> bool:
        """Whether it was interrupted; Python ignores what is raised in a finalizer that happens to run."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        with contextlib.suppress(KeyboardInterrupt):
            try:
                function()
            finally:
                sys.settrace(before)
        return self.left <= 0


def at_every_instruction(function: Callable[[], None], check: Callable[[], None]) -> int:
    """Interrupts a call at its first instruction, its second, … and checks after each. How many there were."""
    after = 1
    while Tripwire(after).call(function):
        check()
        after += 1
    check()
    return after


@pytest.mark.parametrize("kind", RECEIVES)
def test_a_receive_may_be_interrupted_before_each_of_its_instructions(
    kind: str, here: rt.Device, there: rt.Device
) -> None:
    receive, size, static = RECEIVES[kind]
    edge, sending = wire(here, there, size, static)
    values, sent = Values(), [0]

    def check() -> None:
        """Nothing is missing: after two tensors were sent, two come."""
        while len(values.came) < sent[0]:
            receive_one(edge, values.came)
        values.note()
        values.note()
        assert sorted(values.seen.values()) == list(range(sent[0]))
        for _ in range(2):
            sending.send(np.full(size, sent[0], np.float32), timeout=10)
            sent[0] += 1

    check()
    assert at_every_instruction(lambda: receive(edge, values.came), check) > 5
    while len(values.came) < sent[0]:
        receive_one(edge, values.came)
    values.note()
    sending.flush(10)


@pytest.mark.parametrize("size", [4, LARGE])
@pytest.mark.parametrize("static", [True, False])
def test_a_loan_may_be_interrupted_before_each_of_its_instructions(
    static: bool, size: int, here: rt.Device, there: rt.Device
) -> None:
    edge, sending = wire(here, there, size, static)
    loan = sending.loan() if static else sending.loan(size)
    number, came = [0], [0]

    def lend() -> None:
        with loan if number[0] % 2 else sending.loan(*(() if static else (size,))) as slot:
            slot.numpy()[:] = number[0]

    def check() -> None:
        """The loan was sent or was given back; either way the next one is had, and arrives."""
        number[0] += 1
        with sending.loan(*(() if static else (size,)), timeout=10) as slot:
            slot.numpy()[:] = number[0]
        while came[0] < sending.stats.sequence:
            with edge.recv(10) as tensor:
                last = value_of(tensor)
            came[0] += 1
        assert last == number[0]
        number[0] += 1

    assert at_every_instruction(lend, check) > 5
    with sending.loan(*(() if static else (size,)), timeout=10) as slot:
        slot.numpy()[:] = 1
    edge.recv(10).release()
    sending.flush(10)


@pytest.mark.parametrize("otherwise", ["alone", "out", "many"])
def test_a_tensor_that_an_interrupted_borrow_left_is_received_in_every_other_way(
    otherwise: str, here: rt.Device, there: rt.Device
) -> None:
    edge, sending = wire(here, there, LARGE, static=False)
    came: list[Any] = []
    sent = [0]

    def check() -> None:
        if sent[0] and not came:
            if otherwise == "alone":
                receive_one(edge, came)
            elif otherwise == "out":
                receive_into(edge, came)
            else:
                came.extend(rt.recv_many([edge], timeout=10))
            assert not getattr(came[0], "readonly", False)
        if sent[0]:
            tensor = came.pop()
            assert value_of(tensor) == sent[0] - 1
            if isinstance(tensor, rt.Tensor):
                tensor.release()
        sending.send(np.full(LARGE, sent[0], np.float32), timeout=10)
        sent[0] += 1

    check()
    assert at_every_instruction(lambda: receive_borrowed(edge, came), check) > 5
    edge.recv(10).release()
    sending.flush(10)
    assert sending.stats.released == sent[0]


def test_an_accept_may_be_interrupted_before_each_of_its_instructions(here: rt.Device, there: rt.Device) -> None:
    accepted: list[rt.Channel] = []
    connected: list[rt.Channel] = []
    with here.listen() as listener:

        def check() -> None:
            while len(accepted) < len(connected):
                accepted.append(listener.accept(10))
            connected.append(there.connect(listener.address))

        check()
        assert at_every_instruction(lambda: accepted.append(listener.accept(10)), check) > 20


def test_an_interrupted_opening_of_an_edge_is_gone_on_with(here: rt.Device, there: rt.Device) -> None:
    with here.listen() as listener:
        channel = there.connect(listener.address)
        accepted = listener.accept()
    opened: list[rt.SendEdge] = []
    after, interrupted = 1, True
    while interrupted:
        received = here.recv_edge("opened")
        interrupted = Tripwire(after).call(lambda: opened.append(channel.send_edge("opened", timeout=10)))
        if interrupted:
            opened.append(channel.send_edge("opened", timeout=10))
        opened.pop().send(np.full(3, after), timeout=10)
        assert value_of(received.recv(10)) == after
        received.close()
        after += 7  # each opening travels to the peer and back
    assert accepted.state == "ready"


def test_an_edge_that_an_interrupt_kept_from_the_caller_is_opened_anew_once_its_receiver_has_gone(
    here: rt.Device, there: rt.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.listen() as listener:
        channel = there.connect(listener.address)
        accepted = listener.accept()
    hand = _core.hand

    def interrupted(*given: Any) -> bool:
        hand(*given)
        raise KeyboardInterrupt

    received = here.recv_edge("opened")
    with monkeypatch.context() as patch:
        patch.setattr(_core, "hand", interrupted)
        with pytest.raises(KeyboardInterrupt):
            channel.send_edge("opened", timeout=10)
    (kept,) = channel._sends._opening
    assert isinstance(kept, rt.SendEdge)
    received.close()
    with pytest.raises(rt.PeerClosed):  # until it has heard of that
        while True:
            kept.send(np.zeros(3), timeout=10)
    again = here.recv_edge("opened")
    channel.send_edge("opened", timeout=10).send(np.full(3, 5), timeout=10)
    assert value_of(again.recv(10)) == 5
    assert accepted.state == "ready"


def test_an_interrupted_allocation_leaves_nothing_behind(here: rt.Device) -> None:
    region = here.region(1 << 20)
    at_every_instruction(lambda: region.allocate(64).free(), lambda: None)
    at_every_instruction(lambda: region.empty((4, 4)).release(), lambda: None)
    assert region.stats.allocations == 0


def test_an_interrupted_asynchronous_send_is_sent_once_or_not_at_all(here: rt.Device, there: rt.Device) -> None:
    edge, sending = wire(here, there, 4, static=False)
    values, given = Values(), [0]

    def step() -> None:
        given[0] += 1
        sending.send_async(np.full(4, given[0], np.float32))
        while edge.ready():
            receive_one(edge, values.came)
        values.note()

    Pest(INTERRUPTS).pester(step)
    sending.send(np.full(4, -1, np.float32), timeout=10)
    while -1 not in values.seen.values():
        receive_one(edge, values.came)
        values.note()
    came = list(values.seen.values())[:-1]
    assert came == sorted(set(came))
    assert given[0] - len(came) <= INTERRUPTS


def test_interrupted_copies_leave_no_operation_behind(here: rt.Device, there: rt.Device) -> None:
    with here.listen() as listener:
        channel = there.connect(listener.address)
        accepted = listener.accept()
    target = here.region(1 << 20, access=rt.Access.REMOTE_WRITE)
    remote = channel.attach(target.handle())
    region = there.region(1 << 20)
    prepared = channel.prepare(remote, region)
    copies: list[Callable[[], object]] = [
        lambda: channel.memcpy(remote, region),
        lambda: channel.memcpy_async(remote, region).wait(),
        lambda: channel.memcpy_many([(remote, region)]),
        prepared,
    ]
    for copy in copies:
        Pest(INTERRUPTS).pester(lambda copy=copy: copy())  # type: ignore[misc]
    prepared.close()
    channel.memcpy(remote, region)
    region.close()  # RegionBusy, if an operation still had it
    assert accepted.state == "ready"


def test_interrupted_lookups_leave_none_outstanding(here: rt.Device, there: rt.Device) -> None:
    with here.listen() as listener:
        channel = there.connect(listener.address)
        accepted = listener.accept()
    here.publish("there", here.region(64, access=rt.Access.REMOTE_READ))
    at_every_instruction(lambda: channel.lookup("there", timeout=10), lambda: None)  # more often than lookups may wait
    assert channel.lookup("there", timeout=10).nbytes == 64
    assert accepted.state == "ready"
