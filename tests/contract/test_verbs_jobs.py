"""The devices of a job's processes, over the fake libibverbs: each local rank takes another port, and
groups have room for all members.
"""

from __future__ import annotations

import pytest
from kinds import FAKE, WHY_NOT

import rdmatensor as rt
from rdmatensor.team import fabric
from rdmatensor.testing import FakeVerbsFabric

RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    if why_not := WHY_NOT["verbs-fake"]:
        pytest.skip(why_not)
    FakeVerbsFabric.load(FAKE)
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("rank", "url", "name"),
    [
        (None, "verbs://fake0,fake1", "fake0"),
        ("1", "verbs://fake0,fake1", "fake1"),
        ("2", "verbs://fake0,fake1", "fake0"),
        ("1", "verbs://fake0,fake1?local_rank=0", "fake0"),
        ("1", "verbs://fake0", "fake0"),
        ("0", "verbs://^fake0?gid=3", "fake1"),
    ],
)
def test_each_local_rank_takes_another_port(
    rank: str | None, url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    with rt.Device(url) as device:
        assert device.name == name


def test_a_launchers_rank_is_no_argument_of_other_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with rt.Device("sim://one") as device:
        assert device.provider == "sim"


@pytest.mark.parametrize(
    ("url", "members", "qps", "links"),
    [
        ("verbs://fake0", 2, 1, 2),
        ("verbs://fake0?completion_depth=512", 200, 1, 200),
        ("verbs://fake0?completion_depth=512&qps_per_peer=2", 100, 2, 200),
        ("verbs://fake0?completion_depth=512&links=20", 2, 1, 20),
    ],
)
def test_groups_have_one_qp_for_each_member_and_room_for_all(url: str, members: int, qps: int, links: int) -> None:
    with fabric._device(url, members) as device:
        assert device.qps_per_peer == qps
        assert device.limits.link_count_max >= links
        assert device.queues == 4


def test_more_members_than_the_adapter_has_room_for_are_refused_with_its_numbers() -> None:
    with pytest.raises(rt.ProviderUnavailable, match=r"links=300 were asked for: it has 256 queue pairs"):
        fabric._device("verbs://fake0", 300)
