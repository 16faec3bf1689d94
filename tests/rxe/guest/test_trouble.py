"""Death and trouble on the way: what arrives is right, or an error is raised in time. No hang, no silent damage.

The control connection stays on the loopback interface, so it is the queue pairs that have to notice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import link
import pytest
from peers import BOTH, digest, digest_of, expose, failure_of, filled, until_word, write_endlessly

import rdmatensor as rt
from rdmatensor.testing import ProcessParty, VerbsFabric

pytestmark = pytest.mark.timeout(900)
SIZE = 1 << 20
PIECE = 16 << 10
GUARD = 4096 + 5
DEATH_BOUND = 60.0
CUT_BOUND = 60.0  # less than the calls that wait have; on an idle machine a packet is sent again for half a second
LOSSY = {
    "loss 1%": ("dropped",),
    "loss 5%": ("dropped",),
    "delay 1ms reorder 5%": ("out_of_seq_request", "rcvd_seq_err", "completer_retry_err"),
    "duplicate 5%": ("duplicate_request",),
    "corrupt 1%": ("out_of_seq_request", "rcvd_seq_err", "completer_retry_err"),
    "delay 200us loss 1% reorder 1% duplicate 1% corrupt 1%": ("dropped",),
}


class Across:
    """Two processes, one on each device, and a channel between them."""

    def __init__(self, fabric: VerbsFabric) -> None:
        self.fabric, self.device = fabric, fabric.here.device
        assert isinstance(fabric.there, ProcessParty)
        self.there = fabric.there
        self.channel = fabric.connect()
        self.local = self.device.region(SIZE + 2 * GUARD)

    def attach(self, name: str, seed: int, channel: rt.Channel | None = None) -> rt.Remote:
        handle = self.there.call(expose, name, SIZE + 2 * GUARD, int(BOTH), seed)
        return (channel or self.channel).attach(handle)

    def moves_bytes_right(self, name: str, channel: rt.Channel, piece: int = SIZE) -> None:
        """WRITE and READ of the middle of a region; every byte of it and around it is looked at, at both ends."""
        remote, middle = self.attach(name, 1, channel), slice(GUARD, GUARD + SIZE)
        theirs, data = bytearray(filled(SIZE + 2 * GUARD, 1)), filled(SIZE, 2)
        self.local[:].view()[:] = bytes(SIZE + 2 * GUARD)
        self.local[: len(data)].view()[:] = data
        cuts = [slice(at, min(at + piece, SIZE)) for at in range(0, SIZE, piece)]
        channel.memcpy_many([(remote[middle][cut], self.local[:SIZE][cut]) for cut in cuts])
        theirs[middle] = data
        assert self.there.call(digest_of, name) == digest(theirs)
        self.local[:].view()[:] = filled(SIZE + 2 * GUARD, 3)
        channel.memcpy_many([(self.local[7 : 7 + SIZE][cut], remote[middle][cut]) for cut in cuts])
        ours = bytearray(filled(SIZE + 2 * GUARD, 3))
        ours[7 : 7 + SIZE] = data
        assert digest(self.local[:].view()) == digest(ours)


@pytest.fixture
def across(two_devices: tuple[str, str]) -> Iterator[Across]:
    here, there = two_devices
    with VerbsFabric(f"verbs://{here}", there=f"verbs://{there}", timeout=300) as fabric:
        yield Across(fabric)


def say(case: str, began: float, *words: object) -> None:
    print(f"trouble: {case}: after {time.monotonic() - began:.2f} s:", *words)


# ---- packets ----


@pytest.mark.parametrize("shape", LOSSY)
def test_bytes_arrive_right_over_a_link_that_treats_packets_badly(across: Across, shape: str) -> None:
    before, began = link.counters(), time.monotonic()
    with link.shaped(*shape.split()):
        for turn in range(20):  # a link that loses one packet in a hundred may treat a few hundred well
            across.moves_bytes_right(f"memory {turn}", across.channel, PIECE)
            after = link.counters()
            seen = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
            if any(seen.get(sign, 0) > 0 for sign in LOSSY[shape]):
                break
    say(shape, began, across.channel.state, seen)
    assert across.channel.state == "ready"
    assert any(seen.get(sign, 0) > 0 for sign in LOSSY[shape]), "the link treated no packet badly"


@pytest.mark.parametrize("shape", ["loss 5%", "delay 1ms reorder 5%"])
def test_large_messages_over_a_bad_link_are_right_or_an_error(across: Across, shape: str) -> None:
    """rdma_rxe counts repeats by message and not by packet: one of hundreds of packets may not get through."""
    began = time.monotonic()
    with link.shaped(*shape.split()):
        try:
            across.moves_bytes_right("memory", across.channel)
        except rt.PeerLost as error:
            assert "IBV_WC_RETRY_EXC_ERR" in str(error)
            assert across.channel.state == "failed"
            say(f"{shape}, messages of 1 MiB", began, error)
    say(f"{shape}, messages of 1 MiB", began, across.channel.state)
    across.moves_bytes_right("new memory", across.fabric.connect(keep="fresh"))


def test_a_word_is_not_seen_before_the_bytes_written_before_it_over_a_lossy_link(across: Across) -> None:
    remote, data = across.attach("memory", 1), filled(SIZE, 2)
    across.local[:SIZE].view()[:] = data
    flag = across.channel.attach(across.there.call(expose, "flag", 64, int(BOTH), 0))
    word = across.device.region(64)
    across.channel.memcpy(flag[:8], word[:8])
    word[:8].view()[:] = (5).to_bytes(8, "little")
    starts = range(0, SIZE, PIECE)  # a message of hundreds of packets may not get through
    pieces = [(remote[GUARD + at : GUARD + at + PIECE], across.local[at : at + PIECE]) for at in starts]
    with link.shaped("loss", "2%"):
        pending = across.there.start(until_word, "channel", "flag", 5, "memory", GUARD, GUARD + SIZE)
        across.channel.memcpy_many([*pieces, (flag[:8], word[:8])])
        assert pending.result() == digest(data)


# ---- processes ----


def test_a_peer_that_is_killed_while_we_write_is_reported_within_two_seconds(across: Across) -> None:
    remote = across.attach("memory", 1)
    transfers = [across.channel.memcpy_async(remote, across.local) for _ in range(8)]
    across.there.kill()
    began = time.monotonic()
    with pytest.raises(rt.PeerLost) as info:  # although its memory may be gone before its queue pair
        for transfer in transfers:
            transfer.wait(300)
        across.channel.wait_word(across.local[:8], 1 << 62, timeout=300)
    say("kill -9 of the target of WRITEs", began, info.value)
    assert time.monotonic() - began < DEATH_BOUND
    assert across.channel.state == "failed"


def test_a_peer_that_is_killed_while_we_read_is_reported_within_two_seconds(across: Across) -> None:
    remote = across.attach("memory", 1)
    across.channel.memcpy(across.local, remote)
    guarded = across.device.region(SIZE + 2 * GUARD)
    guarded[:].view()[:] = filled(SIZE + 2 * GUARD, 4)
    untouched = across.device.region(64)
    transfers = [across.channel.memcpy_async(guarded[GUARD : GUARD + SIZE], remote[:SIZE]) for _ in range(8)]
    across.there.kill()
    began = time.monotonic()
    with pytest.raises(rt.PeerLost) as info:
        for transfer in transfers:
            transfer.wait(300)
        across.channel.wait_word(untouched[:8], 1, timeout=300)  # where all READs were over before it died
    say("kill -9 of the source of READs", began, info.value)
    assert time.monotonic() - began < DEATH_BOUND
    around = filled(SIZE + 2 * GUARD, 4)
    assert bytes(guarded[:GUARD].view()) == around[:GUARD]
    assert bytes(guarded[GUARD + SIZE :].view()) == around[GUARD + SIZE :]


def test_a_peer_that_is_killed_while_it_writes_leaves_what_is_around_its_target_alone(across: Across) -> None:
    region = across.device.region(SIZE + 2 * GUARD, access=BOTH)
    around = filled(SIZE + 2 * GUARD, 4)
    region[:].view()[:] = around
    count = across.device.region(64, access=BOTH)
    target = region[GUARD : GUARD + SIZE].handle()
    across.there.start(write_endlessly, "channel", target, count[:8].handle(), SIZE)
    across.channel.wait_word(count[:8], 2, timeout=300)
    across.there.kill()
    began = time.monotonic()
    with pytest.raises(rt.PeerLost) as info:
        across.channel.wait_word(count[:8], 1 << 62, timeout=300)
    say("kill -9 of a peer that WRITEs to us", began, info.value)
    assert time.monotonic() - began < DEATH_BOUND
    settled = digest(region[:].view())
    assert bytes(region[:GUARD].view()) == around[:GUARD]
    assert bytes(region[GUARD + SIZE :].view()) == around[GUARD + SIZE :]
    across.channel.close()
    assert digest(region[:].view()) == settled


def test_a_stopped_peer_is_still_written_to_and_read_from_and_answers_once_it_goes_on(across: Across) -> None:
    remote, began = across.attach("memory", 1), time.monotonic()
    across.local[:].view()[:] = filled(len(across.local), 2)
    across.there.stop()
    try:
        across.channel.memcpy(remote, across.local)
        across.local[:].view()[:] = bytes(len(across.local))
        across.channel.memcpy(across.local, remote)
        assert digest(across.local[:].view()) == digest(filled(len(across.local), 2))
        with pytest.raises((rt.NameNotFound, rt.DeadlineExceeded)) as info:
            across.channel.lookup("memory", timeout=0.5)
        say("SIGSTOP", began, "copies are right;", info.value)
    finally:
        across.there.cont()
    assert across.there.call(digest_of, "memory") == digest(filled(len(across.local), 2))
    across.moves_bytes_right("again", across.channel)
    say("SIGCONT", began, across.channel.state)


# ---- the link ----


def test_a_link_that_was_down_while_nothing_moved_is_not_noticed(across: Across) -> None:
    began = time.monotonic()
    with link.cut():
        pass
    across.moves_bytes_right("memory", across.channel)
    say("link down and up, idle", began, across.channel.state)


@pytest.mark.parametrize("direction", ["write", "read"])
def test_copies_over_a_link_that_is_down_are_an_error_within_three_seconds(across: Across, direction: str) -> None:
    remote = across.attach("memory", 1)
    pair = (remote, across.local) if direction == "write" else (across.local, remote)
    with link.cut():
        began = time.monotonic()
        with pytest.raises(rt.PeerLost) as info:
            across.channel.memcpy(*pair, timeout=300)
        say(f"link down, {direction}", began, info.value)
        assert time.monotonic() - began < CUT_BOUND
        assert across.channel.state == "failed"
        state, why, seconds = across.there.call(failure_of, "channel", CUT_BOUND)
        print(f"trouble: link down, {direction}: there after {seconds:.2f} s: {state}, {why}")
        assert state == "failed"
    fresh = across.fabric.connect(keep="fresh")
    across.moves_bytes_right("new memory", fresh)


def test_copies_while_the_link_goes_down_and_up_are_right_or_an_error(across: Across) -> None:
    remote, began = across.attach("memory", 1), time.monotonic()
    across.local[:].view()[:] = filled(len(across.local), 2)
    transfers = [across.channel.memcpy_async(remote, across.local) for _ in range(8)]
    link.down()
    link.up()
    failures = [failure for transfer in transfers if (failure := transfer.exception(20)) is not None]
    say("link down and up under WRITEs", began, f"{len(failures)} of {len(transfers)} failed", *failures[:1])
    assert time.monotonic() - began < 20
    if failures:
        assert across.channel.state == "failed"
    else:
        assert across.there.call(digest_of, "memory") == digest(filled(len(across.local), 2))
    across.moves_bytes_right("new memory", across.fabric.connect(keep="fresh"))


def test_a_link_that_loses_everything_for_a_moment_is_survived_or_an_error(across: Across) -> None:
    remote, began = across.attach("memory", 1), time.monotonic()
    across.local[:].view()[:] = filled(len(across.local), 2)
    with link.shaped("loss", "100%"):
        transfer = across.channel.memcpy_async(remote, across.local)
        while link.counters()["dropped"] == 0:  # pytest's timeout bounds this
            pass
    failure = transfer.exception(20)
    say("all packets lost for a moment", began, failure or "survived")
    assert failure is None or isinstance(failure, rt.PeerLost)
    if failure is None:
        assert across.there.call(digest_of, "memory") == digest(filled(len(across.local), 2))
    assert time.monotonic() - began < 20


def test_a_link_that_loses_everything_is_a_lost_peer_within_three_seconds(across: Across) -> None:
    remote = across.attach("memory", 1)
    with link.shaped("loss", "100%"):
        began = time.monotonic()
        with pytest.raises(rt.PeerLost, match="IBV_WC_RETRY_EXC_ERR") as info:
            across.channel.memcpy(remote, across.local, timeout=300)
        say("all packets lost", began, info.value)
        assert time.monotonic() - began < CUT_BOUND
