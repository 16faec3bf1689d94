"""The live tensors and numbers behind the inputs of one process's part.

A process holds what its own part takes: a server its parameters and their states, a worker the
buffers. Parameters that are sent lie in the region; closing writes them back into the model. The
numbers of the optimizer's parameter groups are the first rank's, which sends them in each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdmatensor.errors import InvalidArgument
from rdmatensor.torch.graph.updating import numbers
from rdmatensor.torch.tensors import as_tensor

if TYPE_CHECKING:
    from torch import fx

    from rdmatensor.memory.region import Region
    from rdmatensor.torch.graph.capture import Captured
    from rdmatensor.torch.graph.inputs import Input
    from rdmatensor.torch.graph.parts import Part

__all__ = ["Holdings", "numbers_of"]

_LASTING = ("parameter", "buffer", "state")


def numbers_of(captured: Captured) -> list[float]:
    """The numbers of the optimizer's parameter groups, in the same order in every process."""
    return [float(value) for _, _, value in numbers(captured.optimizer)]


def _name(given: Input, process: str) -> str:
    """The name of a lasting input in a state. Each replica has buffers of its own."""
    own = f"{process}/" if process and given.kind == "buffer" else ""
    return f"{own}{given.kind}/{given.name}"


class Holdings:
    """The inputs that one process holds. `values` gives the inputs of a step by the places of their nodes."""

    def __init__(
        self, captured: Captured, part: Part, region: Region | None, replicated: bool, first: Holdings | None = None
    ) -> None:
        """Parameters that are sent are moved into the region, if one is given. `first` holds the same
        process's inputs of another plan: what it moved into the region is used here too.
        """
        self.captured = captured
        self.part = part
        self._mine = captured.restricted(part.inputs)
        nodes = list(part.module.graph.nodes)
        self._count = len(nodes)
        order = {node: number for number, node in enumerate(nodes)}
        self._places = {node: order[node] for node in part.inputs}
        self._lasting: dict[str, torch.Tensor] = {}
        self._moved: dict[int, torch.Tensor] = {}  # by place, what lies in the region instead
        self._moved_as: dict[str, torch.Tensor] = {}  # the same by name
        self._originals: dict[int, torch.Tensor] = {}
        sent = {node for _, node in part.ahead}
        names = {node: _name(one, part.process if replicated else "") for node, one in part.inputs.items()}
        lasting = captured.restricted({node: one for node, one in part.inputs.items() if one.kind in _LASTING})
        for node, value in zip(lasting.inputs, lasting.values(), strict=True):
            assert isinstance(value, torch.Tensor)
            before = None if first is None else first._moved_as.get(names[node])
            if before is not None:
                value = self._moved[self._places[node]] = before
            elif region is not None and node in sent and value.is_contiguous():
                place = self._places[node]
                self._originals[place] = value
                value = self._moved[place] = self._moved_as[names[node]] = self._move(value, region)
            self._lasting[names[node]] = value
        self._sent = {node: self._lasting[names[node]] for node in sent}

    def _move(self, value: torch.Tensor, region: Region) -> torch.Tensor:
        """A copy of the user's tensor in the region."""
        moved = as_tensor(region.empty(tuple(value.shape), str(value.dtype).removeprefix("torch.")))
        moved.copy_(value)
        return moved

    def at(self, node: fx.Node) -> torch.Tensor:
        """The value of a lasting input that is sent."""
        return self._sent[node]

    @property
    def takes_batch(self) -> bool:
        """Whether the part uses tensors of the batch."""
        return any(given.kind == "batch" for given in self.part.inputs.values())

    # ---- a step ----

    def values(self, batch: Any = None) -> list[Any]:
        """The inputs of a step. InvalidArgument for a batch for which the graph does not hold, and for
        what has changed since the plan was made; then nothing was sent.
        """
        env: list[Any] = [None] * self._count
        for place, value in zip(self._places.values(), self._mine.values(batch), strict=True):
            env[place] = value
        for place, moved in self._moved.items():
            env[place] = moved
        return env

    # ---- numbers ----

    def take_numbers(self, values: np.ndarray[Any, Any]) -> None:
        """Sets the numbers of this process's optimizer."""
        groups = self.captured.optimizer.param_groups
        for (index, key, before), value in zip(list(numbers(self.captured.optimizer)), values, strict=True):
            name, _, member = key.partition(".")
            if isinstance(before, torch.Tensor):
                before.fill_(float(value))
            elif member:
                changed = list(groups[index][name])
                changed[int(member)] = float(value)
                groups[index][name] = type(groups[index][name])(changed)
            else:
                groups[index][name] = float(value)

    # ---- between steps ----

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The lasting tensors by kind and name: "parameter/0.weight". They are not copied."""
        return dict(self._lasting)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copies what `state_dict` gave, here or in a process that held more. InvalidArgument for
        one that lacks a tensor, or has it in another shape; then nothing was changed.
        """
        for name, tensor in self._lasting.items():
            given = state.get(name)
            if given is None or given.shape != tensor.shape:
                has = "is missing" if given is None else f"has the shape {tuple(given.shape)}"
                why = f"{name} {has}, and here it has {tuple(tensor.shape)}: load what such a run saved"
                raise InvalidArgument("load a state", self.part.process, why)
        for name, tensor in self._lasting.items():
            tensor.copy_(state[name])

    def received(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies parameters that came at the end into the user's model, by the names of their nodes."""
        found = {node: given for node, given in self.captured.inputs.items() if node.name in tensors}
        for node, target in zip(found, self.captured.restricted(found).values(), strict=True):
            assert isinstance(target, torch.Tensor)
            target.copy_(tensors[node.name])

    def write_back(self) -> None:
        """Copies what lies in the region into the user's tensors."""
        for place, value in self._originals.items():
            value.copy_(self._moved[place])
