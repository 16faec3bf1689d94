"""Which edges of a pipeline need no credits: a slot is used again when the receiver is done with it, and the
sender knows so.

The sender knows what must have happened before it sends: its own passes before this one, those by
whose results they came about at other stages, and all of the step before. One walk over two steps
notes for each sent tensor the passes that have ended for certain. A slot may be used again where
both passes of the microbatch that used it are among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rdmatensor.torch.graph.parts import tasks_of
from rdmatensor.torch.graph.pipeline import Pipeline, Task

if TYPE_CHECKING:
    from torch import fx

    from rdmatensor.torch.graph.crossing import Action, Crossing

__all__ = ["Promises"]

Needs = Mapping[str, Mapping[int, frozenset["Crossing"]]]
"""By role, for the crossings that it sends those received in the same step that they depend on."""


class Promises:
    """The work that has ended for certain when a stage sends. The arguments are those of a cut."""

    def __init__(
        self,
        pipeline: Pipeline,
        actions: Mapping[str, Sequence[Action]],
        after: Mapping[tuple[str, fx.Node], Sequence[Crossing]],
        needs: Needs,
    ) -> None:
        self.pipeline = pipeline
        self.needs = needs
        self.received: dict[Task, list[Crossing]] = defaultdict(list)
        self.sent: dict[Task, list[Crossing]] = defaultdict(list)
        for role, mine in actions.items():
            for action, task in zip(mine, tasks_of(mine), strict=True):
                if isinstance(task, tuple):
                    self._note(Task(pipeline.stage_of(role), *task), action, after.get((role, action.node), ()))
        self.ended: dict[int, int] = {}  # by crossing: the tasks of the last two steps that have ended, as bits
        self._walk()

    def slots(self, lane: Sequence[Crossing], most: int) -> int | None:
        """The fewest slots, up to `most`, with which the tensors of all microbatches need no credits; or None."""
        stage = self.pipeline.stage_of(lane[0].target)
        for slots in range(2, most + 1):
            if all(self._is_free(crossing, number - slots, stage) for number, crossing in enumerate(lane)):
                return slots
        return None

    def _note(self, task: Task, action: Action, sent: Sequence[Crossing]) -> None:
        if action.crossing is None:
            self.sent[task] += sent
        elif not action.crossing.ahead:
            self.received[task].append(action.crossing)

    def _is_free(self, crossing: Crossing, microbatch: int, stage: int) -> bool:
        """Whether a stage has ended with a microbatch, one of the step before if the number is negative."""
        wanted = 0
        for kind in ("F", "B"):
            wanted |= self._bit(Task(stage, kind, microbatch % self.pipeline.microbatches), int(microbatch >= 0))
        return self.ended.get(crossing.number, 0) & wanted == wanted

    def _bit(self, task: Task, step: int) -> int:
        stage, kind, number = task
        place = ((step * self.pipeline.stages + stage) * self.pipeline.microbatches + number) * 2 + (kind == "B")
        return 1 << place

    def _walk(self) -> None:
        before = [0] * self.pipeline.stages  # by stage, what has ended when it begins a step
        for step in range(2):
            ends: dict[Task, int] = {}
            known: dict[int, int] = {}
            for task in self.pipeline.interleaved():
                waits = before[task.stage]
                for one in self._waits_for(task):
                    waits |= ends.get(one, 0)
                role = f"stage{task.stage}"
                for crossing in self.sent[task]:
                    known[crossing.number] = waits
                    for need in self.needs[role].get(crossing.number, ()):
                        known[crossing.number] |= known.get(need.number, 0)
                for crossing in self.received[task]:
                    waits |= known.get(crossing.number, 0)
                ends[task] = waits | self._bit(task, step)
            for task, bits in ends.items():
                before[task.stage] |= bits
            self.ended = known

    def _waits_for(self, task: Task) -> list[Task]:
        """The tasks of the same stage that a task waits for (`segment.py`)."""
        stage, kind, number = task
        other = Task(stage, "B", number - self.pipeline.keeps(stage)) if kind == "F" else Task(stage, "F", number)
        return [Task(stage, kind, number - 1), other]
