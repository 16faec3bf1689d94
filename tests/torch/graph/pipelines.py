"""The functions that ranks of the tests of pipelines run: a training by stages with microbatches, and the same training
in one process, which runs the microbatches one after another and adds their gradients.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import models
import torch
import training
from torch import nn
from torch.fx.traceback import annotate
from torch.nn import functional

import rdmatensor.torch.graph as rg


@dataclass(frozen=True)
class Case:
    """A training: a model of `training.made`, an optimizer, so many stages, microbatches and steps."""

    name: str
    optimizer: str
    stages: int
    microbatches: int
    steps: int = 3
    train: bool = False
    """Whether dropout draws and batch norm takes statistics."""
    lengths: bool = False
    """Whether batches have two lengths in turn."""
    mean: bool = True
    clip: float | None = None
    posts: bool = False
    """Whether every send ends after its call."""
    threads: int = 1

    @property
    def dynamic(self) -> dict[str, dict[int, str]] | None:
        return {f"batch.{number}": {0: "batch", 1: "length"} for number in range(2)} if self.lengths else None

    @property
    def placement(self) -> rg.Stages:
        split = "batch" if self.lengths else 0
        return rg.Stages(self.stages, self.microbatches, split=split, loss="mean" if self.mean else "sum")

    def made(self) -> tuple[nn.Module, torch.optim.Optimizer, models.Batch, Any]:
        """The model, its optimizer, an example of a whole batch, and the loss."""
        model, _, loss_fn = made(self.name)
        model.train(self.train)
        return model, training.OPTIMIZERS[self.optimizer](model), self.batch(0), loss_fn

    def batch(self, step: int) -> models.Batch:
        """The batch of a step."""
        with torch.random.fork_rng(devices=[]):  # dropout goes on where it was
            _, example, _ = made(self.name)
        parts = [training.batch_of(example, step, number) for number in range(self.microbatches)]
        whole = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return tuple(words[:, : 3 + step % 2] for words in whole) if self.lengths else whole


class Dropped(nn.Module):
    """A layer and dropout for each stage, marked in the model."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(stages))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage, layer in enumerate(self.layers):
            with annotate({"stage": stage}):
                x = self.of_stage(stage, layer, x)
        return x

    def of_stage(self, stage: int, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(torch.relu(layer(x)), 0.5, self.training)


class DroppedAlone(Dropped):
    """The same with a generator for each stage, in one process."""

    def of_stage(self, stage: int, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        states = self.__dict__.setdefault("states", {})
        torch.set_rng_state(states.get(stage, torch.Generator().manual_seed(50).get_state()))
        result = super().of_stage(stage, layer, x)
        states[stage] = torch.get_rng_state()
        return result


def made(name: str) -> models.Example:
    """As `training.made`, and "dropped": layers with dropout in two stages."""
    if name != "dropped":
        return training.made(name)
    torch.manual_seed(3)
    return Dropped(2), (torch.randn(3, 12), torch.randint(0, 12, (3,))), functional.cross_entropy


def by_stages(rank: int, size: int, case: Case) -> Any:
    """One stage of a training: (losses, its state, kinds of the edges, copies, tensors from outside)."""
    model, optimizer, example, loss_fn = case.made()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    plan = rg.plan(
        model,
        loss_fn,
        optimizer,
        example,
        placement=case.placement,
        dynamic=case.dynamic,
        clip_grad_norm=case.clip,
    )
    losses = []
    torch.manual_seed(50)
    with plan.open(timeout=100, threads=case.threads) as run:
        run._engine._at_once = run._engine._at_once and not case.posts
        if run.serves:
            assert run.serve() == case.steps
        for step in range(case.steps) if not run.serves else ():
            losses.append(run.step(case.batch(step)))
            scheduler.step()
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
        stats = run.stats
    kinds = {(edge.kind, edge.flow) for edge in plan.edges}
    return losses, state, kinds, stats.copies, stats.outside


def alone(case: Case) -> tuple[list[torch.Tensor], nn.Module, torch.optim.Optimizer]:
    """The same training in this process."""
    model, optimizer, _, loss_fn = case.made()
    if isinstance(model, Dropped):
        model.__class__ = DroppedAlone
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    parameters = list(model.parameters())
    losses = []
    torch.manual_seed(50)
    for step in range(case.steps):
        parts = zip(*(tensor.chunk(case.microbatches) for tensor in case.batch(step)), strict=True)
        total: list[torch.Tensor] = []
        for *given, target in parts:
            loss = loss_fn(model(*given), target)
            found = [loss.detach(), *torch.autograd.grad(loss, parameters)]
            total = [one + other for one, other in zip(total, found, strict=True)] if total else found
        if case.mean:
            total = [one / case.microbatches for one in total]
        losses.append(total[0])
        for parameter, gradient in zip(parameters, total[1:], strict=True):
            parameter.grad = gradient.clone()
        if case.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, case.clip, foreach=False)
        optimizer.step()
        scheduler.step()
    return losses, model, optimizer


def until_one_dies(rank: int, size: int, case: Case, victim: str) -> None:
    """The victim is killed in the middle of its second step, between two segments; the others raise what their run
    raises.
    """
    model, optimizer, example, loss_fn = case.made()
    plan = rg.plan(model, loss_fn, optimizer, example, placement=case.placement)
    with plan.open(timeout=100) as run:
        if run.process == victim:
            middle = next(one.number for one in run._schedule.segments if one.task == ("B", 1))
            step, steps = run._engine.step, iter(range(100))

            def mortal(env: list[Any]) -> list[Any]:
                if next(steps) == 1:
                    run._engine._codes[middle] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
                return step(env)

            run._engine.step = mortal  # type: ignore[method-assign]
        if run.serves:
            run.serve()
        for number in range(1000):
            run.step(case.batch(number % 2))


def traced(rank: int, size: int, case: Case, folder: str) -> None:
    """Writes a trace of the second step into a folder."""
    model, optimizer, example, loss_fn = case.made()
    plan = rg.plan(model, loss_fn, optimizer, example, placement=case.placement)
    with plan.open(timeout=100) as run:
        for number in range(2):
            if number:
                run.trace(f"{folder}/{run.process}.json")
            run.step(case.batch(number))
