"""Plans, and what they say of themselves, in one process."""

from __future__ import annotations

import pytest
import torch
import training

import rdmatensor.torch.graph as rg
from rdmatensor.errors import InvalidArgument


def planned(name: str = "fcn5", servers: int = 2, workers: int = 2) -> rg.Plan:
    model, batch, loss_fn = training.made(name)
    placement = rg.ParameterServer(servers, workers)
    return rg.plan(model, loss_fn, training.OPTIMIZERS["sgd"](model), batch, placement=placement)


def test_two_plans_of_one_program_are_equal_and_others_are_not() -> None:
    assert planned().fingerprint == planned().fingerprint
    assert planned().fingerprint != planned(servers=1).fingerprint != planned("lstm", 1).fingerprint


def test_the_number_of_processes_follows_from_the_placement_outside_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model, batch, loss_fn = training.made("fcn5")
    optimizer = training.OPTIMIZERS["sgd"](model)
    assert rg.plan(model, loss_fn, optimizer, batch).processes == ("worker0", "server0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rg.plan(model, loss_fn, optimizer, batch).processes == ("worker0", "worker1", "worker2", "server0")


def test_a_plan_for_another_number_of_processes_is_not_opened() -> None:
    store = torch.distributed.HashStore()
    with pytest.raises(InvalidArgument, match=r"4 processes .* there are 2"):
        planned().open(store=store, rank=0, world_size=2)


def test_without_a_place_to_meet_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidArgument, match="torchrun"):
        planned().open()


def test_something_else_than_a_placement_is_refused() -> None:
    model, batch, loss_fn = training.made("fcn5")
    with pytest.raises(InvalidArgument, match="a placement is"):
        rg.plan(model, loss_fn, training.OPTIMIZERS["sgd"](model), batch, placement=3)  # type: ignore[arg-type]


def test_a_rank_that_does_not_come_is_named() -> None:
    store = torch.distributed.HashStore()
    with pytest.raises(TimeoutError, match=r"rank 1 \(worker1\) has not come"):
        planned().open(store=store, rank=0, world_size=4, opening=0.2)
