"""A plan's processes in one thread, in an order drawn at random: segments, sends and receives of all of them.

Edges are queues of clones with so many slots. A receive takes its tensor at any time after it was sent, and frees its
slot when no tensor of the process lies in it; a send with credits waits for a slot, one by the promise of the loop must
find one. A segment waits for nothing but the schedule. So an order that the schedule allows and that computes something
else shows as another value, a broken promise and a pipeline that takes in too much as AssertionErrors.
"""

from __future__ import annotations

import random
import weakref
from collections import defaultdict, deque
from typing import Any

import torch

from rdmatensor.torch.graph.cut import Cut
from rdmatensor.torch.graph.segment import Receive, Schedule, Segment, Send


class Edges:
    """The slots of all edges."""

    def __init__(self, cut: Cut) -> None:
        self.edges = cut.by_name
        self.mail: dict[str, deque[torch.Tensor]] = defaultdict(deque)
        self.full: dict[str, deque[weakref.ref[Any]]] = defaultdict(deque)  # slots, in the order in which they are used

    def has_slot(self, name: str) -> bool:
        full = self.full[name]
        while full and full[0]() is None:
            full.popleft()
        return len(full) < self.edges[name].slots

    def put(self, name: str, tensor: torch.Tensor) -> None:
        if self.edges[name].flow == "loop":
            assert self.has_slot(name), f"{name} overwrites a slot in use: {self.edges[name].slots} do not suffice"
        slot = tensor.detach().clone(memory_format=torch.contiguous_format).numpy()
        self.full[name].append(weakref.ref(slot))
        self.mail[name].append(torch.from_numpy(slot))  # which keeps the array as long as its memory is used


class Process:
    """One process: its lasting inputs, and the state of its step."""

    def __init__(self, cut: Cut, name: str, values: dict[str, Any]) -> None:
        self.part = cut.part(name)
        self.schedule = Schedule(self.part)
        self.codes = self.schedule.compile()
        self.values = {node: values[given.name] for node, given in self.part.inputs.items()}
        self.steps = 0
        self.result: Any = None
        self.most = 0
        """The most microbatches that were in the process at once."""
        self.begin()

    def begin(self) -> None:
        self.env: list[Any] = [None] * len(self.schedule.nodes)
        for node, place in self.schedule.inputs.items():
            self.env[place] = self.values[node]
        self.uses = self.schedule.uses.copy()
        self.waits = [segment.waits for segment in self.schedule.segments]
        self.ready: list[Segment | Receive | Send] = [
            segment for segment in self.schedule.segments if not segment.waits
        ]
        self.ready += self.schedule.first_receives
        self.left = len(self.schedule.segments) + len(self.schedule.receives) + len(list(self.schedule.sends))
        self.lanes: dict[str, deque[Send]] = defaultdict(deque)  # by edge, the sends that are due, in order
        for send in self.schedule.sends:
            self.lanes[send.edge.name].append(send)
        self.inside: dict[int, int] = {}  # the segments of each microbatch that are left
        for segment in self.schedule.segments:
            if segment.task is not None:
                self.inside[segment.task[1]] = self.inside.get(segment.task[1], 0) + 1
        self.begun: set[int] = set()

    def can(self, item: Segment | Receive | Send, edges: Edges) -> bool:
        if isinstance(item, Receive):
            return bool(edges.mail[item.edge.name])
        if isinstance(item, Send):
            free = item.edge.flow == "loop" or edges.has_slot(item.edge.name)
            return free and self.lanes[item.edge.name][0] is item
        return True

    def do(self, item: Segment | Receive | Send, edges: Edges) -> None:
        self.ready.remove(item)
        self.left -= 1
        if isinstance(item, Segment):
            self.compute(item)
        elif isinstance(item, Receive):
            self.env[item.place] = edges.mail[item.edge.name].popleft()
            if item.then is not None:
                self.ready.append(item.then)
        else:
            assert self.lanes[item.edge.name].popleft() is item
            edges.put(item.edge.name, self.env[item.place])
            self.uses[item.place] -= 1
            if not self.uses[item.place] and item.node not in self.schedule.inputs:
                self.env[item.place] = None
        for segment in item.next:
            self.waits[segment.number] -= 1
            if not self.waits[segment.number]:
                self.ready.append(segment)
        if not self.left:
            self.steps += 1
            self.result = [self.env[self.schedule.numbers[node]] for node in self.schedule.nodes[-1].all_input_nodes]
            self.env = []

    def compute(self, segment: Segment) -> None:
        code = self.codes[segment.number]
        if segment.task is not None:
            self.begun.add(segment.task[1])
            self.most = max(self.most, len(self.begun))
        if code is not None:
            code(self.env, self.uses)
        if segment.task is not None:
            self.inside[segment.task[1]] -= 1
            if not self.inside[segment.task[1]]:
                self.begun.remove(segment.task[1])
        for send in segment.sends:  # an engine posts them now, so in the order of the edge
            due = [one for one in self.lanes[send.edge.name] if one not in self.ready]
            assert due[0] is send, f"{send.edge.name} is sent out of turn"
            self.ready.append(send)


def simulate(cut: Cut, values: dict[str, dict[str, Any]], steps: int, seed: int) -> dict[str, Process]:
    """The processes after so many steps. `values`: the inputs of each by name. AssertionError where none can go on."""
    draw = random.Random(seed)
    processes = {name: Process(cut, name, values[name]) for name in cut.placed.ranks}
    edges = Edges(cut)
    for process in processes.values():
        for edge, node in process.part.ahead:
            edges.put(edge.name, process.values[node])
    lazy: Process | None = None
    while True:
        for process in processes.values():
            if not process.left and process.steps < steps:
                process.begin()
        choices = [(one, item) for one in processes.values() for item in one.ready if one.left and one.can(item, edges)]
        if not choices:
            stuck = [name for name, one in processes.items() if one.left]
            assert not stuck, f"{stuck} cannot go on"
            return processes
        if draw.random() < 0.05:  # for a while one process does nothing that another can do instead
            lazy = draw.choice([*processes.values(), None])
        process, item = draw.choice([choice for choice in choices if choice[0] is not lazy] or choices)
        process.do(item, edges)
