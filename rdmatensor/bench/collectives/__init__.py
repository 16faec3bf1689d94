"""Collectives between two ranks, by name: this library's torch.distributed backend and its `Team`,
Gloo and MPI.
"""

from __future__ import annotations

from rdmatensor.bench.collectives.mpi import MpiCollectives
from rdmatensor.bench.collectives.team import TeamCollectives, TeamCollectivesInRegion
from rdmatensor.bench.collectives.torch import GlooCollectives, OurCollectives, OurCollectivesInRegion
from rdmatensor.bench.modes.base import Mode

__all__ = ["COLLECTIVES"]

COLLECTIVES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        OurCollectives("rdmatensor"),
        OurCollectivesInRegion(),
        TeamCollectives(),
        TeamCollectivesInRegion(),
        GlooCollectives("gloo"),
        MpiCollectives(),
    )
}
