"""Edges end in any order, and what was received from them lives as long as anything looks at it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import rdmatensor as rt


@pytest.fixture
def joined() -> Iterator[tuple[rt.Device, rt.Channel]]:
    """A receiving device, and a channel to it from another."""
    with rt.Device("shm://") as here, rt.Device("shm://") as there, here.listen() as listener:
        yield here, there.connect(listener.address)


def test_received_tensors_outlive_edge_and_devices() -> None:
    here, there = rt.Device("shm://"), rt.Device("shm://")
    listener = here.listen()
    channel = there.connect(listener.address)
    static, dynamic = here.recv_edge("static", shape=(1000,)), here.recv_edge("dynamic")
    channel.send_edge("static", shape=(1000,)).send(np.full(1000, 7, np.float32))
    edge = channel.send_edge("dynamic")
    edge.send(np.full(5000, 8, np.float32))
    edge.send(np.full(5, 9, np.float32))
    arrays = [static.recv().numpy(), dynamic.recv().numpy(), dynamic.recv().numpy()]
    there.close()
    here.close()
    del here, there, listener, channel, static, dynamic, edge
    gc.collect()
    assert [set(array.tolist()) for array in arrays] == [{7.0}, {8.0}, {9.0}]
    del arrays
    gc.collect()


def test_an_edge_that_is_dropped_closes_and_its_name_is_free(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    for _ in range(3):
        received = here.recv_edge("again", shape=(4,))
        edge = channel.send_edge("again", shape=(4,))
        edge.send(np.zeros(4, np.float32))
        received.recv().release()
        gone = weakref.ref(received), weakref.ref(edge)
        del received, edge
        gc.collect()
        assert gone[0]() is None
        assert gone[1]() is None


def test_a_sender_that_is_dropped_keeps_what_the_receiver_has_not_taken(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    region = channel.device.region(1 << 20, access=rt.Access.REMOTE_READ)
    received = here.recv_edge("kept")
    edge = channel.send_edge("kept")
    tensor = region.empty((100, 100))
    tensor.numpy()[:] = 5
    edge.send(tensor)
    edge.close()
    del edge, tensor
    gc.collect()
    assert region.stats.allocations >= 1
    assert float(received.recv().numpy().sum()) == 50000.0
    channel.sweep()
    gc.collect()
    assert region.stats.allocations == 0


def test_garbage_in_a_ring_is_ended_in_any_order() -> None:
    for _ in range(10):
        here, there = rt.Device("shm://"), rt.Device("shm://")
        listener = here.listen()
        channel = there.connect(listener.address)
        static, dynamic = here.recv_edge("static", shape=(10,)), here.recv_edge("dynamic")
        one, other = channel.send_edge("static", shape=(10,)), channel.send_edge("dynamic")
        tensor = there.region(1 << 16, access=rt.Access.REMOTE_READ).empty((3000,))
        bound = one.prepare(np.zeros(10, np.float32))
        bound()
        other.send(tensor)
        other.send(np.zeros(3))
        held = [static.recv(), dynamic.recv(), dynamic.recv().numpy()]
        ring: list[object] = [here, there, listener, channel, static, dynamic, one, other, tensor, bound, held]
        ring.append(ring)
        del here, there, listener, channel, static, dynamic, one, other, tensor, bound, held, ring
        gc.collect()


@pytest.mark.parametrize(
    "ending", ["", "here.close()", "there.close()", "channel.close()", "del received", "import sys; sys.exit()"]
)
def test_an_interpreter_that_ends_with_edges_open_ends_quietly(ending: str) -> None:
    code = f"""
import numpy as np, rdmatensor as rt
here, there = rt.Device("shm://"), rt.Device("shm://")
listener = here.listen()
channel = there.connect(listener.address)
received, free = here.recv_edge("x", shape=(10,)), here.recv_edge("y")
edge, other = channel.send_edge("x", shape=(10,)), channel.send_edge("y")
edge.send(np.zeros(10, np.float32))
other.send(np.zeros(10000))
held, array = received.recv(), free.recv().numpy()
sending = [edge.send_async(np.zeros(10, np.float32)) for _ in range(4)]
bound = edge.prepare(np.zeros(10, np.float32))
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_closing_an_edge_ends_who_waits_for_it(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    received = here.recv_edge("waiting", shape=(4,), options=rt.EdgeOptions(slots=1))
    edge = channel.send_edge("waiting", shape=(4,))
    edge.send(np.zeros(4, np.float32))
    held = received.recv()
    other = here.recv_edge("silent", shape=(4,))
    ended: list[type[BaseException]] = []

    def wait(call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except rt.RdmaError as error:
            ended.append(type(error))

    calls = [lambda: edge.send(np.zeros(4, np.float32), 30.0), lambda: other.recv(30.0)]
    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    while edge.stats.waits == 0 or other.stats.sequence:
        pass
    edge.close()
    other.close()
    for thread in threads:
        thread.join(10)
    assert ended == [rt.ClosedError, rt.ClosedError]
    held.release()


def test_a_forked_child_may_not_use_edges(joined: tuple[rt.Device, rt.Channel]) -> None:
    import os

    here, channel = joined
    received = here.recv_edge("parent", shape=(4,))
    edge = channel.send_edge("parent", shape=(4,))
    child = os.fork()
    if child == 0:
        good = 0
        for call in (lambda: edge.send(np.zeros(4, np.float32)), received.recv, lambda: edge.stats):
            try:
                call()
            except rt.ForkedProcessError:
                good += 1
        edge.close()
        os._exit(0 if good == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    edge.send(np.ones(4, np.float32))
    assert received.recv().numpy().tolist() == [1.0] * 4
