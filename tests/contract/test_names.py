"""Address distribution: memory is published under names and looked up, with a deadline."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from ends import BOTH, Ends, expose, make, publish, unpublish

import rdmatensor as rt
from rdmatensor.testing import Party


def test_a_published_name_is_found_with_size_and_rights(ends: Ends) -> None:
    ends.call(expose, "inbox", 4096, int(rt.Access.REMOTE_WRITE))
    remote = ends.channel.lookup("inbox")
    assert remote.nbytes == 4096
    assert remote.access == rt.Access.REMOTE_WRITE
    assert remote.channel is ends.channel


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_name_that_is_not_published_is_not_found(ends: Ends, timeout: float) -> None:
    with pytest.raises(rt.NameNotFound, match="'nobody'"):
        ends.channel.lookup("nobody", timeout=timeout)
    assert ends.channel.state == "ready"


def test_a_tensor_and_an_array_in_a_region_are_published_as_they_are(ends: Ends) -> None:
    ends.call(publish_tensors)
    for name, first in (("tensor", 0), ("array", 50)):
        remote, target = ends.channel.lookup(name), ends.local(100)
        assert remote.nbytes == 100
        ends.channel.memcpy(target, remote)
        assert list(target.view()) == list(range(first, first + 100))
    ends.call(unpublish, "tensor")
    ends.call(unpublish, "array")


def publish_tensors(party: Party) -> None:
    region = party.device.region(4096, access=BOTH)
    tensor = region.empty((200,), "uint8")
    tensor.numpy()[:] = range(200)
    party.device.publish("tensor", tensor.numpy()[:100])
    party.device.publish("array", tensor.numpy()[50:150])  # keeps the memory: nothing else does


def test_a_name_taken_back_is_not_found_but_who_has_it_keeps_it(ends: Ends) -> None:
    name, remote = ends.expose(64)
    ends.call(unpublish, name)
    with pytest.raises(rt.NameNotFound):
        ends.channel.lookup(name, timeout=0)
    ends.channel.memcpy(remote, ends.local(b"\x01" * 64))
    assert ends.peek(name, 0, 64) == b"\x01" * 64


def test_a_name_can_be_published_again_after_it_was_taken_back(ends: Ends) -> None:
    ends.call(expose, "inbox", 64, int(BOTH))
    ends.call(unpublish, "inbox")
    ends.call(make, "other", 128, int(BOTH))
    ends.call(publish, "inbox", "other")
    assert ends.channel.lookup("inbox").nbytes == 128
    ends.call(unpublish, "inbox")


def test_a_name_that_is_taken_cannot_be_published(ends: Ends) -> None:
    with ends.device.region(64, access=BOTH) as region:
        ends.device.publish("mine", region)
        with pytest.raises(rt.NameTaken, match="'mine'"):
            ends.device.publish("mine", region)
        ends.device.unpublish("mine")


def test_a_name_that_is_not_published_cannot_be_taken_back(ends: Ends) -> None:
    with pytest.raises(rt.NameNotFound, match="'nobody'"):
        ends.device.unpublish("nobody")


@pytest.mark.parametrize("name", ["x", "n" * 128, "mit Umläuten: äöü", "日本", "a/b?c=d"])
def test_names_are_any_text_of_up_to_128_bytes(ends: Ends, name: str) -> None:
    ends.call(expose, name, 64, int(BOTH))
    assert ends.channel.lookup(name).nbytes == 64


@pytest.mark.parametrize("name", ["", "n" * 129, "ü" * 65, "two\nlines", "null\x00", "\x7f"])
def test_names_of_other_length_or_with_control_characters_are_refused(ends: Ends, name: str) -> None:
    with pytest.raises(rt.InvalidArgument):
        ends.channel.lookup(name)
    with ends.device.region(64, access=BOTH) as region, pytest.raises(rt.InvalidArgument):
        ends.device.publish(name, region)


def test_a_hundred_names_are_kept_apart(ends: Ends) -> None:
    for number in range(100):
        ends.call(expose, f"edge {number}", 64 + number * 64, int(BOTH))
    for number in (99, 0, 50, 17):
        assert ends.channel.lookup(f"edge {number}").nbytes == 64 + number * 64


def test_both_sides_look_up_what_the_other_publishes(ends: Ends) -> None:
    with ends.device.region(192, access=BOTH) as region:
        ends.device.publish("of here", region)
        assert ends.call(_size_of, "of here") == 192
        ends.device.unpublish("of here")


def _size_of(party, name: str) -> int:  # type: ignore[no-untyped-def]
    size: int = party.kept["channel"].lookup(name).nbytes
    return size


def test_published_memory_is_kept_alive(ends: Ends) -> None:
    region = ends.device.region(192, access=BOTH)
    ends.device.publish("kept", region)
    del region
    assert ends.call(_size_of, "kept") == 192
    ends.device.unpublish("kept")


def test_a_part_of_a_region_can_be_published(ends: Ends) -> None:
    with ends.device.region(4096, access=BOTH) as region:
        buffer = region.allocate(100)
        ends.device.publish("part", buffer)
        assert ends.call(_size_of, "part") == 100
        ends.device.unpublish("part")
        buffer.free()


def test_more_lookups_at_once_than_a_channel_has_wait_for_a_free_one(ends: Ends) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread only")
    with ThreadPoolExecutor(24) as threads:  # a channel has 8
        found = [threads.submit(ends.channel.lookup, f"late {number}", timeout=300) for number in range(24)]
        for number in range(24):
            ends.call(expose, f"late {number}", 64 * (number + 1), int(BOTH))
        assert [lookup.result(30).nbytes for lookup in found] == [64 * (number + 1) for number in range(24)]
