"""Ctrl-C ends any wait, long before its deadline, and nothing is lost by it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import rdmatensor as rt

BOUND_S = 60.0
"""Seconds: far more than the 100 ms of an idle machine, and far less than the waits that are interrupted."""


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler: a shell that runs the tests in the background starts them with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def device() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


def interrupted(wait: Callable[[], object]) -> float:
    """Seconds from Ctrl-C, sent while the wait stands, to its end."""
    sent: list[float] = []
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        sent.append(time.monotonic())
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(0.15, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
        return time.monotonic() - sent[0]
    finally:
        timer.cancel()
        timer.join()


def test_waiting_for_a_word(device: rt.Device) -> None:
    with device.listen() as listener:
        channel, accepted = device.connect(listener.address), listener.accept()
    region = device.region(64)
    assert interrupted(lambda: channel.wait_word(region[:8], 1, timeout=300)) < BOUND_S
    region[:8].view()[0] = 1
    channel.wait_word(region[:8], 1, timeout=0)
    assert accepted.state == "ready"


def test_waiting_for_a_channel(device: rt.Device) -> None:
    with device.listen() as listener:
        assert interrupted(lambda: listener.accept(300)) < BOUND_S
        assert device.connect(listener.address).state == "ready"


def test_waiting_for_a_name(device: rt.Device) -> None:
    with device.listen() as listener:
        channel, accepted = device.connect(listener.address), listener.accept()
    assert interrupted(lambda: channel.lookup("late", timeout=300)) < BOUND_S
    region = device.region(64, access=rt.Access.REMOTE_READ)
    device.publish("late", region)
    assert channel.lookup("late").nbytes == 64
    assert accepted.state == "ready"


def test_waiting_for_an_answer_to_a_connection(device: rt.Device) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert interrupted(lambda: device.connect(address, timeout=300)) < BOUND_S


def test_copying_without_end(device: rt.Device) -> None:
    with device.listen() as listener:
        channel, accepted = device.connect(listener.address), listener.accept()
    inbox = device.region(1 << 20, access=rt.Access.REMOTE_WRITE)
    remote, region = channel.attach(inbox.handle()), device.region(64 << 20)
    copy = channel.prepare_many([(remote, region[at : at + (1 << 20)]) for at in range(0, 64 << 20, 1 << 20)])

    def work() -> None:
        while True:
            copy()

    assert interrupted(work) < BOUND_S
    channel.memcpy(remote[:8], region[:8])
    copy.close()
    region.close()
    assert accepted.state == "ready"
