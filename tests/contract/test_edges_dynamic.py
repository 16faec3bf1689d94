"""Dynamic edges: every tensor says what it is; small ones ride in their record, larger ones are fetched or borrowed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edge_ends import Back, Wire, bits, call_edge, send_array, send_bytes, tensor_of
from ends import Ends

import rdmatensor as rt
from rdmatensor.memory.layout import DTYPES
from rdmatensor.testing import Party

Need = Callable[[rt.Limits, str], None]
SHAPES = [(), (1,), (0,), (3, 0, 2), (5, 7), (1, 2) * 8, (70, 90)]
LARGE = (80, 90)


def keep_and_send(party: Party, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    party.kept["large"] = tensor_of(party, dtype, shape, data)
    party.kept[name].send(party.kept["large"], 10.0)


def progress(party: Party) -> None:
    party.device.progress()


def change_kept(party: Party, data: bytes) -> None:
    party.kept["large"].view()[:] = data


def forget_and_send(party: Party, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> int:
    """Sends a tensor that nobody but the edge holds; how many lie in its region."""
    send_bytes(party, name, dtype, shape, data)
    gc.collect()
    return int(next(thing for thing in party.kept.values() if isinstance(thing, rt.Region)).stats.allocations)


@pytest.mark.parametrize("eager", [0, 64, None])
def test_every_type_and_rank_arrives_bit_for_bit(ends: Ends, eager: int | None) -> None:
    wire = Wire(ends, eager=eager)
    for number, dtype in enumerate(dtype.name for dtype in DTYPES):
        for shape in SHAPES:
            data = bits(dtype, shape, number)
            wire.send(dtype, shape, data)
            with wire.recv() as tensor:
                assert (tensor.shape, tensor.dtype) == (shape, dtype)
                assert bytes(tensor.view()) == data
    stats = wire.edge.stats
    assert stats.transfers == len(DTYPES) * len(SHAPES) == stats.eager + stats.fetched
    assert stats.copies == wire.there.copies == 0
    assert wire.there.registrations == 0


def test_small_tensors_ride_in_their_record_and_lie_in_the_slot(ends: Ends) -> None:
    wire = Wire(ends, eager=256, slots=1)
    wire.send("uint8", (256,), bits("uint8", (256,)))
    tensor = wire.recv()
    assert wire.edge.stats.eager == 1
    assert bytes(tensor.span.view()) == bits("uint8", (256,))
    with pytest.raises(rt.DeadlineExceeded):
        wire.send("uint8", (1,), b"x", 0.0)
    tensor.release()
    wire.send("uint8", (257,), bits("uint8", (257,)))
    assert bytes(wire.recv().view()) == bits("uint8", (257,))
    assert wire.edge.stats.fetched == 1


def test_a_fetched_tensor_lies_in_the_edges_region_and_needs_no_release(ends: Ends) -> None:
    region = ends.device.region(1 << 20)
    wire = Wire(ends, slots=1, region=region)
    tensors = []
    for number in range(3):
        wire.send("float64", LARGE, bits("float64", LARGE, number))
        tensors.append(wire.recv())
    for number, tensor in enumerate(tensors):
        assert region.address <= tensor.address < region.address + region.nbytes
        assert tensor.span.region is region
        assert bytes(tensor.view()) == bits("float64", LARGE, number)
    assert region.stats.allocations == 3
    wire.edge.close()
    del tensors, tensor
    gc.collect()
    assert region.stats.allocations == 0
    region.close()


def test_a_steady_stream_registers_nothing(ends: Ends) -> None:
    wire = Wire(ends)
    for number in range(6):
        wire.send("float64", LARGE, bits("float64", LARGE, number))
        assert bytes(wire.recv().view()) == bits("float64", LARGE, number)
        if number == 0:
            registered = wire.edge.stats.registrations, wire.there.registrations, ends.device.stats.registrations
    assert (wire.edge.stats.registrations, wire.there.registrations, ends.device.stats.registrations) == registered


def test_a_tensor_for_which_there_is_no_room_waits(ends: Ends) -> None:
    region = ends.device.region(64 << 10)
    wire = Wire(ends, region=region)
    wire.send("float64", LARGE, bits("float64", LARGE))
    taken = region.allocate(40 << 10)
    for _ in range(2):
        with pytest.raises(rt.OutOfMemory, match="no room"):
            wire.edge.recv(10.0)
    taken.free()
    assert bytes(wire.recv().view()) == bits("float64", LARGE)


@pytest.mark.parametrize("size", [(3, 4), LARGE])
def test_out_is_filled_and_what_does_not_fit_waits(ends: Ends, size: tuple[int, ...]) -> None:
    wire = Wire(ends)
    own = ends.device.region(1 << 20).empty(size, "float64")
    array = np.zeros(size)
    for out in (own, own.numpy(), array):
        wire.send("float64", size, bits("float64", size))
        with pytest.raises(rt.InvalidArgument, match="waits for the next call"):
            wire.edge.recv(10.0, out=np.zeros(size, np.float32))
        assert wire.edge.ready()
        assert wire.edge.recv(10.0, out=out) is out
        assert np.asarray(out).tobytes() == bits("float64", size)
    eager = wire.edge.stats.eager == 3
    assert wire.edge.stats.copies == (3 if eager else 0 if ends.limits.local_anywhere else 1)


def test_a_borrowed_tensor_is_the_senders_memory(ends: Ends, need: Need) -> None:
    wire = Wire(ends)
    data = bits("float64", LARGE)
    ends.call(keep_and_send, wire.name, "float64", LARGE, data)
    if not ends.limits.maps_remote:
        with pytest.raises(rt.Unsupported, match="maps_remote"):
            wire.edge.recv(10.0, borrow=True)
        assert bytes(wire.recv().view()) == data  # it was not lost
        return
    tensor = wire.edge.recv(10.0, borrow=True)
    array = tensor.numpy()
    assert tensor.readonly
    assert array.tobytes() == data
    assert not array.flags.writeable
    with pytest.raises(rt.Unsupported, match="not in a region of this process"):
        _ = tensor.span
    changed = bits("float64", LARGE, 1)
    ends.call(change_kept, changed)
    assert array.tobytes() == bytes(tensor.view()) == changed
    with pytest.raises(rt.DeadlineExceeded):
        ends.call(call_edge, wire.name, "drain", 0.0)
    tensor.release()
    ends.call(call_edge, wire.name, "drain", 10.0)
    assert (wire.edge.stats.borrowed, wire.edge.stats.fetched) == (1, 0)


def test_a_look_at_a_borrowed_tensor_outlives_edge_and_channel(ends: Ends, need: Need) -> None:
    need(ends.limits, "maps_remote")
    wire = Wire(ends)
    ends.call(keep_and_send, wire.name, "float64", LARGE, bits("float64", LARGE))
    array = wire.edge.recv(10.0, borrow=True).numpy()
    wire.edge.close()
    ends.channel.close()
    gc.collect()
    assert array.shape == LARGE
    assert np.isfinite(array[0, 0]) or not np.isfinite(array[0, 0])  # readable, whatever it holds now


def send_from_a_new_region(party: Party, name: str, data: bytes) -> None:
    """Sends a tensor from a region that is closed once the tensor is released."""
    before = party.kept.pop("passing", None)
    if before is not None:
        before.close()
    party.kept["passing"] = party.device.region(1 << 20, access=rt.Access.REMOTE_READ)
    tensor = party.kept["passing"].empty((len(data),), "uint8")
    tensor.view()[:] = data
    party.kept[name].send(tensor, 10.0)


def test_tensors_borrowed_from_regions_that_come_and_go_are_the_right_ones(ends: Ends, need: Need) -> None:
    need(ends.limits, "maps_remote")
    wire = Wire(ends, slots=2)
    for number in range(12):
        data = bits("uint8", (20_000,), number)
        ends.call(send_from_a_new_region, wire.name, data)
        tensor = wire.edge.recv(borrow=True)
        array = tensor.numpy()
        assert array.tobytes() == data
        assert array.base is tensor
        del tensor
        gc.collect()
        assert array.tobytes() == data  # the array keeps the tensor, and so the slot
        assert wire.edge.stats.released == number
        del array
        gc.collect()
        ends.call(call_edge, wire.name, "flush", 10.0)
        assert wire.edge.stats.released == number + 1
    assert wire.edge.stats.borrowed == 12


def test_the_edge_keeps_a_tensor_until_the_receiver_has_it(ends: Ends) -> None:
    wire = Wire(ends, slots=2)
    held = ends.call(forget_and_send, wire.name, "float64", LARGE, bits("float64", LARGE))
    assert held >= 1
    assert bytes(wire.recv().view()) == bits("float64", LARGE)
    ends.call(call_edge, wire.name, "drain", 10.0)
    assert ends.call(forget_and_send, wire.name, "uint8", (1,), b"x") < held + 1


def test_closing_the_sender_loses_nothing(ends: Ends) -> None:
    wire = Wire(ends, slots=2)
    for number in range(2):
        wire.send("float64", LARGE, bits("float64", LARGE, number))
    ends.call(call_edge, wire.name, "close")
    for number in range(2):
        assert bytes(wire.recv().view()) == bits("float64", LARGE, number)
    if ends.limits.virtual_time:  # nothing happens over there while nobody does anything
        for _ in range(100):
            ends.call(progress)
    with pytest.raises(rt.PeerClosed):
        wire.edge.recv(10.0)


def test_arrays_from_ordinary_memory_are_staged_and_counted(ends: Ends) -> None:
    wire = Wire(ends)
    for step in (1, 3):
        data = bits("float64", LARGE, step)
        ends.call(send_array, wire.name, "float64", LARGE, data, step)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data
    assert wire.there.copies >= 2


@pytest.mark.parametrize(
    ("words", "wrong", "why"),
    [
        ({"rank": 2}, np.zeros(3, np.float32), "not a tensor of it|dimensions|rank"),
        ({"dtype": "int8"}, np.zeros(3, np.uint8), "its element type is int8"),
    ],
)
def test_a_tensor_that_is_not_the_edges_is_refused(ends: Ends, words: dict[str, Any], wrong: Any, why: str) -> None:
    back = Back(ends, **words)
    with pytest.raises(rt.InvalidArgument, match=why):
        back.edge.send(wrong)
    assert back.edge.stats.transfers == 0
    with pytest.raises(rt.InvalidArgument, match="rank 17"):
        back.edge.send(np.zeros((1,) * 17, words.get("dtype", "float32")))


@pytest.mark.parametrize("how", ["plain", "bound", "lent"])
@pytest.mark.parametrize("words", [{}, {"verify": "crc32c"}])
@pytest.mark.parametrize("ordering", ["chained", "immediate"])
def test_records_are_carried_in_every_way_that_is_promised(ends: Ends, ordering: str, words: Any, how: str) -> None:
    promised = {
        "chained": ends.limits.orders_writes and ends.limits.places_words_whole,
        "immediate": ends.limits.carries_immediate,
    }[ordering]
    if not promised:
        pytest.skip(f"this device's promises do not carry {ordering!r}")
    back = Back(ends, ordering=ordering, slots=3, **words)
    for number in range(9):
        shape = (number * 40, 10)
        array = np.frombuffer(bits("int16", shape, number), "int16").reshape(shape)
        if how == "plain":
            back.edge.send(array)
        elif how == "bound":
            back.edge.prepare(array)()
        else:
            with back.edge.loan(shape, "int16") as slot:
                slot.numpy()[:] = array
        assert back.recv() == ("int16", shape, array.tobytes())
    assert back.edge.stats.transfers == 9


def test_a_bound_tensor_is_sent_again_and_again(ends: Ends) -> None:
    back = Back(ends)
    array = np.zeros(5, np.int64)
    send = back.edge.prepare(array)
    for number in range(4):
        array[:] = number
        send()
        assert back.recv() == ("int64", (5,), array.tobytes())
