"""A word of a span that was waited for before is waited for in C; its outcome is the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ends import Ends

import rdmatensor as rt


@pytest.fixture
def word(ends: Ends) -> rt.Buffer:
    """A word of 5 that was waited for already."""
    buffer = ends.local((5).to_bytes(8, "little"))
    ends.channel.wait_word(buffer, 5)
    ends.channel.wait_word(buffer, 4)
    return buffer


@pytest.mark.parametrize("value", [5, 0, 4, 2**64 + 5, -1, -(2**63) + 6, True])
def test_a_word_at_or_past_the_value_has_come(ends: Ends, word: rt.Buffer, value: int) -> None:
    ends.channel.wait_word(word, value)


@pytest.mark.parametrize("value", [6, 2**63 + 4, 2**64 + 6, -(2**63) + 5 - 1])
def test_a_word_before_the_value_has_not(ends: Ends, word: rt.Buffer, value: int) -> None:
    with pytest.raises(rt.DeadlineExceeded, match=r"it is 5 after 0 s"):
        ends.channel.wait_word(word, value, timeout=0)


def test_a_word_that_comes_later_is_found_with_what_was_placed_before_it(ends: Ends, word: rt.Buffer) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread only")
    heard: list[bytes] = []
    data = ends.local(64)
    data.view()[:] = bytes(64)

    def hear() -> None:
        ends.channel.wait_word(word, 6)
        heard.append(bytes(data.view()))

    thread = threading.Thread(target=hear)
    thread.start()
    while "expected 6, last seen 5" not in ends.device.dump() and thread.is_alive():  # until it waits
        pass
    assert not heard
    data.view()[:] = b"x" * 64
    word.view().cast("Q")[0] = 6  # as a peer's WRITE would
    thread.join(20)
    assert heard == [b"x" * 64]


def test_names_of_arguments_and_wrong_ones_are_as_in_python(ends: Ends, word: rt.Buffer) -> None:
    wait: Any = ends.channel.wait_word
    wait(span=word, value=5)
    wait(word, value=5, timeout=0)
    for arguments in ((word,), (word, 5, 1), (word, 1.5)):
        with pytest.raises(TypeError):
            wait(*arguments)
    with pytest.raises(TypeError):
        wait(word, 5, other=1)
    with pytest.raises((TypeError, AttributeError)):
        wait(b"12345678", 5)


def test_a_freed_buffer_and_a_closed_channel_are_refused(ends: Ends, word: rt.Buffer) -> None:
    word.free()
    with pytest.raises(rt.ClosedError, match="freed"):
        ends.channel.wait_word(word, 5)
    other = ends.local((5).to_bytes(8, "little"))
    ends.channel.wait_word(other, 5)
    ends.channel.close()
    with pytest.raises(rt.ClosedError):
        ends.channel.wait_word(other, 6)


def test_a_longer_span_is_refused_each_time(ends: Ends) -> None:
    name, remote = ends.expose(64)
    span = ends.local(bytes(64))
    ends.channel.memcpy_many([(remote, span)])  # after which its place is known
    for _ in range(2):
        with pytest.raises(rt.InvalidArgument, match="8 bytes"):
            ends.channel.wait_word(span, 0)
    assert ends.peek(name, 0, 64) == bytes(64)


def test_a_word_of_another_device_does_not_come(ends: Ends) -> None:
    with rt.Device("shm://") as other:
        region = other.region(64)
        word = region[:8]
        ends.channel.wait_word(word, 0)  # there already
        for _ in range(2):
            with pytest.raises(rt.InvalidArgument, match="of the channel's device"):
                ends.channel.wait_word(word, 1)
        del word
