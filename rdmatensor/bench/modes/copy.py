"""copy: a static edge whose tensors are copied into registered memory first. The paper's RDMA.cp."""

from __future__ import annotations

import numpy as np

from rdmatensor.bench.modes.base import Bytes, Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Copy"]


class CopyEnd(EdgeEnd):
    """`staging`, since shared memory could send from anywhere and would not copy."""

    staging = True

    def _tensor(self) -> Bytes:
        return np.zeros(self.size, np.uint8)


class Copy(OwnMode):
    """What a user gets whose tensors are not born in registered memory."""

    name = "copy"

    def memory(self, size: int, depth: int) -> int:
        return size * (2 * depth + 4)

    def end(self, setup: Setup) -> CopyEnd:
        return CopyEnd(setup)
