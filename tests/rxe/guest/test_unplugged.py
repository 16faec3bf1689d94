"""A device that goes away under its users. Last of its kind: the second test leaves no link behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import link
import pytest
from peers import BOTH, digest, digest_of, expose, failure_of, filled

import rdmatensor as rt
from rdmatensor.testing import VerbsFabric

pytestmark = pytest.mark.timeout(900)
SIZE = 1 << 20
BOUND = 3.0


@pytest.fixture
def fabric(two_devices: tuple[str, str]) -> Iterator[VerbsFabric]:
    here, there = two_devices
    with VerbsFabric(f"verbs://{here}", there=f"verbs://{there}", timeout=300) as made:
        yield made


def connected(fabric: VerbsFabric) -> tuple[rt.Channel, rt.Remote, rt.Region]:
    channel, region = fabric.connect(), fabric.here.device.region(SIZE)
    return channel, channel.attach(fabric.there.call(expose, "memory", SIZE, int(BOTH), 1)), region


@contextmanager
def removing(fabric: VerbsFabric, *command: str) -> Iterator[None]:
    """The removal of the device over there under way; afterwards both ends are closed and it is gone."""
    with subprocess.Popen(command) as removal:
        try:
            yield
        finally:
            fabric.close()  # the kernel waits for the users of the device
        assert removal.wait(30) == 0
    gone = Path("/sys/class/infiniband/rxb")
    while gone.exists():  # pytest's timeout bounds this
        pass


def test_a_device_is_not_removed_while_it_is_in_use_and_copies_go_on(fabric: VerbsFabric) -> None:
    """The kernel waits for users that have it open and tells them nothing: rdma_rxe cannot take it from them."""
    channel, remote, region = connected(fabric)
    began = time.monotonic()
    with removing(fabric, "rdma", "link", "delete", "rxb"):
        for seed in range(4):
            region[:].view()[:] = filled(SIZE, seed)
            channel.memcpy(remote, region)
            assert fabric.there.call(digest_of, "memory") == digest(filled(SIZE, seed))
        print(f"trouble: rdma link delete: after {time.monotonic() - began:.2f} s: {channel.state}, copies are right")
    print(f"trouble: rdma link delete: gone after {time.monotonic() - began:.2f} s, when both ends had closed")
    link.tool("rdma", "link", "add", "rxb", "type", "rxe", "netdev", "net-b")
    link.up()


def test_a_network_interface_that_is_removed_under_copies_is_a_lost_peer_at_both_ends(fabric: VerbsFabric) -> None:
    channel, remote, region = connected(fabric)
    began = time.monotonic()
    removal = subprocess.Popen(["ip", "link", "delete", "net-b"])  # the kernel holds it up while packets refer to it
    with pytest.raises(rt.PeerLost) as info:
        while time.monotonic() - began < 2 * BOUND:
            channel.memcpy(remote, region, timeout=BOUND)
    print(f"trouble: netdev removed: here after {time.monotonic() - began:.2f} s: {info.value}")
    assert time.monotonic() - began < BOUND
    assert channel.state == "failed"
    state, why, seconds = fabric.there.call(failure_of, "channel", BOUND)
    print(f"trouble: netdev removed: there after {seconds:.2f} s more: {state}, {why}; removal {removal.poll()}")
    assert state == "failed"
    assert seconds < BOUND
