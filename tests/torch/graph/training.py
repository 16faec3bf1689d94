"""The functions that ranks of the tests run: a training by a plan, and the same training in one process."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import models
import torch
from torch import nn

import rdmatensor.torch.graph as rg

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
}


def made(
    name: str, sizes: dict[str, Any] | None = None, *, drops: bool = True
) -> tuple[nn.Module, models.Batch, Callable[..., torch.Tensor]]:
    """A model of models.py, or a small one of its own, with the same values in every process. Without `drops` its
    dropout does nothing: each stage draws from a generator of its own.
    """
    torch.manual_seed(3)
    model, batch, loss_fn = normed() if name == "normed" else models.ALL[name](**(sizes or {}))
    for module in () if drops else model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, batch, loss_fn


def normed() -> models.Example:
    """Convolution, batch norm and dropout."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 16, 5)
    )
    return model, (torch.randn(3, 3, 6, 6), torch.randint(0, 5, (3,))), nn.functional.cross_entropy


def batch_of(example: models.Batch, step: int, worker: int) -> models.Batch:
    """A batch like the example, another one for each step and worker."""
    source = torch.Generator().manual_seed(1000 + 17 * step + worker)
    return tuple(
        torch.randint(0, int(one.max()) + 1, one.shape, generator=source)
        if not one.dtype.is_floating_point
        else torch.randn(one.shape, generator=source)
        for one in example
    )


def sentences(example: models.Batch, step: int, worker: int, *, least: int = 2) -> models.Batch:
    """A batch of words whose length, and whose number of sentences, differ from step to step and from worker to
    worker.
    """
    turn = step + worker
    longest = tuple(torch.cat([torch.cat([one, one], 1)] * 2, 0) for one in example)
    return tuple(words[: least + turn % 5 // 2, : 3 + turn % 3] for words in batch_of(longest, step, worker))


def shortened(example: models.Batch, step: int, worker: int) -> models.Batch:
    """Sentences shorter by a word in every other step."""
    return tuple(words[:, : words.shape[1] - step % 2] for words in batch_of(example, step, worker))


BATCHES = {"same": batch_of, "shortened": shortened, "sentences": sentences, "from one": partial(sentences, least=1)}


def by_plan(rank: int, size: int, name: str, optimizer: str, servers: int, steps: int, words: dict[str, Any]) -> Any:
    """One rank of a training with so many parameter servers, or by collective calls with none: (losses, state, model,
    born, stats).
    """
    stages = words.get("stages", False)
    model, example, loss_fn = made(name, words.get("sizes"), drops=not stages)
    given = {key: word for key, word in words.items() if key in ("dynamic", "buckets", "clip_grad_norm")}
    batch = BATCHES[words.get("batches", "same")]
    made_by = OPTIMIZERS[optimizer](model)
    scheduler = torch.optim.lr_scheduler.StepLR(made_by, 2, 0.5)
    placement = rg.Stages(size) if stages else rg.ParameterServer(servers) if servers else rg.AllReduce()
    plan = rg.plan(model, loss_fn, made_by, example, placement=placement, **given)
    losses = []
    threads = words.get("threads", (1,) * size)[rank]
    with plan.open(timeout=100, staging=words.get("staging", False), threads=threads) as run:
        run._engine._at_once = run._engine._at_once and not words.get("posts", False)
        if run.serves:
            assert run.serve() == steps
        else:
            torch.manual_seed(50 + rank)
            for step in range(steps):
                losses.append(run.step(batch(example, step, 0 if stages else rank)))
                scheduler.step()
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
        born, stats = run.born(), run.stats
    return losses, state, {key: tensor.clone() for key, tensor in model.state_dict().items()}, born, stats


def alone(
    name: str,
    optimizer: str,
    workers: int,
    steps: int,
    clip: float | None = None,
    batches: str = "same",
    made_by_name: Callable[..., Any] | None = None,
    decays: bool = True,
) -> Any:
    """The same training in this process: (losses by worker, model, optimizer, buffers by worker)."""
    model, example, loss_fn = (made_by_name or made)(name)
    made_by = OPTIMIZERS[optimizer](model)
    scheduler = torch.optim.lr_scheduler.StepLR(made_by, 2, 0.5)
    parameters = list(model.parameters())
    losses: list[list[torch.Tensor]] = [[] for _ in range(workers)]
    buffers = [copy.deepcopy(dict(model.named_buffers())) for _ in range(workers)]
    torch.manual_seed(0)
    states = []
    for worker in range(workers):
        torch.manual_seed(50 + worker)
        states.append(torch.get_rng_state())
    for step in range(steps):
        total: list[Any] | None = None
        for worker in range(workers):
            torch.set_rng_state(states[worker])
            for key, buffer in model.named_buffers():
                buffer.copy_(buffers[worker][key])
            batch = BATCHES[batches](example, step, worker)
            loss = loss_fn(model(*batch[:-1]), batch[-1])
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            losses[worker].append(loss.detach())
            states[worker] = torch.get_rng_state()
            buffers[worker] = {key: buffer.clone() for key, buffer in model.named_buffers()}
            if total is None:
                total = list(gradients)
            else:
                total = [None if one is None else one + other for one, other in zip(total, gradients, strict=True)]
        assert total is not None
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = None if gradient is None else (gradient / workers if workers > 1 else gradient.clone())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=False)
        made_by.step()
        if decays:
            scheduler.step()
    return losses, model, made_by, buffers


# ---- trouble, and what a run tells of itself ----


def _opened(name: str, servers: int, **words: Any) -> tuple[rg.Run, models.Batch]:
    model, example, loss_fn = made(name)
    plan = rg.plan(model, loss_fn, OPTIMIZERS["sgd"](model), example, placement=rg.ParameterServer(servers))
    return plan.open(timeout=100, **words), example


def with_another_width(rank: int, size: int) -> str:
    """Rank 1 plans for another model; the error of each."""
    model, example, loss_fn = models.fcn5(width=9 if rank == 1 else 8)
    plan = rg.plan(model, loss_fn, OPTIMIZERS["sgd"](model), example, placement=rg.ParameterServer(1))
    try:
        plan.open(opening=60).close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "opened"


def with_a_wrong_batch(rank: int, size: int) -> Any:
    """A worker gives a wrong batch between two good ones: (the error, the number of losses), or the server's steps."""
    run, example = _opened("fcn5", 1)
    with run:
        if run.serves:
            return run.serve()
        losses = [run.step(example)]
        try:
            run.step((torch.zeros(99, 12), torch.zeros(99, dtype=torch.int64)))
        except ValueError as error:
            text = str(error)
        losses.append(run.step(example))
        return text, len(losses)


def traced(rank: int, size: int, folder: str) -> None:
    """Writes a trace of the second step into a folder."""
    run, example = _opened("fcn5", 1)
    with run:
        if run.serves:
            run.trace(f"{folder}/{run.process}.json")
            run.serve()
        else:
            run.step(example)
            run.trace(f"{folder}/{run.process}.json")
            run.step(example)


def in_two_runs(rank: int, size: int, name: str, optimizer: str, servers: int, steps: int) -> dict[str, torch.Tensor]:
    """As `by_plan`, in two runs: the second begins with the state that the first left, in a new model."""
    state: dict[str, torch.Tensor] = {}
    for half in range(2):
        model, example, loss_fn = made(name)
        if half:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
        made_by = OPTIMIZERS[optimizer](model)
        scheduler = torch.optim.lr_scheduler.StepLR(made_by, 2, 0.5)
        plan = rg.plan(model, loss_fn, made_by, example, placement=rg.ParameterServer(servers))
        with plan.open(timeout=100) as run:
            if half:
                run.load_state_dict(state)
            if run.serves:
                run.serve()
            for step in range(steps) if not run.serves else ():
                if step // (steps // 2) == half:
                    run.step(batch_of(example, step, rank))
                if half or step < steps // 2:
                    scheduler.step()
            state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
    return state


def checkpointed(rank: int, size: int, servers: int, folder: str, first: int, steps: int, victim: str) -> Any:
    """Trains from step `first`, from a checkpoint unless that is 0, up to `steps`, and saves one after the second
    step. The victim is killed in the one after it. (losses, state)
    """
    from torch.distributed import checkpoint

    model, example, loss_fn = made("fcn5")
    made_by = OPTIMIZERS["adam"](model)
    scheduler = torch.optim.lr_scheduler.StepLR(made_by, 2, 0.5)
    plan = rg.plan(model, loss_fn, made_by, example, placement=rg.ParameterServer(servers))
    losses = []
    with plan.open(timeout=100) as run:
        if first:
            state = run.state_dict()
            checkpoint.load(state, checkpoint_id=folder)
            run.load_state_dict(state)
            for _ in range(first):
                scheduler.step()
        for step in range(first, steps):
            if run.process == victim and step == 2:
                run._engine.step = lambda env: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
            if run.serves:
                assert run.serve(1) == 1
            else:
                losses.append(run.step(batch_of(example, step, rank)))
                scheduler.step()
            if step == 1:
                checkpoint.save(run.state_dict(), checkpoint_id=folder)
        assert not run.serves or run.serve() == 0
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
    return losses, state


def until_one_dies(rank: int, size: int, victim: str) -> None:
    """The victim is killed in its third step; the others raise what their run raises."""
    run, example = _opened("fcn5", 2)
    with run:
        if run.process == victim:
            step, steps = run._engine.step, iter(range(100))

            def mortal(env: list[Any]) -> list[Any]:
                if next(steps) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(env)

            run._engine.step = mortal  # type: ignore[method-assign]
        if run.serves:
            run.serve()
        else:
            for _ in range(1000):
                run.step(example)


def interrupted(rank: int, size: int) -> None:
    """Worker 0 is interrupted in its third step, as by Ctrl-C; all raise what their run raises."""
    run, example = _opened("fcn5", 1)
    with run:
        if run.serves:
            run.serve()
        for step in range(1000):
            if step == 2 and rank == 0:
                signal.raise_signal(signal.SIGINT)
            run.step(example)


def by_stages_of_lengths(rank: int, size: int, steps: int) -> Any:
    """One of the stages that train a GRU, whose length is fixed in a plan: (losses, its state, stats, kinds)."""
    model, example, loss_fn = made("gru")
    optimizer = OPTIMIZERS["adam"](model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    dynamic = {"batch.0": {0: "batch", 1: "length"}, "batch.1": {0: "batch", 1: "length"}}
    plan = rg.plan(model, loss_fn, optimizer, example, placement=rg.Stages(size), dynamic=dynamic, buckets=6)
    losses = []
    with plan.open(timeout=100) as run:
        if run.serves:
            run.serve()
        for step in range(0 if run.serves else steps):
            losses.append(run.step(sentences(example, step, 0, least=1)))
            scheduler.step()
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
        stats = run.stats
    return losses, state, stats, {edge.kind for edge in plan.edges}


class Lengthened(nn.Module):
    """Has a layer that only longer sentences use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        hidden = self.first(words)
        if words.shape[1] > 3:
            hidden = self.second(hidden)
        result: torch.Tensor = self.last(hidden.mean(1))
        return result


def with_buckets_that_do_not_go_together(rank: int, size: int) -> Any:
    """A worker whose second length needs other edges, and then one length too many: (errors, losses); or steps."""
    torch.manual_seed(3)
    model = Lengthened()
    batch = torch.randn(2, 5, 4), torch.randint(0, 2, (2,))
    placement = rg.ParameterServer(1)
    plan = rg.plan(model, nn.functional.cross_entropy, OPTIMIZERS["sgd"](model), batch, placement=placement, buckets=2)
    with plan.open(timeout=100) as run:
        if run.serves:
            return run.serve()
        errors, losses = [], [run.step(batch)]
        for length in (3, 6, 7, 5):
            try:
                losses.append(run.step((torch.randn(2, length, 4), batch[1])))
            except ValueError as error:
                errors.append(str(error))
        return errors, len(losses)


def by_stages(rank: int, size: int, steps: int) -> Any:
    """One of two stages that train on sequences of two lengths: (losses, its state, kinds of the edges)."""
    model, example, loss_fn = made("transformer")
    model.eval()  # each stage has a generator of its own
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    lengths = {"batch.0": {1: "length"}, "batch.1": {1: "length"}}
    plan = rg.plan(model, loss_fn, optimizer, example, placement=rg.Stages(2), dynamic=lengths)
    losses = []
    with plan.open(timeout=100) as run:
        for step in range(steps):
            losses.append(run.step(tuple(words[:, : 3 + step % 2] for words in example)))
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
    return losses, state, {edge.kind for edge in plan.edges}


def stages_alone(steps: int) -> tuple[list[torch.Tensor], nn.Module]:
    """The same training in this process."""
    model, example, loss_fn = made("transformer")
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        words, target = (one[:, : 3 + step % 2] for one in example)
        loss = loss_fn(model(words), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, model
