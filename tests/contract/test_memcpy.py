"""memcpy moves exactly the bytes it is asked to move, in either direction, at any size."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from ends import Ends, pattern, peek

import rdmatensor as rt

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


def test_the_ends_may_be_named_and_options_given(ends: Ends) -> None:
    data = pattern(64)
    name, remote = ends.expose(64)
    ends.channel.memcpy(dst=remote, src=ends.local(data))
    assert ends.peek(name, 0, 64) == data
    back = ends.local(64)
    ends.channel.memcpy(back, src=remote, qp=0, timeout=60)
    assert bytes(back.view()) == data
    with pytest.raises(TypeError, match="src"):
        ends.channel.memcpy(back)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        ends.channel.memcpy(back, remote, 0)  # type: ignore[call-arg]


def test_threads_that_copy_on_one_qp_do_not_wait_with_the_interpreter(ends: Ends) -> None:
    """Small copies of some threads beside large ones of another: each arrives, and is the last of its thread."""
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread only")
    name, remote = ends.expose((4 << 20) + 4 * 64)
    large, small = ends.local(pattern(4 << 20)), [ends.local(64) for _ in range(4)]

    def copies(number: int) -> None:
        place = remote[(4 << 20) + number * 64 :][:64]
        for round in range(300):
            small[number].view()[:] = bytes([number * 50 + round % 50]) * 64
            ends.channel.memcpy(place, small[number])

    threads = [threading.Thread(target=copies, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    ends.channel.memcpy(remote[: 4 << 20], large)
    while any(thread.is_alive() for thread in threads):
        ends.channel.memcpy(remote[: 4 << 20], large)
    assert ends.peek(name, 0, 4 << 20) == pattern(4 << 20)
    assert ends.peek(name, 4 << 20, (4 << 20) + 256) == b"".join(bytes([number * 50 + 49]) * 64 for number in range(4))


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
    for transfer in tuple(ends.channel._operations._pending.values()):
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


def test_tensors_and_arrays_in_a_region_are_ends_as_they_are(ends: Ends) -> None:
    name, remote = ends.expose(4000)
    with ends.device.region(1 << 16) as region:
        tensor = region.empty((10, 100), "float32")
        tensor.numpy()[:] = np.arange(1000).reshape(10, 100)
        ends.channel.memcpy(remote, tensor)
        assert ends.peek(name, 0, 4000) == bytes(tensor.view())
        back = region.empty((1000,), "float32").numpy()
        ends.channel.memcpy(back, remote)
        assert (back == np.arange(1000)).all()
        ends.channel.memcpy_async(remote[:400], back[100:200]).wait()
        ends.channel.memcpy_many([(remote[400:800], tensor.numpy()[5]), (remote[800:1200], tensor.span[:400])])
        ends.channel.prepare(remote[1200:1600], back[900:])()
        assert ends.peek(name, 0, 1600) == b"".join(bytes(back[at : at + 100]) for at in (100, 500, 0, 900))
        del tensor, back


def test_an_array_over_registered_memory_of_the_caller_is_an_end(ends: Ends) -> None:
    array = np.frombuffer(bytearray(pattern(5000)), np.uint8)
    name, remote = ends.expose(5000)
    with ends.device.register(array):
        ends.channel.memcpy(remote[:100], array[1000:1100])
        assert ends.peek(name, 0, 100) == bytes(array[1000:1100])


def test_an_array_in_no_region_is_refused_with_what_to_do(ends: Ends) -> None:
    _, remote = ends.expose(64)
    for array, why in ((np.zeros(64, np.uint8), "device.register"), (np.zeros((64, 2), np.uint8)[:, 0], "contiguous")):
        with pytest.raises(rt.InvalidArgument, match=why):
            ends.channel.memcpy(remote, array)


def test_an_array_that_is_read_only_is_no_target(ends: Ends) -> None:
    _, remote = ends.expose(64)
    with ends.device.region(4096) as region:
        array = region.empty((64,), "uint8").numpy()
        array.flags.writeable = False
        with pytest.raises(rt.AccessDenied, match="read-only"):
            ends.channel.memcpy(array, remote)
        ends.channel.memcpy(remote, array)
        del array


def test_the_other_side_of_the_channel_copies_as_well(ends: Ends) -> None:
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


def test_a_file_that_is_mapped_to_be_read_is_a_source(ends: Ends, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(pattern(8192, 3))
    name, remote = ends.expose(8192)
    with ends.device.register(np.memmap(file, dtype=np.uint8, mode="r")) as region:
        assert region.readonly
        ends.channel.memcpy(remote, region)
        with pytest.raises(rt.RdmaError):
            ends.channel.memcpy(region, remote)
    assert ends.peek(name, 0, 8192) == pattern(8192, 3)
    assert ends.channel.state == "ready"
