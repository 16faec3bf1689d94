"""The schedule of a pipeline: 1F1B, what a stage keeps, the share of time in which stages are idle."""

from __future__ import annotations

import itertools

import pytest

from rdmatensor.torch.graph.pipeline import Pipeline, Task

SIZES = list(itertools.product([1, 2, 3, 4, 7], [1, 2, 4, 5, 9]))


def test_two_and_four_stages_run_as_the_note_says() -> None:
    def told(stages: int) -> list[str]:
        pipeline = Pipeline(stages, 4)
        return [" ".join(map(str, pipeline.order(stage))) for stage in range(stages)]

    assert told(2) == ["F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"]
    assert told(4) == [
        "F0 F1 F2 F3 B0 B1 B2 B3",
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
def test_every_stage_runs_every_pass_once_and_keeps_no_more_than_it_may(stages: int, microbatches: int) -> None:
    pipeline = Pipeline(stages, microbatches)
    for stage in range(stages):
        inside, most = 0, 0
        for task in pipeline.order(stage):
            inside += 1 if task.kind == "F" else -1
            most = max(most, inside)
        assert most == pipeline.keeps(stage) == min(microbatches, stages - stage)
        for kind in ("F", "B"):
            numbers = [task.microbatch for task in pipeline.order(stage) if task.kind == kind]
            assert numbers == list(range(microbatches))


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
def test_in_the_common_order_each_pass_follows_those_that_it_needs(stages: int, microbatches: int) -> None:
    pipeline = Pipeline(stages, microbatches)
    order = pipeline.interleaved()
    place = {task: number for number, task in enumerate(order)}
    assert len(place) == len(order) == 2 * stages * microbatches
    for task in order:
        assert all(place[one] < place[task] for one in pipeline.before(task))
    for stage in range(stages):
        assert [task for task in order if task.stage == stage] == pipeline.order(stage)


@pytest.mark.parametrize(("stages", "microbatches"), SIZES)
def test_equal_stages_are_idle_for_the_known_share(stages: int, microbatches: int) -> None:
    known = (stages - 1) / (microbatches + stages - 1)
    assert Pipeline(stages, microbatches).bubble == pytest.approx(known)


def test_a_heavy_stage_makes_the_others_idle() -> None:
    pipeline = Pipeline(2, 4, ((1.0, 2.0), (3.0, 6.0)))
    span = 1 + 4 * 9 + 2  # the first forward and the last backward pass of the light stage, and the heavy one's work
    assert pipeline.bubble == pytest.approx(1 - (4 * 3 + 4 * 9) / (2 * span))


def test_the_rows_show_a_backward_pass_twice_as_long() -> None:
    first, second = Pipeline(2, 2).rows()
    assert first == ["F0", "F1", "", "", "B0", "B0", "", "B1", "B1"]
    assert second == ["", "F0", "B0", "B0", "F1", "B1", "B1", "", ""]
    assert str(Task(1, "B", 3)) == "B3"
