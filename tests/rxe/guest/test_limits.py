"""Limits, the driver's and smaller ones asked for by URL: copies are cut to fit them, and arrive whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from joined import DEVICES
from peers import BOTH, digest, digest_of, expose, filled

import rdmatensor as rt
from rdmatensor.testing import VerbsFabric

pytestmark = pytest.mark.timeout(900)
Make = Callable[[str], VerbsFabric]


@pytest.fixture
def make() -> Iterator[Make]:
    """Two parties whose devices have these arguments in their URLs."""
    with ExitStack() as stack:

        def made(arguments: str) -> VerbsFabric:
            here, there = (f"verbs://{name}?{arguments}" for name in (DEVICES[0], DEVICES[-1]))
            return stack.enter_context(VerbsFabric(here, there=there, timeout=300))

        yield made


def moves(fabric: VerbsFabric, channel: rt.Channel, sizes: list[int]) -> rt.ChannelStats:
    """Writes pieces of these sizes, one behind the other, and reads all back; returns the channel's counts."""
    total = sum(sizes)
    remote = channel.attach(fabric.there.call(expose, f"memory of {total}", total, int(BOTH), 1))
    source, back = (fabric.here.device.region(total) for _ in range(2))
    source[:].view()[:] = filled(total, 2)
    cuts = [slice(sum(sizes[:at]), sum(sizes[: at + 1])) for at in range(len(sizes))]
    channel.memcpy_many([(remote[cut], source[cut]) for cut in cuts])
    assert fabric.there.call(digest_of, f"memory of {total}") == digest(filled(total, 2))
    channel.memcpy_many([(back[cut], remote[cut]) for cut in cuts])
    assert digest(back[:].view()) == digest(filled(total, 2))
    return channel.stats


@pytest.mark.parametrize("most", [256, 4096, 5000])
def test_copies_are_cut_at_the_largest_message(make: Make, most: int) -> None:
    fabric = make(f"message_size_max={most}")
    assert fabric.here.device.limits.message_size_max == most
    sizes = [1, most - 1, most, most + 1, 40 * most + 13]
    stats = moves(fabric, fabric.connect(), sizes)
    assert (stats.writes, stats.reads) == (len(sizes), len(sizes))
    assert stats.work_items == 2 * sum(-(-size // most) for size in sizes)


def test_the_largest_message_of_the_driver_is_known_and_not_exceeded(make: Make) -> None:
    device = make("message_size_max=1073741824").here.device
    assert 1 << 20 <= device.limits.message_size_max <= 1 << 30


def test_queues_far_too_short_for_what_is_posted_carry_all_of_it(make: Make) -> None:
    fabric = make("work_depth=8&completion_depth=64&message_size_max=256&queues=1&qps_per_peer=2")
    limits = fabric.here.device.limits
    assert (limits.work_depth, limits.completion_depth) == (8, 64)
    moves(fabric, fabric.connect(), [256 * 100, 7, 256 * 99 + 3] + [16] * 300)


def test_copies_around_the_inline_size_arrive_whole(make: Make) -> None:
    fabric = make("")
    most = fabric.here.device.limits.inline_size_max
    assert most > 0
    moves(fabric, fabric.connect(), [most - 1, most, most + 1, 1, 2 * most])
