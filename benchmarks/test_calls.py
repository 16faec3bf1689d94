"""The cost of single calls on `shm`, one process, as pytest-benchmark sees them. Run by `make bench`; asserts no time.

Both devices live in this process, which is right for the cost of a call and wrong for anything about processes:
transfers.py measures those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rdmatensor as rt


@pytest.fixture
def ends() -> Iterator[tuple[rt.Channel, rt.Region, rt.Remote]]:
    with rt.Device("shm://") as here, rt.Device("shm://") as there:
        listener = there.listen("127.0.0.1:0")
        channel = here.connect(listener.address, timeout=10)
        target = there.region(1 << 20, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        there.publish("target", target)
        yield channel, here.region(1 << 20), channel.lookup("target", timeout=10)
        channel.close()


@pytest.mark.parametrize("size", [8, 64, 4096])
def test_memcpy(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote], size: int) -> None:
    channel, region, remote = ends
    benchmark(channel.memcpy, remote[:size], region[:size])


def test_memcpy_prepared(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote]) -> None:
    channel, region, remote = ends
    benchmark(channel.prepare(remote[:64], region[:64]))


def test_memcpy_async_and_wait(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote]) -> None:
    channel, region, remote = ends
    to, source = remote[:64], region[:64]
    benchmark(lambda: channel.memcpy_async(to, source).wait())


def test_allocate_and_free(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote]) -> None:
    _, region, _ = ends
    benchmark(lambda: region.allocate(4096).free())


def test_allocate_and_collect(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote]) -> None:
    _, region, _ = ends
    benchmark(region.allocate, 4096)


def test_wait_for_a_word_that_is_there(benchmark: Any, ends: tuple[rt.Channel, rt.Region, rt.Remote]) -> None:
    channel, region, _ = ends
    benchmark(channel.wait_word, region[0:8], 0)
