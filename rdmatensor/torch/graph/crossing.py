"""The values of a cut: edges, crossings between roles, and what roles do in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import fx

__all__ = ["Action", "Crossing", "Edge"]


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor that one process makes and another uses, in every step, or one for each microbatch of a step."""

    name: str
    source: str
    """The process that sends."""
    target: str
    """The process that receives."""
    node: str
    """The node that makes the tensor."""
    tensor: str
    """Its meaning: "parameter 0.weight", "gradient of 0.weight", or the node."""
    shape: tuple[int | str, ...]
    """Sizes; names or symbols where they vary."""
    dtype: torch.dtype
    kind: str
    """ "static" or "dynamic"."""
    bytes: int | None
    """Bytes of one tensor; None where the shape varies."""
    slots: int
    """Tensors that may have arrived before one is released."""
    flow: str
    """ "loop" where the step's own order keeps a slot from being overwritten, else "credit"."""
    ahead: bool
    """Whether the tensor is sent for the step after this one, and once before the first."""
    born: str
    """Where the tensor's memory comes from, as far as the graph tells."""
    why: str
    """The reason for `kind` and `flow`."""
    times: int = 1
    """How many tensors it carries in a step: one, or one of each microbatch, in their order."""

    @property
    def moved(self) -> int:
        """Bytes that it carries in a step; 0 where the shape varies."""
        return (self.bytes or 0) * self.times


class Crossing(NamedTuple):
    """A tensor that crosses between two roles, before replicas are told apart."""

    number: int
    node: fx.Node
    source: str
    target: str
    ahead: bool


class Action(NamedTuple):
    """The next thing that a role does: "run" a node, "copy" one of another role (a view, or one of
    numbers alone), take a "size" of a tensor that it has in place of another role's, or "recv" a
    crossing.
    """

    kind: str
    node: fx.Node
    crossing: Crossing | None = None
    size: tuple[fx.Node, int] | None = None
    """The tensor, and its dimension."""
