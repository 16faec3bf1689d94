"""Static edges: a tensor is written straight into a slot, is not overwritten before its release, and arrives whole."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from edge_ends import Back, Wire, bind_bytes, bits, call_edge, drop_held, hold, send_array, send_bound
from ends import Ends

import rdmatensor as rt
from rdmatensor.memory.layout import DTYPES

Need = Callable[[rt.Limits, str], None]
SHAPES = [(), (1,), (0,), (3, 0, 2), (5, 7), (1, 2) * 8]


@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES])
def test_every_type_arrives_bit_for_bit(ends: Ends, dtype: str) -> None:
    for number, shape in enumerate(SHAPES):
        wire = Wire(ends, shape=shape, dtype=dtype)
        data = bits(dtype, shape, number)
        wire.send(dtype, shape, data)
        with wire.recv() as tensor:
            assert (tensor.shape, tensor.dtype) == (shape, dtype)
            assert bytes(tensor.view()) == data
        wire.edge.close()


def test_the_tensor_is_the_slot_and_nothing_was_copied(ends: Ends) -> None:
    wire = Wire(ends, shape=(100,), slots=3)
    addresses = []
    for number in range(7):
        data = bits("float32", (100,), number)
        wire.send("float32", (100,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == bytes(tensor.span.view()) == data
            addresses.append(tensor.address)
    assert len(set(addresses)) == 3
    assert addresses[:3] == addresses[3:6]
    assert (wire.edge.stats.transfers, wire.edge.stats.bytes, wire.edge.stats.copies) == (7, 2800, 0)
    assert (wire.there.transfers, wire.there.bytes, wire.there.copies, wire.there.registrations) == (7, 2800, 0, 0)


def test_slots_lie_in_the_region_that_was_given(ends: Ends) -> None:
    region = ends.device.region(1 << 16, access=rt.Access.REMOTE_WRITE)
    wire = Wire(ends, shape=(100,), region=region, alignment=4096)
    wire.send("float32", (100,), bits("float32", (100,)))
    with wire.recv() as tensor:
        assert region.address <= tensor.address < region.address + region.nbytes
        assert tensor.address % 4096 == 0
        assert tensor.span.region is region
        with pytest.raises(rt.RegionBusy):
            region.close()
    wire.edge.close()


def test_the_sender_goes_ahead_by_the_slots_and_no_further(ends: Ends) -> None:
    wire = Wire(ends, shape=(8,), dtype="int64", slots=2)
    payloads = [bits("int64", (8,), number) for number in range(4)]
    wire.send("int64", (8,), payloads[0])
    wire.send("int64", (8,), payloads[1])
    with pytest.raises(rt.DeadlineExceeded, match="nothing was sent"):
        wire.send("int64", (8,), payloads[2], 0.0)
    first, second = wire.recv(), wire.recv()
    assert [bytes(first.view()), bytes(second.view())] == payloads[:2]
    with pytest.raises(rt.RegionBusy, match="release"):
        wire.edge.recv(0)
    second.release()  # in any order; the first is what the sender waits for
    with pytest.raises(rt.DeadlineExceeded):
        wire.send("int64", (8,), payloads[2], 0.0)
    assert bytes(first.view()) == payloads[0]
    first.release()
    wire.send("int64", (8,), payloads[2])
    wire.send("int64", (8,), payloads[3])
    assert [bytes(wire.recv().view()), bytes(wire.recv().view())] == payloads[2:]


def test_a_released_tensor_cannot_be_released_or_used_again(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,))
    wire.send("float32", (4,), bits("float32", (4,)))
    tensor = wire.recv()
    wire.edge.release(tensor)
    tensor.release()
    assert "released" in repr(tensor)
    with pytest.raises(rt.InvalidArgument, match="was released"):
        wire.edge.release(tensor)
    for use in (tensor.numpy, tensor.view, lambda: tensor.span, tensor.__dlpack__, lambda: np.asarray(tensor)):
        with pytest.raises(rt.ClosedError, match="released"):
            use()
    own = ends.device.region(4096).empty(4)
    with pytest.raises(rt.InvalidArgument, match="did not come from this edge"):
        wire.edge.release(own)


def test_a_tensor_that_is_forgotten_is_released_with_its_last_view(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,), slots=1)
    wire.send("float32", (4,), np.full(4, 1, np.float32).tobytes())
    array = wire.recv().numpy()
    gc.collect()
    with pytest.raises(rt.DeadlineExceeded):
        wire.send("float32", (4,), bits("float32", (4,)), 0.0)
    assert array.tolist() == [1.0] * 4
    del array
    gc.collect()
    wire.send("float32", (4,), bits("float32", (4,), 2))
    assert bytes(wire.recv().view()) == bits("float32", (4,), 2)


def test_arrays_from_ordinary_memory_arrive_and_their_copies_are_counted(ends: Ends) -> None:
    wire = Wire(ends, shape=(300, 700), dtype="float32")
    data = bits("float32", (300, 700), 5)
    ends.call(send_array, wire.name, "float32", (300, 700), data)
    with wire.recv() as tensor:
        assert bytes(tensor.view()) == data
    assert (wire.there.copies > 0) == (not ends.limits.local_anywhere)
    assert wire.there.copied_bytes == (0 if ends.limits.local_anywhere else 840000)


@pytest.mark.parametrize("step", [2, 5])
def test_strided_tensors_arrive_contiguous(ends: Ends, step: int) -> None:
    wire = Wire(ends, shape=(30, 20), dtype="int32")
    for number in range(3):
        data = bits("int32", (30, 20), number)
        ends.call(send_array, wire.name, "int32", (30, 20), data, step)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data


def test_a_large_tensor_is_cut_and_arrives_whole(ends: Ends) -> None:
    wire = Wire(ends, shape=(1 << 19,), dtype="uint16")
    data = bits("uint16", (1 << 19,), 9)
    for _ in range(3):
        wire.send("uint16", (1 << 19,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data


def test_a_tensor_that_is_not_the_edges_is_refused_before_anything_is_sent(ends: Ends) -> None:
    back = Back(ends, shape=(2, 3), dtype="float32")
    for wrong, why in [
        (np.zeros((3, 2), np.float32), r"its shape is \(2, 3\)"),
        (np.zeros((2, 3), np.float64), "its element type is float32"),
        (np.zeros(6, np.float32), "its shape is"),
        (np.zeros((2, 3), ">f4"), "byte order"),
    ]:
        for send in (back.edge.send, back.edge.prepare, back.edge.send_async):
            with pytest.raises(rt.InvalidArgument, match=why):
                send(wrong)
    with pytest.raises(TypeError, match="is not a tensor"):
        back.edge.send([1, 2, 3])
    assert back.edge.stats.transfers == 0
    back.edge.send(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert back.recv() == ("float32", (2, 3), np.arange(6, dtype=np.float32).tobytes())


def test_a_bound_tensor_is_sent_as_it_is_then(ends: Ends) -> None:
    wire = Wire(ends, shape=(64,), dtype="uint8")
    ends.call(bind_bytes, wire.name, "uint8", (64,), bytes(64))
    for number in range(5):
        data = bits("uint8", (64,), number)
        ends.call(send_bound, data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data


def test_out_is_filled_and_what_does_not_fit_waits(ends: Ends) -> None:
    wire = Wire(ends, shape=(10,), dtype="float64", slots=1)
    wire.send("float64", (10,), bits("float64", (10,)))
    readonly = np.zeros(10)
    readonly.flags.writeable = False
    for wrong in (np.zeros(9), np.zeros(10, np.float32), np.zeros(20)[::2], readonly):
        with pytest.raises(rt.InvalidArgument, match="waits for the next call"):
            wire.edge.recv(10.0, out=wrong)
        assert wire.edge.ready()
    out = np.zeros(10)
    assert wire.edge.recv(0, out=out) is out
    assert out.tobytes() == bits("float64", (10,))
    assert wire.edge.stats.copies == 1
    wire.send("float64", (10,), bits("float64", (10,), 1))  # the slot is free again
    own = ends.device.region(4096).empty(10, "float64")
    assert wire.edge.recv(10.0, out=own) is own
    assert bytes(own.view()) == bits("float64", (10,), 1)


# ---- flags, promises and checks ----


@pytest.mark.parametrize("ordering", ["tail", "chained", "immediate"])
def test_a_way_of_carrying_flags_is_had_by_name_or_refused(ends: Ends, ordering: str) -> None:
    limits = ends.limits
    promised = {
        "tail": True,  # granted to who asks for it
        "chained": limits.orders_writes and limits.places_words_whole,
        "immediate": limits.carries_immediate,
    }[ordering]
    if not promised:
        with pytest.raises(rt.Unsupported, match=ordering):
            Wire(ends, shape=(1000,), ordering=ordering)
        return
    if ordering == "tail" and not (limits.orders_writes and limits.orders_bytes_within_a_write):
        with pytest.warns(RuntimeWarning, match="tail"):
            edge = ends.device.recv_edge("trusting", shape=(4,), options=rt.EdgeOptions(ordering="tail"))
        assert edge.ordering.startswith("tail")
        edge.close()
        return
    wire = Wire(ends, shape=(1000,), slots=3, ordering=ordering)
    assert wire.carried.startswith(ordering)
    assert wire.edge.ordering.startswith(ordering)
    for number in range(10):
        data = bits("float32", (1000,), number)
        wire.send("float32", (1000,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data


def test_the_channel_says_how_flags_are_carried_and_why(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,))
    mode = wire.carried.split(":")[0]
    assert mode in ("tail", "chained", "immediate")
    assert ends.channel.ordering.startswith(mode)
    assert len(ends.channel.ordering.split(": ")[1]) > 20


@pytest.mark.parametrize("stripes", [1, 2])
def test_checksums_are_carried_and_hold(ends: Ends, stripes: int) -> None:
    wire = Wire(ends, shape=(3000,), verify="crc32c", stripes=stripes)
    for number in range(4):
        data = bits("float32", (3000,), number)
        wire.send("float32", (3000,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data
    assert wire.edge.stats.corrupt == 0


def test_one_tensor_goes_over_several_qps(ends: Ends) -> None:
    wire = Wire(ends, shape=(100_000,), stripes=4, slots=3)
    for number in range(6):
        data = bits("float32", (100_000,), number)
        wire.send("float32", (100_000,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data


def test_staging_can_be_asked_for_and_is_counted(ends: Ends) -> None:
    wire = Wire(ends, shape=(100_000,), sender={"staging": True})
    for number in range(3):
        data = bits("float32", (100_000,), number)
        wire.send("float32", (100_000,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data
    assert wire.there.copied_bytes == 3 * 400_000
    assert wire.there.copies >= 3


# ---- flow="loop" ----


def test_a_loop_that_keeps_its_promise_needs_no_credit(ends: Ends) -> None:
    wire = Wire(ends, shape=(100,), slots=2, flow="loop", check_loop=ends.limits.orders_writes)
    for number in range(8):
        data = bits("float32", (100,), number)
        wire.send("float32", (100,), data)
        with wire.recv() as tensor:
            assert bytes(tensor.view()) == data
    assert wire.edge.stats.credits == 0


def test_a_tensor_overwritten_before_it_was_received_is_told(ends: Ends) -> None:
    wire = Wire(ends, shape=(100,), slots=1, flow="loop")
    for number in range(2):
        wire.send("float32", (100,), bits("float32", (100,), number))
    ends.call(call_edge, wire.name, "drain")
    with pytest.raises(rt.OverrunError):
        wire.edge.recv(10.0)
    assert isinstance(wire.edge.failure, rt.OverrunError)
    assert ends.channel.state == "ready"


def test_a_tensor_overwritten_while_it_is_used_is_told_at_its_release(ends: Ends, need: Need) -> None:
    need(ends.limits, "orders_writes")
    wire = Wire(ends, shape=(100,), slots=1, flow="loop", check_loop=True)
    wire.send("float32", (100,), bits("float32", (100,)))
    tensor = wire.recv()
    wire.send("float32", (100,), bits("float32", (100,), 1))
    ends.call(call_edge, wire.name, "drain")
    with pytest.raises(rt.OverrunError):
        tensor.release()


# ---- the end ----


def test_a_tensor_sent_before_a_close_still_arrives(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,), slots=2)
    payloads = [bits("float32", (4,), number) for number in range(2)]
    for data in payloads:
        wire.send("float32", (4,), data)
    ends.call(call_edge, wire.name, "close")
    tensors = [wire.recv(), wire.recv()]
    assert [bytes(tensor.view()) for tensor in tensors] == payloads
    for tensor in tensors:
        tensor.release()
    with pytest.raises(rt.PeerClosed):
        wire.edge.recv(10.0)
    assert ends.channel.state == "ready"


def test_a_sender_hears_that_the_receiver_closed(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,), slots=1)
    wire.edge.close()
    wire.edge.close()
    with pytest.raises(rt.PeerClosed):
        for _ in range(3):
            wire.send("float32", (4,), bits("float32", (4,)), 10.0)
    with pytest.raises(rt.ClosedError):
        wire.edge.recv(0)
    assert "closed" in repr(wire.edge)
    assert isinstance(wire.edge.failure, rt.ClosedError)
    assert wire.edge.stats.transfers == 0


def test_a_received_tensor_outlives_its_edge(ends: Ends) -> None:
    wire = Wire(ends, shape=(1000,))
    data = bits("float32", (1000,))
    wire.send("float32", (1000,), data)
    tensor = wire.recv()
    array = tensor.numpy()
    wire.edge.close()
    assert array.tobytes() == bytes(tensor.view()) == data
    tensor.release()


def test_a_send_that_waits_for_credit_ends_with_its_deadline(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=1)
    tensor = np.zeros(4, np.float32)
    back.edge.send(tensor)
    with pytest.raises(rt.DeadlineExceeded, match="no credit"):
        back.edge.send(tensor, 0.06)
    ends.call(hold, back.name)
    with pytest.raises(rt.DeadlineExceeded, match="released"):
        back.edge.flush(0.0)
    ends.call(drop_held)
    back.edge.flush(10.0)
    back.edge.send(tensor)
    assert back.edge.stats.waits >= 1
    assert "edge" in back.edge.dump()


def test_a_send_that_nobody_waits_for_begins_when_there_is_room(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=1)
    tensor = np.zeros(4, np.float32)
    sendings = [back.edge.send_async(tensor) for _ in range(4)]
    pause = threading.Event()
    assert not sendings[-1].done()
    for sent in range(1, 5):
        ends.call(hold, back.name)  # nobody asks the edge or its sendings for anything
        ends.call(drop_held)
        end = time.monotonic() + 300.0
        while sent < 4 and back.edge.stats.transfers == sent and time.monotonic() < end:
            if ends.device.limits.virtual_time:
                sendings[sent].wait(300.0)  # time goes on in its callers' calls alone
            pause.wait(0.001)
        assert back.edge.stats.transfers == min(sent + 1, 4)
    for sending in sendings:
        sending.wait(300.0)
    ends.call(call_edge, back.name, "close")
    assert back.edge.stats.transfers == 4


def test_sendings_that_never_found_room_end_with_the_edge(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=1)
    sendings = [back.edge.send_async(np.zeros(4, np.float32)) for _ in range(3)]
    back.edge.close()
    for sending in sendings[1:]:
        assert isinstance(sending.exception(1.0), rt.ClosedError)
