"""A captured model and the same model trained eagerly, step by step with the same draws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rdmatensor.torch.graph.capture import capture

Optimizers = Callable[[nn.Module], torch.optim.Optimizer]


class Twins:
    """Two copies of an example (model, batch, loss_fn) with an optimizer each; the first is captured.

    `before` eager steps are taken by both before the capture. `options` are the capture's.
    """

    def __init__(
        self,
        example: tuple[nn.Module, Any, Callable[..., torch.Tensor]],
        optimizers: Optimizers,
        *,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        before: int = 0,
        **options: Any,
    ) -> None:
        self.model, self.batch, self.loss_fn = example
        self.eager, self.eager_loss_fn = copy.deepcopy((self.model, self.loss_fn))
        self.optimizer, self.eager_optimizer = optimizers(self.model), optimizers(self.eager)
        self.schedulers = [scheduler(one) for one in (self.optimizer, self.eager_optimizer)] if scheduler else []
        self.options = options
        self.steps = 0
        for _ in range(before):
            self._eager_step(self.model, self.loss_fn, self.optimizer, self.batch)
            self._eager_step(self.eager, self.eager_loss_fn, self.eager_optimizer, self.batch)
            self._turn()
        self.captured = capture(self.model, self.loss_fn, self.optimizer, self.batch, **options)

    def run(self, *batches: Any, steps: int = 3) -> Twins:
        """Takes steps with both, on the batches in turn, and compares all tensors after each."""
        for batch in batches or [self.batch] * steps:
            torch.manual_seed(self.steps)
            (loss,) = self.captured.module(*self.captured.values(batch))
            drawn = torch.get_rng_state()
            eager = self._eager_step(self.eager, self.eager_loss_fn, self.eager_optimizer, batch)
            assert torch.equal(drawn, torch.get_rng_state()), "another number of random draws than in eager mode"
            self._turn()
            assert torch.equal(loss, eager), f"step {self.steps}: loss {loss.item()}, eager {eager.item()}"
            self.check()
        return self

    def check(self) -> None:
        """Compares parameters, buffers and states of the optimizers, bit for bit."""
        for (name, one), (_, other) in zip(_tensors(self.model), _tensors(self.eager), strict=True):
            assert _same(one, other), f"step {self.steps}: {name} differs"
        pairs = zip(_parameters(self.optimizer), _parameters(self.eager_optimizer), strict=True)
        for number, (one, other) in enumerate(pairs):
            mine, theirs = self.optimizer.state.get(one, {}), self.eager_optimizer.state.get(other, {})
            assert mine.keys() == theirs.keys(), f"parameter {number}: states {set(mine)}, eager {set(theirs)}"
            for key, value in mine.items():
                assert _same(value, theirs[key]), f"step {self.steps}: state {key} of parameter {number} differs"

    def _eager_step(self, model: nn.Module, loss_fn: Any, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
        torch.manual_seed(self.steps)
        optimizer.zero_grad()
        loss: torch.Tensor = loss_fn(model, batch) if _is_general(loss_fn) else loss_fn(model(*batch[:-1]), batch[-1])
        loss.backward()
        if self.options.get("clip_grad_norm") is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.options["clip_grad_norm"])
        if self.options.get("clip_grad_value") is not None:
            nn.utils.clip_grad_value_(model.parameters(), self.options["clip_grad_value"])
        optimizer.step()
        return loss.detach()

    def _turn(self) -> None:
        self.steps += 1
        for scheduler in self.schedulers:
            scheduler.step()


def _is_general(loss_fn: Any) -> bool:
    code = getattr(loss_fn, "__code__", None)
    return code is not None and code.co_varnames[:1] == ("model",)


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    return bool(one == other)
