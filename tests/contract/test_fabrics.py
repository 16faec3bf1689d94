"""The contract is held over every fabric that this machine can have; the others are named here, once."""

from __future__ import annotations

from ends import Ends, pid_of
from kinds import MAKERS
from test_memcpy import test_a_write_places_the_bytes_and_nothing_around_them as write

import rdmatensor as rt

PROMISES = ("completes_in_post", "orders_writes", "places_words_whole", "maps_remote", "virtual_time")


def test_a_fabric_comes_up_and_moves_bytes(possible_kind: str) -> None:
    with MAKERS[possible_kind]() as fabric:
        ends = Ends(fabric)
        write(ends, 1000)
        ends.tidy()


def test_the_parties_know_each_other_by_process(ends: Ends) -> None:
    if ends.limits.virtual_time:
        assert "simulated there" in ends.channel.peer
    else:
        assert f"pid {ends.call(pid_of)}" in ends.channel.peer


def test_limits_are_numbers_that_can_be_worked_with(ends: Ends) -> None:
    limits = ends.limits
    assert limits.message_size_max >= 4096 or limits.virtual_time
    assert limits.work_depth >= 1
    assert limits.link_count_max >= 1
    assert limits.region_count_max >= 1
    for promise in PROMISES:
        assert isinstance(getattr(limits, promise), bool)


def test_a_device_says_what_it_is(ends: Ends) -> None:
    device = ends.device
    assert device.provider == ends.fabric.provider
    assert repr(device) == f"<Device {device.provider}://{device.name}, open>"
    assert len(device.id) == 16
    assert device.queues >= 1
    assert device.qps_per_peer >= 1
    assert device.why == {}
    assert isinstance(device.stats, rt.DeviceStats)
