"""Steps with microbatches, in one process: values, orders, slots, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import xml.etree.ElementTree

import pipelines
import pytest
import torch
from pipelines import Case
from simulated import simulate
from test_segment import values_of
from test_stages import Marked
from torch import nn
from torch.nn import functional

import rdmatensor.torch.graph as rg
from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import writes
from rdmatensor.torch.graph.memory import sent_memory
from rdmatensor.torch.graph.parts import lint

SMALL = Case("fcn5", "adam", 2, 4)
DEEP = Case("fcn5", "sgd", 4, 6)


def planned(case: Case) -> rg.Plan:
    model, optimizer, example, loss_fn = case.made()
    words = {"dynamic": case.dynamic, "clip_grad_norm": case.clip}
    return rg.plan(model, loss_fn, optimizer, example, placement=case.placement, **words)


def plan_of(model: nn.Module, batch: object, placement: rg.Stages, **words: object) -> rg.Plan:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return rg.plan(model, functional.cross_entropy, optimizer, batch, placement=placement, **words)  # type: ignore[arg-type]


def rows(count: int, inputs: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, inputs), torch.randint(0, inputs, (count,))


@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        Case("normed", "sgd", 2, 3, train=True),
        Case("transformer", "adam", 4, 3, steps=4, lengths=True),
        Case("fcn5", "sgd", 4, 3, clip=0.1),
        Case("fcn5", "sgd", 2, 5, mean=False),
    ],
    ids=str,
)
def test_the_repeated_step_is_the_eager_loop_over_microbatches(case: Case) -> None:
    model, optimizer, example, loss_fn = case.made()
    words = {"dynamic": case.dynamic, "clip_grad_norm": case.clip}
    step = rg.plan(model, loss_fn, optimizer, example, placement=case.placement, **words).captured
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    torch.manual_seed(50)
    losses = []
    for number in range(case.steps):
        losses.append(step.module(*step.values(case.batch(number)))[0].clone())
        scheduler.step()
    expected, other, made_by = pipelines.alone(case)
    assert all(torch.equal(one, two) for one, two in zip(losses, expected, strict=True))
    for (name, one), two in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        for word, state in made_by.state[two].items():
            assert torch.equal(optimizer.state[one][word], state), word


@pytest.mark.parametrize(
    "case",
    [SMALL, DEEP, Case("seq2seq", "sgd", 2, 3), Case("transformer", "adam", 4, 5, lengths=True)],
    ids=str,
)
def test_in_every_order_stages_compute_what_one_process_does_and_keep_no_more_than_they_may(case: Case) -> None:
    plan = planned(case)
    lint(plan.cut)
    step = plan.captured
    alone = values_of(step, case.batch(0))
    reference = copy.deepcopy(alone)
    losses = [step.module(*[reference[given.name] for given in step.inputs.values()])[0].clone() for _ in range(2)]
    most = dict.fromkeys(plan.processes, 0)
    for seed in range(4):
        together = {process: copy.deepcopy(alone) for process in plan.processes}
        processes = simulate(plan.cut, together, steps=2, seed=seed)
        assert torch.equal(processes[plan.processes[-1]].result[0], losses[-1])
        for name, process in processes.items():
            most[name] = max(most[name], process.most)
            for node, source in process.part.inputs.items():
                if isinstance(reference[source.name], torch.Tensor):
                    assert torch.equal(process.values[node], reference[source.name]), source.name
    bounds = [min(case.microbatches, case.stages - stage) for stage in range(case.stages)]
    assert all(one <= bound for one, bound in zip(most.values(), bounds, strict=True))
    assert most["stage0"] == bounds[0]


def test_without_its_bound_a_stage_takes_in_more_and_the_exploration_sees_it() -> None:
    plan = planned(DEEP)
    whole = plan.cut.part
    plan.cut.part = lambda process: dataclasses.replace(whole(process), keeps=99)  # type: ignore[method-assign, misc]
    alone = values_of(plan.captured, DEEP.batch(0))
    found = 0
    for seed in range(4):
        try:
            processes = simulate(plan.cut, {one: copy.deepcopy(alone) for one in plan.processes}, steps=1, seed=seed)
        except AssertionError:  # an edge without credits lacks a slot
            found += 1
        else:
            found += any(processes[f"stage{stage}"].most > 4 - stage for stage in range(4))
    assert found == 4


@pytest.mark.parametrize("case", [SMALL, DEEP], ids=str)
def test_edges_without_credits_have_just_the_slots_that_they_need(case: Case) -> None:
    plan = planned(case)
    alone = values_of(plan.captured, case.batch(0))
    for edge in plan.edges:
        sender, receiver = (int(process.removeprefix("stage")) for process in (edge.source, edge.target))
        keeps = case.stages - min(sender, receiver)
        assert (edge.flow, edge.times) == ("loop", case.microbatches)
        assert edge.slots == keeps + (sender < receiver)
        if sender < receiver:
            continue
        plan.cut.by_name[edge.name] = dataclasses.replace(edge, slots=edge.slots - 1)
        with pytest.raises(AssertionError, match="overwrites a slot in use"):
            for seed in range(40):
                simulate(plan.cut, {one: copy.deepcopy(alone) for one in plan.processes}, steps=2, seed=seed)
        plan.cut.by_name[edge.name] = edge


def test_the_update_follows_once_behind_the_last_microbatch() -> None:
    plan = planned(SMALL)
    for process in plan.processes:
        nodes = list(plan.cut.part(process).module.graph.nodes)
        updates = [number for number, node in enumerate(nodes) if node.meta.get("phase") == "update"]
        passes = [number for number, node in enumerate(nodes) if node.meta.get("task") is not None]
        assert min(updates) > max(passes)
        written = [node for node in nodes if writes(node) and writes(node)[0].name.endswith("_weight")]
        assert len(written) == len({writes(node)[0] for node in written}) > 0


def test_a_stage_takes_sizes_from_its_tensors_and_not_from_the_batch() -> None:
    plan = planned(Case("transformer", "sgd", 4, 3, lengths=True))
    assert not [edge for edge in plan.edges if edge.tensor.startswith("batch")]
    assert {edge.shape for edge in plan.edges if edge.kind == "dynamic"} == {("batch", "length", 8)}
    uses = [any(given.kind == "batch" for given in plan.cut.part(one).inputs.values()) for one in plan.processes]
    assert uses == [True, False, False, True]


def test_a_region_has_room_for_the_microbatches_on_their_way_and_not_for_all() -> None:
    few, many = (sent_memory(planned(dataclasses.replace(SMALL, microbatches=n)).cut.part("stage0")) for n in (4, 12))
    assert few.region_bytes == many.region_bytes
    assert many.sum == 3 * few.sum


# ---- how a batch is divided ----


def test_a_size_that_the_microbatches_do_not_divide_is_refused_with_the_remedies() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with pytest.raises(InvalidArgument, match=r"dimension 0 of batch.0: .*7 is no multiple of 2 .*drop_last=True"):
        plan_of(model, rows(7), rg.Stages(2, microbatches=2))
    plan = plan_of(model, rows(8), rg.Stages(2, microbatches=2))
    with pytest.raises(InvalidArgument, match="9 is no multiple of 2"):
        plan.captured.values(rows(9))
    with pytest.raises(InvalidArgument, match="captured one was 4 and is not dynamic"):
        plan.captured.values(rows(12))


def test_a_sum_may_have_a_smaller_last_microbatch() -> None:
    def total(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output, target, reduction="sum")

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    other = copy.deepcopy(model)
    optimizer, eager = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, other))
    dynamic = {"batch.0": {0: "batch"}, "batch.1": {0: "batch"}}
    placement = rg.Stages(2, microbatches=3, loss="sum")
    step = rg.plan(model, total, optimizer, rows(12), placement=placement, dynamic=dynamic).captured
    batch = rows(11)
    (loss,) = step.module(*step.values(batch))
    losses = [total(other(x), y) for x, y in zip(*(one.split(4) for one in batch), strict=True)]
    for one in losses:
        one.backward()
    eager.step()
    assert torch.equal(loss, losses[0] + losses[1] + losses[2])
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(InvalidArgument, match="leaves nothing for the last one"):
        step.values(rows(4))


def test_a_batch_may_be_divided_by_the_name_of_a_dimension_by_tensor_or_be_given_in_parts() -> None:
    def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x, y, scale = batch
        return functional.cross_entropy(model(x.t()) * scale, y)

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    x, y = rows(8)
    batch = x.t().contiguous(), y, torch.randn(6)
    parts = [(batch[0][:, first : first + 4], y[first : first + 4], batch[2]) for first in (0, 4)]
    dynamic = {"batch.0": {1: "rows"}, "batch.1": {0: "rows"}}
    found = []
    for split, given in (({"batch.0": 1, "batch.1": 0}, batch), ("rows", batch), (None, parts)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        placement = rg.Stages(2, microbatches=2, split=split)
        plan = rg.plan(model, loss, optimizer, given, placement=placement, dynamic=dynamic)
        found.append([one for one in plan.captured.values(given) if isinstance(one, torch.Tensor)])
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (3, "it has 2 dimensions"),
        ("rows", "names no dimension 'rows'; it has none"),
        ({"words": 0}, "the batch has batch.0, batch.1, and no words"),
        (None, "a sequence of 3 microbatches, and it has 2 members"),
    ],
)
def test_a_division_that_does_not_fit_the_batch_is_refused(split: object, why: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with pytest.raises(InvalidArgument, match=why):
        plan_of(model, rows(6), rg.Stages(2, microbatches=3, split=split))  # type: ignore[arg-type]


# ---- what no pipeline can do ----


def test_marks_by_which_a_tensor_goes_back_are_refused_with_their_line() -> None:
    marked = Marked(0, 1, 0)
    plan_of(marked, rows(4), rg.Stages(2))
    with pytest.raises(Unsupported, match=r"test_stages.py:\d+ in forward.* which the forward pass of stage 1 makes"):
        plan_of(marked, rows(4), rg.Stages(2, microbatches=2))


class Scaled(nn.Module):
    """Scales by a buffer and then doubles it; where something before has a parameter, backward reads the old one."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before, self.behind = before, nn.Linear(6, 6)
        self.register_buffer("scale", torch.ones(6))
        self.scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x) * self.scale
        self.scale = self.scale * 2
        result: torch.Tensor = self.behind(x)
        return result


def test_a_buffer_goes_from_microbatch_to_microbatch() -> None:
    model = Scaled(nn.Identity())
    step = plan_of(model, rows(6), rg.Stages(2, microbatches=3)).captured
    step.module(*step.values(rows(6)))
    assert torch.equal(model.scale, torch.full((6,), 8.0))


def test_a_buffer_that_backward_needs_as_it_was_is_refused() -> None:
    with pytest.raises(Unsupported, match="in the order of a pipeline the two change places"):
        plan_of(Scaled(nn.Linear(6, 6)), rows(6), rg.Stages(2, microbatches=3))


# ---- in words ----


def test_the_text_tells_microbatches_what_stages_keep_the_idle_share_and_the_schedule() -> None:
    plan = planned(SMALL)
    text = plan.explain()
    assert "4 microbatches in the order of 1F1B; the loss is the mean" in text
    assert "(20.0% if they were equal)" in text
    assert "stage0  is in at most 2 microbatches at once" in text
    assert "stage1       F0  B0  B0  F1" in text
    moved = sum(edge.moved for edge in plan.edges)
    assert moved == 4 * sum(edge.bytes or 0 for edge in plan.edges) and f"move {moved} B in each step" in text
    assert "96 B x 4" in text


def test_the_json_and_the_picture_have_the_schedule() -> None:
    plan = planned(SMALL)
    whole = json.loads(plan.json())
    assert whole["pipeline"]["keeps"] == [2, 1] and whole["pipeline"]["microbatches"] == 4
    assert whole["pipeline"]["order"][1] == ["F0", "B0", "F1", "B1", "F2", "B2", "F3", "B3"]
    assert [edge["times"] for edge in whole["edges"]] == [4, 4]
    texts = [element.text for element in xml.etree.ElementTree.fromstring(plan.svg()).iter() if element.text]
    assert [texts.count(task) for task in ("F0", "B3")] == [2, 2]


def test_plans_with_other_microbatches_do_not_open_together() -> None:
    prints = {
        planned(case).fingerprint
        for case in (SMALL, dataclasses.replace(SMALL, microbatches=2), dataclasses.replace(SMALL, mean=False))
    }
    assert len(prints) == 3


def test_a_pipeline_of_microbatches_has_one_plan() -> None:
    model, optimizer, example, loss_fn = SMALL.made()
    with pytest.raises(Unsupported, match="a pipeline of microbatches has one plan"):
        rg.plan(model, loss_fn, optimizer, example, placement=SMALL.placement, buckets=2)
