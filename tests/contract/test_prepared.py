"""A prepared copy is checked once and run many times, with what is in memory at each run."""

from __future__ import annotations

import pytest
from ends import Ends, pattern

import rdmatensor as rt


def test_each_run_copies_what_is_there_then(ends: Ends) -> None:
    name, remote = ends.expose(256)
    source = ends.local(256)
    with ends.channel.prepare(remote, source) as copy:
        for run in range(5):
            source.view()[:] = pattern(256, run)
            copy()
            assert ends.peek(name, 0, 256) == pattern(256, run)


def test_a_prepared_read_fetches_what_is_there_then(ends: Ends) -> None:
    name, remote = ends.expose(256)
    target = ends.local(256)
    with ends.channel.prepare(target, remote) as copy:
        for run in range(3):
            ends.poke(name, 0, pattern(256, run))
            copy()
            assert bytes(target.view()) == pattern(256, run)


def test_a_prepared_copy_can_be_started_without_waiting(ends: Ends) -> None:
    name, remote = ends.expose(256)
    with ends.channel.prepare(remote, ends.local(pattern(256))) as copy:
        transfer = copy.start()
        transfer.wait()
    assert ends.peek(name, 0, 256) == pattern(256)


def test_many_prepared_copies_run_as_one(ends: Ends) -> None:
    name, remote = ends.expose(6400)
    source = ends.local(pattern(6400))
    pairs = [(remote[at : at + 64], source[at : at + 64]) for at in range(0, 6400, 64)]
    with ends.channel.prepare_many(pairs) as copy:
        copy()
    assert ends.peek(name, 0, 6400) == pattern(6400)


def test_a_bad_copy_is_refused_when_it_is_prepared(ends: Ends) -> None:
    _, sealed = ends.expose(64, rt.Access.REMOTE_READ)
    source = ends.local(64)
    with pytest.raises(rt.AccessDenied, match="REMOTE_WRITE"):
        ends.channel.prepare(sealed, source)
    with pytest.raises(rt.InvalidArgument, match="the list is empty"):
        ends.channel.prepare_many([])


def test_a_region_bound_to_a_prepared_copy_cannot_be_closed(ends: Ends) -> None:
    _, remote = ends.expose(64)
    region = ends.device.region(4096)
    copy = ends.channel.prepare(remote, region[:64])
    with pytest.raises(rt.RegionBusy, match="prepared"):
        region.close()
    copy()
    copy.close()
    region.close()
    assert region.closed


def test_a_closed_prepared_copy_does_not_run(ends: Ends) -> None:
    _, remote = ends.expose(64)
    copy = ends.channel.prepare(remote, ends.local(64))
    copy.close()
    copy.close()
    with pytest.raises(rt.ClosedError):
        copy()
    with pytest.raises(rt.ClosedError):
        copy.start()


def test_a_prepared_copy_fails_when_the_channel_was_closed(ends: Ends) -> None:
    _, remote = ends.expose(64)
    with ends.channel.prepare(remote, ends.local(64)) as copy:
        ends.channel.close()
        with pytest.raises(rt.ClosedError):
            copy()
