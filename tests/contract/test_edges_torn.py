"""Where a provider does not place the bytes of a WRITE in order, a flag at the tensor's tail may come before the tensor
(RDMA-RULES 1): it does, unless it is not asked for; and a checksum turns what is torn into an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from edge_ends import Wire, bits, tensor_of
from ends import Ends

import rdmatensor as rt
from rdmatensor.testing import Party, SimFabric

TENSORS = 60
SHAPE = (2000,)


@pytest.fixture
def torn() -> Iterator[Ends]:
    """Two simulated parties whose WRITEs are placed in pieces, in any order, though one after the other."""
    with SimFabric(seed=11, arguments="orders_bytes=0&jitter_ns=20000") as fabric:
        ends = Ends(fabric)
        yield ends
        ends.tidy()


def begin(party: Party, name: str, data: bytes) -> None:
    """Sends without waiting until the bytes are placed: time passes while the receiver waits."""
    party.kept["sending"] = party.kept[name].send_async(tensor_of(party, "float32", SHAPE, data), 10.0)
    while party.kept["sending"]._sequence == 0:  # until there is credit
        party.device.progress()
        party.kept["sending"].done()


def receive_all(wire: Wire) -> tuple[int, int, int]:
    """How many tensors came whole, came torn, and were refused."""
    whole = torn = refused = 0
    for number in range(TENSORS):
        data = bits("float32", SHAPE, number)
        wire.ends.call(begin, wire.name, data)
        try:
            with wire.recv() as tensor:
                found = bytes(tensor.view())
        except rt.CorruptError as error:
            assert "CRC" in str(error) or "checksum" in str(error)
            refused += 1
            continue
        whole, torn = whole + (found == data), torn + (found != data)
    return whole, torn, refused


def test_a_tail_that_was_asked_for_against_the_promises_shows_torn_tensors(torn: Ends) -> None:
    assert not torn.limits.orders_bytes_within_a_write
    wire = Wire(torn, shape=SHAPE, slots=1, ordering="tail")
    whole, broken, refused = receive_all(wire)
    assert broken > 0
    assert (whole + broken, refused) == (TENSORS, 0)


def test_with_checksums_nothing_torn_is_handed_out(torn: Ends) -> None:
    wire = Wire(torn, shape=SHAPE, slots=1, ordering="tail", verify="crc32c")
    whole, broken, refused = receive_all(wire)
    assert refused > 0
    assert (broken, whole + refused) == (0, TENSORS)
    assert wire.edge.stats.corrupt == refused
    assert wire.edge.failure is None


def test_the_way_that_is_chosen_hands_out_nothing_torn(torn: Ends) -> None:
    wire = Wire(torn, shape=SHAPE, slots=1)
    assert not wire.edge.ordering.startswith("tail")
    assert receive_all(wire) == (TENSORS, 0, 0)
