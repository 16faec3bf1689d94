"""How edges are opened: by name, by one sender, with words that must agree; and what stands in the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_ends import Back, Wire, bits, grouped, make_recv, open_send, receive, send_bytes
from ends import Ends

import rdmatensor as rt


def test_a_sender_waits_until_the_edge_is_made(ends: Ends) -> None:
    if ends.limits.virtual_time:
        pytest.skip("one thread cannot wait and make the edge")
    import threading

    opened: list[rt.SendEdge] = []
    thread = threading.Thread(target=lambda: opened.append(ends.channel.send_edge("late", shape=(4,), timeout=300)))
    thread.start()
    ends.call(make_recv, "late", {"shape": (4,)})
    thread.join(30)
    opened[0].send(np.ones(4, np.float32))
    assert ends.call(receive, "late")[2] == np.ones(4, np.float32).tobytes()
    opened[0].close()


def test_an_unknown_name_is_told_after_the_wait(ends: Ends) -> None:
    with pytest.raises(rt.NameNotFound, match="never"):
        ends.channel.send_edge("never", shape=(4,), timeout=0.05)


def test_an_edge_has_one_name_and_one_sender(ends: Ends) -> None:
    back = Back(ends, shape=(4,))
    with pytest.raises(rt.NameTaken):
        ends.call(make_recv, back.name, {"shape": (4,)})
    with pytest.raises(rt.NameTaken):
        ends.channel.send_edge(back.name, shape=(4,), timeout=300)
    back.edge.send(np.ones(4, np.float32))
    assert back.recv()[2] == np.ones(4, np.float32).tobytes()


@pytest.mark.parametrize(
    ("receiver", "sender"),
    [
        ({"shape": (4,)}, {"shape": (5,)}),
        ({"shape": (4,)}, {"shape": (2, 2)}),
        ({"shape": (4,)}, {"shape": (4,), "dtype": "int32"}),
        ({"shape": (4,)}, {}),
        ({}, {"shape": (4,)}),
        ({"rank": 2}, {"rank": 3}),
        ({"dtype": "int8"}, {"dtype": "uint8"}),
        ({"shape": (4,), "flow": "loop"}, {"shape": (4,)}),
    ],
)
def test_options_of_the_ends_must_agree_and_else_the_edge_stays_free(
    ends: Ends, receiver: dict[str, Any], sender: dict[str, Any]
) -> None:
    edge = ends.device.recv_edge("disputed", **grouped(receiver))
    ends.edges.append(edge)
    with pytest.raises(rt.InvalidArgument, match="disputed"):
        ends.call(open_send, "disputed", {**sender, "timeout": 10.0})
    shared = {key: value for key, value in receiver.items() if key != "slots"}
    ends.call(open_send, "disputed", shared)
    dtype, shape = receiver.get("dtype", "float32"), (2, 2) if "rank" in receiver else (4,)
    ends.call(send_bytes, "disputed", dtype, shape, bits(dtype, shape))
    with edge.recv(10.0) as tensor:
        assert bytes(tensor.view()) == bits(dtype, shape)
    edge.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"shape": (1,) * 17}, "rank 17"),
        ({"shape": (1 << 62, 4)}, "2\\^63"),
        ({"shape": (4,), "slots": 0}, "1 to 128"),
        ({"shape": (4,), "slots": 129}, "1 to 128"),
        ({"shape": (4,), "alignment": 3}, "power of two"),
        ({"shape": (4,), "flow": "hope"}, "flow is one of"),
        ({"shape": (4,), "ordering": "luck"}, "ordering is one of"),
        ({"shape": (4,), "verify": "md5"}, "crc32c"),
        ({"shape": (4,), "check_loop": True}, "loop"),
        ({"flow": "loop"}, "static"),
        ({"rank": 17}, "rank is 0 to 16"),
        ({"eager": 65537}, "65536"),
        ({"shape": (4,), "stripes": 1000}, "stripes"),
        ({"shape": (4,), "dtype": "float31"}, "element type"),
    ],
)
def test_words_that_cannot_be_are_refused(ends: Ends, words: dict[str, Any], why: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=why):
        ends.device.recv_edge("refused", **grouped(words))
    for name in ("", "x" * 200):
        with pytest.raises(rt.InvalidArgument):
            ends.device.recv_edge(name, shape=(4,))
    ends.device.recv_edge("refused", shape=(4,)).close()


def test_a_name_is_free_again_after_its_edge_was_closed(ends: Ends) -> None:
    for number in range(3):
        edge = ends.device.recv_edge("again", shape=(4,), options=rt.EdgeOptions(slots=1 + number))
        ends.call(open_send, "again", {"shape": (4,), "timeout": 10.0})
        ends.call(send_bytes, "again", "float32", (4,), bits("float32", (4,), number))
        with edge.recv(10.0) as tensor:
            assert bytes(tensor.view()) == bits("float32", (4,), number)
        edge.close()


def test_a_new_sender_may_open_the_edge_after_the_first_has_closed(ends: Ends) -> None:
    back = Back(ends, shape=(4,))
    back.edge.send(np.ones(4, np.float32))
    back.recv()
    back.edge.close()
    with pytest.raises(rt.ClosedError):
        back.edge.send(np.ones(4, np.float32))


def test_a_region_for_slots_needs_the_right(ends: Ends) -> None:
    region = ends.device.region(1 << 16)
    with pytest.raises(rt.AccessDenied, match="REMOTE_WRITE"):
        ends.device.recv_edge("unwritable", shape=(4,), options=rt.EdgeOptions(region=region))
    small = ends.device.region(4096, access=rt.Access.REMOTE_WRITE)
    with pytest.raises(rt.OutOfMemory):
        ends.device.recv_edge("too large", shape=(4096,), options=rt.EdgeOptions(region=small))


def test_closing_the_channel_ends_its_edges(ends: Ends) -> None:
    wire = Wire(ends, shape=(4,))
    back = Back(ends, shape=(4,))
    ends.channel.close()
    assert back.edge.closed
    with pytest.raises(rt.ClosedError):
        back.edge.send(np.zeros(4, np.float32))
    with pytest.raises((rt.ClosedError, rt.PeerClosed)):
        wire.edge.recv(10.0)
