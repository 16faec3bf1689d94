"""A peer that shares no code with us, over python3-pyverbs: what we take the verbs and our own protocol to be is not
checked against ourselves.
"""

from __future__ import annotations

import random
import re

import pytest
from peers import SUCCESS, Stranger, digest, key_in

import rdmatensor as rt

pytestmark = pytest.mark.timeout(900)
BOTH = rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ
SIZE = 300_000  # of the stranger's memory; more than one packet, and no multiple of anything
SIZES = [1, 8, 333, 4096, 65_537, 200_000]
HOW = ["connect", "accept"]


def met(strangers: list[Stranger], device: rt.Device, how: str, shift: int = 0) -> tuple[Stranger, rt.Channel]:
    stranger = Stranger(device.name, shift=shift)
    strangers.append(stranger)
    return stranger, getattr(stranger, how)(device)


@pytest.mark.parametrize("how", HOW)
def test_we_write_into_and_read_out_of_the_memory_of_a_stranger(
    device: rt.Device, strangers: list[Stranger], how: str
) -> None:
    stranger, channel = met(strangers, device, how, shift=7)
    remote = channel.attach(stranger.handle)
    stranger.tell("fill", seed=1)
    theirs = bytearray(random.Random(1).randbytes(SIZE))
    region = device.region(SIZE)
    for turn, size in enumerate(SIZES):
        at, here = 11 + 1000 * turn, 5 + turn
        data = random.Random(size).randbytes(size)
        region[here : here + size].view()[:] = data
        channel.memcpy(remote[at : at + size], region[here : here + size])
        theirs[at : at + size] = data
        assert stranger.tell("show")["digest"] == digest(theirs)
    channel.memcpy(region[:], remote)
    assert bytes(region[:].view()) == bytes(theirs)
    channel.memcpy(region[3:70_003], remote[17:70_017])
    assert bytes(region[:].view()) == bytes(theirs[:3] + theirs[17:70_017] + theirs[70_003:])


@pytest.mark.parametrize("how", HOW)
def test_a_stranger_writes_into_and_reads_out_of_our_memory(
    device: rt.Device, strangers: list[Stranger], how: str
) -> None:
    stranger, channel = met(strangers, device, how, shift=3)
    region = device.region(SIZE, access=BOTH)
    ours, theirs = bytearray(SIZE), bytearray(random.Random(2).randbytes(SIZE))
    stranger.tell("fill", seed=2)
    for turn, size in enumerate(SIZES):
        at, from_ = 13 + 7 * turn, 29 * turn
        key = key_in(region[at : at + size].handle())
        said = stranger.tell("write", at=from_, size=size, key=key.rkey, address=key.address)
        assert said == {"status": SUCCESS}
        ours[at : at + size] = theirs[from_ : from_ + size]
        assert bytes(region[:].view()) == bytes(ours)
    ours[:] = random.Random(3).randbytes(SIZE)
    region[:].view()[:] = ours
    key = key_in(region[101:80_101].handle())
    assert stranger.tell("read", at=33, size=80_000, key=key.rkey, address=key.address) == {"status": SUCCESS}
    theirs[33:80_033] = ours[101:80_101]
    assert stranger.tell("show")["digest"] == digest(theirs)
    assert channel.state == "ready"


def test_a_stranger_that_closes_without_goodbye_is_a_lost_peer_within_two_seconds(
    device: rt.Device, strangers: list[Stranger]
) -> None:
    stranger, channel = met(strangers, device, "connect")
    word = device.region(64)
    stranger.end()
    began = device.now()
    with pytest.raises(rt.PeerLost):
        channel.wait_word(word[:8], 1, timeout=300)
    assert device.now() - began < 60


@pytest.mark.parametrize("shift", [0, 1234])
def test_the_ends_have_different_numbers_and_each_knows_which_is_whose(
    device: rt.Device, strangers: list[Stranger], shift: int
) -> None:
    (stranger, channel), (other, _) = met(strangers, device, "connect", shift), met(strangers, device, "accept")
    region = device.region(SIZE, access=BOTH)
    key = key_in(region[40:].handle())
    described = re.search(r"qp 0x([0-9a-f]+) to 0x([0-9a-f]+) joined, mtu (\d+)", channel.dump())
    assert described is not None, channel.dump()
    assert [int(number, 16) for number in described.groups()[:2]] == [stranger.peer["qpn"], stranger.own["qpn"]]
    assert described.group(3) == "4096"
    ends = [stranger.own, stranger.peer, other.own, other.peer]
    assert len({end["qpn"] for end in ends}) == len({end["psn"] for end in ends}) == 4
    assert len({key.rkey, stranger.memory["key"], other.memory["key"]}) == 3
    assert len({key.address, stranger.memory["address"], other.memory["address"]}) == 3
    assert (key.address % 4096, stranger.memory["address"] % 4096) == (40, shift)
