"""A process that ends at any moment of a step: every other raises, names it, and leaves nothing behind.

`RDMATENSOR_KILLS=0-50` runs fifty rounds; a round that fails names itself.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import mortals
import pytest

FIRST, LAST = map(int, os.environ.get("RDMATENSOR_KILLS", "0-6").split("-"))
LATE_S = 120.0
"""Ends a wait that nothing ended. On a machine that does nothing else all raise within a second."""

NAMES = {"servers": ("worker0", "worker1", "server0"), "stages": ("stage0", "stage1", "stage2")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_other_process_raises_and_names_the_one_that_ended(tmp_path: Path) -> None:
    times = []
    for number in range(FIRST, LAST):
        death, told, took = mortals.round_of(number, tmp_path / str(number))
        victim = NAMES[death.placement][death.victim]
        print(f"round {number}: {victim} by {death.by.name} at {death.event}, raised after {took:.3f} s")
        others = {rank: one for rank, one in told.items() if rank != death.victim}
        assert len(others) == mortals.SIZE - 1, f"round {number}: {death}, {told}"
        for one in others.values():
            assert f"{victim} " in one.error and one.error.startswith("PeerLost: run a step on"), f"{number}: {one}"
            if death.by is signal.SIGINT:
                assert "KeyboardInterrupt" in one.error, f"{number}: {one}"
            else:
                assert "(edge '" in one.error, f"{number}: {one}"
        for one in told.values():
            assert all(after <= before for before, after in one.left.values()), f"{number}: {one}"
        if death.by is signal.SIGINT:
            assert told[death.victim].error.startswith("KeyboardInterrupt"), f"{number}: {told}"
        assert took < LATE_S, f"{number}: {death}, {took}"
        times.append(took)
    middle = sorted(times)[len(times) // 2]
    print(f"{len(times)} rounds, raised after {middle:.3f} s in the middle, {max(times):.3f} s at most")
