"""Edges whose other end dies: what has arrived is delivered, nothing torn is, and every wait ends."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from edge_ends import bits, hold, make_recv, open_send, send_bytes

import rdmatensor as rt
from rdmatensor.testing import Fabric

LARGE = (80, 90)
GONE = 5.0  # seconds in which a killed peer is surely noticed


def test_a_receiver_gets_what_arrived_and_then_hears_of_the_death(mortal: Fabric) -> None:
    channel = mortal.connect()  # lives as long as somebody holds it
    edge = mortal.here.device.recv_edge("dying", shape=(100,), options=rt.EdgeOptions(slots=3))
    mortal.there.call(open_send, "dying", {"shape": (100,)})
    payloads = [bits("float32", (100,), number) for number in range(2)]
    for data in payloads:
        mortal.there.call(send_bytes, "dying", "float32", (100,), data)
    mortal.there.kill()
    for data in payloads:
        with edge.recv(GONE) as tensor:
            assert bytes(tensor.view()) == data
    for _ in range(2):
        with pytest.raises(rt.PeerLost) as info:
            edge.recv(GONE)
        assert not isinstance(info.value, rt.PeerClosed)
    assert isinstance(edge.failure, rt.PeerLost)
    assert channel.state == "failed"
    edge.close()


def test_a_sender_hears_of_the_death_of_the_receiver(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(make_recv, "static", {"shape": (4,), "slots": 1})
    mortal.there.call(make_recv, "dynamic", {"slots": 2})
    static, dynamic = channel.send_edge("static", shape=(4,)), channel.send_edge("dynamic")
    region = mortal.here.device.region(1 << 20, access=rt.Access.REMOTE_READ)
    static.send(np.zeros(4, np.float32))
    dynamic.send(region.empty(LARGE, "float64"))
    sending = static.send_async(np.zeros(4, np.float32), GONE)
    mortal.there.kill()
    with pytest.raises(rt.PeerLost):
        for _ in range(3):
            static.send(np.zeros(4, np.float32), GONE)
    with pytest.raises(rt.PeerLost):
        for _ in range(3):
            dynamic.send(np.zeros(4, np.float32), GONE)
    with pytest.raises(rt.PeerLost):
        dynamic.drain(GONE)
    assert isinstance(sending.exception(GONE), rt.PeerLost)
    static.close()
    dynamic.close()
    gc.collect()
    assert region.stats.allocations == 0


def test_a_tensor_that_dies_with_its_sender_is_never_handed_out(mortal: Fabric) -> None:
    channel = mortal.connect()  # lives as long as somebody holds it
    edge = mortal.here.device.recv_edge("dying")
    mortal.there.call(open_send, "dying", {})
    mortal.there.call(send_bytes, "dying", "float64", LARGE, bits("float64", LARGE))
    while not edge.ready():
        mortal.here.device.progress()
    mortal.there.kill()
    try:
        with edge.recv(GONE) as tensor:  # where the memory of the dead can still be read
            assert bytes(tensor.view()) == bits("float64", LARGE)
    except rt.PeerLost:
        pass
    with pytest.raises(rt.PeerLost):
        edge.recv(GONE)
    assert channel.state == "failed"
    edge.close()


def test_a_tensor_borrowed_from_the_dead_stays_readable(mortal: Fabric) -> None:
    if not mortal.here.device.limits.maps_remote:
        pytest.skip("limits.maps_remote is False")
    channel = mortal.connect()  # lives as long as somebody holds it
    edge = mortal.here.device.recv_edge("dying")
    mortal.there.call(open_send, "dying", {})
    mortal.there.call(send_bytes, "dying", "float64", LARGE, bits("float64", LARGE))
    tensor = edge.recv(GONE, borrow=True)
    mortal.there.kill()
    with pytest.raises(rt.PeerLost):
        edge.recv(GONE)
    assert bytes(tensor.view()) == bits("float64", LARGE)
    assert channel.state == "failed"
    tensor.release()
    edge.close()


def test_waiting_for_any_edge_ends_when_the_peer_of_one_dies(mortal: Fabric) -> None:
    channel = mortal.connect()  # lives as long as somebody holds it
    edges = [mortal.here.device.recv_edge(f"edge {number}", shape=(4,)) for number in range(3)]
    mortal.there.call(open_send, "edge 1", {"shape": (4,)})
    mortal.there.kill()
    assert rt.wait_any(edges, timeout=GONE) == [edges[1]]
    with pytest.raises(rt.PeerLost):
        edges[1].recv(0)
    assert channel.state == "failed"


def test_a_release_that_never_comes_ends_with_the_deadline(mortal: Fabric) -> None:
    channel = mortal.connect()
    mortal.there.call(make_recv, "unreleased", {"shape": (4,), "slots": 1})
    edge = channel.send_edge("unreleased", shape=(4,))
    edge.send(np.zeros(4, np.float32))
    mortal.there.call(hold, "unreleased")
    for _ in range(2):
        with pytest.raises(rt.DeadlineExceeded, match="released"):
            edge.send(np.zeros(4, np.float32), 0.06)
    assert edge.failure is None
    assert edge.stats.transfers == 1
