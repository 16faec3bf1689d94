"""The ordering that a channel states: what a flag says is there, is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from ends import Ends, await_word, pattern

import rdmatensor as rt

ROUNDS = 40
SIZE = 20000


def arrive(ends: Ends, name: str, offset: int, value: int, *transfers: rt.Transfer) -> None:
    """Waits over there for a word, without waiting here for what brings it."""
    if not ends.limits.virtual_time:
        ends.call(await_word, name, offset, value)
        return None
    for _ in range(100_000):  # one thread: the sender posts the rest of a large copy only when it looks
        with contextlib.suppress(rt.DeadlineExceeded):
            return ends.call(await_word, name, offset, value, 1e-6)
        for transfer in transfers:
            transfer.done()
    raise AssertionError("the word did not come")


def test_a_flag_written_after_its_data_is_seen_after_it(ends: Ends, need: Callable[[rt.Limits, str], None]) -> None:
    need(ends.limits, "orders_writes")
    name, remote = ends.expose(SIZE + 64)
    source = ends.local(SIZE + 64)
    flag = SIZE - SIZE % 8
    for number in range(1, ROUNDS + 1):
        source[:flag].view()[:] = pattern(flag, number)
        source[flag : flag + 8].view()[:] = number.to_bytes(8, "little")
        data = ends.channel.memcpy_async(remote[:flag], source[:flag])
        word = ends.channel.memcpy_async(remote[flag : flag + 8], source[flag : flag + 8])
        arrive(ends, name, flag, number, data, word)
        assert ends.peek(name, 0, flag) == pattern(flag, number)
        data.wait()
        word.wait()


def test_a_flag_written_after_waiting_for_its_data_is_seen_after_it_everywhere(ends: Ends) -> None:
    name, remote = ends.expose(SIZE + 64)
    source = ends.local(SIZE + 64)
    flag = SIZE - SIZE % 8
    for number in range(1, ROUNDS + 1):
        source[:flag].view()[:] = pattern(flag, number)
        source[flag : flag + 8].view()[:] = number.to_bytes(8, "little")
        ends.channel.memcpy(remote[:flag], source[:flag])
        ends.channel.memcpy(remote[flag : flag + 8], source[flag : flag + 8])
        ends.call(await_word, name, flag, number)
        assert ends.peek(name, 0, flag) == pattern(flag, number)


def test_the_later_of_two_writes_to_one_place_stays(ends: Ends, need: Callable[[rt.Limits, str], None]) -> None:
    need(ends.limits, "orders_writes")
    name, remote = ends.expose(4096)
    first, second = ends.local(pattern(4096, 1)), ends.local(pattern(4096, 2))
    for _ in range(ROUNDS):
        ends.channel.memcpy_many([(remote, first), (remote, second)])
        assert ends.peek(name, 0, 4096) == pattern(4096, 2)


def test_copies_of_one_call_are_placed_in_their_order(ends: Ends, need: Callable[[rt.Limits, str], None]) -> None:
    need(ends.limits, "orders_writes")
    name, remote = ends.expose(SIZE + 64)
    source = ends.local(SIZE + 64)
    flag = SIZE - SIZE % 8
    for number in range(1, ROUNDS + 1):
        source[:flag].view()[:] = pattern(flag, number)
        source[flag : flag + 8].view()[:] = number.to_bytes(8, "little")
        transfer = ends.channel.memcpy_many_async(
            [(remote[:flag], source[:flag]), (remote[flag : flag + 8], source[flag : flag + 8])]
        )
        arrive(ends, name, flag, number, transfer)
        assert ends.peek(name, 0, flag) == pattern(flag, number)
        transfer.wait()


def test_a_word_waits_as_a_sequence_number(ends: Ends) -> None:
    name, remote = ends.expose(64)
    source = ends.local(64)
    word = source[:8]
    for value in (1, 7, 2**63 - 1, 2**63, 2**64 - 1, 0, 5):
        word.view()[:] = value.to_bytes(8, "little")
        ends.channel.memcpy(remote[:8], word)
        ends.call(await_word, name, 0, value)
        ends.call(await_word, name, 0, value - 1)  # past it counts too
        with pytest.raises(rt.DeadlineExceeded):
            ends.call(await_word, name, 0, value + 1, 0)
