"""Two users of one host: `shm` joins them when both know a secret; without one each is told whose the other end is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import rdmatensor as rt

STRANGER = 65534

OTHER = """
import ctypes, os, sys
import numpy as np
import rdmatensor as rt

with rt.Device("shm://") as device, device.listen() as listener:  # imports what it needs, as long as it may read it
    device.connect(listener.address).close()
user = int(sys.argv[3])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a process that changes its user loses /proc/self else
with rt.Device("shm://", timeout=60) as device:
    try:
        channel = device.connect(sys.argv[1], secret=sys.argv[2] or None)
    except rt.RdmaError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit()
    edge = channel.send_edge("numbers", shape=1000)
    edge.send(np.arange(1000, dtype=np.float32))
    region = device.region(4096, access=rt.Access.REMOTE_READ)
    region[0:5].view()[:] = b"hello"
    device.publish("greeting", region)
    print("sent", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stranger() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")


@contextmanager
def other_user(address: str, secret: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process of another user that connects to the address, and sends; its first line tells how it went."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, address, secret, str(STRANGER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("stranger")
def test_without_a_secret_another_user_is_told_whose_listener_it_is() -> None:
    with rt.Device("shm://", timeout=60) as device, device.listen() as listener:
        with other_user(listener.address) as process:
            assert process.stdout is not None
            told = process.stdout.readline()
        assert "AuthenticationError" in told
        assert "belongs to user 0 and this process to user 65534" in told
        assert "secret" in told
        assert f"belongs to user {STRANGER}" in listener.refusals()[0]
        assert device.stats.connects_refused == 1


@pytest.mark.usefixtures("stranger")
def test_two_users_with_one_secret_share_memory() -> None:
    with rt.Device("shm://", timeout=60) as device, device.listen(secret="long and random") as listener:
        edge = device.recv_edge("numbers", shape=1000)
        with other_user(listener.address, "long and random") as process:
            channel = listener.accept()
            with edge.recv() as tensor:
                assert np.array_equal(tensor.numpy(), np.arange(1000, dtype=np.float32))
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            buffer = device.region(4096).allocate(5)
            channel.memcpy(buffer, channel.lookup("greeting")[0:5])
            assert bytes(buffer.view()) == b"hello"
            process.kill()
            with pytest.raises(rt.PeerLost):
                channel.lookup("nothing")
        edge.close()
