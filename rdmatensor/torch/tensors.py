"""Views of a region's tensors as tensors of torch."""

from __future__ import annotations

import torch

from rdmatensor.memory.tensor import Tensor

__all__ = ["as_tensor"]


def as_tensor(tensor: Tensor) -> torch.Tensor:
    """The memory of a tensor as a CPU tensor of torch, not copied; for every element type.

    The torch tensor keeps the memory alive. torch has no read-only tensors: a borrowed tensor must
    not be written to.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"an rdmatensor.Tensor can be seen by torch, not a {type(tensor).__name__}")
    if tensor.readonly or tensor._form.interface is None:
        return torch.from_dlpack(tensor)
    return torch.from_numpy(tensor.numpy())
