"""An act that a peer is not allowed fails by name, ends its channel at both ends, and touches nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from joined import DEVICES
from peers import (
    BOTH,
    QP_ERROR,
    REMOTE_ACCESS,
    Stranger,
    digest,
    digest_of,
    expose,
    failure_of,
    filled,
    forged,
    key_in,
)

import rdmatensor as rt
from rdmatensor.testing import VerbsFabric

pytestmark = pytest.mark.timeout(900)
SIZE = 8192
BOUND = 2.0
NOTHING_BUT = {"write": rt.Access.REMOTE_READ, "read": rt.Access.REMOTE_WRITE}
CASES = ["wrong key", "wrong bounds", "missing right"]
DIRECTIONS = ["write", "read"]


@pytest.fixture
def fabric() -> Iterator[VerbsFabric]:
    with VerbsFabric(f"verbs://{DEVICES[0]}", there=f"verbs://{DEVICES[-1]}", timeout=300) as made:
        yield made


def bad_handle(fabric: VerbsFabric, case: str, direction: str) -> bytes:
    """A handle of new memory over there that claims more than there is."""
    access = NOTHING_BUT[direction] if case == "missing right" else BOTH
    handle: bytes = fabric.there.call(expose, "victim", SIZE, int(access), 1)
    match case:
        case "wrong key":
            return forged(handle, rkey=key_in(handle).rkey ^ 0x55)
        case "wrong bounds":
            return forged(handle, size=SIZE + 8192)
    return forged(handle, rights=int(BOTH))


def copies(fabric: VerbsFabric, channel: rt.Channel, name: str) -> bool:
    """Whether a channel moves bytes right, both ways."""
    remote = channel.attach(fabric.there.call(expose, name, SIZE, int(BOTH), 2))
    region = fabric.here.device.region(SIZE)
    channel.memcpy(region, remote)
    right = bytes(region[:].view()) == filled(SIZE, 2)
    region[:].view()[:] = filled(SIZE, 3)
    channel.memcpy(remote, region)
    return right and bool(fabric.there.call(digest_of, name) == digest(filled(SIZE, 3)))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_copy_that_is_not_allowed_is_a_remote_access_error_and_ends_its_channel_only(
    fabric: VerbsFabric, case: str, direction: str
) -> None:
    channel, other = fabric.connect(), fabric.connect(keep="other")
    remote = channel.attach(bad_handle(fabric, case, direction))
    region = fabric.here.device.region(remote.nbytes)
    region[:].view()[:] = filled(remote.nbytes, 4)
    pair = (remote, region) if direction == "write" else (region, remote)
    with pytest.raises(rt.AccessDenied, match="IBV_WC_REM_ACCESS_ERR") as info:
        channel.memcpy(*pair)
    assert channel.state == "failed"
    state, why, seconds = fabric.there.call(failure_of, "channel", BOUND)
    print(f"trouble: {direction} with {case}: here {info.value}; there after {seconds:.3f} s: {state}, {why}")
    assert state == "failed"
    assert seconds < BOUND
    if direction == "write":
        assert fabric.there.call(digest_of, "victim") == digest(filled(SIZE, 1))
    else:
        assert bytes(region[SIZE:].view()) == filled(remote.nbytes, 4)[SIZE:]
    assert other.state == "ready"
    assert copies(fabric, other, "through the other")
    assert copies(fabric, fabric.connect(keep="new"), "through a new one")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_stranger_with_a_wrong_key_sees_the_error_and_we_end_its_channel(
    device: rt.Device, strangers: list[Stranger], direction: str
) -> None:
    stranger, good = Stranger(device.name), Stranger(device.name)
    strangers += [stranger, good]
    channel, other = stranger.connect(device), good.connect(device)
    region, word = device.region(SIZE, access=BOTH), device.region(64)
    key = key_in(region.handle())
    region[:].view()[:] = filled(SIZE, 5)
    stranger.tell("fill", seed=6)
    said = stranger.tell(direction, at=0, size=SIZE, key=key.rkey ^ 0x55, address=key.address)
    assert said == {"status": REMOTE_ACCESS}
    assert stranger.tell("show")["state"] == QP_ERROR
    with pytest.raises(rt.PeerLost) as info:
        channel.wait_word(word[:8], 1, timeout=BOUND)
    print(f"trouble: a stranger's {direction} with a wrong key: there IBV_WC_REM_ACCESS_ERR; here {info.value}")
    assert bytes(region[:].view()) == filled(SIZE, 5)
    assert good.tell("write", at=0, size=64, key=key.rkey, address=key.address) == {"status": 0}
    assert other.state == "ready"


def test_our_writes_with_a_wrong_key_leave_a_stranger_unharmed(device: rt.Device, strangers: list[Stranger]) -> None:
    stranger = Stranger(device.name)
    strangers.append(stranger)
    channel = stranger.accept(device)
    before = stranger.tell("fill", seed=7)["digest"]
    remote = channel.attach(forged(stranger.handle, rkey=stranger.memory["key"] ^ 0x55))
    with pytest.raises(rt.AccessDenied, match="IBV_WC_REM_ACCESS_ERR"):
        channel.memcpy(remote[:64], device.region(64))
    after = stranger.tell("show")
    assert after == {"digest": before, "state": QP_ERROR}
