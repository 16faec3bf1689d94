"""An open plan: steps of workers, the loop of servers, and what a run tells of itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdmatensor.edges.many import wait_any
from rdmatensor.errors import ClosedError, DeadlineExceeded, InvalidArgument, PeerLost, RdmaError
from rdmatensor.torch.graph.buckets import Bucket, Buckets
from rdmatensor.torch.graph.engine import Engine
from rdmatensor.torch.graph.holdings import Holdings, numbers_of
from rdmatensor.torch.graph.notes import Notes
from rdmatensor.torch.graph.sites import SiteStats
from rdmatensor.torch.graph.stale import Stale
from rdmatensor.torch.graph.threaded import Threads
from rdmatensor.torch.tensors import as_tensor

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor.edges.send import SendEdge
    from rdmatensor.torch.graph.buckets import Planning
    from rdmatensor.torch.graph.cut import Cut, Edge
    from rdmatensor.torch.graph.opening import Wires
    from rdmatensor.torch.graph.segment import Schedule

__all__ = ["Run", "RunStats"]

_SLICE_S = 0.25


@dataclass(frozen=True, slots=True)
class RunStats:
    """Counters of one process's run."""

    provider: str
    """The carrier of its tensors: "shm" or "verbs"."""
    steps: int
    segments: int
    """Segments of a step of the first plan."""
    threads: int
    """Threads that compute."""
    buckets: int
    """Plans that are open: one for each combination of sizes for which the others do not hold."""
    sends: int
    """Edges on which a step of the first plan sends."""
    receives: int
    copies: int
    """Copies made of tensors so that they could be sent, by the edges and by this run."""
    copied_bytes: int
    outside: int
    """Tensors that the second step of each plan sent from memory that is not registered; 0 where all
    are born in it.
    """
    polls: int
    """How often a receive looked whether its tensor had come."""
    sleeps: int
    """How often the thread slept, since only communication was left."""
    behind: tuple[int, ...]
    """With `staleness=k`, in a worker: how many parameters its steps took that lacked 0, 1, … k updates."""
    sites: SiteStats | None
    """Where the sent tensors were allocated."""


class Run:
    """One process's part of an open plan. A context manager: leaving it ends the loop of all
    processes in an orderly way, or with an exception, of which the others then hear.

    A process whose part uses the batch calls `step`, any other `serve`. One thread at a time.
    """

    def __init__(
        self, cut: Cut, schedule: Schedule, wires: Wires, timeout: float, planning: Planning, threads: int = 1
    ) -> None:
        part = schedule.part
        self.process = part.process
        """The name of this process's role: "worker0"."""
        self._wires = wires
        self._part = part
        self._timeout = timeout
        self._notes = Notes(wires)
        self._schedule = schedule
        self._threads = threads
        self._workers = Threads(self.process, threads) if threads > 1 else None
        late = cut.placed.staleness if part.role in cut.placed.replicas else 0
        self._stale = Stale(late) if late else None
        self._engine = Engine(self._schedule, wires, self._notes, timeout, self._workers, self._stale)
        replicated = part.role in cut.placed.replicas and cut.placed.replicas[part.role] > 1
        self._held = Holdings(cut.captured, part, wires.region if wires.analysis else None, replicated)
        self._first = cut.placed.ranks[0]
        first = Bucket(cut, schedule, self._engine, self._held)
        self._buckets = Buckets(first, wires, self._notes, planning, timeout)
        self._steps = 0
        self._begun = self._closed = self._failed = False
        self._trace_to: str | None = None

    @property
    def serves(self) -> bool:
        """Whether this process calls `serve` instead of `step`."""
        return not self._held.takes_batch and self.process != self._first

    # ---- steps ----

    def step(self, batch: Any) -> torch.Tensor | None:
        """One step on a batch. Gives this process's own loss, or None where another one computes it.

        The parameters are updated on their servers when this returns, or soon after. Raises
        InvalidArgument for a batch that does not fit the plan, before anything is sent (where the plan
        has buckets: that can have none); PeerLost that names the process that died and the edge;
        DeadlineExceeded when nothing comes in the run's `timeout`. After any but the first the run can
        only be closed.
        """
        self._live("run a step")
        if self.serves:
            why = "its part uses nothing of the batch: call run.serve() there, which returns when the loops end"
            raise InvalidArgument("run a step", self.process, why)
        number, new = self._bucket(batch)
        env = None if number is None else self._buckets.open[number].held.values(batch)
        with self._failing():
            if self._wires.numbers_in is not None:
                number = self._awaited()
                if number is None:
                    raise PeerLost("run a step", self.process, f"the loop of {self._first} is over")
                env = self._buckets.open[number].held.values(batch)
            if self._wires.numbers_out:
                self._send_numbers(len(self._buckets.open) if number is None else number)
            if number is None:
                assert new is not None
                number = self._buckets.begin(new, self._takers)
                env = self._buckets.open[number].held.values(batch)
            assert env is not None
            return self._one(number, env)

    def _bucket(self, batch: Any) -> tuple[int | None, Cut | None]:
        """The number of the open bucket of a batch, or its plan, to be opened; neither where the first
        rank says it. InvalidArgument where there can be none.
        """
        number = self._buckets.find(batch)
        if number is not None:
            return number, None
        if self._wires.numbers_in is not None and self._buckets.may_grow:
            return None, None
        return None, self._buckets.plan(batch)

    def serve(self, steps: int | None = None) -> int:
        """Runs steps until the first rank's loop is over, or so many. Gives the number of steps, which
        is smaller than `steps` once the loop is over.

        Between two calls the state is that of a step's end, to be saved: let the other processes save
        theirs after as many steps. Raises what `step` raises.
        """
        self._live("serve")
        if not self.serves:
            raise InvalidArgument("serve", self.process, "its part uses the batch: call run.step(batch) for each batch")
        if steps is not None and steps < 1:
            raise InvalidArgument("serve", self.process, f"steps={steps}: at least 1, or None for all")
        with self._failing():
            self._begin()
            before = self._steps
            while steps is None or self._steps - before < steps:
                number = self._awaited()
                if number is None:
                    break
                self._one(number, self._buckets.open[number].held.values())
            return self._steps - before

    def _one(self, number: int, env: list[Any]) -> torch.Tensor | None:
        self._begin()
        engine = self._buckets.open[number].engine
        if self._trace_to is not None:
            engine.events = []
        with torch.enable_grad():  # oneDNN's recurrent layers make their workspace only then
            results = engine.step(env)
        self._steps += 1
        if self._trace_to is not None:
            self._write_trace(engine)
        return results[0] if self._part.loss else None

    def _begin(self) -> None:
        """Sends what the first step needs of the state before it."""
        if self._begun:
            return
        self._begun = True
        for edge, node in self._part.ahead:
            try:
                self._wires.sends[edge.name].send(self._held.at(node), self._timeout)
            except RdmaError as error:
                raise self._notes.explained(error, edge.target, edge.name) from error

    @property
    def _takers(self) -> list[str]:
        """The processes to which this one sends the numbers of each step."""
        return [_target(edge) for edge in self._wires.numbers_out]

    def _send_numbers(self, number: int) -> None:
        values = np.array([self._steps, number, *numbers_of(self._held.captured)], np.float64)
        for edge in self._wires.numbers_out:
            try:
                edge.send(values, self._timeout)
            except RdmaError as error:
                raise self._notes.explained(error, _target(edge), edge.name) from error

    def _awaited(self) -> int | None:
        """Waits for the first rank to begin a step, and opens its bucket if that is new. Gives the
        bucket's number, or None when that rank's loop is over.
        """
        number = self._told()
        return None if number is None else self._buckets.follow(number)

    def _told(self) -> int | None:
        """The number that begins a step, or None when the loop of the first rank is over."""
        edge = self._wires.numbers_in
        assert edge is not None
        while True:
            try:
                if edge.ready():
                    with edge.recv(0) as tensor:
                        number = int(tensor.numpy()[1])
                        self._held.take_numbers(tensor.numpy()[2:])
                    return number
                self._notes.read()
                if self._first in self._notes.ended and not edge.ready():
                    return None
                wait_any([edge, *self._notes.edges()], timeout=_SLICE_S)
            except DeadlineExceeded:
                continue
            except PeerLost as error:
                if edge.failure is None:
                    raise
                told = self._notes.explained(error, self._first, edge.name)
                if self._first in self._notes.ended:
                    return None
                raise told from error

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """After an error in a step, this run can only be closed, and the peers hear why."""
        try:
            yield
        except BaseException as error:
            self._failed = True
            self._notes.fail(self.process, f"{type(error).__name__}: {error}")
            raise

    def _live(self, what: str) -> None:
        if self._closed or self._failed:
            why = "it was closed" if self._closed else "a step of it failed: close it, and open the plan again"
            raise ClosedError(what, repr(self), why)

    # ---- state ----

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors that this process holds, by kind and name: a server's parameters and states
        ("parameter/0.weight", "state/0.weight/exp_avg"), a worker's buffers. Not copied: they are
        those of the next step.

        The union of all processes' is the whole state. `torch.distributed.checkpoint` saves it from
        all processes between two steps (`serve(steps)`), and loads it before the first step into
        what this gives, also where another number of servers shares it:
        `dcp.load(state := run.state_dict(), checkpoint_id=...); run.load_state_dict(state)`.
        """
        return self._held.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copies a state, before the first step. InvalidArgument where it does not fit, or later."""
        self._live("load a state")
        if self._begun:
            why = "the run has begun, and its parameters are on their way: load before the first step"
            raise InvalidArgument("load a state", repr(self), why)
        self._held.load_state_dict(state)

    # ---- what it tells ----

    @property
    def stats(self) -> RunStats:
        """Counters since the plan was opened."""
        engines = [bucket.engine for bucket in self._buckets.open]
        counted = [one.sites.stats for one in engines if one.sites is not None]
        sends = [edge.stats for edge in self._wires.sends.values()]
        return RunStats(
            provider=self._wires.device.provider,
            steps=self._steps,
            segments=len(self._schedule.segments),
            threads=self._threads,
            buckets=len(engines),
            sends=len(self._engine._sends),
            receives=len(self._engine._receives),
            copies=sum(one.copies for one in sends) + sum(one.copied for one in engines),
            copied_bytes=sum(one.copied_bytes for one in sends),
            outside=sum(one.outside for one in engines),
            polls=sum(one.polls for one in engines),
            sleeps=sum(one.sleeps for one in engines),
            behind=() if self._stale is None else tuple(self._stale.behind),
            sites=SiteStats.sum(counted) if counted else None,
        )

    def born(self) -> dict[str, str]:
        """Where each tensor that this process sends is allocated, in words, by the edge's name; known
        after the first step.
        """
        found: dict[str, str] = {}
        sites = self._engine.sites
        for send in self._schedule.sends:
            if send.node in self._schedule.inputs or sites is None:
                found[send.edge.name] = send.edge.born
            else:
                found[send.edge.name] = sites.born(send.node.name)
        return found

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Writes a trace of the next step, which chrome://tracing and Perfetto show: segments, polls,
        sleeps and transfers.
        """
        self._live("trace a step")
        self._trace_to = os.fspath(path)

    def _write_trace(self, engine: Engine) -> None:
        assert self._trace_to is not None and engine.events is not None
        rows = {"compute": 0, "send": 1, "receive": 2, "poll": 3, "sleep": 4}
        where = {"pid": self.process}
        events: list[dict[str, Any]] = []
        order: dict[str, int] = {}
        for kind, name, begin, end, worker in engine.events:
            row = f"{kind}, thread {worker}" if worker else kind
            order[row] = rows[kind] + len(rows) * worker
            span = {"ts": begin / 1e3, "dur": (end - begin) / 1e3}
            events.append({"ph": "X", "name": name, "cat": kind, "tid": row, **span, **where})
        events += [
            {"ph": "M", "name": "thread_sort_index", "tid": row, "args": {"sort_index": number}, **where}
            for row, number in order.items()
        ]
        with open(self._trace_to, "w") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
        self._trace_to = engine.events = None

    # ---- the end ----

    def close(self) -> None:
        """Ends this process's loop, and tells the others. A worker's model then has the parameters of
        the last step, a server's model and optimizer those that it holds. Twice is fine.
        """
        self._close(orderly=not self._failed)

    def _close(self, *, orderly: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if orderly:
                self._finish()
        finally:
            for bucket in self._buckets.open:
                bucket.engine.close()
            self._wires.close()  # which wakes threads that wait for a peer
            if self._workers is not None:
                self._workers.close(self._timeout)

    def _finish(self) -> None:
        """Receives the parameters of the last step into the model, writes back what lies in the
        region, and says that the loop is over.
        """
        self._held.write_back()
        if self._steps:
            deadline = time.monotonic() + self._timeout
            ahead = [receive.edge for receive in self._schedule.receives if receive.edge.ahead]
            self._held.received({edge.node: self._fetch(edge, deadline) for edge in ahead})
        self._notes.end(self._steps)

    def _fetch(self, edge: Edge, deadline: float) -> torch.Tensor:
        """A parameter that was sent for a step that does not come."""
        end = self._wires.recvs[edge.name]
        try:
            for _ in range(0 if self._stale is None else self._stale.left(end) - 1):
                with end.recv(max(deadline - time.monotonic(), 0)):
                    pass  # an older version
            return as_tensor(end.recv(max(deadline - time.monotonic(), 0)))
        except RdmaError as error:
            raise self._notes.explained(error, edge.source, edge.name) from error

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._notes.fail(self.process, f"{type(error).__name__}: {error}")
        self._close(orderly=error is None and not self._failed)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "failed" if self._failed else "open"
        return f"<Run of {self.process}, {self._steps} steps, {state}>"


def _target(edge: SendEdge) -> str:
    """The process to which the first rank sends numbers on an edge."""
    return edge.name.partition(">")[2].partition(":")[0]
