"""Workers whose parameters may lack the last updates: the promise of their edges, and their values.

The values are those of one process that takes the same versions.
"""

from __future__ import annotations

from typing import Any

import forked
import pytest
import staleness
import torch
import training
from staleness import Bounds, Broken, explore

import rdmatensor.torch.graph as rg
from rdmatensor.errors import InvalidArgument
from rdmatensor.torch.graph.place import STALENESS_MAX

STEPS = 6


@pytest.mark.parametrize(("workers", "servers", "steps"), [(1, 1, 7), (2, 1, 5), (1, 2, 5)])
@pytest.mark.parametrize("bound", [0, 1, 2])
def test_in_every_order_no_slot_in_use_is_overwritten(workers: int, servers: int, steps: int, bound: int) -> None:
    worlds, behind = explore(Bounds(workers, servers, steps, bound, weights=bound + 2, gradients=bound + 2))
    assert worlds > steps and behind == set(range(bound + 1))


@pytest.mark.parametrize("bound", [0, 1, 2])
@pytest.mark.parametrize("fewer", ["weights", "gradients"])
def test_a_slot_fewer_would_be_overwritten(bound: int, fewer: str) -> None:
    slots = {"weights": bound + 2, "gradients": bound + 2} | {fewer: bound + 1}
    with pytest.raises(Broken):
        explore(Bounds(1, 2, 7, bound, **slots))


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_edges_of_a_plan_have_as_many_slots_as_the_promise_needs(bound: int) -> None:
    model, batch, loss_fn = training.made("fcn5")
    placement = rg.ParameterServer(2, 2, staleness=bound)
    plan = rg.plan(model, loss_fn, training.OPTIMIZERS["sgd"](model), batch, placement=placement, processes=4)
    assert {(edge.slots, edge.flow) for edge in plan.edges} == {(bound + 2, "loop")}


def test_a_staleness_that_cannot_be_meant_is_refused() -> None:
    model, batch, loss_fn = training.made("fcn5")
    optimizer = training.OPTIMIZERS["sgd"](model)
    for wrong in (-1, STALENESS_MAX + 1, True, 0.5):
        placement: Any = rg.ParameterServer(1, staleness=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="staleness"):
            rg.plan(model, loss_fn, optimizer, batch, placement=placement)


@pytest.mark.parametrize(
    ("bound", "held_back", "threads"),
    [(1, True, 1), (2, False, 2)],
    ids=["one update behind in each step", "as behind as it happens, with threads"],
)
def test_a_training_is_that_of_one_process_which_takes_the_same_versions(
    bound: int, held_back: bool, threads: int
) -> None:
    workers = 2
    results = []
    for word, told in forked.outcomes(staleness.train, workers + 1, bound, STEPS, held_back, threads):
        assert word == "done", told
        results.append(told)
    versions = [found for _, found, *_ in results[:workers]]
    late = [step - version for mine in versions for step, taken in enumerate(mine) for version in taken.values()]
    assert set(late) <= set(range(bound + 1))
    if held_back:
        assert all(set(taken.values()) == {max(step - 1, 0)} for mine in versions for step, taken in enumerate(mine))
    losses, model, optimizer = staleness.alone(versions, STEPS)
    parameters = dict(model.named_parameters())
    for rank, (found, taken, state, trained, stats) in enumerate(results):
        assert len(stats.behind) == (bound + 1 if rank < workers else 0)
        assert sum(stats.behind) == sum(len(one) for one in taken)
        assert sum(late * count for late, count in enumerate(stats.behind)) == sum(
            step - version for step, one in enumerate(taken) for version in one.values()
        )
        assert all(torch.equal(one, two) for one, two in zip(found, losses[rank] if found else [], strict=True))
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            name, _, word = full.rpartition("/")
            expected = parameters[full] if kind == "parameter" else optimizer.state[parameters[name]][word]
            assert torch.equal(tensor, expected), key
        assert all(torch.equal(tensor, parameters[key]) for key, tensor in trained.items()), "the model at the end"
