"""Runs in processes of their own over shm: bit for bit as one process, and what happens in trouble."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import training

sys.path.append(str(Path(__file__).parents[1] / "ranks"))

from ranks import Ranks

STEPS = 4


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Four processes for the tests of this module."""
    made = Ranks(4)
    yield made
    made.close()


def compare(ranks: Ranks, name: str, optimizer: str, servers: int, workers: int, **words: Any) -> list[Any]:
    """Trains by plan and alone, and compares losses, parameters, states, buffers and the workers' models."""
    results = ranks.run(
        training.by_plan,
        servers + workers,
        name,
        optimizer,
        servers,
        STEPS,
        words,
        backend="gloo" if servers else "rdmatensor",
        timeout=300,
    )
    losses, model, made_by, buffers = training.alone(name, optimizer, workers, STEPS, words.get("clip_grad_norm"))
    expected = dict(model.named_parameters())
    held = set()
    for rank, (found, state, trained, _, _) in enumerate(results):
        for one, other in zip(found, losses[rank] if rank < workers else [], strict=True):
            assert torch.equal(one, other)
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            if kind == "parameter":
                held.add(full)
                assert torch.equal(tensor, expected[full]), key
            elif kind == "state":
                parameter, _, word = full.rpartition("/")
                assert torch.equal(tensor, made_by.state[expected[parameter]][word]), key
        if rank < workers:
            for key, tensor in {**expected, **buffers[rank]}.items():
                assert torch.equal(trained[key], tensor), f"{key} of worker {rank}"
    assert held == set(expected)
    return results


@pytest.mark.parametrize(
    ("name", "optimizer", "servers", "workers"),
    [
        ("fcn5", "sgd", 1, 1),
        ("fcn5", "adam", 2, 2),
        ("lstm", "sgd", 1, 2),
        ("lstm", "adam", 2, 1),
        ("alexnet", "sgd", 2, 2),
        ("normed", "adam", 1, 2),
        ("seq2seq", "sgd", 2, 2),
        ("transformer", "adam", 2, 2),
    ],
)
def test_a_training_by_parameter_servers_is_that_of_one_process(
    ranks: Ranks, name: str, optimizer: str, servers: int, workers: int
) -> None:
    results = compare(ranks, name, optimizer, servers, workers)
    for _, _, _, born, stats in results:
        assert stats.copies == 0 and stats.outside == 0
        assert not any(word.startswith("copied") for word in born.values())


@pytest.mark.parametrize(("name", "optimizer"), [("fcn5", "sgd"), ("normed", "adam"), ("lstm", "sgd")])
def test_a_training_by_collective_calls_is_that_of_one_process(ranks: Ranks, name: str, optimizer: str) -> None:
    compare(ranks, name, optimizer, 0, 2)


def test_stages_train_on_batches_of_several_lengths_as_one_process(ranks: Ranks) -> None:
    results = ranks.run(training.by_stages, 2, STEPS, backend="gloo")
    losses, model = training.stages_alone(STEPS)
    assert all(loss is None for loss in results[0][0])
    assert all(torch.equal(one, other) for one, other in zip(results[1][0], losses, strict=True))
    expected = dict(model.named_parameters())
    held = {key: tensor for _, state, _ in results for key, tensor in state.items()}
    assert held.keys() == {f"parameter/{name}" for name in expected}
    assert all(torch.equal(tensor, expected[key.partition("/")[2]]) for key, tensor in held.items())
    assert results[0][2] == {"static", "dynamic"}


@pytest.mark.parametrize("servers", [1, 2])
def test_gradients_are_clipped_by_the_norm_of_their_mean(ranks: Ranks, servers: int) -> None:
    compare(ranks, "fcn5", "sgd", servers, 2, clip_grad_norm=0.1)


def test_staging_copies_every_tensor_and_changes_no_value(ranks: Ranks) -> None:
    results = compare(ranks, "fcn5", "sgd", 1, 1, staging=True)
    assert all(stats.copies == STEPS * 10 + (rank == 1) * 10 for rank, (*_, stats) in enumerate(results))


def test_sends_that_end_after_their_call_change_no_value(ranks: Ranks) -> None:
    compare(ranks, "fcn5", "adam", 1, 2, posts=True)


@pytest.mark.parametrize(
    ("name", "optimizer", "servers", "workers", "words"),
    [
        ("fcn5", "adam", 2, 2, {"threads": (2, 1, 3, 2)}),
        ("normed", "adam", 1, 2, {"threads": (2, 3, 2)}),
        ("transformer", "sgd", 1, 2, {"threads": (2, 2, 4), "posts": True}),
        ("fcn5", "sgd", 2, 2, {"threads": (2, 2, 2, 2), "clip_grad_norm": 0.1}),
        ("lstm", "sgd", 0, 2, {"threads": (2, 3)}),
    ],
)
def test_several_threads_compute_what_one_does(
    ranks: Ranks, name: str, optimizer: str, servers: int, workers: int, words: dict[str, Any]
) -> None:
    results = compare(ranks, name, optimizer, servers, workers, **words)
    assert tuple(stats.threads for *_, stats in results) == words["threads"]
    for *_, stats in results if servers else ():
        assert stats.copies == 0 and stats.outside == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "inception3", "gru", "sentence"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_models_of_the_paper_train_as_in_one_process(ranks: Ranks, name: str, optimizer: str) -> None:
    compare(ranks, name, optimizer, 2, 2)


def test_a_rank_whose_graph_differs_is_named_before_the_first_step(ranks: Ranks) -> None:
    found = ranks.outcomes(training.with_another_width, 3, backend="gloo")
    assert all(word == "done" and "rank 1 (worker1)" in text and "InvalidArgument" in text for word, text in found)


def test_a_batch_that_does_not_fit_is_refused_and_the_run_goes_on(ranks: Ranks) -> None:
    (text, losses), steps = ranks.run(training.with_a_wrong_batch, 2, backend="gloo")
    assert "batch" in text and losses == 2 and steps == 2


def test_the_trace_of_a_step_shows_compute_and_transfers(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(training.traced, 2, str(tmp_path), backend="gloo")
    for process in ("worker0", "server0"):
        events = json.loads((tmp_path / f"{process}.json").read_text())["traceEvents"]
        kinds = {event["cat"] for event in events if event["ph"] == "X"}
        assert {"compute", "send", "receive"} <= kinds


def test_a_training_goes_on_from_the_state_of_its_servers(ranks: Ranks) -> None:
    whole = ranks.run(training.by_plan, 3, "fcn5", "adam", 2, STEPS, {}, backend="gloo")
    halves = ranks.run(training.in_two_runs, 3, "fcn5", "adam", 2, STEPS, backend="gloo")
    for (_, state, *_), after in zip(whole, halves, strict=True):
        assert state.keys() == after.keys()
        for key, tensor in state.items():
            assert torch.equal(tensor, after[key]), key


@pytest.fixture
def mortals() -> Iterator[Ranks]:
    """Processes of a test's own, to be killed."""
    made = Ranks(4)
    yield made
    made.close()


@pytest.mark.parametrize("victim", ["server1", "worker1"])
def test_every_process_names_the_one_that_died_and_the_edge(mortals: Ranks, victim: str) -> None:
    found = mortals.outcomes(training.until_one_dies, 4, victim, backend="gloo", timeout=200)
    for process, (word, text) in zip(("worker0", "worker1", "server0", "server1"), found, strict=True):
        if process == victim:
            assert word == "died"
        else:
            assert re.search(
                rf"PeerLost: run a step on {process}: {victim} (is gone|failed): it died \(edge", str(text)
            )


def test_an_interrupted_process_tells_the_others(mortals: Ranks) -> None:
    found = mortals.outcomes(training.interrupted, 3, backend="gloo", timeout=200)
    assert "KeyboardInterrupt" in str(found[0][1])
    for _, text in found[1:]:
        assert "worker0 failed: KeyboardInterrupt" in str(text)
