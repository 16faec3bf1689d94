"""memcpy moves exactly the bytes it is asked to move, in either direction, at any size."""

from __future__ import annotations

import pytest
from ends import Ends, pattern, peek

SIZES = (1, 2, 7, 8, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097, 65537, 1 << 20)


@pytest.mark.parametrize("size", SIZES)
def test_a_write_places_the_bytes_and_nothing_around_them(ends: Ends, size: int) -> None:
    name, remote = ends.expose(size + 128, data=b"\xee" * (size + 128))
    data = pattern(size)
    ends.channel.memcpy(remote[64 : 64 + size], ends.local(data))
    assert ends.peek(name, 0, size + 128) == b"\xee" * 64 + data + b"\xee" * 64


@pytest.mark.parametrize("size", SIZES)
def test_a_read_fetches_the_bytes_and_nothing_around_them(ends: Ends, size: int) -> None:
    data = pattern(size + 128)
    _, remote = ends.expose(size + 128, data=data)
    target = ends.local(b"\xee" * (size + 128))
    ends.channel.memcpy(target[64 : 64 + size], remote[64 : 64 + size])
    assert bytes(target.view()) == b"\xee" * 64 + data[64 : 64 + size] + b"\xee" * 64


@pytest.mark.parametrize(("here", "there"), [(0, 1), (1, 0), (3, 5), (63, 1), (1, 4095)])
def test_either_end_may_be_unaligned(ends: Ends, here: int, there: int) -> None:
    data = pattern(5000)
    name, remote = ends.expose(12000)
    source = ends.local(bytes(here) + data)
    ends.channel.memcpy(remote[there : there + 5000], source[here:])
    assert ends.peek(name, there, there + 5000) == data
    back = ends.local(5000 + here)
    ends.channel.memcpy(back[here:], remote[there : there + 5000])
    assert bytes(back[here:].view()) == data


def test_a_copy_of_nothing_is_done_at_once(ends: Ends) -> None:
    _, remote = ends.expose(64)
    ends.channel.memcpy(remote[10:10], ends.local(64)[5:5])
    ends.channel.memcpy(ends.local(64)[5:5], remote[64:64])
    assert ends.channel.state == "ready"


def test_copies_larger_than_a_message_arrive_whole(ends: Ends) -> None:
    size = ends.limits.message_size_max + 4097
    if size > 64 << 20:
        pytest.skip(f"limits.message_size_max is {ends.limits.message_size_max}: too much memory for a test")
    data = pattern(size)
    name, remote = ends.expose(size)
    ends.channel.memcpy(remote, ends.local(data))
    assert ends.peek(name, 0, size) == data
    back = ends.local(size)
    ends.channel.memcpy(back, remote)
    assert bytes(back.view()) == data


def test_more_work_items_than_the_queue_holds_arrive_whole(ends: Ends) -> None:
    count = 3 * ends.limits.work_depth + 1
    data = pattern(count * 16)
    name, remote = ends.expose(len(data))
    source = ends.local(data)
    for start in range(0, len(data), 16):
        ends.channel.memcpy_async(remote[start : start + 16], source[start : start + 16])
    ends.channel.memcpy(remote[:1], source[:1])  # of the same QP: begins after all of them
    assert _settled(ends, name, data)


def _settled(ends: Ends, name: str, data: bytes) -> bool:
    """Whether the data is there, once every transfer has ended."""
    for transfer in tuple(ends.channel._pending.values()):
        transfer.wait()
    return bytes(ends.call(peek, name, 0, len(data))) == data


def test_a_region_can_be_an_end_as_a_whole(ends: Ends) -> None:
    name, remote = ends.expose(4096)
    region = ends.device.region(4096)
    region.span.view()[:] = pattern(4096)
    ends.channel.memcpy(remote, region)
    assert ends.peek(name, 0, 4096) == pattern(4096)
    ends.channel.memcpy(region, remote)
    region.close()


def test_memory_of_the_caller_is_sent_without_a_copy_of_it(ends: Ends) -> None:
    memory = bytearray(pattern(5000))
    name, remote = ends.expose(5000)
    with ends.device.register(memory) as region:
        ends.channel.memcpy(remote, region)
        assert ends.peek(name, 0, 5000) == memory
        memory[:5] = b"again"
        ends.channel.memcpy(remote[:5], region[:5])
        assert ends.peek(name, 0, 5) == b"again"


def test_a_read_lands_in_memory_of_the_caller(ends: Ends) -> None:
    memory = bytearray(5000)
    _, remote = ends.expose(5000, data=pattern(5000))
    with ends.device.register(memory) as region:
        ends.channel.memcpy(region, remote)
    assert memory == pattern(5000)


def test_the_other_side_of_the_channel_copies_as_well(ends: Ends) -> None:
    import rdmatensor as rt

    inbox = ends.device.region(4096, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
    handle = inbox.handle()
    ends.call(_write_back, handle, pattern(4096))
    assert bytes(inbox.span.view()) == pattern(4096)
    inbox.close()


def _write_back(party, handle: bytes, data: bytes) -> None:  # type: ignore[no-untyped-def]
    region = party.device.region(len(data))
    region.span.view()[:] = data
    with party.kept["channel"].attach(handle) as remote:
        party.kept["channel"].memcpy(remote, region)
    region.close()
