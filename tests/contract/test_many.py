"""Many copies in one call: all of them or, when one is wrong, none."""

from __future__ import annotations

import pytest
from ends import Ends, pattern

import rdmatensor as rt


def test_many_writes_all_arrive(ends: Ends) -> None:
    data = pattern(3000 * 16)
    name, remote = ends.expose(len(data))
    source = ends.local(data)
    ends.channel.memcpy_many((remote[at : at + 16], source[at : at + 16]) for at in range(0, len(data), 16))
    assert ends.peek(name, 0, len(data)) == data


def test_many_reads_all_arrive(ends: Ends) -> None:
    data = pattern(500 * 24)
    _, remote = ends.expose(len(data), data=data)
    target = ends.local(len(data))
    ends.channel.memcpy_many((target[at : at + 24], remote[at : at + 24]) for at in range(0, len(data), 24))
    assert bytes(target.view()) == data


def test_reads_and_writes_of_different_sizes_go_in_one_call(ends: Ends) -> None:
    data = pattern(20000)
    name, remote = ends.expose(20000, data=data[:10000] + bytes(10000))
    near = ends.local(data)
    pairs = [(remote[10000:20000], near[10000:20000]), (near[:1], remote[9999:10000]), (near[1:10000], remote[:9999])]
    ends.channel.memcpy_many(pairs)
    assert ends.peek(name, 10000, 20000) == data[10000:]
    assert bytes(near.view()) == data[9999:10000] + data[:9999] + data[10000:]


def test_many_of_none_is_done_at_once(ends: Ends) -> None:
    ends.channel.memcpy_many([])
    assert ends.channel.memcpy_many_async([]).done()


def test_one_pair_without_the_right_keeps_all_from_being_posted(ends: Ends) -> None:
    name, remote = ends.expose(64)
    _, sealed = ends.expose(64, rt.Access.REMOTE_READ)
    source = ends.local(b"\x01" * 64)
    with pytest.raises(rt.AccessDenied, match="pair 1"):
        ends.channel.memcpy_many([(remote, source), (sealed, source)])
    assert ends.peek(name, 0, 64) == bytes(64)
    assert ends.channel.state == "ready"


def test_pairs_of_unequal_size_are_refused_by_their_number(ends: Ends) -> None:
    _, remote = ends.expose(64)
    source = ends.local(64)
    with pytest.raises(rt.InvalidArgument, match=r"pair 2: dst has 8 bytes and src 9"):
        ends.channel.memcpy_many([(remote, source), (remote[:8], source[:8]), (remote[:8], source[:9])])


def test_a_pair_that_is_none_is_refused_by_its_number(ends: Ends) -> None:
    _, remote = ends.expose(64)
    source = ends.local(64)
    with pytest.raises(rt.InvalidArgument, match="pair 1: src"):
        ends.channel.memcpy_many([(remote, source), (remote, b"bytes")])
    with pytest.raises(TypeError, match="pair 1: src"):
        ends.channel.memcpy_many([(remote, source), (remote, "text")])
    with pytest.raises(rt.InvalidArgument, match="pair 0: exactly one"):
        ends.channel.memcpy_many([(remote, remote)])


def test_a_freed_buffer_among_many_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    good, freed = ends.local(64), ends.local(64)
    pairs = [(remote, good), (remote, freed)]
    ends.channel.memcpy_many(pairs)
    freed.free()
    with pytest.raises(rt.ClosedError, match="freed"):
        ends.channel.memcpy_many(pairs)


def test_a_closed_remote_among_many_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    pairs = [(remote[:32], ends.local(32))]
    ends.channel.memcpy_many(pairs)
    remote.close()
    with pytest.raises(rt.ClosedError):
        ends.channel.memcpy_many(pairs)


def test_many_can_be_awaited_as_one_transfer(ends: Ends) -> None:
    data = pattern(100 * 64)
    name, remote = ends.expose(len(data))
    source = ends.local(data)
    transfer = ends.channel.memcpy_many_async(
        [(remote[at : at + 64], source[at : at + 64]) for at in range(0, len(data), 64)]
    )
    transfer.wait()
    assert transfer.done()
    assert transfer.exception() is None
    assert ends.peek(name, 0, len(data)) == data
