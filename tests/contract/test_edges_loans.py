"""Loans: a sender computes a tensor where it is sent from, or where it arrives: no byte is copied in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_ends import Back, bits, call_edge, drop_held, grouped, hold, make_recv, receive
from ends import BOTH, Ends

import rdmatensor as rt
from rdmatensor.testing import Fabric, Party

Need = Callable[[rt.Limits, str], None]
SHAPES = [(), (1,), (0,), (5, 7), (70, 90)]
LARGE = (80, 90)
GONE = 5.0  # seconds in which a killed peer is surely noticed


def receive_borrowed(party: Party, name: str) -> bytes:
    with party.kept[name].recv(10.0, borrow=True) as tensor:
        return bytes(tensor.view())


def receive_none(party: Party, name: str) -> bool:
    """Whether there is no tensor."""
    try:
        party.kept[name].recv(0.0)
    except rt.DeadlineExceeded:
        return True
    return False


def recv_in_region(party: Party, name: str, words: dict[str, Any]) -> None:
    party.kept["slots"] = party.device.region(1 << 20, access=BOTH)
    make_recv(party, name, {**words, "region": party.kept["slots"]})


def half_write(party: Party, name: str) -> None:
    """Takes a loan, and writes half of it."""
    loan = party.kept["loan"] = party.kept[name].loan()
    slot = loan.__enter__()
    slot.view()[: slot.nbytes // 2] = b"\1" * (slot.nbytes // 2)


def write(edge: rt.SendEdge, data: bytes, *given: Any) -> None:
    with edge.loan(*given) as slot:
        slot.view()[:] = data


@pytest.mark.parametrize("words", [{}, {"verify": "crc32c"}, {"flow": "loop"}, {"flow": "loop", "check_loop": True}])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_loan_arrives_as_it_was_written(ends: Ends, shape: tuple[int, ...], words: dict[str, Any]) -> None:
    if words.get("check_loop") and not ends.limits.orders_writes:
        pytest.skip("limits.orders_writes is False")
    back = Back(ends, shape=shape, dtype="float64", slots=3, **words)
    for number in range(8):
        data = bits("float64", shape, number)
        if number % 3 == 2:
            back.edge.send(np.frombuffer(data, "float64").reshape(shape))
        else:
            write(back.edge, data)
        assert back.recv() == ("float64", shape, data)
    mapped = ends.limits.maps_remote and not words.get("check_loop") and shape != (0,)
    assert (back.edge.stats.transfers, back.edge.stats.lent) == (8, 6)
    assert back.edge.stats.lent_in_place == (6 if mapped else 0)
    assert back.edge.stats.copies == (0 if ends.limits.local_anywhere or shape == (0,) else 2)


@pytest.mark.parametrize("ordering", ["tail", "chained", "immediate"])
def test_a_loan_arrives_however_flags_are_carried(ends: Ends, ordering: str) -> None:
    if ordering == "tail" and not (ends.limits.orders_bytes_within_a_write and ends.limits.orders_writes):
        pytest.skip("limits.orders_bytes_within_a_write or limits.orders_writes is False")
    try:
        back = Back(ends, shape=(100,), ordering=ordering, slots=2)
    except rt.Unsupported as error:
        pytest.skip(error.why)
    for number in range(5):
        write(back.edge, bits("float32", (100,), number))
        assert back.recv()[2] == bits("float32", (100,), number)


def test_a_loan_goes_over_several_qps(wide: Ends) -> None:
    back = Back(wide, shape=(50_000,), stripes=4, verify="crc32c")
    for number in range(5):
        write(back.edge, bits("float32", (50_000,), number))
        assert back.recv()[2] == bits("float32", (50_000,), number)


@pytest.mark.parametrize("words", [{}, {"verify": "crc32c"}, {"eager": 0}])
def test_a_dynamic_loan_says_what_it_will_be(ends: Ends, words: dict[str, Any]) -> None:
    back = Back(ends, slots=2, **words)
    for number, shape in enumerate((*SHAPES, *SHAPES)):
        for dtype in ("float64", "bfloat16"):
            write(back.edge, bits(dtype, shape, number), shape, dtype)
            assert back.recv() == (dtype, shape, bits(dtype, shape, number))
    stats = back.edge.stats
    assert (stats.lent, stats.transfers, stats.copies) == (4 * len(SHAPES), 4 * len(SHAPES), 0)


def test_a_dynamic_loan_that_is_borrowed_is_never_copied(ends: Ends, need: Need) -> None:
    need(ends.limits, "maps_remote")
    back = Back(ends, slots=2)
    for number in range(6):
        write(back.edge, bits("float64", LARGE, number), LARGE, "float64")
        assert ends.call(receive_borrowed, back.name) == bits("float64", LARGE, number)
        if number == 2:
            registered = back.edge.stats.registrations
    assert (back.edge.stats.copies, back.edge.stats.registrations) == (0, registered)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_loan_given_back_is_not_sent_and_costs_no_slot(ends: Ends, dynamic: bool) -> None:
    back = Back(ends, slots=1) if dynamic else Back(ends, shape=LARGE, slots=1)
    given = (LARGE,) if dynamic else ()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), back.edge.loan(*given) as slot:
            slot.view()[:100] = bytes(100)
            _ = 1 // 0
        with back.edge.loan(*given) as slot:
            slot.view()[:100] = bytes(100)
            loan = back.edge.loan(*given)
        assert back.recv()[1] == LARGE
        with loan:
            loan.cancel()
            loan.cancel()
            assert not loan.open
    assert ends.call(receive_none, back.name)
    write(back.edge, bits("float32", LARGE), *given)
    assert back.recv()[2] == bits("float32", LARGE)
    assert (back.edge.stats.transfers, back.edge.stats.lent, back.edge.stats.sequence) == (4, 4, 4)


def test_a_loan_that_is_over_cannot_be_used(ends: Ends) -> None:
    back = Back(ends, shape=(4,))
    with back.edge.loan() as slot:
        array = slot.numpy()
        array[:] = 1
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        np.add(1, 1, out=array)
    for use in (slot.numpy, slot.view, slot.__dlpack__, lambda: back.edge.send(slot)):
        with pytest.raises(rt.ClosedError, match="its loan is over"):
            use()
    assert "released" in repr(slot)
    assert back.recv()[2] == np.ones(4, np.float32).tobytes()


def test_one_loan_is_open_at_a_time_and_its_thread_is_told(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=4)
    edge, array = back.edge, np.zeros(4, np.float32)
    loan = edge.loan()
    with loan as slot:
        with pytest.raises(rt.RegionBusy, match="this thread has a loan of it"), edge.loan():
            pass
        with pytest.raises(rt.InvalidArgument, match="its block is open"), loan:
            pass
        for send in (lambda: edge.send(array), edge.prepare(array)):
            with pytest.raises(rt.RegionBusy, match="this thread has a loan of it"):
                send()
        with pytest.raises(rt.DeadlineExceeded, match="a loan of the edge is open"):
            rt.send_many([(edge, array)], timeout=0)
        sending = edge.send_async(array + 2, 10.0)
        assert not sending.done()
        slot.numpy()[:] = 1
    sending.wait()
    assert [back.recv()[2], back.recv()[2]] == [(array + 1).tobytes(), (array + 2).tobytes()]


def test_a_send_of_another_thread_follows_the_loan(ends: Ends, need: Need) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread moves time")
    back = Back(ends, shape=(4,), slots=4)
    edge, failed = back.edge, []

    def others() -> None:
        try:
            edge.send(np.full(4, 2, np.float32), 60.0)
            write(edge, np.full(4, 3, np.float32).tobytes())
        except rt.RdmaError as error:
            failed.append(error)

    thread = threading.Thread(target=others)
    with edge.loan() as slot:
        waits = edge.stats.waits
        thread.start()
        while edge.stats.waits == waits:
            pass
        slot.numpy()[:] = 1
    thread.join()
    assert failed == []
    assert [back.recv()[2] for _ in range(3)] == [np.full(4, n, np.float32).tobytes() for n in (1, 2, 3)]


def test_a_loan_waits_for_credit_and_no_longer_than_its_timeout(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=1)
    write(back.edge, bits("float32", (4,)))
    ends.call(hold, back.name)
    for _ in range(2):
        with pytest.raises(rt.DeadlineExceeded, match="released"), back.edge.loan(timeout=0.06):
            pass
    ends.call(drop_held)
    write(back.edge, bits("float32", (4,), 1))
    assert back.recv()[2] == bits("float32", (4,), 1)


def test_a_loan_that_is_not_the_edges_is_refused(ends: Ends) -> None:
    static, dynamic = Back(ends, shape=(4,)), Back(ends, dtype="float32", rank=1)
    for edge, given in ((static.edge, ((5,),)), (static.edge, ((4,), "int8")), (dynamic.edge, ((4,), "int8"))):
        with pytest.raises(rt.InvalidArgument):
            edge.loan(*given)
    with pytest.raises(rt.InvalidArgument, match="say which tensor"):
        dynamic.edge.loan()
    with pytest.raises(rt.InvalidArgument), dynamic.edge.loan((2, 2)):
        pass
    assert (static.edge.stats.waits, dynamic.edge.stats.waits) == (0, 0)


def test_slots_in_a_region_of_the_receivers_are_not_lent(ends: Ends) -> None:
    ends.call(recv_in_region, "of a region", {"shape": (100,)})
    edge = ends.channel.send_edge("of a region", shape=(100,), timeout=300)
    ends.edges.append(edge)
    for number in range(5):
        write(edge, bits("float32", (100,), number))
        assert ends.call(receive, "of a region")[2] == bits("float32", (100,), number)
    assert (edge.stats.lent, edge.stats.lent_in_place, edge.stats.copies) == (5, 0, 0)


def test_staging_that_was_asked_for_lends_memory_of_the_senders(ends: Ends) -> None:
    ends.call(make_recv, "staged", {"shape": (100,)})
    edge = ends.channel.send_edge("staged", timeout=300, **grouped({"shape": (100,), "staging": True}))
    ends.edges.append(edge)
    write(edge, bits("float32", (100,)))
    assert ends.call(receive, "staged")[2] == bits("float32", (100,))
    assert (edge.stats.lent, edge.stats.lent_in_place) == (1, 0)


def test_a_close_in_the_block_is_told_at_its_end(ends: Ends) -> None:
    own, theirs = Back(ends, shape=(4,)), Back(ends, shape=(4,))
    with pytest.raises(rt.ClosedError), own.edge.loan() as slot:
        own.edge.close()
        slot.numpy()[:] = 1
    with pytest.raises(rt.PeerClosed), theirs.edge.loan() as slot:
        ends.call(call_edge, theirs.name, "close")
        while theirs.edge.failure is None:
            ends.device.progress()
        slot.numpy()[:] = 1


def test_a_slot_that_is_lent_is_given_to_nobody_else(ends: Ends) -> None:
    """The receiver closes its edge and makes another one: the memory of the slot that is lent is not in it."""
    back = Back(ends, shape=(1000,), slots=1)
    with pytest.raises(rt.PeerClosed), back.edge.loan() as slot:
        ends.call(call_edge, back.name, "close")
        while back.edge.failure is None:
            ends.device.progress()
        others = [Back(ends, shape=(1000,), slots=1) for _ in range(3)]
        for number, other in enumerate(others):
            write(other.edge, bits("float32", (1000,), number))
        slot.view()[:] = b"\xff" * 4000
        for number, other in enumerate(others):
            assert other.recv()[2] == bits("float32", (1000,), number)


def test_a_view_of_a_loan_outlives_edge_and_channel(ends: Ends) -> None:
    back = Back(ends, shape=LARGE)
    with pytest.raises(rt.ClosedError), back.edge.loan() as slot:
        view = slot.view()
        back.edge.close()
        ends.channel.close()
        view[:] = bytes(view.nbytes)
    assert view.nbytes == slot.nbytes


def test_the_death_of_the_receiver_is_told_at_the_end_of_the_block(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(make_recv, "dying", {"shape": LARGE, "dtype": "float64"})
    edge = channel.send_edge("dying", shape=LARGE, dtype="float64")
    with pytest.raises(rt.PeerLost), edge.loan() as slot:
        mortal.there.kill()
        while channel.state == "ready":
            mortal.here.device.progress()
        slot.numpy()[:] = 1
    with pytest.raises(rt.PeerLost), edge.loan(timeout=GONE):
        pass
    edge.close()


def test_a_tensor_that_its_sender_died_writing_never_arrives(mortal: Fabric) -> None:
    channel = mortal.connect()  # lives as long as somebody holds it
    edge = mortal.here.device.recv_edge("dying", shape=(100,), options=rt.EdgeOptions(slots=3))
    mortal.there.call(open_send_there, "dying")
    mortal.there.call(half_write, "dying")
    mortal.there.kill()
    with pytest.raises(rt.PeerLost):
        edge.recv(GONE)
    assert channel.state == "failed"
    edge.close()


def open_send_there(party: Party, name: str) -> None:
    """Opens the sending end."""
    party.kept[name] = party.kept["channel"].send_edge(name, shape=(100,))
