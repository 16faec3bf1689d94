"""Edges whose peer dies or whose link goes down: what came is whole, and both ends are told in time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import link
import pytest
from edge_peers import (
    WORDS,
    close_edges,
    make_edges,
    open_edges,
    receive_until_error,
    send_until_error,
    take_rest,
)

import rdmatensor as rt
from rdmatensor.testing import ProcessParty, VerbsFabric

pytestmark = pytest.mark.timeout(900)
DEATH_BOUND = 60.0
CUT_BOUND = 60.0  # less than the calls that wait have; on an idle machine a packet is sent again for half a second
WARM = 6  # tensors that pass before the trouble begins


@pytest.fixture
def fabric(two_devices: tuple[str, str]) -> Iterator[VerbsFabric]:
    here, there = two_devices
    with VerbsFabric(f"verbs://{here}", there=f"verbs://{there}", qps_per_peer=2, timeout=300) as made:
        made.here.kept["channel"] = made.connect()
        yield made


def there_of(fabric: VerbsFabric) -> ProcessParty:
    assert isinstance(fabric.there, ProcessParty)
    return fabric.there


def receive_some(fabric: VerbsFabric) -> None:
    for name in WORDS:
        for _ in range(WARM // len(WORDS)):
            fabric.here.kept[f"edge {name}"].recv(30.0).release()


def rest_is_whole(fabric: VerbsFabric) -> None:
    ended = take_rest(fabric.here, dict.fromkeys(WORDS, WARM // len(WORDS)))
    assert ended == dict.fromkeys(WORDS, "PeerLost")


def test_a_sender_that_is_killed_leaves_whole_tensors_and_a_lost_peer(fabric: VerbsFabric) -> None:
    make_edges(fabric.here)
    there_of(fabric).call(open_edges)
    there_of(fabric).start(send_until_error)
    receive_some(fabric)
    there_of(fabric).kill()
    began = time.monotonic()
    rest_is_whole(fabric)
    print(f"trouble: kill -9 of a sender: told on every edge after {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < DEATH_BOUND
    close_edges(fabric.here)


def test_a_receiver_that_is_killed_is_a_lost_peer_to_its_sender(fabric: VerbsFabric) -> None:
    there_of(fabric).call(make_edges)
    open_edges(fabric.here)
    there_of(fabric).start(receive_until_error)
    for number in range(2):
        for name in WORDS:
            fabric.here.kept[f"edge {name}"].send(fabric.here.kept[f"{name} {number}"], 30.0)
    there_of(fabric).kill()
    began = time.monotonic()
    what, _ = send_until_error(fabric.here)
    print(f"trouble: kill -9 of a receiver: told {what} after {time.monotonic() - began:.2f} s")
    assert what == "PeerLost"
    assert time.monotonic() - began < DEATH_BOUND
    for name in WORDS:
        with pytest.raises(rt.PeerLost):
            fabric.here.kept[f"edge {name}"].flush(DEATH_BOUND)
    region = fabric.here.kept["tensors"]
    close_edges(fabric.here)
    assert region.stats.allocations == 0


@pytest.mark.parametrize("sender", ["here", "there"])
def test_a_link_that_goes_down_is_a_lost_peer_at_both_ends(fabric: VerbsFabric, sender: str) -> None:
    if sender == "there":
        make_edges(fabric.here)
        there_of(fabric).call(open_edges)
        pending = there_of(fabric).start(send_until_error)
        receive_some(fabric)
    else:
        there_of(fabric).call(make_edges)
        open_edges(fabric.here)
        pending = there_of(fabric).start(receive_until_error)
        for name in WORDS:
            fabric.here.kept[f"edge {name}"].send(fabric.here.kept[f"{name} 0"], 30.0)
    with link.cut():
        began = time.monotonic()
        if sender == "there":
            rest_is_whole(fabric)
        else:
            assert send_until_error(fabric.here)[0] == "PeerLost"
        here = time.monotonic() - began
        said = pending.result(30)
        print(f"trouble: link down under edges, sender {sender}: here after {here:.2f} s, there {said}")
        assert said[0] == "PeerLost"
        assert max(here, said[1]) < CUT_BOUND
