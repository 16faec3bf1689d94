"""Tensors that are copied into registered memory on their way, some of it after the call that began to send them."""

from __future__ import annotations

import numpy as np
import pytest
from edge_ends import make_recv, receive
from ends import Ends

import rdmatensor as rt


def staging_sender(wide: Ends, name: str, count: int) -> rt.SendEdge:
    """A sender that copies every tensor into registered memory, stripe by stripe."""
    wide.call(make_recv, name, {"shape": (count,), "stripes": 4, "slots": 1})
    edge = wide.channel.send_edge(name, shape=(count,), timeout=300, options=rt.EdgeOptions(stripes=4, staging=True))
    wide.edges.append(edge)
    return edge


def test_a_tensor_that_is_being_staged_arrives_while_its_sender_does_something_else(wide: Ends) -> None:
    edge, array = staging_sender(wide, "going on", 1 << 19), np.random.default_rng(3).random(1 << 19, np.float32)
    sending = edge.send_async(array, 20.0)
    wide.call(make_recv, "full", {"shape": (1,), "slots": 1})
    full = wide.channel.send_edge("full", shape=(1,), timeout=300)
    full.send(np.zeros(1, np.float32))
    with pytest.raises(rt.DeadlineExceeded, match="no credit"):
        full.send(np.zeros(1, np.float32), 0.06)
    assert wide.call(receive, "going on")[2] == array.tobytes()
    sending.wait()
    full.close()


def test_many_tensors_may_be_changed_after_the_call_unless_it_says_that_they_are_under_way(wide: Ends) -> None:
    edge, array = staging_sender(wide, "staged", 1 << 16), np.random.default_rng(4).random(1 << 16, np.float32)
    data = array.tobytes()
    try:
        rt.send_many([(edge, array)], timeout=0)
    except rt.DeadlineExceeded as error:
        assert "sent" not in error.why or edge.stats.transfers == 1
    else:
        array[:] = 0
    edge.drain(10.0)
    assert wide.call(receive, "staged")[2] == data
