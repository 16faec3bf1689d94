"""A device that goes away under its users. Last of its kind: the second test leaves no link behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import link
import pytest
from peers import BOTH, expose, failure_of

import rdmatensor as rt
from rdmatensor.testing import VerbsFabric

pytestmark = pytest.mark.timeout(120)
SIZE = 1 << 20
BOUND = 3.0


@pytest.fixture
def fabric(two_devices: tuple[str, str]) -> Iterator[VerbsFabric]:
    here, there = two_devices
    with VerbsFabric(f"verbs://{here}", there=f"verbs://{there}", timeout=30) as made:
        yield made


def copies_until_an_error(channel: rt.Channel, remote: rt.Remote, region: rt.Region, began: float) -> rt.RdmaError:
    """Copies there and back until one fails."""
    while time.monotonic() - began < 2 * BOUND:
        try:
            channel.memcpy(remote, region, timeout=BOUND)
            channel.memcpy(region, remote, timeout=BOUND)
        except rt.RdmaError as error:
            return error
    raise AssertionError("copies go on without a device")


@pytest.mark.parametrize(
    "what", [("rdma", "link", "delete", "rxb"), ("ip", "link", "delete", "net-b")], ids=["rdma link", "netdev"]
)
def test_a_device_that_is_removed_under_copies_is_an_error_at_both_ends(
    fabric: VerbsFabric, what: tuple[str, ...]
) -> None:
    channel, region = fabric.connect(), fabric.here.device.region(SIZE)
    remote = channel.attach(fabric.there.call(expose, "memory", SIZE, int(BOTH), 1))
    channel.memcpy(remote, region)
    began = time.monotonic()
    with subprocess.Popen(what) as removal:  # the kernel may wait for the users of the device
        error = copies_until_an_error(channel, remote, region, began)
        print(f"trouble: {' '.join(what)}: here after {time.monotonic() - began:.2f} s: {error}")
        assert time.monotonic() - began < BOUND
        assert channel.state == "failed"
        state, why, seconds = fabric.there.call(failure_of, "channel", BOUND)
        print(f"trouble: {' '.join(what)}: there after {seconds:.2f} s: {state}, {why}")
        assert state == "failed"
        assert seconds < BOUND
        fabric.close()
        assert removal.wait(30) == 0
    print(f"trouble: {' '.join(what)}: gone after {time.monotonic() - began:.2f} s")
    assert not Path("/sys/class/infiniband/rxb").exists()
    if what[0] == "rdma":
        link.tool("rdma", "link", "add", "rxb", "type", "rxe", "netdev", "net-b")
        link.up()
