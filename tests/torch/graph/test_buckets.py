"""Batches of sizes for which the first plan does not hold: each gets a plan of its own, and no value changes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import training
from torch import nn

import rdmatensor.torch.graph as rg
from rdmatensor.errors import InvalidArgument

sys.path.append(str(Path(__file__).parents[1] / "ranks"))

from ranks import Ranks

STEPS = 6
VARYING = {"batch.0": {0: "batch", 1: "length"}, "batch.1": {0: "batch", 1: "length"}}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    made = Ranks(3)
    yield made
    made.close()


@pytest.mark.parametrize(("servers", "workers", "optimizer"), [(1, 2, "adam"), (0, 2, "sgd")])
def test_workers_train_on_sentences_of_lengths_of_their_own_as_one_process(
    ranks: Ranks, servers: int, workers: int, optimizer: str
) -> None:
    words: dict[str, Any] = {"batches": "sentences", "dynamic": VARYING, "buckets": 3}
    backend = "gloo" if servers else "rdmatensor"
    results = ranks.run(
        training.by_plan, servers + workers, "gru", optimizer, servers, STEPS, words, backend=backend, timeout=300
    )
    losses, model, made_by, _ = training.alone("gru", optimizer, workers, STEPS, batches="sentences")
    expected = dict(model.named_parameters())
    for rank, (found, state, trained, _, stats) in enumerate(results):
        assert stats.copies == 0 and stats.outside == 0
        if rank < workers:
            assert all(torch.equal(one, other) for one, other in zip(found, losses[rank], strict=True))
            assert all(torch.equal(trained[key], tensor) for key, tensor in expected.items())
            assert stats.buckets == 3
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            name, _, word = full.rpartition("/") if kind == "state" else (full, "", "")
            assert torch.equal(tensor, made_by.state[expected[name]][word] if word else expected[name]), key


@pytest.mark.parametrize("stages", [2, 3])
def test_stages_follow_the_first_one_from_length_to_length(ranks: Ranks, stages: int) -> None:
    results = ranks.run(training.by_stages_of_lengths, stages, STEPS, backend="gloo")
    losses, model, made_by, _ = training.alone("gru", "adam", 1, STEPS, batches="from one")
    expected = dict(model.named_parameters())
    assert all(torch.equal(one, other) for one, other in zip(results[-1][0], losses[0], strict=True))
    held = set()
    for _, state, stats, _ in results:
        assert stats.buckets == 6 and stats.copies == 0  # three lengths, each with a batch of one sentence too
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            name, _, word = full.rpartition("/") if kind == "state" else (full, "", "")
            held.add(name)
            assert torch.equal(tensor, made_by.state[expected[name]][word] if word else expected[name]), key
    assert held == set(expected)


def test_a_bucket_that_needs_other_edges_is_refused_before_anything_is_sent(ranks: Ranks) -> None:
    (errors, losses), steps = ranks.run(training.with_buckets_that_do_not_go_together, 2, backend="gloo")
    short, late = errors
    assert "second" in short and "does not cross" in short
    assert "buckets=2" in late
    assert losses == steps == 3


# ---- in one process ----


class Alone:
    """A plan of one process, open, and a copy of its model to train eagerly."""

    def __init__(self, example: models.Example, optimizer: Any, **words: Any) -> None:
        self.model, self.batch, self.loss_fn = example
        self.eager = copy.deepcopy(self.model)
        self.optimizer = optimizer(self.eager)
        placement = rg.Stages(1)
        plan = rg.plan(
            self.model, self.loss_fn, optimizer(self.model), self.batch, placement=placement, processes=1, **words
        )
        self.run = plan.open(store=torch.distributed.HashStore(), rank=0, world_size=1)

    def step(self, batch: models.Batch) -> None:
        """One step of both; compares the losses and all parameters."""
        loss = self.run.step(batch)
        self.optimizer.zero_grad()
        eager = self.loss_fn(self.eager(*batch[:-1]), batch[-1])
        eager.backward()
        self.optimizer.step()
        assert loss is not None and torch.equal(loss, eager.detach())
        for one, other in zip(self.model.parameters(), self.eager.parameters(), strict=True):
            assert torch.equal(one, other)


def words_of(batch: int, length: int) -> models.Batch:
    return torch.randint(0, 20, (batch, length)), torch.randint(0, 20, (batch, length))


def test_the_first_step_may_be_one_of_another_bucket() -> None:
    def dampened(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5)

    alone = Alone(models.gru(), dampened, buckets=3)
    with alone.run:
        for batch, length in ((2, 3), (2, 4), (3, 4), (2, 3), (2, 4)):
            alone.step(words_of(batch, length))


def test_sizes_of_one_are_a_bucket_of_their_own() -> None:
    alone = Alone(models.lstm(), training.OPTIMIZERS["sgd"], dynamic=VARYING, buckets=3)
    with alone.run:
        for batch, length in ((2, 5), (1, 5), (2, 1), (4, 7), (1, 3)):
            alone.step(words_of(batch, length))
        assert alone.run.stats.buckets == 3
        with pytest.raises(InvalidArgument, match="buckets=3"):
            alone.step(words_of(1, 1))


def test_a_plan_without_buckets_names_them_as_the_remedy() -> None:
    alone = Alone(models.gru(), training.OPTIMIZERS["sgd"])
    with alone.run, pytest.raises(InvalidArgument, match=r"buckets=8"):
        alone.run.step(words_of(2, 7))


@pytest.mark.parametrize("batch", [(torch.zeros(2, 3), torch.zeros(2, 3)), words_of(2, 3)[:1]])
def test_another_type_or_structure_of_the_batch_is_no_bucket(batch: Any) -> None:
    alone = Alone(models.gru(), training.OPTIMIZERS["sgd"], buckets=3)
    with alone.run, pytest.raises(InvalidArgument, match="the captured one was"):
        alone.run.step(batch)


def test_a_model_that_was_changed_since_gets_no_bucket() -> None:
    alone = Alone(models.gru(), training.OPTIMIZERS["sgd"], buckets=3)
    alone.model.eval()
    with alone.run, pytest.raises(InvalidArgument, match="eval"):
        alone.run.step(words_of(2, 7))
