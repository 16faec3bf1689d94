"""Segments: in every order that they allow, processes compute what one process does."""

from __future__ import annotations

import copy

import pytest
import torch
import training
from simulated import simulate
from torch import nn

from rdmatensor.torch.graph.capture import Captured, capture
from rdmatensor.torch.graph.cut import Cut
from rdmatensor.torch.graph.place import ParameterServer
from rdmatensor.torch.graph.segment import TOGETHER_BYTES, Schedule
from rdmatensor.torch.graph.stages import Stages


def captured(name: str, optimizer: str = "sgd", **words: float) -> tuple[Captured, nn.Module, training.models.Batch]:
    model, batch, loss_fn = training.made(name)
    return capture(model, loss_fn, training.OPTIMIZERS[optimizer](model), batch, **words), model, batch


def values_of(step: Captured, batch: object) -> dict[str, object]:
    """Copies of the inputs of a step, by name."""
    given = zip(step.inputs.values(), step.values(batch), strict=True)
    return {source.name: value.clone() if isinstance(value, torch.Tensor) else value for source, value in given}


@pytest.mark.parametrize(
    ("name", "optimizer", "clip"),
    [("fcn5", "sgd", 0.1), ("fcn5", "adam", None), ("lstm", "sgd", None), ("transformer", "adam", 0.1)],
)
def test_every_order_of_segments_gives_the_values_of_one_process(name: str, optimizer: str, clip: float | None) -> None:
    step, _, batch = captured(name, optimizer, clip_grad_norm=clip)
    alone = values_of(step, batch)
    cut = Cut(step, ParameterServer(2).place(step, 3))
    for seed in range(3):
        together = {process: copy.deepcopy(alone) for process in cut.placed.ranks}
        torch.manual_seed(1)
        processes = simulate(cut, together, steps=1, seed=seed)
        reference = copy.deepcopy(alone)
        torch.manual_seed(1)
        (loss,) = step.module(*[reference[source.name] for source in step.inputs.values()])
        (found,) = processes["worker0"].result
        assert torch.equal(found, loss)
        for process in processes.values():
            for node, source in process.part.inputs.items():
                if isinstance(reference[source.name], torch.Tensor):
                    assert torch.equal(process.values[node], reference[source.name]), source.name


@pytest.mark.parametrize(("name", "optimizer"), [("fcn5", "adam"), ("alexnet", "sgd"), ("seq2seq", "sgd")])
def test_stages_in_every_order_give_the_values_of_one_process(name: str, optimizer: str) -> None:
    step, model, batch = captured(name, optimizer)
    model.eval()  # no dropout: each stage has a generator of its own
    step = capture(model, training.made(name)[2], training.OPTIMIZERS[optimizer](model), batch)
    alone = values_of(step, batch)
    cut = Cut(step, Stages(2).place(step, 2))
    assert len(cut.edges) < 16
    for seed in range(2):
        processes = simulate(cut, {one: copy.deepcopy(alone) for one in cut.placed.ranks}, steps=1, seed=seed)
        reference = copy.deepcopy(alone)
        (loss,) = step.module(*[reference[source.name] for source in step.inputs.values()])
        assert torch.equal(processes["stage1"].result[0], loss)
        for process in processes.values():
            for node, source in process.part.inputs.items():
                if isinstance(reference[source.name], torch.Tensor):
                    assert torch.equal(process.values[node], reference[source.name]), source.name


def test_a_mean_over_workers_is_added_in_their_order() -> None:
    step, _, batch = captured("fcn5")
    cut = Cut(step, ParameterServer(1, 3).place(step, 4))
    first = values_of(step, batch)
    together = {process: copy.deepcopy(first) for process in cut.placed.ranks}
    for number in range(3):
        other = training.batch_of(batch, 0, number)
        for position, tensor in enumerate(other):
            together[f"worker{number}"][f"batch.{position}"] = tensor
    processes = simulate(cut, together, steps=2, seed=5)
    again = {process: copy.deepcopy(first) for process in cut.placed.ranks}
    for number in range(3):
        for position, tensor in enumerate(training.batch_of(batch, 0, number)):
            again[f"worker{number}"][f"batch.{position}"] = tensor
    others = simulate(cut, again, steps=2, seed=6)
    for one, other in zip(processes["server0"].values.values(), others["server0"].values.values(), strict=True):
        assert one == other if isinstance(one, float) else torch.equal(one, other)


def test_a_tensor_leaves_before_what_does_not_need_it_runs() -> None:
    step, _, _ = captured("fcn5")
    schedule = Schedule(Cut(step, ParameterServer(1).place(step, 2)).part("worker0"))
    for segment in schedule.segments:
        made = set(segment.nodes)
        assert sum(send.edge.bytes or 0 for send in segment.sends[:-1]) < TOGETHER_BYTES
        for send in segment.sends:
            assert send.node in made or not made


def test_a_segment_frees_each_value_after_its_last_use() -> None:
    step, _, batch = captured("fcn5")
    cut = Cut(step, ParameterServer(1).place(step, 2))
    values = {process: values_of(step, batch) for process in cut.placed.ranks}
    for process in simulate(cut, values, steps=1, seed=1).values():
        kept = set(process.schedule.inputs.values())
        results = {process.schedule.numbers[node] for node in process.schedule.nodes[-1].all_input_nodes}
        sent = {send.place for send in process.schedule.sends}
        left = {place for place, value in enumerate(process.env) if value is not None}
        assert left <= kept | results | sent


def test_marks_stand_around_the_marked_nodes_alone() -> None:
    step, _, batch = captured("fcn5")
    schedule = Schedule(Cut(step, ParameterServer(1).place(step, 2)).part("server0"))
    entered: list[int] = []
    number = schedule.numbers[schedule.segments[0].nodes[0]]
    codes = schedule.compile(entered.append, lambda: entered.append(-1), {number})
    env = [None] * len(schedule.nodes)
    given = values_of(step, batch)
    for node, place in schedule.inputs.items():
        env[place] = given[schedule.part.inputs[node].name]
    assert codes[0] is not None
    codes[0](env, schedule.uses.copy())
    assert entered == [number, -1]
