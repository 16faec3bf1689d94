"""A plan: a captured step, cut by placement, with every tensor that will cross known ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.settings.config import world_size
from rdmatensor.torch.graph.averaging import group_name
from rdmatensor.torch.graph.buckets import Planning
from rdmatensor.torch.graph.capture import capture
from rdmatensor.torch.graph.cut import Cut, Edge
from rdmatensor.torch.graph.explain import as_json, svg, text
from rdmatensor.torch.graph.holdings import numbers_of
from rdmatensor.torch.graph.memory import sent_memory
from rdmatensor.torch.graph.opening import Needs, Store, meeting, open_wires
from rdmatensor.torch.graph.place import ByFunction, ParameterServer
from rdmatensor.torch.graph.repeating import repeated
from rdmatensor.torch.graph.run import Run
from rdmatensor.torch.graph.segment import Schedule
from rdmatensor.torch.graph.shapes import varying
from rdmatensor.torch.graph.stages import Stages
from rdmatensor.torch.graph.workers import THREADS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx, nn
    from torch.optim import Optimizer

    from rdmatensor.torch.graph.capture import Captured
    from rdmatensor.torch.graph.inputs import LossFn
    from rdmatensor.torch.graph.place import Placed, Placement

__all__ = ["Plan", "explain", "plan"]

OPENING_S = 300.0
"""How long processes wait for each other at the opening: each captures its graph before."""
STEP_S = 600.0
"""How long a step waits, by default, while nothing comes. A process that dies is noticed at once."""


class Plan:
    """The result of `plan`. It has the whole step, so every process can explain all of it; only `open`
    needs the others.
    """

    def __init__(
        self,
        captured: Captured,
        placement: Placement,
        size: int | None,
        buckets: int = 1,
        again: Callable[[Any], Captured] | None = None,
    ) -> None:
        self.buckets = buckets
        """The most plans that a run may have for batches of several sizes, this one included."""
        self._again = again
        self.placement = placement
        self.captured, self.placed = _placed(captured, placement, size)
        self.cut = Cut(self.captured, self.placed)
        self._schedules: dict[tuple[str, str], Schedule] = {}

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every tensor that crosses, in the order in which one process would make them."""
        return self.cut.edges

    @property
    def processes(self) -> tuple[str, ...]:
        """The processes by rank."""
        return self.placed.ranks

    @cached_property
    def fingerprint(self) -> str:
        """A hash of graph and edges, equal on all ranks that may run together."""
        digest = hashlib.sha256(f"{self.captured.fingerprint} {self.buckets}".encode())
        for edge in self.edges:
            digest.update(repr((edge.name, edge.shape, edge.dtype, edge.kind, edge.slots, edge.flow)).encode())
        return digest.hexdigest()

    # ---- in words ----

    def explain(self) -> str:
        """The plan as text: processes, edges, bytes, and the reasons."""
        return text(self.cut, repr(self.placement))

    def json(self) -> str:
        """The plan as JSON, for programs."""
        return as_json(self.cut, self.fingerprint)

    def svg(self) -> str:
        """The plan as a picture: processes, and the bytes that a step moves between them."""
        return svg(self.cut)

    # ---- for real ----

    def open(
        self,
        *,
        store: Store | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        timeout: float = STEP_S,
        opening: float = OPENING_S,
        staging: bool = False,
        analysis: bool = True,
        threads: int = 1,
    ) -> Run:
        """This process's run: all edges are made and connected. Every rank calls it.

        The processes meet at the given store (with `rank` and `world_size`), at that of the default
        process group, or at torchrun's. `timeout` is how long in seconds a step may wait while
        nothing comes, `opening` how long the processes wait for each other here.

        `threads`: with more than one, segments that do not depend on each other run at once on so many
        threads, beside the caller's, which then only communicates; values stay the same. Each of them
        uses as many threads inside an operator as the caller's (`torch.set_num_threads`). Processes
        may differ in it.

        For comparison, `analysis=False` makes every tensor in ordinary memory, so the sender copies it
        where the device needs registered memory (RDMA.cp in the paper), and `staging` copies every
        tensor before it is sent, wherever it lies, over shared memory too.

        Raises InvalidArgument that names a rank whose plan differs, or for a wrong argument,
        DeadlineExceeded that names one that does not come, PeerLost that names one that failed.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= THREADS_MAX:
            why = f"a process computes on 1 to {THREADS_MAX} threads, not {threads!r}"
            raise InvalidArgument("open a plan", "threads", why)
        met = meeting(store, rank, world_size, opening)
        ranks = self.placed.ranks
        if met.size != len(ranks):
            why = f"it is for {len(ranks)} processes ({', '.join(ranks)}), and there are {met.size}"
            raise InvalidArgument("open a plan", repr(self), f"{why}: start as many, or plan for these")
        process = ranks[met.rank]
        numbers = numbers_of(self.captured)
        replicas = [one for role in self.placed.replicas for one in self.placed.processes(role)]
        takers = tuple(one for one in ranks[1:] if one not in replicas)
        group = group_name(met.size) if self.placed.collective else ""
        schedule = self._schedule(process, group)
        needs = Needs(
            fingerprint=self.fingerprint,
            ranks=ranks,
            edges=self.edges,
            numbers=2 + len(numbers),
            takers=takers,
            region_bytes=sent_memory(schedule.part).region_bytes,
            staging=staging,
            analysis=analysis,
        )
        wires = open_wires(met, needs, opening)
        try:
            planning = Planning(self.buckets, self._cut_again, group)
            return Run(self.cut, schedule, wires, timeout, planning, threads)
        except BaseException:
            wires.close()
            raise

    def _schedule(self, process: str, group: str) -> Schedule:
        """The part of a process, in segments; made once, for every opening."""
        if (process, group) not in self._schedules:
            self._schedules[process, group] = Schedule(self.cut.part(process, group))
        return self._schedules[process, group]

    def _cut_again(self, batch: Any) -> Cut:
        """The step for a batch of other sizes, cut by the same placement."""
        assert self._again is not None
        captured = self._again(batch)
        cut = Cut(captured, self.placement.place(captured, len(self.placed.ranks)))
        if not isinstance(self.placement, (Stages, ByFunction)):
            return cut
        homes = _homes(self.cut)
        moved = next((name for name, role in _homes(cut).items() if homes.get(name, role) != role), None)
        if moved is not None:  # stages are divided by their operations, which depend on sizes
            why = "by this batch it would live in another process: mark the stages in the model (annotate)"
            raise Unsupported("plan a bucket", moved, why)
        return cut

    def __repr__(self) -> str:
        return f"<Plan for {', '.join(self.processes)}: {len(self.edges)} edges>"


def plan(
    model: nn.Module,
    loss_fn: LossFn,
    optimizer: Optimizer,
    batch: Any,
    *,
    placement: Placement | Callable[[fx.Node], str | None] | None = None,
    dynamic: Mapping[str, Any] | None = None,
    clip_grad_norm: float | None = None,
    processes: int | None = None,
    buckets: int = 1,
) -> Plan:
    """Captures one step of training and plans how processes share it.

    `batch` is an example: shapes count, values do not. `placement` says which process runs what, by
    default one parameter server; a function from a node to the name of a role is one too.
    `processes` is their number, by default that of the process group or of torchrun, and outside
    both what the placement needs at least. `dynamic` and `clip_grad_norm` are as for `capture`.
    `buckets` is how many plans a run may have, at most: a batch of sizes for which none holds (an
    unrolled recurrent layer fixes its length) gets one of its own when it comes, which costs a
    capture; all share parameters, states and equal edges.

    Raises InvalidArgument for what cannot be captured, and Unsupported for what cannot be placed so,
    with the line of the user's program.
    """
    if buckets < 1:
        raise InvalidArgument("plan a step", "buckets", f"there is one plan at least, not {buckets}")
    chosen: Any = ParameterServer() if placement is None else placement
    if not hasattr(chosen, "place"):
        if not callable(chosen):
            why = f"a placement is a ParameterServer or a function of a node, not {chosen!r}"
            raise InvalidArgument("plan a step", "placement", why)
        chosen = ByFunction(chosen)

    def captured_for(batch: Any, dynamic: Mapping[str, Any] | None) -> Captured:
        example = chosen.example(batch, dynamic) if isinstance(chosen, Stages) else batch
        return capture(model, loss_fn, optimizer, example, dynamic=dynamic, clip_grad_norm=clip_grad_norm)

    def captured_again(other: Any) -> Captured:
        return captured_for(other, varying(dynamic or {}, other))

    if buckets > 1 and isinstance(chosen, Stages) and chosen.microbatches > 1:
        why = (
            "a pipeline of microbatches has one plan: name the sizes that vary in dynamic=, or bring batches to one "
            "size (padding)"
        )
        raise Unsupported("plan a step", "buckets", why)
    size = _size() if processes is None else processes
    return Plan(captured_for(batch, dynamic), chosen, size, buckets, captured_again)


def _homes(cut: Cut) -> dict[str, str]:
    """The role in which each lasting input lives, by its name."""
    lasting = {node: one for node, one in cut.captured.inputs.items() if one.kind not in ("batch", "number")}
    return {one.name: cut.placed.roles[node] for node, one in lasting.items() if node in cut.placed.roles}


def _placed(captured: Captured, placement: Placement, size: int | None) -> tuple[Captured, Placed]:
    """The step and its placement; for all microbatches, if the placement divides batches."""
    placed = placement.place(captured, size)
    if not isinstance(placement, Stages) or placed.pipeline is None:
        return captured, placed
    return repeated(captured, placed, placed.pipeline, placement.splitting)


def explain(model: nn.Module, loss_fn: LossFn, optimizer: Optimizer, batch: Any, **words: Any) -> str:
    """The tensors that would cross between processes, and why: the text of `plan(...)`, which needs no second
    process.
    """
    return plan(model, loss_fn, optimizer, batch, **words).explain()


def _size() -> int | None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return int(dist.get_world_size())
    return world_size()
