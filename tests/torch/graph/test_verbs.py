"""Plans over the verbs provider and a fake libibverbs: tensors are sent from where they were made, without a copy.

The fake joins devices of one process, so the processes of these plans are threads, each with a model of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training

import rdmatensor as rt
import rdmatensor.torch.graph as rg
from rdmatensor.testing import FakeVerbsFabric

ROOT = Path(__file__).resolve().parents[3]
FAKE = Path(os.environ.get("RDMATENSOR_FAKE_IBVERBS", ROOT / "build" / "plain" / "libfakeibverbs.so"))
STEPS = 4


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FAKE.exists():
        pytest.skip(f"{FAKE} is not built; `make` does it")
    try:
        FakeVerbsFabric.load(FAKE)
    except rt.ProviderUnavailable as error:
        pytest.skip(error.why)
    monkeypatch.setenv("RDMATENSOR_TORCH_URL", "verbs://fake0")


def together(size: int, function: Callable[[torch.distributed.Store, int], Any]) -> list[Any]:
    """The results of a function that runs as each rank, in threads that share a store."""
    store = torch.distributed.HashStore()
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = function(store, rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return results


def trained(name: str, placement: Any, size: int, *, sizes: Any = None, dynamic: Any = None, **words: Any) -> list[Any]:
    """By rank: (how many sent tensors of a step nodes make, and how many the batch has; losses, state, stats)."""
    programs = [training.made(name, sizes, drops=False) for _ in range(size)]  # before the threads: one seed
    optimizers = [training.OPTIMIZERS["adam"](model) for model, _, _ in programs]
    plans = [
        rg.plan(model, loss_fn, optimizer, example, placement=placement, processes=size, dynamic=dynamic)
        for (model, example, loss_fn), optimizer in zip(programs, optimizers, strict=True)
    ]

    def train(store: torch.distributed.Store, rank: int) -> Any:
        torch.set_num_threads(1)
        example, losses = programs[rank][1], []
        with plans[rank].open(store=store, rank=rank, world_size=size, timeout=100, **words) as run:
            if run.serves:
                run.serve()
            for step in range(0 if run.serves else STEPS):
                worker = rank if isinstance(placement, rg.ParameterServer) else 0
                batch = training.batch_of(example, step, worker)
                losses.append(run.step(training.shortened(example, step, worker) if dynamic else batch))
            state = {key: tensor.clone() for key, tensor in run.state_dict().items()}
            mine = [edge for edge in plans[rank].edges if edge.source == run.process]
            given = sum(edge.node.startswith("batch_") for edge in mine)
            assert given == sum("memory of the user's" in word for word in run.born().values())
            made = len(mine) - given - sum(edge.ahead for edge in mine)
            return (made, given), losses, state, run.stats

    return together(size, train)


def check(results: list[Any], name: str, workers: int, sizes: Any = None, batches: str = "same") -> None:
    """Compares losses, parameters and states with one process."""
    losses, model, made_by, _ = training.alone(
        name,
        "adam",
        workers,
        STEPS,
        batches=batches,
        made_by_name=lambda one: training.made(one, sizes, drops=False),
        decays=False,
    )
    expected = dict(model.named_parameters())
    held = set()
    for rank, (_, found, state, _) in enumerate(results):
        for one, other in zip(found, losses[min(rank, workers - 1)], strict=False):
            assert one is None or torch.equal(one, other)
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            parameter, _, word = full.rpartition("/") if kind == "state" else (full, "", "")
            if kind != "buffer":
                held.add(parameter)
                assert torch.equal(tensor, made_by.state[expected[parameter]][word] if word else expected[parameter])
    assert held == set(expected)


@pytest.mark.parametrize(
    ("name", "threads"),
    [("fcn5", 1), ("fcn5", 2), ("lstm", 1), pytest.param("transformer", 3, marks=pytest.mark.slow)],
)
def test_servers_and_workers_send_from_where_tensors_are_made(name: str, threads: int) -> None:
    results = trained(name, rg.ParameterServer(1, 2), 3, threads=threads)
    check(results, name, 2)
    copied_in_the_first_step_alone(results)


def test_stages_send_from_where_tensors_are_made() -> None:
    results = trained("fcn5", rg.Stages(2), 2)
    check(results, "fcn5", 1)
    copied_in_the_first_step_alone(results)


def copied_in_the_first_step_alone(results: list[Any]) -> None:
    """The first step is traced, and its tensors lie in ordinary memory; parameters lie in the region from the start.
    Tensors of the batch are the user's.
    """
    for (made, given), _, _, stats in results:
        assert stats.sends > 0 and stats.copies == made + STEPS * given and stats.outside == given, stats
        if made:
            assert stats.sites is not None and stats.sites.served == (STEPS - 1) * made and not stats.sites.fell_back


def test_stages_send_activations_of_varying_length_from_where_they_are_made() -> None:
    sizes = {"batch": 4, "length": 16, "hidden": 64}  # larger than what travels in a record
    lengths = {"batch.0": {1: "length"}, "batch.1": {1: "length"}}
    results = trained("transformer", rg.Stages(2), 2, sizes=sizes, dynamic=lengths)
    check(results, "transformer", 1, sizes, "shortened")
    copied_in_the_first_step_alone(results)


def test_without_the_analysis_every_sent_tensor_is_copied_and_no_value_changes() -> None:
    results = trained("fcn5", rg.ParameterServer(1, 1), 2, analysis=False)
    check(results, "fcn5", 1)
    for (made, _), _, _, stats in results:
        ahead = stats.sends - made  # these are sent before the first step, too
        assert stats.copies == STEPS * stats.sends + ahead, stats
        assert stats.outside == stats.sends and stats.sites is None
