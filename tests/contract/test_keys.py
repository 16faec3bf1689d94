"""A key for each peer: what one channel looked up is of no use to another, and dead once its channel has ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ends import BOTH, Ends, close_channel, close_region, handle_of, make, pattern, publish

import rdmatensor as rt
from rdmatensor import _core
from rdmatensor.testing import Party, SimFabric

OWN = BOTH | rt.Access.PER_PEER_KEYS
Need = Callable[[rt.Limits, str], None]


def expose_keyed(party: Party, name: str, nbytes: int, access: int) -> None:
    """Publishes a new region that has no handle to return."""
    make(party, name, nbytes, access)
    publish(party, name, name)


def looked_up(channel: rt.Channel, name: str) -> bytes:
    """The handle that the peer sent, as one keeps it who means no good."""
    return _core.lookup(channel, channel.device.live(), channel.live(), name.encode(), 10**9, 10**9, repr(channel))


@pytest.fixture
def keyed(ends: Ends, need: Need) -> Ends:
    """Ends with 4096 bytes over there, published as "keyed", that give each peer a key of its own."""
    need(ends.limits, "keys_per_peer")
    ends.call(expose_keyed, "keyed", 4096, int(OWN))
    return ends


def test_memory_with_a_key_for_each_peer_is_looked_up_and_used_as_any(keyed: Ends) -> None:
    data = pattern(4096)
    remote = keyed.channel.lookup("keyed")
    assert remote.access == BOTH
    for qp in range(keyed.channel.qps):
        keyed.poke("keyed", 0, bytes(4096))
        keyed.channel.memcpy(remote, keyed.local(data), qp=qp)
        assert keyed.peek("keyed", 0, 4096) == data
        back = keyed.local(4096)
        keyed.channel.memcpy(back, remote, qp=qp)
        assert bytes(back.view()) == data


def test_a_key_looked_up_on_one_channel_is_refused_on_another(keyed: Ends) -> None:
    handle = looked_up(keyed.channel, "keyed")
    for direction in ("write", "read"):
        other = keyed.fabric.connect(keep=f"other for {direction}")
        stolen, buffer = other.attach(handle), keyed.local(b"\x01" * 4096)
        with pytest.raises(rt.AccessDenied):
            other.memcpy(*((stolen, buffer) if direction == "write" else (buffer, stolen)))
        assert other.state == "failed"
        assert bytes(buffer.view()) == b"\x01" * 4096
    assert keyed.peek("keyed", 0, 4096) == bytes(4096)
    keyed.channel.memcpy(keyed.channel.attach(handle), keyed.local(b"\x02" * 4096))
    assert keyed.peek("keyed", 0, 4096) == b"\x02" * 4096


def test_two_channels_that_look_up_get_different_keys_and_both_work(keyed: Ends) -> None:
    other = keyed.fabric.connect(keep="other")
    first, second = looked_up(keyed.channel, "keyed"), looked_up(other, "keyed")
    assert first != second
    assert looked_up(keyed.channel, "keyed") == first
    for channel, handle, byte in ((keyed.channel, first, b"\x01"), (other, second, b"\x02")):
        channel.memcpy(channel.attach(handle), keyed.local(byte * 4096))
        assert keyed.peek("keyed", 0, 4096) == byte * 4096


@pytest.mark.parametrize("closer", ["here", "there"])
def test_a_key_is_dead_after_its_channel_closed(keyed: Ends, closer: str) -> None:
    handle = looked_up(keyed.channel, "keyed")
    remote = keyed.channel.attach(handle)
    keyed.channel.memcpy(remote, keyed.local(b"\x01" * 4096))
    if closer == "here":
        keyed.channel.close()
    else:
        keyed.call(close_channel)
    with pytest.raises((rt.ClosedError, rt.PeerLost)):
        keyed.channel.memcpy(remote, keyed.local(b"\x02" * 4096))
    other = keyed.fabric.connect(keep="other")
    with pytest.raises(rt.AccessDenied):
        other.memcpy(other.attach(handle), keyed.local(b"\x02" * 4096))
    assert keyed.peek("keyed", 0, 4096) == b"\x01" * 4096
    again = keyed.fabric.connect(keep="again")
    assert looked_up(again, "keyed") != handle
    again.memcpy(again.lookup("keyed"), keyed.local(b"\x03" * 4096))
    assert keyed.peek("keyed", 0, 4096) == b"\x03" * 4096


def test_a_key_is_dead_after_its_region_closed_and_other_regions_go_on(keyed: Ends) -> None:
    keyed.call(expose_keyed, "other", 64, int(OWN))
    remote, other = keyed.channel.lookup("keyed"), keyed.channel.lookup("other")
    keyed.call(close_region, "keyed")
    keyed.channel.memcpy(other, keyed.local(b"\x01" * 64))
    with pytest.raises(rt.AccessDenied):
        keyed.channel.memcpy(remote, keyed.local(4096))


def test_a_range_and_its_rights_hold_for_a_key_of_ones_own(keyed: Ends) -> None:
    keyed.call(expose_keyed, "to read", 64, int(rt.Access.REMOTE_READ | rt.Access.PER_PEER_KEYS))
    remote = keyed.channel.lookup("to read")
    assert remote.access == rt.Access.REMOTE_READ
    keyed.channel.memcpy(keyed.local(64), remote)
    with pytest.raises(rt.AccessDenied, match="REMOTE_WRITE"):
        keyed.channel.memcpy(remote, keyed.local(64))
    assert keyed.channel.state == "ready"


def test_a_handle_that_anybody_could_use_is_not_made(keyed: Ends) -> None:
    with pytest.raises(rt.AccessDenied, match=r"PER_PEER_KEYS.*publish"):
        keyed.call(handle_of, "keyed", 0, 64)


def test_many_regions_and_lookups_at_once_get_their_keys(keyed: Ends) -> None:
    names = [f"keyed {index}" for index in range(24)]
    for name in names:
        keyed.call(expose_keyed, name, 64, int(OWN))
    remotes = [keyed.channel.lookup(name) for name in names]
    for index, remote in enumerate(remotes):
        keyed.channel.memcpy(remote, keyed.local(bytes([index]) * 64))
    assert [keyed.peek(name, 0, 1)[0] for name in names] == list(range(24))


def test_per_peer_keys_without_a_remote_right_are_refused(ends: Ends) -> None:
    with pytest.raises(rt.InvalidArgument, match="no remote right"):
        ends.device.region(64, access=rt.Access.PER_PEER_KEYS)


def test_a_device_without_them_says_so(ends: Ends) -> None:
    if ends.limits.keys_per_peer:
        pytest.skip("this device has keys for each peer")
    for attempt in (lambda: ends.device.region(64, access=OWN), lambda: ends.call(make, "x", 64, int(OWN))):
        with pytest.raises(rt.Unsupported, match="keys_per_peer"):
            attempt()


def test_a_key_covers_no_more_than_8_qps() -> None:
    with SimFabric(arguments="keys_per_peer=0") as fabric, pytest.raises(rt.Unsupported, match="keys_per_peer"):
        fabric.here.device.region(64, access=OWN)
    with SimFabric(qps_per_peer=9) as fabric, pytest.raises(rt.Unsupported, match=r"at most 8 qps.*channels of 9"):
        fabric.here.device.region(64, access=OWN)
    with SimFabric(qps_per_peer=8) as fabric:
        expose_keyed(fabric.there, "keyed", 64, int(OWN))  # type: ignore[arg-type]
        channel = fabric.connect()
        remote, source = channel.lookup("keyed"), fabric.here.device.region(64)
        for qp in range(8):
            channel.memcpy(remote, source[:], qp=qp)


def test_both_ends_in_the_same_bytes_are_refused_with_a_key_of_ones_own(ends: Ends, need: Need) -> None:
    need(ends.limits, "keys_per_peer")
    device = ends.device
    with device.region(4096, access=OWN) as region, device.listen("127.0.0.1:0") as listener:
        device.publish("mine", region)
        outward = device.connect(listener.address)
        inward = listener.accept()
        remote = outward.lookup("mine")
        with pytest.raises(rt.OverlapError, match="share bytes"):
            outward.memcpy(remote[100:200], region[150:250])
        outward.memcpy(remote[100:200], region[:100])
        outward.close()
        inward.close()
        device.unpublish("mine")
