"""A role for every node: parameter servers, data parallel training, a function of the user.

A placement says which process runs each node of a captured step. It reads the graph and changes
nothing; `cut` makes parts of the result. A role that several processes have at once, such as that
of the workers, is *replicated*: each process runs the same nodes on its own batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

import torch
from torch import fx

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import origin, writes

if TYPE_CHECKING:
    from rdmatensor.torch.graph.capture import Captured
    from rdmatensor.torch.graph.pipeline import Pipeline

__all__ = ["AllReduce", "ByFunction", "ParameterServer", "Placed", "Placement", "nbytes"]

WHAT = "place a step"
WORKER = "worker"
STALENESS_MAX = 30
"""An edge has two slots more than that, and a device has a bound for slots."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement of one captured step."""

    roles: Mapping[fx.Node, str]
    """The role of every node, except those that any role may run for itself: nodes that depend on
    numbers alone.
    """
    replicas: Mapping[str, int]
    """The replicated roles, and by how many processes: role "worker" is that of "worker0" and so
    on. A gradient that leaves a replicated role arrives as the mean of the replicas' gradients,
    added in the order of their numbers.
    """
    ranks: tuple[str, ...]
    """The role of each rank, replicas by their own names."""
    collective: bool = False
    """Whether replicas average gradients among themselves instead of sending them to a server."""
    pipeline: Pipeline | None = None
    """The schedule of the roles "stage0" and so on, where they work on several microbatches."""
    staleness: int = 0
    """How many updates the parameters that a replicated role takes may lack."""

    def processes(self, role: str) -> tuple[str, ...]:
        """The names of the processes that have a role."""
        count = self.replicas.get(role)
        return (role,) if count is None else tuple(f"{role}{number}" for number in range(count))


class Placement(Protocol):
    """Says which process runs each node. `size` is the number of processes, None where it is free."""

    def place(self, captured: Captured, size: int | None) -> Placed: ...


def nbytes(node: fx.Node) -> int:
    """The bytes of a node's tensor; 0 where its shape varies or it is no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
        return 0
    return int(value.numel() * value.element_size())


@dataclass(frozen=True, slots=True)
class ParameterServer:
    """Workers compute gradients, servers hold the parameters and the optimizer's states and update
    them (section 6 of the paper). Synchronous by default: every step uses the parameters that the
    step before has left.

    `servers` is the number of servers, `workers` that of workers; None takes the processes that the
    servers leave. Ranks: workers first, then servers. Variables go to servers by bytes, the largest
    first, each to the server that has the fewest; `rule` maps patterns of names ("encoder.*") to
    servers' numbers and goes before. A parameter that no step changes, and buffers, stay with the
    workers. Server 0 computes values of the gradients of several servers, such as the norm for
    clipping.

    With `staleness=k` the parameters of a worker's step may lack up to k of the last updates, each
    parameter for itself: the worker takes the newest ones that have come, and waits only for those
    that would lack more. Servers wait for the gradients of all workers in each step as before, so no
    gradient is dropped. `run.stats.behind` counts. The values then depend on when tensors come.
    """

    servers: int = 1
    workers: int | None = None
    rule: Mapping[str, int] = field(default_factory=dict)
    staleness: int = 0

    def place(self, captured: Captured, size: int | None) -> Placed:
        """The roles. InvalidArgument for a number of processes or a rule that does not fit."""
        workers = self._count(size)
        if isinstance(self.staleness, bool) or not isinstance(self.staleness, int):
            raise InvalidArgument(WHAT, repr(self), f"staleness is a number of updates, not {self.staleness!r}")
        if not 0 <= self.staleness <= STALENESS_MAX:
            why = f"staleness={self.staleness}: 0 to {STALENESS_MAX}, since a worker has a slot for each version"
            raise InvalidArgument(WHAT, repr(self), why)
        owners = self._owners(captured)
        placing = _Placing(captured, owners)
        roles = placing.place()
        processes = [f"{WORKER}{number}" for number in range(workers)]
        processes += [f"server{number}" for number in range(self.servers)]
        return Placed(roles, {WORKER: workers}, tuple(processes), staleness=self.staleness)

    def _count(self, size: int | None) -> int:
        servers, workers = self.servers, self.workers
        if servers < 1:
            raise InvalidArgument(WHAT, repr(self), f"it needs at least 1 server, not {servers}")
        if workers is None:
            workers = 1 if size is None else size - servers
        if workers < 1 or (size is not None and workers + servers != size):
            why = f"{size} processes are not {servers} servers and {self.workers or 'at least 1'} workers"
            raise InvalidArgument(WHAT, repr(self), f"{why}: start {servers + max(workers, 1)}, or change the numbers")
        return workers

    def _owners(self, captured: Captured) -> dict[int, int]:
        """The server of each parameter that the step changes, by the parameter's index."""
        written = {origin(argument) for node in captured.module.graph.nodes for argument in writes(node)}
        parameters = [
            (node, given) for node, given in captured.inputs.items() if given.kind == "parameter" and node in written
        ]
        load = [0] * self.servers
        owners: dict[int, int] = {}
        for node, given in parameters:
            server = self._ruled(given.name)
            if server is not None:
                owners[given.index] = server
                load[server] += nbytes(node)
        rest = [(nbytes(node), given.index) for node, given in parameters if given.index not in owners]
        for size, index in sorted(rest, key=lambda entry: (-entry[0], entry[1])):
            server = load.index(min(load))
            owners[index] = server
            load[server] += size
        return owners

    def _ruled(self, name: str) -> int | None:
        for pattern, server in self.rule.items():
            if fnmatchcase(name, pattern):
                if not 0 <= server < self.servers:
                    why = f"rule {pattern!r} names server {server}: there are servers 0 to {self.servers - 1}"
                    raise InvalidArgument(WHAT, repr(self), why)
                return server
        return None


_NUMBER, _WORKER, _JOINT, _GRADIENT, _OWNED = range(5)
"""The sources of a value, by the force with which it draws a node to its server: of numbers alone;
of anything of the worker's; of values of several servers; of a gradient; of a parameter or state.
"""


class _Placing:
    """The roles of one step between a worker and its servers."""

    def __init__(self, captured: Captured, owners: Mapping[int, int]) -> None:
        self.captured = captured
        self.owners = owners
        self.draw: dict[fx.Node, tuple[int, int]] = {}  # force and server

    def place(self) -> dict[fx.Node, str]:
        need = _needed(self.captured)
        gradients = self._gradients()
        roles: dict[fx.Node, str] = {}
        for node in self.captured.module.graph.nodes:
            if node.op == "output":
                continue
            if node.op == "placeholder":
                force, server = self._input(node)
            elif node in need:
                force, server = (_GRADIENT, gradients[node]) if node in gradients else (_WORKER, 0)
            else:
                force, server = self._drawn(node)
            self.draw[node] = force, server
            if force != _NUMBER:
                worker = force == _WORKER or (node in need and node.op != "placeholder")
                roles[node] = WORKER if worker else f"server{server}"
        return roles

    def _input(self, node: fx.Node) -> tuple[int, int]:
        given = self.captured.inputs[node]
        if given.kind == "number":
            return _NUMBER, 0
        if given.kind in ("parameter", "state") and given.index in self.owners:
            return _OWNED, self.owners[given.index]
        return _WORKER, 0

    def _gradients(self) -> dict[fx.Node, int]:
        """The server of each gradient: several parameters may share one, whose server is then the
        lowest.
        """
        found: dict[fx.Node, int] = {}
        for index, gradient in enumerate(self.captured.gradients):
            if gradient is not None and index in self.owners:
                found[gradient] = min(self.owners[index], found.get(gradient, self.owners[index]))
        return found

    def _drawn(self, node: fx.Node) -> tuple[int, int]:
        """Whom a node that neither loss nor gradients need belongs to."""
        drawn = [self.draw[argument] for argument in node.all_input_nodes]
        if not drawn:
            return _NUMBER, 0
        force = max(force for force, _ in drawn)
        servers = {server for one, server in drawn if one == force}
        if len(servers) == 1:
            return force, servers.pop()
        if not writes(node):
            return _JOINT, 0
        why = (
            f"it updates parameters of the servers {sorted(servers)} at once ({self.captured.source(node)}): "
            "make the optimizer with foreach=False, or name one server for them in the rule"
        )
        raise Unsupported(WHAT, str(node), why)


def _needed(captured: Captured) -> set[fx.Node]:
    """The nodes that loss and gradients need: their ancestors, and nodes that write memory which
    those read later.
    """
    roots = {captured.loss, *(gradient for gradient in captured.gradients if gradient is not None)}
    need: set[fx.Node] = set()
    read: set[fx.Node] = set()  # origins of the memory that needed nodes behind this one read
    for node in reversed(list(captured.module.graph.nodes)):
        if node.op == "output":
            continue
        if node in roots or node in need or any(origin(argument) in read for argument in writes(node)):
            need.add(node)
            need.update(node.all_input_nodes)
            read.update(origin(argument) for argument in node.all_input_nodes)
            if node in roots:
                read.add(origin(node))
    return need


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Every process runs the whole step on its own batch, and the processes average their gradients by
    collective calls of the default process group, which overlap the backward pass.

    The sum is that of the group's backend: with 2 processes that of one process bit for bit, with
    more in the backend's order. `workers` is the number of processes; None takes those that there are.
    """

    workers: int | None = None

    def place(self, captured: Captured, size: int | None) -> Placed:
        """The roles. InvalidArgument for a number of processes that does not fit."""
        workers = self.workers or size or 1
        if size not in (None, workers):
            raise InvalidArgument(WHAT, repr(self), f"there are {size} processes: start {workers}")
        numbers = ByFunction(lambda _: WORKER).place(captured, None)
        ranks = tuple(f"{WORKER}{number}" for number in range(workers))
        return Placed(numbers.roles, {WORKER: workers}, ranks, collective=True)


@dataclass(frozen=True, slots=True)
class ByFunction:
    """Roles by a function of the user: it is given each node, inputs included, and returns the name
    of a role, or None for the role of the node's first argument that has one.

    Roles become ranks in the order of `ranks`, by default of their names. Memory that one role
    owns is written by that role's nodes; `cut` refuses what contradicts that.
    """

    function: Callable[[fx.Node], str | None]
    ranks: tuple[str, ...] = ()

    def place(self, captured: Captured, size: int | None) -> Placed:
        """The roles. InvalidArgument where the function returns something else than a name, or
        where the number of roles is not that of processes.
        """
        roles: dict[fx.Node, str] = {}
        undecided: list[fx.Node] = []
        numbers: set[fx.Node] = set()  # and what is made of them alone, which any role computes for itself
        for node in captured.module.graph.nodes:
            given = captured.inputs.get(node)
            arguments = node.all_input_nodes
            if (given and given.kind == "number") or (arguments and numbers.issuperset(arguments)):
                numbers.add(node)
            if node.op == "output" or node in numbers:
                continue
            role = self.function(node)
            if role is None:
                role = next((roles[argument] for argument in node.all_input_nodes if argument in roles), None)
            if role is None:
                undecided.append(node)
            elif isinstance(role, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", role):
                roles[node] = role
            else:
                why = f"the function gave {role!r}: a role is a name of letters and digits"
                raise InvalidArgument(WHAT, f"{node} ({captured.source(node)})", why)
        for node in reversed(undecided):  # inputs that the function left open go where they are used first
            users = [roles[user] for user in node.users if user in roles]
            if users:
                roles[node] = users[0]
        named = self.ranks or tuple(sorted(set(roles.values()), key=_natural))
        strange = sorted(set(roles.values()) - set(named), key=_natural)
        if strange:
            why = f"the function gave the roles {', '.join(strange)}, which are not among the ranks"
            raise InvalidArgument(WHAT, repr(named), f"{why}: name every role there")
        if size is not None and size != len(named):
            why = f"there are {size} processes, and {len(named)} roles: {', '.join(named)}"
            raise InvalidArgument(WHAT, repr(named), f"{why}: start one process for each role")
        for node in undecided:
            roles.setdefault(node, named[0])
        return Placed(roles, {}, named)


def _natural(name: str) -> tuple[str, int, str]:
    """Sorts stage10 behind stage9."""
    word = name.rstrip("0123456789")
    number = name[len(word) :]
    return word, int(number) if number else -1, name
