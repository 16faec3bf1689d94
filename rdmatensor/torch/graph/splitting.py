"""A batch divided into microbatches, along one dimension of each of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rdmatensor.errors import InvalidArgument
from rdmatensor.torch.graph.inputs import flatten_batch

__all__ = ["Split", "Splitting"]

WHAT = "split a batch"

Split = int | str | Mapping[str, int] | None
"""The dimension along which a batch is divided: the same of every tensor (0); the name of one in `dynamic`; one for
each tensor by name, where a tensor that is not named goes to every microbatch whole; or None for a batch that is given
as a sequence of its microbatches.
"""

Names = Mapping[str, Mapping[int, str]]
"""By tensor, the names of its dimensions that vary."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """Divides batches into `count` microbatches."""

    count: int
    split: Split = 0
    uneven: bool = False
    """Whether the last microbatch may be smaller. It may where losses are added: a mean would give its rows more
    weight than the others.
    """

    def pieces(self, batch: Any, names: Names) -> list[Any]:
        """The microbatches: views of the batch, of its structure. `names` are those of `dynamic`.

        InvalidArgument for a batch that cannot be divided so.
        """
        if self.split is None:
            return self._given(batch)
        tensors, structure = flatten_batch(batch)
        along = self._along(tensors, names)
        cuts: dict[str, list[torch.Tensor]] = {}
        for name, tensor in tensors.items():
            cuts[name] = self._cut(name, tensor, along[name]) if name in along else [tensor] * self.count
        return [
            pytree.tree_unflatten([cuts[name][number] for name in tensors], structure) for number in range(self.count)
        ]

    def whole(self, piece: Any, names: Names) -> Any:
        """A batch of which a microbatch is a part: its shapes, without values."""
        if self.split is None:
            return [piece] * self.count
        tensors, structure = flatten_batch(piece)
        along = self._along(tensors, names)
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        for name, dimension in along.items():
            shapes[name][dimension] *= self.count
        leaves = [torch.empty(shapes[name], dtype=one.dtype, device="meta") for name, one in tensors.items()]
        return pytree.tree_unflatten(leaves, structure)

    def _given(self, batch: Any) -> list[Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != self.count:
            has = f"{len(batch)} members" if isinstance(batch, (tuple, list)) else f"the type {type(batch).__name__}"
            why = f"with split=None it is a sequence of {self.count} microbatches, and it has {has}"
            raise InvalidArgument(WHAT, "batch", why)
        return list(batch)

    def _along(self, tensors: Mapping[str, torch.Tensor], names: Names) -> dict[str, int]:
        """The dimension of each tensor that is divided."""
        if isinstance(self.split, str):
            found = {
                tensor: dimension
                for tensor, named in names.items()
                for dimension, name in named.items()
                if name == self.split
            }
            known = sorted({name for named in names.values() for name in named.values()})
            if not found:
                why = f"dynamic= names no dimension {self.split!r}; it has {', '.join(known) or 'none'}"
                raise InvalidArgument(WHAT, f"split={self.split!r}", why)
            return found
        if isinstance(self.split, int):
            return dict.fromkeys(tensors, self.split)
        assert self.split is not None
        strange = [name for name in self.split if name not in tensors]
        if strange or not self.split:
            why = f"the batch has {', '.join(tensors)}" + (f", and no {strange[0]}" if strange else "")
            raise InvalidArgument(WHAT, f"split={dict(self.split)!r}", f"{why}: name tensors of it")
        return dict(self.split)

    def _cut(self, name: str, tensor: torch.Tensor, dimension: int) -> list[torch.Tensor]:
        if not -tensor.dim() <= dimension < tensor.dim():
            why = f"it has {tensor.dim()} dimensions: name the divided one of each tensor (split={{{name!r}: 0}})"
            raise InvalidArgument(WHAT, f"dimension {dimension} of {name}", why)
        size = tensor.shape[dimension]
        each = -(-size // self.count)
        last = size - each * (self.count - 1)
        if last < 1 or (last != each and not self.uneven):
            why = f"its size {size} is no multiple of {self.count} microbatches"
            if self.uneven:
                why += ", and leaves nothing for the last one"
            else:
                why += '; only where the loss is a sum over the batch (loss="sum") may the last one be smaller'
            why += ": leave the rest of an epoch out (drop_last=True), or take another number"
            raise InvalidArgument(WHAT, f"dimension {dimension} of {name}", why)
        sizes = [each] * (self.count - 1) + [last]
        return list(torch.split(tensor, sizes, dimension))
