"""Tensors of a region as tensors of torch."""

from __future__ import annotations

import torch

from rdmatensor.tensor import Tensor

__all__ = ["as_tensor"]


def as_tensor(tensor: Tensor) -> torch.Tensor:
    """The memory of a tensor as a CPU tensor of torch, not copied; every element type.

    It keeps the memory alive. torch knows no read-only tensors: one that was borrowed must not be written to.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"an rdmatensor.Tensor can be seen by torch, not a {type(tensor).__name__}")
    if tensor.readonly or tensor._form.interface is None:
        return torch.from_dlpack(tensor)
    return torch.from_numpy(tensor.numpy())
