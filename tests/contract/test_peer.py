"""A peer that closes or dies ends its own channels, at once and with a reason, and no others."""

from __future__ import annotations

import threading
import time

import pytest
from ends import BOTH, Ends, close_channel, close_device, expose, pattern, peek

import rdmatensor as rt
from rdmatensor.testing import Fabric, Party, PartyLost, ProcessParty

BOUND_S = 60.0
"""Seconds in which a death must be known. It takes one on an idle machine, which tests/soak.py measures;
a wait that was not told goes on until its own deadline, which is later.
"""


def until_failed(device: rt.Device, channel: rt.Channel, bound: float = BOUND_S) -> float:
    """Device seconds until the channel is no longer ready; fails the test after the bound."""
    word = device.region(64)
    began = device.now()
    with pytest.raises(rt.PeerLost):
        channel.wait_word(word[:8], 1, timeout=2 * bound)
    return device.now() - began


def test_a_peer_that_closes_the_channel_is_told_from_one_that_died(ends: Ends) -> None:
    ends.call(close_channel)
    until_failed(ends.device, ends.channel)
    assert ends.channel.state == "failed"
    assert isinstance(ends.channel.failure, rt.PeerClosed)


def test_every_call_after_the_peer_closed_says_so(ends: Ends) -> None:
    _, remote = ends.expose(64)
    source = ends.local(64)
    copy = ends.channel.prepare(remote, source)
    ends.call(close_channel)
    until_failed(ends.device, ends.channel)
    for attempt in (
        lambda: ends.channel.memcpy(remote, source),
        lambda: ends.channel.memcpy(source, remote),
        lambda: ends.channel.memcpy_async(remote, source),
        lambda: ends.channel.memcpy_many([(remote, source)]),
        lambda: ends.channel.prepare(remote, source),
        lambda: ends.channel.lookup("x"),
        copy,
        copy.start,
    ):
        with pytest.raises(rt.PeerClosed) as info:
            attempt()
        assert ends.channel.peer in str(info.value)
    copy.close()


def test_closing_here_ends_every_later_call_here(ends: Ends) -> None:
    _, remote = ends.expose(64)
    source = ends.local(64)
    ends.channel.close()
    ends.channel.close()
    assert ends.channel.state == "closed"
    assert ends.channel.closed
    assert "closed" in repr(ends.channel)
    for attempt in (
        lambda: ends.channel.memcpy(remote, source),
        lambda: ends.channel.memcpy_async(source, remote),
        lambda: ends.channel.memcpy_many([(remote, source)]),
        lambda: ends.channel.lookup("x"),
        lambda: ends.channel.wait_word(source[:8], 1),
    ):
        with pytest.raises(rt.ClosedError):
            attempt()


def test_closing_one_channel_leaves_another_to_the_same_peer(ends: Ends) -> None:
    second = ends.fabric.connect(keep="second")
    name, _ = ends.expose(64)
    remote = second.lookup(name)
    ends.channel.close()
    second.memcpy(remote, ends.local(pattern(64)))
    assert ends.peek(name, 0, 64) == pattern(64)
    second.close()


def test_a_transfer_under_way_when_the_channel_is_closed_ends(ends: Ends) -> None:
    size = 64 << 20 if ends.limits.completes_in_post else 100_000
    _, remote = ends.expose(size)
    transfer = ends.channel.memcpy_async(remote, ends.device.region(size)[0:size])
    ends.channel.close()
    assert transfer.done()
    assert transfer.exception() is None or isinstance(transfer.exception(), rt.RdmaError)


# ---- peers that die; each test has parties of its own ----


def test_a_killed_peer_is_reported_long_before_the_deadline(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.kill()
    assert until_failed(mortal.here.device, channel) < BOUND_S
    failure = channel.failure
    assert isinstance(failure, rt.PeerLost)
    assert not isinstance(failure, rt.PeerClosed)
    assert channel.peer in str(failure)


def test_every_call_after_the_peer_was_killed_says_so(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(expose, "inbox", 4096, int(BOTH))
    remote = channel.lookup("inbox")
    source = mortal.here.device.region(4096)
    copy = channel.prepare(remote, source)
    mortal.there.kill()
    until_failed(mortal.here.device, channel)
    for attempt in (
        lambda: channel.memcpy(remote, source),
        lambda: channel.memcpy(source, remote),
        lambda: channel.memcpy_async(remote, source),
        lambda: channel.memcpy_many([(remote, source)]),
        lambda: channel.lookup("inbox"),
        copy,
    ):
        with pytest.raises(rt.PeerLost):
            attempt()
    copy.close()


def test_a_wait_that_stands_when_the_peer_is_killed_ends_long_before_its_deadline(mortal: Fabric) -> None:
    device, channel = mortal.here.device, mortal.connect()
    if device.limits.virtual_time:
        mortal.there.kill()
        until_failed(device, channel)
        return
    region, ended = device.region(64), []

    def wait() -> None:
        with pytest.raises(rt.PeerLost):
            channel.wait_word(region[:8], 1, timeout=300)
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    killed = time.monotonic()
    mortal.there.kill()
    thread.join(300)
    assert ended
    assert ended[0] - killed < BOUND_S


def test_the_death_of_one_peer_does_not_concern_another(mortal: Fabric) -> None:
    doomed, other = mortal.connect(), mortal.connect(mortal.parties[2])
    mortal.parties[2].call(expose, "inbox", 4096, int(BOTH))
    remote = other.lookup("inbox")
    source = mortal.here.device.region(4096)
    source.span.view()[:] = pattern(4096)
    mortal.there.kill()
    until_failed(mortal.here.device, doomed)
    other.memcpy(remote, source)
    assert mortal.parties[2].call(peek, "inbox", 0, 4096) == pattern(4096)
    assert other.state == "ready"


def test_after_a_death_a_new_peer_is_reached(mortal: Fabric) -> None:
    first = mortal.connect()
    mortal.there.kill()
    until_failed(mortal.here.device, first)
    assert mortal.connect(mortal.parties[2]).state == "ready"
    assert mortal.here.device.stats.channels_lost >= 1


def test_memory_copied_from_a_dead_peer_stays_readable(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(expose, "inbox", 4096, int(BOTH))
    remote = channel.lookup("inbox")
    region = mortal.here.device.region(4096)
    region.span.view()[:] = pattern(4096)
    channel.memcpy(remote, region)
    view = remote.view() if mortal.here.device.limits.maps_remote else region.span.view()
    mortal.there.kill()
    until_failed(mortal.here.device, channel)
    channel.close()
    assert bytes(view) == pattern(4096)


def test_a_region_in_use_by_a_dead_channel_can_be_closed_soon(mortal: Fabric) -> None:
    channel = mortal.connect()
    region = mortal.here.device.region(4096, access=BOTH)
    mortal.there.kill()
    until_failed(mortal.here.device, channel)
    region.close()
    channel.close()


def test_a_device_that_is_closed_says_goodbye(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(close_device)
    until_failed(mortal.here.device, channel)
    assert isinstance(channel.failure, rt.PeerClosed)


def test_a_stopped_peer_costs_no_more_than_the_deadline(mortal: Fabric) -> None:
    party = mortal.there
    channel = mortal.connect()
    party.stop()  # type: ignore[union-attr]
    began = mortal.here.device.now()
    with pytest.raises((rt.NameNotFound, rt.DeadlineExceeded)):
        channel.lookup("never", timeout=0.05)
    assert mortal.here.device.now() - began < BOUND_S
    party.cont()  # type: ignore[union-attr]
    assert channel.state == "ready"


def test_a_call_to_a_dead_party_is_an_error_and_not_a_hang(mortal: Fabric) -> None:
    party = mortal.there
    if not isinstance(party, ProcessParty):
        pytest.skip("the party has no process")
    party.kill()
    with pytest.raises(PartyLost):
        party.call(_nothing)
    assert not party.alive


def _nothing(party: Party) -> None:
    pass
