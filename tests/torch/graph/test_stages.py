"""Stages: where a model is divided, and which stage a node of the backward pass belongs to."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
import torch
import training
from torch import nn
from torch.fx import traceback
from torch.nn import functional

import rdmatensor.torch.graph as rg
from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.capture import Captured, capture
from rdmatensor.torch.graph.cut import Cut
from rdmatensor.torch.graph.flops import flops
from rdmatensor.torch.graph.stages import Stages, _divided


def step_of(model: nn.Module, inputs: int, classes: int, rows: int = 4) -> Captured:
    batch = (torch.randn(rows, inputs), torch.randint(0, classes, (rows,)))
    return capture(model, functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), batch)


def held_by(step: Captured, stages: int) -> dict[str, list[str]]:
    """The names of the parameters that each stage holds."""
    found = defaultdict(list)
    roles = Stages(stages).place(step, stages).roles
    for node, given in step.inputs.items():
        if given.kind == "parameter":
            found[roles[node]].append(given.name)
    return dict(found)


def test_equal_layers_are_divided_equally() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    assert held_by(step_of(model, 8, 8), 2) == {
        "stage0": ["0.weight", "0.bias", "1.weight", "1.bias"],
        "stage1": ["2.weight", "2.bias", "3.weight", "3.bias"],
    }


def test_operations_count_beside_bytes() -> None:
    class Heavy(nn.Module):
        """A layer that uses its weight many times."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(9):
                x = x @ self.weight
            return x

    light = [nn.Linear(8, 8, bias=False) for _ in range(3)]
    assert list(held_by(step_of(nn.Sequential(Heavy(), *light), 8, 8), 2)["stage0"]) == ["0.weight"]
    equal = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
    assert list(held_by(step_of(equal, 8, 8), 2)["stage0"]) == ["0.weight", "1.weight"]


def test_of_divisions_that_are_as_good_the_one_that_sends_least_is_taken() -> None:
    weights = [1.0, 1.0, 0.05, 1.0, 1.0]
    assert _divided(weights, [0, 9, 9, 2, 9], 2) == [3, 5]
    assert _divided(weights, [0, 9, 2, 9, 9], 2) == [2, 5]
    assert _divided([1.0, 5.0, 1.0], [0, 1, 1], 3) == [1, 2, 3]


def test_the_heaviest_stage_is_as_light_as_can_be() -> None:
    weights = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    for stages, heaviest in ((2, 17.0), (3, 14.0), (4, 9.0)):
        ends = [0, *_divided(weights, [0] * 8, stages)]
        groups = [sum(weights[first:last]) for first, last in itertools.pairwise(ends)]
        assert len(groups) == stages and all(groups)
        assert max(groups) <= heaviest * 1.1


def test_a_model_with_fewer_layers_than_stages_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"2 layers .* too few for 3 stages"):
        Stages(3).place(step_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 4, 4), 3)


@pytest.mark.parametrize("words", [{"stages": 0}, {"microbatches": 0}, {"loss": "median"}])
def test_arguments_that_say_nothing_are_refused(words: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        Stages(**words).place(step_of(nn.Linear(4, 4), 4, 4), None)  # type: ignore[arg-type]


class Marked(nn.Module):
    def __init__(self, *marks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in marks)
        self.marks = marks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, mark in zip(self.layers, self.marks, strict=True):
            with traceback.annotate({"stage": mark}):
                x = torch.relu(layer(x))
        return x


def test_the_models_marks_go_before_balance() -> None:
    found = held_by(step_of(Marked(0, 1, 1, 1), 6, 6), 2)
    assert found["stage0"] == ["layers.0.weight", "layers.0.bias"] and len(found["stage1"]) == 6


def test_a_mark_that_is_no_stage_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidArgument, match=r"test_stages.py:\d+ in forward.* stage 7: there are 0 to 1"):
        Stages(2).place(step_of(Marked(0, 7), 6, 6), 2)


@pytest.mark.parametrize("name", ["fcn5", "transformer", "seq2seq", "alexnet"])
def test_tensors_go_from_stage_to_stage_and_gradients_back(name: str) -> None:
    model, batch, loss_fn = training.made(name)
    step = capture(model, loss_fn, training.OPTIMIZERS["sgd"](model), batch)
    placed = Stages(3).place(step, 3)
    for node in step.module.graph.nodes:
        phase = node.meta.get("phase")
        for one in node.all_input_nodes:
            if phase in ("forward", "backward") and one.meta.get("phase") == phase and one.op == "call_function":
                before, behind = placed.roles[one], placed.roles[node]
                assert before <= behind if phase == "forward" else before >= behind
    assert len(Cut(step, placed).edges) <= 20


def test_products_count_two_operations_for_each_pair_of_numbers() -> None:
    step = step_of(nn.Linear(5, 3, bias=False), 5, 3, rows=4)
    counts = [flops(node) for node in step.module.graph.nodes if str(node.target) == "aten.mm.default"]
    assert counts == [2 * 4 * 5 * 3] * 2  # of forward, and of the weight's gradient


def test_a_convolution_counts_its_weight_at_every_place() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten())
    batch = (torch.randn(2, 2, 6, 6), torch.randint(0, 64, (2,)))
    step = capture(model, functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), batch)
    by_name = {str(node.target): flops(node) for node in step.module.graph.nodes if "convolution" in str(node.target)}
    each = 2 * (2 * 4 * 4 * 4) * (2 * 3 * 3)
    assert by_name == {"aten.convolution.default": each, "aten.convolution_backward.default": each}


def test_a_bucket_whose_sizes_divide_the_model_otherwise_is_refused() -> None:
    model, batch, loss_fn = training.made("seq2seq")
    optimizer = training.OPTIMIZERS["sgd"](model)
    plan = rg.plan(model, loss_fn, optimizer, batch, placement=Stages(2), processes=2, buckets=2)
    longer = torch.cat([batch[0]] * 5, 1), *batch[1:]
    plan._cut_again(batch)
    with pytest.raises(Unsupported, match="would live in another process: mark the stages"):
        plan._cut_again(longer)
