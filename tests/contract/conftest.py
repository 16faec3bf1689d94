"""The fabrics over which every contract test runs. A fabric that cannot be had is skipped with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ends import Ends
from kinds import MAKERS, WHY_NOT

import rdmatensor as rt
from rdmatensor.testing import Fabric

KINDS = [kind for kind, why_not in WHY_NOT.items() if not why_not]
MORTAL = [kind for kind in ("sim", "shm", "verbs") if kind in KINDS]  # fabrics whose parties can be killed


_kept: dict[str, Fabric] = {}


@pytest.fixture(scope="session", autouse=True)
def _close_fabrics() -> Iterator[None]:
    yield
    for fabric in _kept.values():
        fabric.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and "fabric_kind" in getattr(item, "fixturenames", ()):
        _kept.pop(item.funcargs.get("fabric_kind", ""), None)  # what a failed test left is no ground for others
    return report


@pytest.fixture(params=list(MAKERS))
def possible_kind(request: pytest.FixtureRequest) -> str:
    """Every fabric there is; skipped with the reason where it cannot be had."""
    kind = str(request.param)
    if WHY_NOT[kind]:
        pytest.skip(f"{kind}: {WHY_NOT[kind]}")
    return kind


@pytest.fixture(params=KINDS)
def fabric_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fabric(fabric_kind: str) -> Fabric:
    """Two parties, shared by the tests: what a test changes in them, it changes back."""
    if fabric_kind not in _kept:
        _kept[fabric_kind] = MAKERS[fabric_kind]()
    return _kept[fabric_kind]


@pytest.fixture
def ends(fabric: Fabric) -> Iterator[Ends]:
    """A new channel between the two parties."""
    made = Ends(fabric)
    yield made
    made.tidy()


@pytest.fixture(params=KINDS)
def wide(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A channel of four QPs over two completion queues."""
    with MAKERS[str(request.param)](queues=2, qps_per_peer=4) as fabric:
        ends = Ends(fabric)
        yield ends
        ends.tidy()


@pytest.fixture(params=MORTAL)
def mortal(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """Three parties of this test's own, to be killed."""
    with MAKERS[str(request.param)](parties=3) as fabric:
        yield fabric


@pytest.fixture
def need() -> Callable[[rt.Limits, str], None]:
    """Skips the test where a device does not promise something, and says what."""

    def need(limits: rt.Limits, promise: str) -> None:
        if not getattr(limits, promise):
            pytest.skip(f"the device's limits.{promise} is {getattr(limits, promise)!r}")

    return need
