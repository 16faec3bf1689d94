"""Graphs that cross processes, and the process at the other end of them, for test_operators.py.

The other process runs `function(channel, *given)` for each order; functions stand at the top of a module.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

import rdmatensor as rt
import rdmatensor.torch as rtt

CONTEXT = multiprocessing.get_context("spawn")
ANSWER = 150.0
"""Seconds within which the other process must have answered: it may compile meanwhile."""

ops = torch.ops.rdmatensor


class Sends(torch.nn.Module):
    """Three tensors over two edges, the second of which depends on nothing, and writes over what it sent."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        twice = x * 2
        ops.send(twice, "first")
        ops.send(x.sum(1), "second")
        twice.add_(1)
        ops.send(twice, "first")
        return twice.sum()


class Receives(torch.nn.Module):
    """The tensors that `Sends` sends, the first one unused."""

    def forward(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ops.recv("first", [4, 4], torch.float32)
        second = ops.recv("second", [4], torch.float32)
        third = ops.recv("first", [4, 4], torch.float32)
        return third @ weight, second + 1


class SendsAnyShape(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = x.relu()
        ops.send_dyn(row, "rows")
        return row.zero_()


class ReceivesAnyShape(torch.nn.Module):
    def forward(self) -> torch.Tensor:
        return ops.recv_dyn("rows", 2, torch.float32) * 2


def sample() -> torch.Tensor:
    return torch.arange(16.0).reshape(4, 4)


def expected(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (x * 2 + 1) @ weight, x.sum(1) + 1


def program(module: torch.nn.Module, given: tuple[Any, ...], form: str, folder: str = "") -> Callable[..., Any]:
    """A module as a graph that can be called."""
    if form in ("eager", "aot_eager", "inductor"):
        return torch.compile(module, backend=form, fullgraph=True)
    if form == "traced":
        return torch.fx.experimental.proxy_tensor.make_fx(module, tracing_mode="fake")(*given)
    exported = torch.export.export(module, given)
    if form == "decomposed":
        exported = exported.run_decompositions()
    if form == "loaded":
        torch.export.save(exported, f"{folder}/{type(module).__name__}.pt2")
        exported = torch.export.load(f"{folder}/{type(module).__name__}.pt2")
    return exported.module()


# ---- what the other process does ----


def send_program(channel: rt.Channel, form: str, folder: str, steps: int) -> float:
    edges = [
        rtt.bind_edge(channel.send_edge("first", shape=(4, 4))),
        rtt.bind_edge(channel.send_edge("second", shape=4)),
    ]
    graph = program(Sends(), (sample(),), form, folder)
    total = 0.0
    for step in range(steps):
        total += float(graph(sample() + step))
    for edge in edges:
        edge.close()
    return total


def send_rows(channel: rt.Channel, form: str, counts: list[int], registered: bool) -> tuple[int, int]:
    """Rows of 1000, as many as `counts` says; gives transfers and copies."""
    with channel.send_edge("rows") as edge:
        rtt.bind_edge(edge)
        region = channel.device.region(16 << 20, access=rt.Access.REMOTE_READ)
        graph = program_of_rows(form)
        for count in counts:
            rows = torch.arange(count * 1000.0).reshape(count, 1000)
            if registered:
                with region.allocating():
                    graph(rows)
            else:
                graph(rows)
        return edge.stats.transfers, edge.stats.copies


def program_of_rows(form: str) -> Callable[..., Any]:
    if form != "exported":
        return torch.compile(SendsAnyShape(), backend=form, dynamic=True, fullgraph=True)
    rows = {0: torch.export.Dim("rows", min=1)}
    return torch.export.export(SendsAnyShape(), (torch.ones(3, 1000),), dynamic_shapes=(rows,)).module()


def send_nothing(channel: rt.Channel, name: str, shape: tuple[int, ...] | None) -> None:
    """Opens an edge, to be killed with it."""
    channel._kept = channel.send_edge(name, shape=shape)  # type: ignore[attr-defined]


def receive_nothing(channel: rt.Channel, name: str, shape: tuple[int, ...] | None) -> None:
    channel._kept = channel.device.recv_edge(name, shape=shape)  # type: ignore[attr-defined]


# ---- the process ----


class _Channel:
    """A channel that a test may hang its edges on."""

    def __init__(self, channel: rt.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def _other(pipe: Connection, address: str) -> None:
    with rt.Device("shm://") as device:
        channel = _Channel(device.connect(address, timeout=300))
        pipe.send("up")
        while True:
            try:
                function, given = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send((True, function(channel, *given)))
            except BaseException:
                pipe.send((False, traceback.format_exc()))


class Other:
    """A process with a device, and a channel to it."""

    def __init__(self, listener: rt.Listener) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_other, args=(theirs, listener.address), daemon=True)
        self.process.start()
        theirs.close()
        self.channel = listener.accept(timeout=300)
        assert self.pipe.poll(60) and self.pipe.recv() == "up"

    def begin(self, function: Callable[..., Any], *given: Any) -> None:
        self.pipe.send((function, given))

    def result(self) -> Any:
        assert self.pipe.poll(ANSWER), "the other process gave no answer"
        good, found = self.pipe.recv()
        assert good, found
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10)

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.kill()
