"""The schedule of a pipeline: which stage runs the forward or the backward pass of which microbatch, and when.

1F1B: a stage first runs the forward passes that fill the pipeline behind it, then one forward and
one backward pass in turn, then the backward passes that are left. Stage k of n so keeps the
activations of at most n - k microbatches. This file knows no graph and no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Pipeline", "Task", "Timed"]

Kind = Literal["F", "B"]


class Task(NamedTuple):
    """One pass of one microbatch through one stage."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch}"


class Timed(NamedTuple):
    """A task with its begin and its end."""

    task: Task
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A row of stages through which the microbatches of a step go."""

    stages: int
    microbatches: int
    costs: tuple[tuple[float, float], ...] = ()
    """For each stage the work of the forward and of the backward pass of a microbatch, in any unit; empty where the
    stages count as equal, and backward as twice as long as forward.
    """
    mean: bool = True
    """Whether losses and gradients of the microbatches are averaged; else they are added."""

    def keeps(self, stage: int) -> int:
        """The most microbatches whose forward pass has begun in a stage and whose backward pass has not ended."""
        return min(self.microbatches, self.stages - stage)

    def stage_of(self, role: str) -> int:
        """The number of a stage's role."""
        return int(role.removeprefix("stage"))

    def order(self, stage: int) -> list[Task]:
        """The tasks of a stage in the order of 1F1B."""
        ahead = self.keeps(stage) - 1
        tasks = [Task(stage, "F", number) for number in range(ahead)]
        for number in range(self.microbatches):
            if ahead + number < self.microbatches:
                tasks.append(Task(stage, "F", ahead + number))
            tasks.append(Task(stage, "B", number))
        return tasks

    def before(self, task: Task) -> list[Task]:
        """The tasks of other stages whose results a task needs, and the forward pass of its own."""
        stage, kind, number = task
        if kind == "F":
            return [Task(stage - 1, "F", number)] if stage else []
        own = [Task(stage, "F", number)]
        return [*own, Task(stage + 1, "B", number)] if stage + 1 < self.stages else own

    def timeline(self, costs: Sequence[tuple[float, float]] = ()) -> list[Timed]:
        """All tasks with their times, if nothing but work took time; in the order of their beginnings. A task begins
        behind those that it needs.
        """
        costs = costs or self.costs or ((1.0, 2.0),) * self.stages
        left = [self.order(stage)[::-1] for stage in range(self.stages)]
        free = [0.0] * self.stages
        ends: dict[Task, float] = {}
        found: list[Timed] = []
        while any(left):
            for stage, tasks in enumerate(left):
                while tasks and all(one in ends for one in self.before(tasks[-1])):
                    task = tasks.pop()
                    begin = max([free[stage], *(ends[one] for one in self.before(task))])
                    work = costs[stage][0 if task.kind == "F" else 1]
                    free[stage] = ends[task] = begin + work
                    found.append(Timed(task, begin, begin + work))
        return sorted(found, key=lambda one: (one.begin, one.task.stage))

    def interleaved(self) -> list[Task]:
        """All tasks in an order in which one process could run them, and each stage has its own order."""
        return [one.task for one in self.timeline(((1.0, 2.0),) * self.stages)]

    @property
    def bubble(self) -> float:
        """The fraction of the stages' time in which they have no work, by `costs`. (n - 1) / (m + n - 1) for n equal
        stages and m microbatches.
        """
        times = self.timeline()
        span = max(one.end for one in times)
        work = sum(one.end - one.begin for one in times)
        return 1 - work / (span * self.stages) if span > 0 else 0.0

    def rows(self) -> list[list[str]]:
        """For each stage its tasks by time, a column for every unit of time: a forward pass takes one, a backward
        pass two. "" where it waits.
        """
        times = self.timeline(((1.0, 2.0),) * self.stages)
        rows = [[""] * round(max(one.end for one in times)) for _ in range(self.stages)]
        for task, begin, end in times:
            for column in range(round(begin), round(end)):
                rows[task.stage][column] = str(task)
        return rows
