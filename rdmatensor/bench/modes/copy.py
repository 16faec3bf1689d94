"""copy: a static edge whose tensors are first copied into registered memory; the paper's RDMA.cp."""

from __future__ import annotations

import numpy as np

from rdmatensor.bench.modes.base import Bytes, Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Copy"]


class CopyEnd(EdgeEnd):
    """The end of a copying edge. It sets `staging`, since shared memory could send from anywhere
    without a copy.
    """

    staging = True

    def _tensor(self) -> Bytes:
        return np.zeros(self.size, np.uint8)


class Copy(OwnMode):
    """The path of tensors that do not lie in registered memory."""

    name = "copy"

    def memory(self, size: int, depth: int) -> int:
        return size * (2 * depth + 4)

    def end(self, setup: Setup) -> CopyEnd:
        return CopyEnd(setup)
