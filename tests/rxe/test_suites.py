"""Tests that want a real verbs driver, run on soft-RoCE; each is shown and counted here as if it ran here.

Those for one device run on the kernel of this machine where it has soft-RoCE, else in an emulated machine as all others
do; the first line of a run says which. Both suites run at the same time. `RXE_VM` are further options for `rdmatensor
vm run`, `RXE_ARGS` further arguments for pytest there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from runs import TIMEOUT, Run, Shown

from rdmatensor.vm import here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT + 120)]
RELAY = ("--", "python", "tests/rxe/relay.py", "-q")
SUITES = {
    "contract": (*RELAY, "tests/contract", "-k", "verbs"),
    "proofs": ("--hosts", "2", *RELAY, "tests/rxe/guest"),
}


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Run]]:
    """Every suite that was asked for, under way."""
    wanted = [
        suite for suite in SUITES if any(item.name == f"test_on_soft_roce[{suite}]" for item in request.session.items)
    ]
    if wanted != ["contract"] or not here.devices():
        request.getfixturevalue("machine")  # made by the first run, which shows how
    started = {suite: Run(*SUITES[suite]) for suite in wanted}
    yield started
    for run in started.values():
        run.end()


@pytest.mark.parametrize("suite", SUITES)
def test_on_soft_roce(runs: dict[str, Run], suite: str, request: pytest.FixtureRequest) -> None:
    """Fails when the run does not end as a run of pytest does; what fails in it is reported by its own name."""
    shown = Shown(request.session)
    status = shown.follow(runs[suite])
    print(b"".join(runs[suite].printed).decode(errors="replace"))
    assert shown.status is not None and status == shown.status, f"the run ended with {status}"
    assert shown.status == (1 if shown.failed else 0), f"pytest there ended with {shown.status}"
    assert len(shown.ended) == shown.collected > 0
