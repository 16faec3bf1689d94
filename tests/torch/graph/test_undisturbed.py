"""A capture computes nothing and changes nothing: model, optimizer, gradients and generators stay as they were."""

from __future__ import annotations

import random
from typing import Any

import models
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

import rdmatensor as rt
from rdmatensor.torch.graph.capture import capture


def small(model: nn.Module) -> models.Example:
    return model, (torch.randn(5, 3), torch.randn(5, 2)), functional.mse_loss


def normalized() -> models.Example:
    return small(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.Linear(4, 2)))


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.note = x
        if self.linear(x).sum() > 0:
            return x
        return x.sum()


def everything(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        [(id(tensor), tensor._version, tensor.requires_grad, id(tensor.grad)) for tensor in tensors],
        [tensor.clone() for tensor in tensors],
        [(sorted(module.__dict__), module.training) for module in model.modules()],
        [dict(group) for group in optimizer.param_groups],
        {
            id(parameter): {key: id(value) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        },
        sorted(optimizer.__dict__),
        torch.get_rng_state(),
        random.getstate(),
        torch.is_grad_enabled(),
    ]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize("make", [normalized, models.gru, lambda: small(Failing())], ids=["norm", "gru", "failing"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_capture_leaves_model_optimizer_and_generators_as_they_were(make: Any, before: int) -> None:
    model, batch, loss_fn = make()
    optimizer = Adam(model.parameters())
    if before:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    then = everything(model, optimizer)
    if isinstance(model, Failing):
        with pytest.raises(rt.InvalidArgument):
            capture(model, loss_fn, optimizer, batch)
    else:
        capture(model, loss_fn, optimizer, batch)
    assert equal(then, everything(model, optimizer))


def test_a_step_without_gradients_enabled_is_captured_all_the_same() -> None:
    with torch.no_grad():
        model, batch, loss_fn = normalized()
        step = capture(model, loss_fn, Adam(model.parameters()), batch)
    assert all(step.gradients)
