"""Collectives of this library's `Team` on NumPy arrays, by prepared calls: no torch takes part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rdmatensor as rt
from rdmatensor.bench.collectives.base import RANKS, CollectiveEnd, Result, inputs
from rdmatensor.bench.modes.base import DEADLINE_S, Setup
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["TeamCollectives", "TeamCollectivesInRegion"]


class TeamCollectives(OwnMode):
    """A team of two whose arrays lie in ordinary memory."""

    name = "team"
    one_host_only = True
    in_region = False

    def end(self, setup: Setup) -> TeamRank:
        return TeamRank(setup, self.in_region)


class TeamCollectivesInRegion(TeamCollectives):
    """The same with arrays in a region of the team's device, which are read where they lie."""

    name = "team-region"
    in_region = True


class TeamRank(CollectiveEnd):
    """A member of the team."""

    def __init__(self, setup: Setup, in_region: bool) -> None:
        super().__init__(setup)
        self._in_region = in_region
        self.note = "prepared calls on NumPy arrays" + ("; in a region of its device" if in_region else "")

    def meet(self, offer: dict[str, Any]) -> None:
        folder = Path(self.setup.folder) / ("team-region" if self._in_region else "team")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._team = rt.Team.join(rank=self.rank(), size=RANKS, folder=folder, url=self.setup.url, timeout=DEADLINE_S)
        self.transport = self._team.device.provider

    def barrier(self) -> None:
        self._team.barrier()

    def _array(self, count: int) -> Any:
        if not self._in_region:
            return np.zeros(count, np.float32)
        access = rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE
        self._region = self._team.device.region(max(4 * count, 64), access=access)
        return self._region.empty((count,), "float32").numpy()

    def make(self, operation: str, count: int) -> tuple[Callable[[], object], Result, Callable[[], None]]:
        given = inputs(self.rank(), count)
        sent = self._array(count)
        sent[:] = given
        empty = {"all_gather": count * RANKS, "reduce_scatter": count // RANKS, "all_to_all": count}
        got = self._array(empty[operation]) if operation in empty else np.zeros(0, np.float32)

        def reset() -> None:
            sent[:] = given

        prepare = self._team.prepare
        if operation == "barrier":
            call = prepare("barrier")
        elif operation == "broadcast":
            call = prepare("broadcast", sent, 0)
        elif operation == "all_reduce":
            call = prepare("all_reduce", sent, out=sent)
        elif operation == "all_gather":
            call = prepare("all_gather", sent, out=got.reshape(RANKS, count))
        else:
            call = prepare(operation, sent, out=got)  # type: ignore[arg-type]
        result = got if operation in empty or operation == "barrier" else sent
        return call, lambda: result, reset

    def close(self) -> None:
        self._team.close()
