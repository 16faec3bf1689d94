"""dynamic: the receiver learns each tensor's shape from a record and READs the tensor; small ones
travel in the record.
"""

from __future__ import annotations

from rdmatensor.bench.modes.base import Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Dynamic"]


class DynamicEnd(EdgeEnd):
    """The end of a dynamic edge, with the library's default size for tensors in the record."""

    static = False


class Dynamic(OwnMode):
    """A dynamic edge: the sender keeps its tensor until the receiver has it."""

    name = "dynamic"

    def end(self, setup: Setup) -> DynamicEnd:
        return DynamicEnd(setup)
