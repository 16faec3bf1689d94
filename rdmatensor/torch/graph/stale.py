"""Parameters that may lack the last updates: the versions that a worker takes with `ParameterServer(staleness=k)`.

A server sends each parameter once before the first step and once behind each update, so the tensors
of an edge are its versions 0, 1, … in order. In its step t (from 0) a worker takes the newest version
that has come. Version t has every update of the steps before; the worker waits only while it has none
from t - k on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor.torch.tensors import as_tensor

if TYPE_CHECKING:
    import torch

    from rdmatensor.edges.recv import RecvEdge

__all__ = ["Stale"]


class Stale:
    """The versions that one worker holds, of all plans of its run: these share edges. For one thread."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        """The most updates that a parameter may lack."""
        self.step = -1
        self.behind = [0] * (bound + 1)
        """How many parameters were taken that lacked so many updates, since the run began."""
        self._taken: dict[RecvEdge, int] = {}
        self._newest: dict[RecvEdge, torch.Tensor] = {}

    def begin(self) -> None:
        """Begins a step."""
        self.step += 1

    def newest(self, edge: RecvEdge) -> torch.Tensor | None:
        """Takes what has come over an edge, which frees the slots of older versions. Gives the newest,
        or None while it lacks more updates than it may.
        """
        while edge.ready():
            self._newest[edge] = as_tensor(edge.recv())
            self._taken[edge] = self._taken.get(edge, 0) + 1
        behind = self.step + 1 - self._taken.get(edge, 0)
        if behind > self.bound or edge not in self._newest:
            return None
        self.behind[behind] += 1
        return self._newest[edge]

    def version(self, edge: RecvEdge) -> int:
        """The version that is held: -1 before any has come."""
        return self._taken.get(edge, 0) - 1

    def left(self, edge: RecvEdge) -> int:
        """How many versions are still to come after the last step."""
        return self.step + 1 - self.version(edge)
