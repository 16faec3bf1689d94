"""The fabrics over which every contract test runs. A fabric that cannot be had is skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ends import Ends

import rdmatensor as rt
from rdmatensor.testing import Fabric, FakeVerbsFabric, ShmFabric, SimFabric, VerbsFabric

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(os.environ.get("RDMATENSOR_FAKE_IBVERBS", ROOT / "build" / "plain" / "libfakeibverbs.so"))
SMALL = "message_size_max=4096&work_depth=4&read_depth=1&segments_max=1&inline_max=0&links_per_peer=2&queues=2"
HARDWARE = Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir())
UNORDERED = "orders_writes=0&orders_bytes=0&jitter_ns=20000"


def _verbs(**options: Any) -> Fabric:
    """Over the first real device, or over both where `rdmatensor vm run --hosts 2` has joined two."""
    devices = os.environ.get("RDMATENSOR_RXE_DEVICES", "").split(",")
    return VerbsFabric(f"verbs://{devices[0]}", there=f"verbs://{devices[-1]}", **options)


MAKERS: dict[str, Callable[..., Fabric]] = {
    "sim": SimFabric,
    "sim-small": lambda **options: SimFabric(arguments=SMALL, **options),
    "sim-unordered": lambda **options: SimFabric(arguments=UNORDERED, **options),
    "shm": ShmFabric,
    "verbs-fake": lambda **options: FakeVerbsFabric(FAKE, **options),
    "verbs-overtaking": lambda **options: FakeVerbsFabric(FAKE, overtaking=7, **options),
    "verbs": _verbs,
}


def _why_not(kind: str) -> str:
    """Why a fabric cannot be had in this run; empty when it can."""
    if kind.startswith("verbs") and HARDWARE and kind != "verbs":
        return "this machine has a real RDMA device, and one process loads one libibverbs"
    if kind == "verbs" and not HARDWARE:
        return "this machine has no RDMA device"
    if kind in ("verbs-fake", "verbs-overtaking"):
        if not FAKE.exists():
            return f"{FAKE} is not built; `make` does it"
        try:
            FakeVerbsFabric.load(FAKE)
        except rt.ProviderUnavailable as error:
            return error.why
    return ""


WHY_NOT = {kind: _why_not(kind) for kind in MAKERS}
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
