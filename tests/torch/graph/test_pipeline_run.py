"""Pipelines with microbatches in processes of their own over shm: bit for bit as one process that adds gradients."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from pipelines import Case

sys.path.append(str(Path(__file__).parents[1] / "ranks"))

from ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Four processes for the tests of this module."""
    made = Ranks(4)
    yield made
    made.close()


def compare(ranks: Ranks, case: Case) -> list[Any]:
    """Trains by stages and alone, and compares losses, parameters, states and buffers."""
    results = ranks.run(pipelines.by_stages, case.stages, case, backend="gloo")
    losses, model, optimizer = pipelines.alone(case)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    held = {key: tensor for _, state, *_ in results for key, tensor in state.items()}
    assert len(held) == sum(len(state) for _, state, *_ in results), "two stages hold the same"
    assert {key for key in held if key.startswith("parameter/")} == {f"parameter/{name}" for name in parameters}
    for key, tensor in held.items():
        kind, _, full = key.partition("/")
        name, _, word = full.rpartition("/")
        state = optimizer.state[parameters[name]][word] if kind == "state" else None
        expected = parameters[full] if kind == "parameter" else buffers[full] if kind == "buffer" else state
        assert torch.equal(tensor, expected), key
    for found, *_ in results[:-1]:
        assert all(loss is None for loss in found)
    assert all(torch.equal(one, other) for one, other in zip(results[-1][0], losses, strict=True))
    return results


@pytest.mark.parametrize(
    "case",
    [
        Case("fcn5", "sgd", 2, 4),
        Case("fcn5", "adam", 4, 6),
        Case("fcn5", "adam", 4, 2),
        Case("seq2seq", "adam", 2, 3),
        Case("transformer", "sgd", 4, 5),
        Case("fcn5", "sgd", 2, 4, posts=True),
        Case("fcn5", "adam", 4, 6, threads=2),
        Case("seq2seq", "sgd", 2, 3, posts=True, threads=3),
    ],
    ids=str,
)
def test_microbatches_train_as_one_process_that_adds_their_gradients(ranks: Ranks, case: Case) -> None:
    for *_, copies, outside in compare(ranks, case):
        assert copies == outside == 0


@pytest.mark.parametrize("stages", [2, 4])
def test_activations_of_varying_length_cross_without_a_round_of_their_own(ranks: Ranks, stages: int) -> None:
    for _, _, kinds, *_ in compare(ranks, Case("transformer", "adam", stages, 4, steps=4, lengths=True)):
        assert ("dynamic", "credit") in kinds


def test_batch_norm_and_dropout_take_the_microbatches_in_their_order(ranks: Ranks) -> None:
    results = compare(ranks, Case("normed", "sgd", 2, 3, train=True))
    assert any(key.startswith("buffer/") for _, state, *_ in results for key in state)


def test_each_stage_draws_from_a_generator_of_its_own_for_the_microbatches_in_order(ranks: Ranks) -> None:
    compare(ranks, Case("dropped", "sgd", 2, 4, train=True))


def test_the_trace_of_a_step_shows_the_passes_of_the_microbatches(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(pipelines.traced, 2, Case("fcn5", "sgd", 2, 4), str(tmp_path), backend="gloo")
    for process in ("stage0", "stage1"):
        events = json.loads((tmp_path / f"{process}.json").read_text())["traceEvents"]
        names = [
            event["name"].partition(",")[0] for event in events if event["ph"] == "X" and event["cat"] == "compute"
        ]
        assert {f"{kind}{number}" for kind in "FB" for number in range(4)} <= set(names)


def test_the_norm_for_clipping_is_that_of_the_mean_over_microbatches(ranks: Ranks) -> None:
    compare(ranks, Case("fcn5", "sgd", 2, 4, clip=0.05))


def test_losses_that_are_sums_are_added(ranks: Ranks) -> None:
    compare(ranks, Case("fcn5", "sgd", 2, 4, mean=False))


@pytest.fixture
def mortals() -> Iterator[Ranks]:
    """Processes of a test's own, to be killed."""
    made = Ranks(4)
    yield made
    made.close()


@pytest.mark.parametrize("victim", ["stage1", "stage3"])
def test_a_stage_that_dies_in_the_middle_of_a_step_is_named_by_all_others(mortals: Ranks, victim: str) -> None:
    case = Case("fcn5", "sgd", 4, 6)
    found = mortals.outcomes(pipelines.until_one_dies, 4, case, victim, backend="gloo", timeout=200)
    for number, (word, text) in enumerate(found):
        if f"stage{number}" == victim:
            assert word == "died"
        else:
            told = rf"PeerLost: (run a step|serve) on stage{number}: {victim} (is gone|failed): it died \(edge"
            assert re.search(told, str(text)), text
