"""Where a later WRITE may land before an earlier one, a flag in a WRITE of its own may come before its tensor
(RDMA-RULES 3): it does, where the order is promised and does not hold; the way that is chosen there tears nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from edge_ends import Wire
from ends import Ends
from kinds import FAKE, WHY_NOT
from test_edges_torn import SHAPE, TENSORS, receive_all

import rdmatensor as rt
from rdmatensor.testing import FakeVerbsFabric

LARGE = (20_000,)


def overtaking(arguments: str) -> Iterator[Ends]:
    if WHY_NOT["verbs-overtaking"]:
        pytest.skip(WHY_NOT["verbs-overtaking"])
    with FakeVerbsFabric(FAKE, overtaking=11, arguments=arguments) as fabric:
        ends = Ends(fabric)
        yield ends
        ends.tidy()


@pytest.fixture
def trusting() -> Iterator[Ends]:
    """Two devices whose order is promised by name, and does not hold."""
    yield from overtaking("placement=ordered")


@pytest.fixture
def careful() -> Iterator[Ends]:
    """The same devices, without a word on their order."""
    yield from overtaking("")


def until_found(wire: Wire) -> tuple[int, int]:
    """Receives tensors until one came torn or was refused: how many did, of either kind."""
    for _ in range(20):
        _, broken, refused = receive_all(wire)
        if broken or refused:
            return broken, refused
    return 0, 0


def test_chained_where_the_order_does_not_hold_is_found_by_checksums(trusting: Ends) -> None:
    broken, refused = until_found(Wire(trusting, shape=SHAPE, slots=1, ordering="chained", verify="crc32c"))
    assert refused > 0
    assert broken == 0


def test_chained_where_the_order_does_not_hold_shows_torn_tensors(trusting: Ends) -> None:
    broken, refused = until_found(Wire(trusting, shape=SHAPE, slots=1, ordering="chained"))
    assert broken > 0
    assert refused == 0


@pytest.mark.parametrize("shape", [SHAPE, LARGE], ids=["with the payload", "apart"])
def test_immediates_hand_out_nothing_torn(
    careful: Ends, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_edges_torn.SHAPE", shape)
    wire = Wire(careful, shape=shape, slots=2, verify="crc32c")
    assert wire.edge.ordering.startswith("immediate")
    assert receive_all(wire) == (TENSORS, 0, 0)


def test_the_ordering_says_why_there_is_none(careful: Ends) -> None:
    assert not careful.limits.orders_writes
    assert careful.limits.immediate_covers_earlier
    assert careful.channel.ordering.endswith("(placement=any: InfiniBand, which may route adaptively)")
    wire = Wire(careful, shape=SHAPE)
    assert "placement=any" in wire.edge.ordering


def test_chained_by_name_is_refused_with_the_remedy(careful: Ends) -> None:
    with pytest.raises(rt.Unsupported, match=r"placement=any.*leave the choice to the library"):
        Wire(careful, shape=SHAPE, ordering="chained")


def test_a_check_of_the_loop_is_refused(careful: Ends) -> None:
    with pytest.raises(rt.Unsupported, match='flow="loop"'):
        Wire(careful, shape=SHAPE, flow="loop", check_loop=True)
