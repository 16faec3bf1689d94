"""static: the shape is known, so a tensor is written straight into its receive buffer. The paper's RDMA.zerocp."""

from __future__ import annotations

from rdmatensor.bench.modes.base import Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Static"]


class Static(OwnMode):
    """A static edge whose tensors are born in registered memory: no copy."""

    name = "static"

    def end(self, setup: Setup) -> EdgeEnd:
        return EdgeEnd(setup)
