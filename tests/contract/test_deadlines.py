"""Every wait has a deadline; memory that it leaves behind stays safe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ends import Ends, pattern

import rdmatensor as rt
from rdmatensor.testing import SimFabric

HUGE = 128 << 20


def stalled(ends: Ends) -> tuple[rt.Remote, rt.Region]:
    """Two ends of a copy that cannot be done at once, or the test is skipped."""
    if ends.limits.virtual_time:
        assert isinstance(ends.fabric, SimFabric)
        _, remote = ends.expose(100_000)
        ends.fabric.command("cut party=here with=there")
        return remote, ends.device.region(100_000)
    if not ends.limits.completes_in_post:
        pytest.skip("no way to hold up a copy over this fabric")
    _, remote = ends.expose(HUGE)
    return remote, ends.device.region(HUGE)


def heal(ends: Ends) -> None:
    if isinstance(ends.fabric, SimFabric):
        ends.fabric.command("heal party=here with=there")


def test_a_copy_that_is_not_done_in_time_raises_and_the_channel_goes_on(ends: Ends) -> None:
    remote, region = stalled(ends)
    with pytest.raises(rt.DeadlineExceeded, match=r"WRITE of \d+ bytes .*not done after 0 s") as info:
        ends.channel.memcpy(remote, region, timeout=0)
    assert isinstance(info.value, TimeoutError)
    heal(ends)
    name, other = ends.expose(64)
    ends.channel.memcpy(other, ends.local(pattern(64)))
    assert ends.peek(name, 0, 64) == pattern(64)
    assert ends.channel.stats.deadlines == 1


def test_a_transfer_that_is_not_done_in_time_is_given_up(ends: Ends) -> None:
    remote, region = stalled(ends)
    transfer = ends.channel.memcpy_async(remote, region)
    with pytest.raises(rt.DeadlineExceeded):
        transfer.wait(0)
    assert transfer.done()
    assert isinstance(transfer.exception(), rt.DeadlineExceeded)
    heal(ends)


def test_an_await_ends_at_the_transfers_own_deadline(ends: Ends) -> None:
    if not ends.limits.virtual_time:
        pytest.skip("only a copy that stands still can be late for a loop that moves it")
    remote, region = stalled(ends)

    async def main() -> None:
        await ends.channel.memcpy_async(remote, region, timeout=0.01)

    with pytest.raises(rt.DeadlineExceeded):
        asyncio.run(main())
    heal(ends)


def test_a_freed_buffer_is_not_served_again_while_a_late_copy_may_use_it(ends: Ends) -> None:
    if not ends.limits.virtual_time:
        pytest.skip("a copy that was given up goes on by itself only where it was handed to hardware")
    assert isinstance(ends.fabric, SimFabric)
    name, remote = ends.expose(4096)
    region = ends.device.region(8192)
    buffer = region.allocate(4096)
    offset = buffer.offset
    buffer.view()[:] = pattern(4096)
    ends.fabric.command("cut party=here with=there")
    with pytest.raises(rt.DeadlineExceeded):
        ends.channel.memcpy(remote, buffer, timeout=0.001)
    buffer.free()
    assert region.stats.quarantined_bytes == 4096
    with pytest.raises(rt.RegionBusy):
        region.close()
    other = region.allocate(4096)
    assert other.offset != offset
    with pytest.raises(rt.OutOfMemory, match="4096 are in quarantine"):
        region.allocate(64)
    heal(ends)
    sync = ends.local(8)
    _, mark = ends.expose(8)
    ends.channel.memcpy(mark, sync)  # of the same QP: what was late is over now
    assert region.stats.quarantined_bytes == 0
    assert region.allocate(4096).offset == offset
    assert ends.peek(name, 0, 4096) in (pattern(4096), bytes(4096))
    del other


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), 1e10])
def test_a_timeout_that_is_no_time_is_refused(ends: Ends, timeout: float) -> None:
    _, remote = ends.expose(64)
    source = ends.local(64)
    for attempt in waits(ends, remote, source, timeout):
        with pytest.raises(rt.InvalidArgument, match="timeout"):
            attempt()


@pytest.mark.parametrize("timeout", ["1", b"1", True, object(), [1]])
def test_a_timeout_that_is_no_number_is_refused(ends: Ends, timeout: Any) -> None:
    _, remote = ends.expose(64)
    for attempt in waits(ends, remote, ends.local(64), timeout):
        with pytest.raises(TypeError, match="timeout"):
            attempt()


def waits(ends: Ends, remote: rt.Remote, source: rt.Buffer, timeout: Any) -> list[Any]:
    """Every call that takes a timeout."""
    channel = ends.channel
    with ends.device.listen("127.0.0.1:0") as listener:
        address = listener.address
    return [
        lambda: channel.memcpy(remote, source, timeout=timeout),
        lambda: channel.memcpy_async(remote, source, timeout=timeout),
        lambda: channel.memcpy_many([(remote, source)], timeout=timeout),
        lambda: channel.wait_word(source[:8], 0, timeout=timeout),
        lambda: channel.lookup("x", timeout=timeout),
        lambda: channel.attach(b"x", timeout=timeout),
        lambda: ends.device.connect(address, timeout=timeout),
    ]


def test_a_word_that_does_not_come_says_what_is_there(ends: Ends) -> None:
    buffer = ends.local((41).to_bytes(8, "little"))
    with pytest.raises(rt.DeadlineExceeded, match=r"word of at least 42 .*it is 41 after 0\.01 s"):
        ends.channel.wait_word(buffer, 42, timeout=0.01)


def test_a_word_is_eight_bytes_at_a_multiple_of_eight(ends: Ends) -> None:
    buffer = ends.local(64)
    with pytest.raises(rt.InvalidArgument, match="8 bytes"):
        ends.channel.wait_word(buffer, 1, timeout=0)
    with pytest.raises(rt.InvalidArgument, match="multiple of 8"):
        ends.channel.wait_word(buffer[4:12], 1, timeout=0)


def test_nobody_connecting_ends_an_accept(ends: Ends) -> None:
    with ends.device.listen("127.0.0.1:0") as listener, pytest.raises(rt.DeadlineExceeded, match=r"nobody .*0\.01 s"):
        listener.accept(0.01)
