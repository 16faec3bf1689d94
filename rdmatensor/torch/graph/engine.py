"""One process's steps: the ready queue of segments, receives that poll, sends that leave early.

By default one thread runs everything. The ready segment that is first in the part's order runs;
after each one a receive looks once whether its tensor has come, and otherwise goes to the back of
its queue. When no segment is ready, all receives look, and then the thread sleeps until one of them,
or a peer's note, has come. A tensor to be sent leaves as soon as its segment has run.

`threaded.py` runs a step on several threads.

The first step is traced: each node is marked for `Sites`, which finds out where the tensors that are
sent were allocated. The steps after it mark only the nodes that allocate those.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rdmatensor.edges.many import send_many, wait_any
from rdmatensor.errors import DeadlineExceeded, RdmaError
from rdmatensor.torch.graph.segment import LARGE, Receive, Schedule, Segment, Send
from rdmatensor.torch.graph.sites import Sites
from rdmatensor.torch.tensors import as_tensor

if TYPE_CHECKING:
    from rdmatensor.copies.transfer import Transfer
    from rdmatensor.edges.recv import RecvEdge
    from rdmatensor.torch.graph.notes import Notes
    from rdmatensor.torch.graph.opening import Wires
    from rdmatensor.torch.graph.stale import Stale

__all__ = ["Engine", "Event"]

_SLICE_S = 0.25
"""The longest sleep; the deadline is looked at after it."""
_FLYING_S = 0.001
"""The longest sleep while tensors are on their way whose memory is about to be written."""

Event = tuple[str, str, int, int, int]
"""A thing in a trace: its kind, its name, its begin and end in nanoseconds, and the number of the
worker thread, 0 for the caller's.
"""


class Computing(Protocol):
    """Threads that run steps."""

    @property
    def lock(self) -> object:
        """The lock under which they take values."""

    def run(self, engine: Engine, env: list[Any]) -> list[Any]: ...


class Engine:
    """Runs the steps of a part. `timeout` is the longest time in seconds that a step may wait without
    anything coming. `workers`, if any, are threads that compute. `stale`, if any, has the parameters
    that come over edges sent ahead.
    """

    def __init__(
        self,
        schedule: Schedule,
        wires: Wires,
        notes: Notes,
        timeout: float,
        workers: Computing | None = None,
        stale: Stale | None = None,
    ) -> None:
        self.schedule = schedule
        self.notes = notes
        self.workers = workers
        self.stale = stale
        self.timeout = timeout
        self.device = wires.device
        self.region = wires.region
        self.events: list[Event] | None = None
        self.polls = self.sleeps = self.copied = 0
        self.outside = 0  # tensors of the last checked step that were sent from outside registered memory
        self._checks = False  # the step after a traced one
        self._receives = [(receive, wires.recvs[receive.edge.name]) for receive in schedule.first_receives]
        self._late = frozenset(receive.number for receive, _ in self._receives if stale and receive.edge.ahead)
        self._sends = {id(send): wires.sends[send.edge.name] for send in schedule.sends}
        self._at_once = self.device.limits.completes_in_post
        self._anywhere = self.device.limits.local_anywhere
        sends = any(send.node not in schedule.inputs for send in schedule.sends)
        self.sites = Sites([node.name for node in schedule.nodes]) if sends and wires.analysis else None
        self._analysis = wires.analysis
        self._cloned: set[int] = set()
        self._trace = self.sites is not None
        self._codes = self._compiled(all_nodes=self._trace)
        self._waits = [segment.waits for segment in schedule.segments]
        self._first = [segment.number for segment in schedule.segments if not segment.waits]

    def step(self, env: list[Any]) -> list[Any]:
        """Runs a step on the values of the inputs, which `env` has in the places of their nodes; the
        list is used up. Gives the part's results.
        """
        sites = self.sites
        if self.stale is not None:
            self.stale.begin()
        if sites is None:
            self._checks, self.outside = not self._analysis, 0
            return self._run(env)
        if not self._trace:
            result = self._run(env)
            self._checks = False
            if sites.settle():
                self._trace, self._codes = True, self._compiled(all_nodes=True)
            return result
        with sites.tracing():
            result = self._run(env)
        sites.serve(self.region)
        sites.settle()
        self._trace, self._codes = False, self._compiled(all_nodes=False)
        self._checks, self.outside = True, 0
        return result

    def _run(self, env: list[Any]) -> list[Any]:
        return _Step(self, env).run() if self.workers is None else self.workers.run(self, env)

    def _compiled(self, *, all_nodes: bool) -> list[Any]:
        lock = None if self.workers is None else self.workers.lock
        if self.sites is None:
            return self.schedule.compile(lock=lock)
        marked = range(len(self.schedule.nodes)) if all_nodes else self.sites.marked
        return self.schedule.compile(self.sites.enter, self.sites.leave, marked, lock)

    def close(self) -> None:
        if self.sites is not None:
            self.sites.close()


class _Step:
    """The state of one step."""

    def __init__(self, engine: Engine, env: list[Any]) -> None:
        self.engine = engine
        self.env = env
        self.uses = engine.schedule.uses.copy()
        self.waits = engine._waits.copy()
        self.ready = engine._first.copy()  # a heap
        self.queue = deque(engine._receives)
        self.flying: list[tuple[Send, Transfer]] = []
        self.events = engine.events

    def run(self) -> list[Any]:
        self._take_late()
        segments, ready, queue = self.engine.schedule.segments, self.ready, self.queue
        while True:
            if ready:
                number = heapq.heappop(ready)
                self._compute(number)
                self._after(segments[number])
                if queue:
                    self._poll()
            elif queue:
                if not self._poll_all():
                    self._sleep()
            elif self.flying:
                self._land(wait=True)
            else:
                break
        return self._results()

    def _results(self) -> list[Any]:
        schedule = self.engine.schedule
        return [self.env[schedule.numbers[node]] for node in schedule.nodes[-1].all_input_nodes]

    def _compute(self, number: int) -> None:
        code = self.engine._codes[number]
        if code is None:
            return
        if self.events is None:
            code(self.env, self.uses)
            return
        begin = time.perf_counter_ns()
        code(self.env, self.uses)
        self._event("compute", self.engine.schedule.segments[number].name, begin)

    def _event(self, kind: str, name: str, begin: int) -> None:
        if self.events is not None:
            self.events.append((kind, name, begin, time.perf_counter_ns(), self._thread()))

    def _thread(self) -> int:
        """The number of the thread for traces."""
        return 0

    def _explained(self, error: RdmaError, peer: str, edge: str) -> BaseException:
        """The error to raise for one of an edge with a peer."""
        return self.engine.notes.explained(error, peer, edge)

    def _after(self, segment: Segment) -> None:
        """Sends and releases behind a segment that has run."""
        if segment.sends:
            self._send(segment.sends)
        self._release(segment.next)
        if self.flying:
            self._land(wait=False)

    def _release(self, after: Iterable[Segment]) -> None:
        """Counts that something which segments wait for is done."""
        waits = self.waits
        for segment in after:
            number = segment.number
            waits[number] -= 1
            if not waits[number]:
                heapq.heappush(self.ready, number)

    # ---- receives ----

    def _poll(self) -> bool:
        """Lets the first receive look once; it goes to the back of the queue if nothing has come. Gives whether a
        tensor has.
        """
        engine, entry = self.engine, self.queue[0]
        engine.polls += 1
        if entry[1].ready():
            self.queue.popleft()
            self._take(*entry)
            return True
        self.queue.rotate(-1)
        return False

    def _poll_all(self) -> bool:
        """Lets every receive look once. Gives whether a tensor has come."""
        begin = time.perf_counter_ns() if self.events is not None else 0
        before, came = len(self.queue), False
        for _ in range(before):
            came |= self._poll()
        if self.events is not None:
            self._event("poll", f"{before} receives", begin)
        return came

    def _take_late(self) -> None:
        """Takes the parameters that have come, where they may lack updates."""
        if self.engine._late:
            entries, self.queue = self.queue, deque()
            for entry in entries:
                if entry[0].number in self.engine._late:
                    self._take(*entry)
                else:
                    self.queue.append(entry)

    def _take(self, receive: Receive, edge: RecvEdge) -> None:
        begin = time.perf_counter_ns() if self.events is not None else 0
        try:
            if receive.number in self.engine._late:
                assert self.engine.stale is not None
                tensor = self.engine.stale.newest(edge)
                if tensor is None:  # what has come lacks too many updates
                    self.queue.append((receive, edge))
                    return
            else:
                tensor = as_tensor(edge.recv())  # it has come, so this does not wait
        except RdmaError as error:
            raise self._explained(error, receive.edge.source, receive.edge.name) from error
        self.env[receive.place] = tensor
        if self.events is not None:
            self._event("receive", receive.edge.name, begin)
        if receive.then is not None:
            self.queue.append((receive.then, edge))
        self._release(receive.next)

    def _sleep(self) -> None:
        """Sleeps until a tensor or a note has come."""
        engine = self.engine
        engine.sleeps += 1
        begin = time.perf_counter_ns()
        deadline = time.monotonic() + engine.timeout
        waited: list[RecvEdge] = [edge for _, edge in self.queue]
        while True:
            engine.notes.read()
            heard = engine.notes.edges()
            try:
                came = wait_any([*waited, *heard], timeout=_FLYING_S if self.flying else _SLICE_S)
                break
            except DeadlineExceeded:
                if self._awake():
                    return
                if self._busy():
                    deadline = time.monotonic() + engine.timeout
                elif time.monotonic() >= deadline:
                    raise self._late() from None
        if self.events is not None:
            self._event("sleep", f"until one of {len(waited)} has come", begin)
        ready = {id(edge) for edge in came}
        for entry in [entry for entry in self.queue if id(entry[1]) in ready]:
            self.queue.remove(entry)
            self._take(*entry)

    def _awake(self) -> bool:
        """Looks, in a pause of a sleep, whether there is something else to do."""
        return bool(self.flying) and self._land(wait=False)

    def _busy(self) -> bool:
        """Whether another thread computes, so that the sleep is no wait for peers."""
        return False

    def _late(self) -> DeadlineExceeded:
        names = [receive.edge.name for receive, _ in self.queue]
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        why = f"nothing came in {self.engine.timeout:g} s on {some}: see what its sender does, or raise timeout="
        return DeadlineExceeded("run a step", self.engine.notes.process, why, status="deadline")

    # ---- sends ----

    def _send(self, sends: list[Send]) -> None:
        begin = time.perf_counter_ns() if self.events is not None else 0
        small: list[tuple[Send, Any]] = []
        for send in sends:
            tensor = self._value(send)
            if send.edge.kind == "static" and tensor.nbytes < LARGE and len(sends) > 1:
                small.append((send, tensor))
            else:
                self._send_one(send, tensor)
        if small:
            self._send_small(small)
        if self.events is not None:
            names = sends[0].edge.name + (f" and {len(sends) - 1} more" if len(sends) > 1 else "")
            self._event("send", names, begin)

    def _value(self, send: Send) -> torch.Tensor:
        """The tensor to send, which no longer counts as used by the send."""
        engine, place = self.engine, send.place
        tensor: torch.Tensor = self.env[place]
        self.uses[place] -= 1
        if not self.uses[place] and send.node not in engine.schedule.inputs:
            self.env[place] = None
        sites = engine.sites
        if engine._trace and sites is not None and send.node not in engine.schedule.inputs:
            site = sites.found(send.node.name, tensor, any_size=send.edge.kind == "dynamic")
            if site is None and not engine._anywhere and not engine.device.holds(tensor.data_ptr()):
                engine._cloned.add(id(send))
        if id(send) in engine._cloned and sites is not None:
            engine.copied += 1
            tensor = sites.clone(tensor)
        if engine._checks:
            engine.outside += not engine.device.holds(tensor.data_ptr())
        return tensor

    def _send_one(self, send: Send, tensor: torch.Tensor) -> None:
        edge = self.engine._sends[id(send)]
        try:
            if send.edge.kind == "static" and self.engine._at_once:
                try:
                    edge.send(tensor, 0)
                    self._release(send.next)
                    return
                except DeadlineExceeded:  # the receiver has not released a slot
                    pass
            self._fly(send, edge.send_async(tensor, self.engine.timeout))
        except RdmaError as error:
            raise self._explained(error, send.edge.target, send.edge.name) from error

    def _send_small(self, small: list[tuple[Send, Any]]) -> None:
        pairs = [(self.engine._sends[id(send)], tensor) for send, tensor in small]
        try:
            send_many(pairs, timeout=self.engine.timeout)
        except RdmaError as error:
            lost = next((send for send, _ in small if repr(send.edge.name) in error.on), small[0][0])
            raise self._explained(error, lost.edge.target, lost.edge.name) from error
        for send, _ in small:
            self._release(send.next)

    def _fly(self, send: Send, transfer: Transfer) -> None:
        """Notes a send that is under way."""
        self.flying.append((send, transfer))

    def _land(self, *, wait: bool) -> bool:
        """Counts the sends that are done. Gives whether there were any; `wait` waits for the first."""
        still: list[tuple[Send, Transfer]] = []
        landed = False
        for send, transfer in self.flying:
            try:
                if wait and not landed:
                    transfer.wait()
                elif not transfer.done():
                    still.append((send, transfer))
                    continue
                transfer.wait(0)
            except RdmaError as error:
                raise self._explained(error, send.edge.target, send.edge.name) from error
            landed = True
            self._release(send.next)
        self.flying = still
        return landed
