"""Tests that want a real verbs driver, run on soft-RoCE; each is shown and counted here as if it ran here.

Those for one device run on the kernel of this machine where it has soft-RoCE, else in an emulated machine as all others
do; the first line of a run says which. Both suites run at the same time where this host has a processor for each of the
machines'; else one after the other, which is faster than to share. `RXE_VM` are further options for `rdmatensor
vm run`, `RXE_ARGS` further arguments for pytest there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from machines import ROOT
from runs import TIMEOUT, Run, Shown

from rdmatensor.vm import here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT + 120)]
PROCESSORS_EACH = 2
"""Of an emulated machine."""
CACHE = ROOT / "build" / "cache"
"""Where the backend of torch is compiled here for the machine, which has no compiler."""
RELAY = ("--", "python", "tests/rxe/relay.py", "-q")
SUITES = {
    "contract": (*RELAY, "tests/contract", "-k", "verbs"),
    "proofs": ("--hosts", "2", *RELAY, "tests/rxe/guest"),
    "group": ("--memory", "3G", "--env", f"XDG_CACHE_HOME={CACHE}", *RELAY, "tests/rxe/group"),
}


def _compile() -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(CACHE)}
    subprocess.run([sys.executable, "-m", "rdmatensor.torch"], env=environment, check=True, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def start(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Run]]:
    """Starts a suite, or gives the one that is under way."""
    wanted = [
        suite for suite in SUITES if any(item.name == f"test_on_soft_roce[{suite}]" for item in request.session.items)
    ]
    if wanted != ["contract"] or not here.devices():
        request.getfixturevalue("machine")  # made by the first run, which shows how
    if "group" in wanted:
        _compile()
    together = len(os.sched_getaffinity(0)) >= PROCESSORS_EACH * len(wanted)
    started = {suite: Run(*SUITES[suite]) for suite in wanted if together}
    yield lambda suite: started.setdefault(suite, started.get(suite) or Run(*SUITES[suite]))
    for run in started.values():
        run.end()


@pytest.mark.parametrize("suite", SUITES)
def test_on_soft_roce(start: Callable[[str], Run], suite: str, request: pytest.FixtureRequest) -> None:
    """Fails when the run does not end as a run of pytest does; a failed test in it is reported by its own name."""
    shown, run = Shown(request.session), start(suite)
    status = shown.follow(run)
    print(b"".join(run.printed).decode(errors="replace"))
    assert shown.status is not None and status == shown.status, f"the run ended with {status}"
    assert shown.status == (1 if shown.failed else 0), f"pytest there ended with {shown.status}"
    assert len(shown.ended) == shown.collected > 0
