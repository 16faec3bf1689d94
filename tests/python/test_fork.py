"""A child made by fork gets an error from every call, and the parent goes on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest

import rdmatensor as rt


def in_child(function: Callable[[], None]) -> str:
    """Runs a function in a forked child; what went wrong there, or nothing."""
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

if os.fork() == 0:  # no device was opened yet
    use()
    if os.fork() == 0:
        try:
            rt.Device("shm://")
        except rt.ForkedProcessError:
            os._exit(0)
        os._exit(3)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
use()
print("both")
"""


def test_a_child_that_was_made_before_any_device_opens_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "both\n", done.stderr
