"""A child made by fork gets an error from every call, and the parent goes on."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable

import numpy as np
import pytest

import rdmatensor as rt


def in_child(function: Callable[[], None]) -> str:
    """Runs a function in a forked child; returns the trouble there, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            function()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
    return text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_every_call_in_a_child_is_an_error_and_the_parent_goes_on() -> None:
    device, other = rt.Device("shm://"), rt.Device("shm://")
    inbox = other.region(4096, access=rt.Access.REMOTE_WRITE)
    other.publish("inbox", inbox)
    listener = other.listen()
    channel, accepted = device.connect(listener.address), listener.accept()
    remote = channel.lookup("inbox")
    region = device.region(4096)
    buffer = region.allocate(64)
    copy = channel.prepare(remote[:64], buffer)

    def child() -> None:
        attempts: list[Callable[[], object]] = [
            lambda: channel.memcpy(remote[:64], buffer),
            lambda: channel.memcpy_async(remote[:64], buffer),
            lambda: channel.memcpy_many([(remote[:64], buffer)]),
            lambda: channel.prepare(remote[:64], buffer),
            copy,
            copy.start,
            lambda: channel.wait_word(buffer[:8], 1),
            lambda: channel.lookup("inbox"),
            lambda: channel.attach(b"x" * 100),
            channel.dump,
            lambda: channel.stats,
            lambda: region.allocate(64),
            region.handle,
            lambda: region.stats,
            lambda: device.region(4096),
            lambda: device.register(bytearray(64)),
            lambda: device.listen("127.0.0.1:0"),
            lambda: device.connect("127.0.0.1:1"),
            lambda: device.publish("x", inbox),
            lambda: device.unpublish("inbox"),
            device.dump,
            device.progress,
            device.fileno,
            lambda: device.stats,
            listener.accept,
            listener.refusals,
            lambda: rt.Device("shm://"),
        ]
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except rt.ForkedProcessError as error:
                assert "fork" in str(error)
            else:
                raise AssertionError(f"attempt {number} did not fail")
        buffer.free()
        for thing in (copy, remote, channel, accepted, listener, region, inbox, device, other):
            thing.close()
        gc.collect()

    assert in_child(child) == ""
    buffer.view()[:5] = b"still"
    channel.memcpy(remote[:64], buffer)
    assert bytes(inbox[:5].view()) == b"still"
    assert accepted.state == channel.state == "ready"
    device.close()
    other.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_ends_or_collects_takes_nothing_with_it() -> None:
    with rt.Device("shm://") as device, device.listen() as listener:
        channel, accepted = device.connect(listener.address), listener.accept()
        kept: list[object] = [device.region(4096), channel]

        def child() -> None:
            kept.clear()
            gc.collect()

        for _ in range(5):
            assert in_child(child) == ""
        assert channel.state == accepted.state == "ready"


BEFORE = """
import os, sys
import rdmatensor as rt

def use():
    with rt.Device("shm://") as device, device.region(4096) as region:
        assert region.allocate(64).nbytes == 64
        assert device.stats.regions >= 1 and region.stats.size > 0

def forked(function):
    if os.fork() == 0:
        try:
            function()
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.wait()[1])

def refused():
    try:
        rt.Device("shm://")
    except rt.ForkedProcessError as error:
        assert "fork while none is open" in str(error) and "spawn" in str(error)
    else:
        raise AssertionError("a device was opened")

def both():
    use()
    assert forked(use) == 0

assert forked(both) == 0  # no device was opened yet
use()
assert forked(both) == 0  # all are closed
with rt.Device("shm://") as device:
    kept = device.region(4096).allocate(64).view()
    assert forked(refused) == 0
    device.listen()
del device
assert forked(both) == 0  # memory that is still looked at does not hold a child back
print("all")
"""


def test_a_child_opens_its_own_devices_unless_it_was_made_while_one_was_open() -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "all\n", done.stderr


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_call_in_a_child_waits_for_a_lock_that_a_thread_of_the_parent_held() -> None:
    device, other = rt.Device("shm://"), rt.Device("shm://")
    listener = other.listen()
    channel, accepted = device.connect(listener.address), listener.accept()
    receiving, dynamic = (
        other.recv_edge("static", shape=(4,), options=rt.EdgeOptions(slots=1)),
        other.recv_edge("dynamic"),
    )
    static, sender = channel.send_edge("static", shape=(4,)), channel.send_edge("dynamic")
    static.send(np.ones(4, np.float32))
    waits = static.send_async(np.ones(4, np.float32))  # for the release of the only slot
    lent = sender.loan(4)
    lent.__enter__()
    held = [channel._operations.lock, accepted._operations.lock, device._backlogs._lock]
    held += [static._lock, sender._lock]  # devices, receiving edges and listeners have none
    taken, done = threading.Barrier(len(held) + 1), threading.Event()

    def hold(lock: contextlib.AbstractContextManager[object]) -> None:
        with lock:
            taken.wait()
            done.wait()

    def child() -> None:
        signal.alarm(60)
        attempts: list[Callable[[], object]] = [
            lambda: static.send(np.ones(4, np.float32)),
            lambda: sender.send(np.ones(4, np.float32)),
            lambda: sender.send_async(np.ones(4, np.float32)).wait(),
            lambda: sender.loan(4).__enter__(),
            lambda: lent.__exit__(None, None, None),
            lambda: receiving.recv(timeout=1),
            lambda: dynamic.recv(timeout=1),
            lambda: dynamic.recv(timeout=1, borrow=True),
            lambda: rt.recv_many([receiving, dynamic]),
            lambda: rt.send_many([(static, np.ones(4, np.float32))]),
            lambda: rt.wait_any([receiving, dynamic]),
            lambda: waits.wait(1),
            sender.drain,
            sender.flush,
            lambda: static.stats,
            dynamic.dump,
            lambda: rt.Device("shm://"),
        ]
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except rt.ForkedProcessError as error:
                assert error.why == rt.ForkedProcessError.WHY
            else:
                raise AssertionError(f"attempt {number} did not fail")
        for thing in (static, sender, receiving, dynamic, channel, accepted, listener, device, other):
            thing.close()

    threads = [threading.Thread(target=hold, args=(lock,)) for lock in held]
    for thread in threads:
        thread.start()
    taken.wait()
    try:
        assert in_child(child) == ""
    finally:
        done.set()
        for thread in threads:
            thread.join()
    lent.__exit__(None, None, None)
    with receiving.recv(), dynamic.recv():
        pass
    waits.wait()
    device.close()
    other.close()
