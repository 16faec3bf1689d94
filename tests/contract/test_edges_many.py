"""Many edges in one call, and edges that are polled or awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from edge_ends import Back, Wire, bits, call_edge, hold, send_bytes
from ends import Ends

import rdmatensor as rt


@pytest.mark.parametrize("dynamic", [False, True])
def test_many_tensors_are_sent_in_one_call_and_in_order(ends: Ends, dynamic: bool) -> None:
    backs = [Back(ends, slots=3, **({} if dynamic else {"shape": (8,)})) for _ in range(5)]
    arrays = [np.random.default_rng(number).random(8, np.float32) for number in range(15)]
    pairs = [(backs[number % 5].edge, array) for number, array in enumerate(arrays)]
    rt.send_many([pair if number % 2 else pair[0].prepare(pair[1]) for number, pair in enumerate(pairs)], timeout=300)
    for number, array in enumerate(arrays):
        assert backs[number % 5].recv()[2] == array.tobytes()
    rt.send_many([])


def test_many_sends_end_with_their_deadline_and_say_which_was_not_sent(ends: Ends) -> None:
    backs = [Back(ends, shape=(4,), slots=1) for _ in range(2)]
    array = np.zeros(4, np.float32)
    ends_of = [backs[0].edge, backs[1].edge, backs[0].edge]
    with pytest.raises(rt.DeadlineExceeded, match="2 of 3 were sent"):
        rt.send_many([(edge, array) for edge in ends_of], timeout=0.06)
    assert [back.edge.stats.transfers for back in backs] == [1, 1]
    with pytest.raises(TypeError, match="a pair"):
        rt.send_many([array])  # type: ignore[list-item]
    with pytest.raises(rt.InvalidArgument, match="shape"):
        rt.send_many([(backs[0].edge, np.zeros(5, np.float32))])


@pytest.mark.parametrize("dynamic", [False, True])
def test_more_tensors_than_a_qp_has_operations_wait_for_their_receivers(
    ends: Ends, need: Callable[[rt.Limits, str], None], dynamic: bool
) -> None:
    need(ends.limits, "orders_writes")  # elsewhere flags take receives, of which a QP has few
    backs = [Back(ends, slots=128, **({} if dynamic else {"shape": (4,)})) for _ in range(3)]
    arrays = [np.full(4, number, np.float32) for number in range(128)]
    for back in backs:
        rt.send_many([(back.edge, array) for array in arrays], timeout=300)
    for back in backs:
        for array in arrays:
            assert back.recv()[2] == array.tobytes()


def test_many_are_received_in_one_call(ends: Ends) -> None:
    wires = [Wire(ends, **words) for words in ({"shape": (4,)}, {}, {"shape": (2, 2)}, {"eager": 0})]
    for wire in wires:
        shape = wire.edge.shape or (7,)
        wire.send("float32", shape, bits("float32", shape))
    tensors = rt.recv_many([wire.edge for wire in wires], timeout=300)
    for wire, tensor in zip(wires, tensors, strict=True):
        assert bytes(tensor.view()) == bits("float32", wire.edge.shape or (7,))
        tensor.release()
    assert rt.recv_many([]) == []


def test_tensors_that_came_are_kept_when_one_of_many_does_not_come(ends: Ends) -> None:
    wires = [Wire(ends, shape=(4,)), Wire(ends, eager=0), Wire(ends, shape=(4,))]
    for wire in wires[:2]:
        wire.send("float32", (4,), bits("float32", (4,)))
    with pytest.raises(rt.DeadlineExceeded):
        rt.recv_many([wire.edge for wire in wires], timeout=0.06)
    assert [wire.edge.ready() for wire in wires] == [True, True, False]
    assert set(rt.wait_any([wire.edge for wire in wires], timeout=0)) == {wires[0].edge, wires[1].edge}
    wires[2].send("float32", (4,), bits("float32", (4,), 2))
    tensors = rt.recv_many([wire.edge for wire in wires], timeout=300)
    assert [bytes(tensor.view()) for tensor in tensors] == [bits("float32", (4,), seed) for seed in (0, 0, 2)]
    for tensor in tensors:
        tensor.release()


def test_tensors_at_their_senders_are_fetched_together(ends: Ends) -> None:
    wires = [Wire(ends, eager=0, slots=4) for _ in range(5)] + [Wire(ends, shape=(4,)), Wire(ends, eager=1024)]
    order = [*wires, wires[0], wires[3], wires[0]]
    for seed, wire in enumerate(order):
        wire.send("float32", (4,), bits("float32", (4,), seed))
    tensors = rt.recv_many([wire.edge for wire in order], timeout=300)
    assert [bytes(tensor.view()) for tensor in tensors] == [bits("float32", (4,), seed) for seed in range(len(order))]
    assert [wire.edge.stats.fetched for wire in wires] == [3, 1, 1, 2, 1, 0, 0]
    for tensor in tensors[5:7]:
        tensor.release()


def test_tensors_that_are_not_fetched_in_time_come_with_the_next_call(ends: Ends) -> None:
    wires = [Wire(ends, eager=0) for _ in range(3)]
    for seed, wire in enumerate(wires):
        wire.send("float32", (70,), bits("float32", (70,), seed))
    tensors: list[rt.Tensor] = []
    late = 0
    while not tensors:
        try:
            tensors = rt.recv_many([wire.edge for wire in wires], timeout=0 if late < 500 else 10.0)
        except rt.DeadlineExceeded:
            late += 1
            assert late < 501
    assert [bytes(tensor.view()) for tensor in tensors] == [bits("float32", (70,), seed) for seed in range(3)]
    assert [wire.edge.stats.fetched for wire in wires] == [1, 1, 1]


def test_tensors_that_came_are_kept_when_there_is_no_memory_for_one_of_many(ends: Ends) -> None:
    small = ends.device.region(8192, access=rt.Access.REMOTE_WRITE)
    wires = [Wire(ends, eager=0), Wire(ends, eager=0, region=small), Wire(ends, eager=0)]
    for seed, (wire, count) in enumerate(zip(wires, (4, 4096, 4), strict=True)):
        wire.send("float32", (count,), bits("float32", (count,), seed))
    with pytest.raises(rt.OutOfMemory):
        rt.recv_many([wire.edge for wire in wires], timeout=300)
    assert bytes(wires[2].edge.recv(10.0).view()) == bits("float32", (4,), 2)
    assert bytes(wires[0].edge.recv(10.0).view()) == bits("float32", (4,), 0)
    room = ends.device.region(16384).empty((4096,), "float32")
    assert wires[1].edge.recv(10.0, out=room) is room
    assert bytes(room.view()) == bits("float32", (4096,), 1)


def test_any_of_many_edges_can_be_waited_for(ends: Ends) -> None:
    count = 40 if ends.limits.orders_writes else 12  # there flags take receives, of which a QP has few
    edges = {wire.name: wire for wire in (Wire(ends, shape=(4,)) for _ in range(count))}
    receivers = [wire.edge for wire in edges.values()]
    with pytest.raises(rt.DeadlineExceeded, match=f"none of {count}"):
        rt.wait_any(receivers, timeout=0.0)
    chosen = list(edges.values())[7]
    chosen.send("float32", (4,), bits("float32", (4,)))
    assert rt.wait_any(receivers, timeout=300) == [chosen.edge]
    chosen.edge.recv(0).release()
    ends.call(call_edge, chosen.name, "close")
    assert rt.wait_any(receivers, timeout=300) == [chosen.edge]  # its end is news as well
    with pytest.raises(rt.PeerClosed):
        chosen.edge.recv(0)
    with pytest.raises(rt.InvalidArgument, match="the list is empty"):
        rt.wait_any([])


def test_a_receive_can_be_awaited(ends: Ends) -> None:
    wires = [Wire(ends, shape=(4,)), Wire(ends, eager=0)]
    turns = 0

    async def main() -> list[rt.Tensor]:
        nonlocal turns
        waiting = [asyncio.ensure_future(wire.edge.recv_async(20.0)) for wire in wires]
        for _ in range(5):
            await asyncio.sleep(0)
            turns += 1
        for wire in wires:
            ends.call(send_bytes, wire.name, "float32", (4,), bits("float32", (4,)))
        return list(await asyncio.gather(*waiting))

    for tensor in asyncio.run(main()):
        assert bytes(tensor.view()) == bits("float32", (4,))
        tensor.release()
    assert turns == 5


def test_an_awaited_receive_ends_with_its_deadline_and_loses_nothing(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,))
    with pytest.raises(rt.DeadlineExceeded):
        asyncio.run(wire.edge.recv_async(0.01))
    wire.send("float32", (4,), bits("float32", (4,)))
    assert bytes(asyncio.run(wire.edge.recv_async(10.0)).view()) == bits("float32", (4,))


def test_an_awaited_receive_hears_of_the_end(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,))
    ends.call(call_edge, wire.name, "close")
    with pytest.raises(rt.PeerClosed):
        asyncio.run(wire.edge.recv_async(10.0))


def test_sends_that_do_not_wait_go_out_in_order_as_credit_comes(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=2)
    arrays = [np.full(4, number, np.float32) for number in range(6)]
    sendings = [back.edge.send_async(array, 20.0) for array in arrays]
    assert not sendings[-1].done()
    assert "under way" in repr(sendings[-1])
    for number, array in enumerate(arrays):
        assert back.recv()[2] == array.tobytes()
        sendings[min(number + 2, 5)].wait()
    for sending in sendings:
        sending.wait()
        assert sending.done()
        assert sending.exception() is None
    assert "done" in repr(sendings[0])


def test_a_send_goes_behind_those_that_wait(ends: Ends) -> None:
    back = Back(ends, shape=(4,), slots=1)
    first = back.edge.send_async(np.full(4, 1, np.float32), 20.0)
    second = back.edge.send_async(np.full(4, 2, np.float32), 0.0)
    with pytest.raises(rt.DeadlineExceeded):
        back.edge.send(np.full(4, 3, np.float32), 0.0)
    first.wait()
    assert isinstance(second.exception(0.05), rt.DeadlineExceeded)
    assert back.recv()[2] == np.full(4, 1, np.float32).tobytes()
    back.edge.send(np.full(4, 4, np.float32))
    assert back.recv()[2] == np.full(4, 4, np.float32).tobytes()


def test_a_send_can_be_awaited(ends: Ends) -> None:
    back = Back(ends)
    array = np.random.default_rng(1).random((80, 90))

    async def main() -> None:
        sending = back.edge.send_async(array, 20.0)
        ends.call(hold, back.name)
        await sending
        with pytest.raises(rt.DeadlineExceeded, match="wait again, or leave it to the edge"):
            await back.edge.send_async(in_place, 0.2)  # READ where it lies; a copied one is done without its receiver

    in_place = ends.device.region(1 << 20, access=rt.Access.REMOTE_READ).empty((80, 90), "float64")
    first = back.edge.send_async(in_place, 20.0)
    deadline = time.monotonic() + 20
    while back.edge.stats.transfers == 0:  # the receiver learns of the region
        assert not first.done() and time.monotonic() < deadline
        ends.device.progress()
    ends.call(hold, back.name)
    first.wait()
    asyncio.run(main())
    assert back.edge.stats.transfers == 3
    ends.call(hold, back.name)
    back.edge.close()
    with pytest.raises(rt.ClosedError):
        back.edge.send_async(array)
