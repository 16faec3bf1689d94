"""dynamic: the receiver learns the shape with each tensor, from a record, and READs it. Small ones ride in it."""

from __future__ import annotations

from rdmatensor.bench.modes.base import Setup
from rdmatensor.bench.modes.edges import EdgeEnd
from rdmatensor.bench.modes.own import OwnMode

__all__ = ["Dynamic"]


class DynamicEnd(EdgeEnd):
    """The library's default of what rides in the record."""

    static = False


class Dynamic(OwnMode):
    """A dynamic edge: the sender keeps its tensor until the receiver has it."""

    name = "dynamic"

    def end(self, setup: Setup) -> DynamicEnd:
        return DynamicEnd(setup)
