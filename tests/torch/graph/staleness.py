"""The promise of edges whose reader may lack updates, in every order of events; and what the ranks of its tests run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import training

import rdmatensor.torch.graph as rg

# ---- every order of a few steps ----


@dataclass(frozen=True, slots=True)
class Pair:
    """One worker and one server, with an edge for a parameter and one for its gradient."""

    sent: int = 0
    """Versions of the parameter that the server has sent; the first before any step."""
    taken: int = 0
    gradients: int = 0
    """Gradients that the worker has sent."""


@dataclass(frozen=True, slots=True)
class World:
    """Steps and places of all processes. A worker takes parameters ("take"), has them ("compute"), has sent gradients
    ("rest"). A server sends the first versions ("first"), waits ("wait"), has updated and sends ("send").
    """

    workers: tuple[tuple[int, str], ...]
    servers: tuple[tuple[int, str], ...]
    pairs: tuple[tuple[Pair, ...], ...]
    """By worker and server."""


class Broken(AssertionError):
    """A slot in use would be overwritten."""


@dataclass(frozen=True, slots=True)
class Bounds:
    workers: int
    servers: int
    steps: int
    staleness: int
    weights: int
    """Slots of a parameter's edge."""
    gradients: int
    """Slots of a gradient's edge."""


def explore(bounds: Bounds) -> tuple[int, set[int]]:
    """Walks through every order. Gives the number of worlds, and by how many updates parameters were behind. Raises
    Broken for a slot that is overwritten in use, AssertionError for processes of which none can go on.
    """
    start = World(
        ((0, "take"),) * bounds.workers,
        ((0, "first"),) * bounds.servers,
        ((Pair(),) * bounds.servers,) * bounds.workers,
    )
    seen, left, behind = {start}, [start], set()
    while left:
        world = left.pop()
        moved = False
        for after, late in _moves(world, bounds):
            moved = True
            behind.update(late)
            if after not in seen:
                seen.add(after)
                left.append(after)
        over = all(step == bounds.steps for step, _ in (*world.workers, *world.servers))
        assert moved or over, f"none can go on: {world}"
    return len(seen), behind


def _moves(world: World, bounds: Bounds) -> Iterator[tuple[World, list[int]]]:
    for server, (step, place) in enumerate(world.servers):
        if step == bounds.steps and place == "wait":
            continue
        pairs = [world.pairs[worker][server] for worker in range(bounds.workers)]
        if place == "wait":
            if all(pair.gradients > step for pair in pairs):
                yield _server(world, server, (step, "send")), []
            continue
        version = 0 if place == "first" else step + 1
        due = [worker for worker, pair in enumerate(pairs) if pair.sent == version]
        if not due:
            yield _server(world, server, (version, "wait")), []
        for worker in due:
            yield _sent_version(world, worker, server, bounds), []
    for worker, (step, place) in enumerate(world.workers):
        if step == bounds.steps:
            continue
        if place == "take":
            after, late = world, []
            for server in range(bounds.servers):
                after = _pair(after, worker, server, taken=world.pairs[worker][server].sent)
                late.append(step + 1 - world.pairs[worker][server].sent)
            if max(late) <= bounds.staleness and min(pair.taken for pair in after.pairs[worker]) > 0:
                yield _worker(after, worker, (step, "compute")), late
            elif after != world:
                yield after, []
        elif place == "compute":
            due = [number for number, pair in enumerate(world.pairs[worker]) if pair.gradients == step]
            if not due:
                yield _worker(world, worker, (step, "rest")), []
            for server in due:
                yield _sent_gradient(world, worker, server, bounds), []
        else:
            yield _worker(world, worker, (step + 1, "take")), []


def _sent_version(world: World, worker: int, server: int, bounds: Bounds) -> World:
    """The slot's tensor of before must be one that the worker uses no more: older than the one it holds."""
    pair = world.pairs[worker][server]
    if pair.sent - bounds.weights >= max(pair.taken - 1, 0):
        raise Broken(f"version {pair.sent} overwrites {pair.sent - bounds.weights} at worker {worker}: {world}")
    return _pair(world, worker, server, sent=pair.sent + 1)


def _sent_gradient(world: World, worker: int, server: int, bounds: Bounds) -> World:
    """The slot's gradient of before must be of a step that the server has ended."""
    pair = world.pairs[worker][server]
    if pair.gradients - bounds.gradients >= world.servers[server][0]:
        raise Broken(f"gradient {pair.gradients} overwrites one in use at server {server}: {world}")
    return _pair(world, worker, server, gradients=pair.gradients + 1)


def _worker(world: World, worker: int, state: tuple[int, str]) -> World:
    states = (*world.workers[:worker], state, *world.workers[worker + 1 :])
    return replace(world, workers=states)


def _server(world: World, server: int, state: tuple[int, str]) -> World:
    states = (*world.servers[:server], state, *world.servers[server + 1 :])
    return replace(world, servers=states)


def _pair(world: World, worker: int, server: int, **changes: int) -> World:
    row = world.pairs[worker]
    row = (*row[:server], replace(row[server], **changes), *row[server + 1 :])
    return replace(world, pairs=(*world.pairs[:worker], row, *world.pairs[worker + 1 :]))


# ---- a training ----


def train(rank: int, size: int, staleness: int, steps: int, held_back: bool, threads: int) -> Any:
    """One rank of a training by one server: (losses, versions of each step by parameter, state, model, stats).

    With `held_back` the server begins a step only after every worker has ended the step after it.
    """
    model, example, loss_fn = training.made("fcn5")
    optimizer = training.OPTIMIZERS["adam"](model)
    placement = rg.ParameterServer(1, staleness=staleness)
    plan = rg.plan(model, loss_fn, optimizer, example, placement=placement)
    store = torch.distributed.distributed_c10d._get_default_store()
    losses, versions = [], []
    with plan.open(timeout=100, threads=threads) as run:
        step = run._engine.step
        if run.serves and held_back:
            numbers = iter(range(steps))

            def later(env: list[Any]) -> list[Any]:
                number = next(numbers) + 1
                if number < steps:
                    store.wait([f"{staleness}/{worker}/{number}" for worker in range(size - 1)])
                return step(env)

            run._engine.step = later  # type: ignore[method-assign]
        if run.serves:
            assert run.serve() == steps
        for number in range(0 if run.serves else steps):
            losses.append(run.step(training.batch_of(example, number, rank)))
            store.set(f"{staleness}/{rank}/{number}", "")
            versions.append(_versions(run))
        state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
        stats = run.stats
    return losses, versions, state, {key: tensor.clone() for key, tensor in model.state_dict().items()}, stats


def _versions(run: rg.Run) -> dict[str, int]:
    """The version of each parameter that the last step used."""
    assert run._stale is not None
    found = {}
    for receive, edge in run._engine._receives:
        if receive.edge.ahead:
            found[receive.edge.tensor.removeprefix("parameter ")] = run._stale.version(edge)
    return found


def alone(versions: list[list[dict[str, int]]], steps: int) -> Any:
    """The same training in this process: in each step each worker's gradients are those at the versions that it had.
    (losses by worker, model, optimizer)
    """
    model, example, loss_fn = training.made("fcn5")
    optimizer = training.OPTIMIZERS["adam"](model)
    parameters = dict(model.named_parameters())
    history = [{name: one.detach().clone() for name, one in parameters.items()}]
    losses: list[list[torch.Tensor]] = [[] for _ in versions]
    for step in range(steps):
        total: list[torch.Tensor] = []
        for worker, mine in enumerate(versions):
            other = copy.deepcopy(model)
            with torch.no_grad():
                for name, one in other.named_parameters():
                    one.copy_(history[mine[step][name]][name])
            *given, target = training.batch_of(example, step, worker)
            loss = loss_fn(other(*given), target)
            losses[worker].append(loss.detach())
            found = torch.autograd.grad(loss, list(other.parameters()))
            total = [one + two for one, two in zip(total, found, strict=True)] if total else list(found)
        for parameter, gradient in zip(parameters.values(), total, strict=True):
            parameter.grad = gradient / len(versions) if len(versions) > 1 else gradient
        optimizer.step()
        history.append({name: one.detach().clone() for name, one in parameters.items()})
    return losses, model, optimizer
