"""Who hangs? Dump and statistics say what was posted, completed and is expected."""

from __future__ import annotations

import pytest
from ends import Ends

import rdmatensor as rt


def test_a_dump_names_the_peer_the_state_and_every_qp(ends: Ends) -> None:
    text = ends.channel.dump()
    assert ends.channel.peer in text
    assert "ready" in text
    for qp in range(ends.channel.qps):
        assert f"qp {qp} " in text
    assert text in ends.device.dump() or ends.channel.peer in ends.device.dump()


def test_a_dump_counts_what_was_posted_and_completed(ends: Ends) -> None:
    _, remote = ends.expose(64)
    before = ends.channel.dump()
    for _ in range(5):
        ends.channel.memcpy(remote, ends.local(64))
    assert ends.channel.dump() != before


def test_a_dump_says_why_a_channel_is_down(ends: Ends) -> None:
    ends.channel.close()
    assert "closed" in ends.channel.dump()


def test_keys_are_in_no_dump_and_no_repr(ends: Ends) -> None:
    region = ends.device.region(4096, access=rt.Access.REMOTE_READ)
    key = region.handle()[-16:].hex()
    for text in (ends.device.dump(), ends.channel.dump(), repr(region), repr(region.span), str(ends.device.stats)):
        assert key not in text
    region.close()


def test_statistics_count_transfers_and_bytes(ends: Ends) -> None:
    _, remote = ends.expose(1000)
    buffer = ends.local(1000)
    before = ends.channel.stats
    ends.channel.memcpy(remote, buffer)
    ends.channel.memcpy(buffer[:100], remote[:100])
    ends.channel.memcpy_many([(remote[:10], buffer[:10]), (remote[10:20], buffer[10:20])])
    after = ends.channel.stats
    assert after.writes - before.writes == 3
    assert after.bytes_written - before.bytes_written == 1020
    assert after.reads - before.reads == 1
    assert after.bytes_read - before.bytes_read == 100
    assert after.work_items > before.work_items
    assert after.failures == before.failures


def test_device_statistics_count_regions_and_registering(ends: Ends) -> None:
    before = ends.device.stats
    region = ends.device.region(1 << 20)
    during = ends.device.stats
    assert during.regions == before.regions + 1
    assert during.region_bytes >= before.region_bytes + (1 << 20)
    assert during.registrations == before.registrations + 1
    region.close()
    after = ends.device.stats
    assert after.regions == before.regions
    assert after.registrations == during.registrations


def test_region_statistics_count_buffers(ends: Ends) -> None:
    with ends.device.region(1 << 20) as region:
        buffers = [region.allocate(1000) for _ in range(10)]
        stats = region.stats
        assert stats.allocations == 10
        assert stats.allocated_bytes >= 10_000
        buffers.clear()
        assert region.stats.allocations == 0
        assert region.stats.peak_bytes >= 10_000
        with pytest.raises(rt.OutOfMemory, match="no room"):
            region.allocate(2 << 20)
