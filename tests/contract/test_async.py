"""A transfer goes on after the call that began it; it can be polled, waited for and awaited."""

from __future__ import annotations

import asyncio
import gc

import pytest
from ends import Ends, pattern

import rdmatensor as rt

LARGE = 128 << 20  # several pieces, where a copy is made in the call that posts it


def large(ends: Ends) -> int:
    """A size that is not done when it is begun, where that can be."""
    return LARGE if ends.limits.completes_in_post else 100_000


def test_a_transfer_is_done_after_it_was_waited_for(ends: Ends) -> None:
    name, remote = ends.expose(5000)
    transfer = ends.channel.memcpy_async(remote, ends.local(pattern(5000)))
    transfer.wait()
    transfer.wait()
    assert transfer.done()
    assert transfer.exception() is None
    assert "done" in repr(transfer)
    assert ends.peek(name, 0, 5000) == pattern(5000)


def test_a_transfer_can_be_polled_to_its_end(ends: Ends) -> None:
    size = large(ends)
    name, remote = ends.expose(size)
    transfer = ends.channel.memcpy_async(remote, ends.local(pattern(size)))
    deadline = ends.device.now() + 300
    while not transfer.done():
        assert ends.device.now() < deadline
        ends.device.progress()
    transfer.wait(0)
    assert ends.peek(name, 0, size) == pattern(size)


def test_a_transfer_nobody_holds_is_finished_all_the_same(ends: Ends) -> None:
    size = large(ends)
    name, remote = ends.expose(size)
    ends.channel.memcpy_async(remote, ends.local(pattern(size)))
    gc.collect()
    ends.channel.memcpy(remote[:0], ends.local(1)[:0])
    while ends.channel._operations._pending:
        ends.device.progress()
        ends.channel.sweep()
    assert ends.peek(name, 0, size) == pattern(size)


def test_more_transfers_than_a_qp_has_operations_can_be_begun(ends: Ends) -> None:
    count = 600
    name, remote = ends.expose(count * 8)
    source = ends.local(pattern(count * 8))
    parts = [slice(at * 8, at * 8 + 8) for at in range(count)]
    transfers = [ends.channel.memcpy_async(remote[part], source[part]) for part in parts]
    for transfer in transfers:
        transfer.wait()
    assert ends.peek(name, 0, count * 8) == pattern(count * 8)


def test_transfers_may_be_waited_for_in_any_order(ends: Ends) -> None:
    name, remote = ends.expose(100 * 64)
    source = ends.local(pattern(6400))
    parts = [slice(at, at + 64) for at in range(0, 6400, 64)]
    transfers = [ends.channel.memcpy_async(remote[part], source[part]) for part in parts]
    for transfer in reversed(transfers):
        transfer.wait()
    assert ends.peek(name, 0, 6400) == pattern(6400)


def test_a_transfer_can_be_awaited(ends: Ends) -> None:
    size = large(ends)
    name, remote = ends.expose(size)
    source = ends.local(pattern(size))

    async def main() -> None:
        await ends.channel.memcpy_async(remote, source)

    asyncio.run(main())
    assert ends.peek(name, 0, size) == pattern(size)


def test_many_transfers_are_awaited_together(ends: Ends) -> None:
    name, remote = ends.expose(64 * 1000)
    source = ends.local(pattern(64000))

    async def main() -> None:
        parts = [slice(at, at + 1000) for at in range(0, 64000, 1000)]
        await asyncio.gather(*(waiting(remote[part], source[part]) for part in parts))

    async def waiting(dst: rt.RemoteSpan, src: rt.Span) -> None:
        await ends.channel.memcpy_async(dst, src)

    asyncio.run(main())
    assert ends.peek(name, 0, 64000) == pattern(64000)


def test_the_event_loop_turns_while_a_large_copy_goes_on(ends: Ends) -> None:
    if not (ends.limits.completes_in_post or ends.limits.virtual_time):
        pytest.skip("this device moves a whole copy between two turns of the loop")
    size = large(ends)
    rounds = 4 if ends.limits.virtual_time else 1  # where time passes as the loop turns, one copy takes few turns
    _, remote = ends.expose(size)
    source = ends.local(size)
    turns = 0

    async def main() -> None:
        nonlocal turns
        transfer = ends.channel.memcpy_async(remote, source)
        waiting = asyncio.ensure_future(awaiting(transfer))
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        await waiting

    async def awaiting(transfer: rt.Transfer) -> None:
        await transfer
        for _ in range(1, rounds):
            await ends.channel.memcpy_async(remote, source)

    asyncio.run(main())
    assert turns > 3


def test_a_cancelled_await_gives_up_the_waiting_and_not_the_copy(ends: Ends) -> None:
    size = large(ends)
    name, remote = ends.expose(size)
    transfer = ends.channel.memcpy_async(remote, ends.local(pattern(size)))

    async def main() -> None:
        waiting = asyncio.ensure_future(awaiting())
        await asyncio.sleep(0)
        if waiting.done():
            pytest.skip("this device moves a whole copy between two turns of the loop")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def awaiting() -> None:
        await transfer

    if not transfer.done():
        asyncio.run(main())
    transfer.wait()
    assert ends.peek(name, 0, size) == pattern(size)


def test_an_await_after_another_loop_has_closed_works(ends: Ends) -> None:
    size = large(ends)
    _, remote = ends.expose(size)
    source = ends.local(size)

    async def main() -> None:
        await ends.channel.memcpy_async(remote, source)

    for _ in range(3):
        asyncio.run(main())
