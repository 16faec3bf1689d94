"""Opening a plan: the processes meet, compare their graphs, and make all edges before the first step.

Each process tells two cards through a store. The first has what must be equal everywhere (the
fingerprint of the graph and of the plan) and what the choice of a device needs. The second is told
once all receiving edges exist, and has the address; so no process that connects finds an edge
missing. Then one channel joins each pair of processes that share an edge, and the sending ends are
opened. After that nothing is asked of the store any more.

Besides the plan's edges, each of these pairs has an edge for notes in either direction: texts by
which a process says that its loop is over, or why it gives up. The first rank sends the numbers of
the optimizer's parameter groups (learning rates) to every process whose part uses them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import rdmatensor as rt
from rdmatensor.backoff import Backoff
from rdmatensor.edges.options import EdgeOptions
from rdmatensor.errors import DeadlineExceeded, InvalidArgument, PeerLost, ProviderUnavailable
from rdmatensor.memory.access import Access
from rdmatensor.settings.config import torch_url
from rdmatensor.settings.rendezvous import Ticket, host_identity, new_secret, reachable, why_apart

if TYPE_CHECKING:
    from rdmatensor.edges.recv import RecvEdge
    from rdmatensor.edges.send import SendEdge
    from rdmatensor.memory.region import Region
    from rdmatensor.torch.graph.cut import Edge

__all__ = ["Meeting", "Needs", "Store", "Wires", "extend", "meeting", "open_wires"]

WHAT = "open a plan"
_SLICE_S = 0.5
"""The longest single wait; the other processes' reports are read after it."""
_NAPS = (0.5e-3, 20e-3)  # between two looks into the store
_PER_SLOT = 256  # bytes of a region kept for the alignment of a slot and the allocator
NOTES, NUMBERS = "notes", "numbers"
_ENDS_S = 60.0  # for opening the sending end of an edge whose receiving end is made
_NOTE_MAX = 2048  # bytes of a note, which travels in its record

_T = TypeVar("_T")


class Store(Protocol):
    """The calls of torch's stores that are used."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def add(self, key: str, amount: int) -> int: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the processes meet, and which of them this is."""

    store: Store
    rank: int
    size: int


def meeting(store: Store | None, rank: int | None, size: int | None, timeout: float) -> Meeting:
    """The given store, or that of the default process group, or that of torchrun's environment.

    InvalidArgument where there is none.
    """
    import torch.distributed as dist

    if store is not None:
        if rank is None or size is None:
            why = "a store needs rank= and world_size= beside it"
            raise InvalidArgument(WHAT, why=why)
        return Meeting(store, rank, size)
    if dist.is_available() and dist.is_initialized():
        from torch.distributed import distributed_c10d

        found = distributed_c10d._get_default_store()
        return Meeting(found, dist.get_rank(), dist.get_world_size())
    try:
        found, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except ValueError as error:
        why = f"{error}: start the processes with torchrun, make a process group before, or give store="
        raise InvalidArgument(WHAT, why=why) from error
    return Meeting(found, rank, size)


@dataclass(frozen=True, slots=True)
class Needs:
    """The things that a process opens."""

    fingerprint: str
    """Equal in all processes."""
    ranks: tuple[str, ...]
    """The processes by rank."""
    edges: tuple[Edge, ...]
    """The plan's edges, of all processes."""
    numbers: int
    """How many numbers the first rank sends in each step."""
    takers: tuple[str, ...]
    """The processes that it sends them to."""
    region_bytes: int
    """Bytes of memory for tensors that this process sends."""
    staging: bool = False
    """Whether every tensor is copied before it is sent, for comparison."""
    analysis: bool = True
    """Whether tensors to be sent are born in the region."""


@dataclass(slots=True)
class Wires:
    """The open edges of one process. A context manager that closes them."""

    process: str
    device: rt.Device
    region: Region
    """Where tensors to be sent are born."""
    sends: dict[str, SendEdge] = field(default_factory=dict)
    recvs: dict[str, RecvEdge] = field(default_factory=dict)
    tells: dict[str, SendEdge] = field(default_factory=dict)
    """The edges for notes to each peer."""
    hears: dict[str, RecvEdge] = field(default_factory=dict)
    """The edges for notes of each peer."""
    numbers_out: list[SendEdge] = field(default_factory=list)
    numbers_in: RecvEdge | None = None
    channels: dict[str, rt.Channel] = field(default_factory=dict)
    staging: bool = False
    analysis: bool = True

    def close(self) -> None:
        """Ends all edges, those of `extend` too, and tells the peers. Twice is fine."""
        self.device.close()

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def extend(
    wires: Wires, shared: Mapping[str, str], new: Mapping[str, Edge], region_bytes: int, agree: Callable[[], None]
) -> Wires:
    """The wires of another plan of the same processes, which lie on the same device.

    `shared` are its edges that are open already, by their names the open edges' names. `new` are
    the others, of all processes, by names that no open edge has. `agree` returns once every peer
    has made its receiving ends.
    """
    there: dict[str, SendEdge] = {}
    here: dict[str, RecvEdge] = {}
    for name, opened in shared.items():
        if opened in wires.sends:
            there[name] = wires.sends[opened]
        elif opened in wires.recvs:
            here[name] = wires.recvs[opened]
    mine = {name: edge for name, edge in new.items() if wires.process in (edge.source, edge.target)}
    region = wires.region
    if any(edge.source == wires.process for edge in mine.values()):
        region = _send_region(wires.device, region_bytes)
    made = replace(wires, region=region, sends=there, recvs=here)
    _receivers(made, mine)
    agree()
    _senders(made, mine, _ENDS_S)
    return made


def open_wires(meeting: Meeting, needs: Needs, timeout: float) -> Wires:
    """All edges of this process. Collective: every rank calls it.

    Raises InvalidArgument that names a rank whose graph differs; PeerLost that names a process that
    failed to open; DeadlineExceeded that names the ones that did not come in `timeout` seconds.
    """
    return _Opening(meeting, needs, timeout).open()


class _Opening:
    """One process's way through the opening."""

    def __init__(self, meeting: Meeting, needs: Needs, timeout: float) -> None:
        self.meeting, self.needs = meeting, needs
        self.deadline = time.monotonic() + timeout
        self.timeout = timeout
        self.process = needs.ranks[meeting.rank]
        # Each process counts its own openings, and all open the same plans in the same order.
        turn = meeting.store.add(f"rdmatensor/graph/{meeting.rank}", 1)
        self.prefix = f"rdmatensor/graph/{turn}"
        self.edges = [edge for edge in needs.edges if self.process in (edge.source, edge.target)]
        self.peers = self._peers()

    def _peers(self) -> tuple[str, ...]:
        """The processes that this one has edges with, in the order of ranks."""
        found = {end for edge in self.edges for end in (edge.source, edge.target)}
        first = self.needs.ranks[0]
        if self.needs.numbers and self.process in self.needs.takers:
            found.add(first)
        if self.needs.numbers and self.process == first:
            found.update(self.needs.takers)
        return tuple(one for one in self.needs.ranks if one in found and one != self.process)

    def open(self) -> Wires:
        with ExitStack() as undo:
            try:
                wires = self._open(undo)
            except BaseException as error:
                with suppress(RuntimeError):  # the store may be gone
                    self._tell("address", {"error": str(error) or type(error).__name__})
                raise
            undo.pop_all()
            return wires

    def _open(self, undo: ExitStack) -> Wires:
        identity = host_identity()
        self._tell("card", {"fingerprint": self.needs.fingerprint, "host": identity, "ranks": list(self.needs.ranks)})
        cards = self._all("card")
        self._compare(cards)
        hosts = [card["host"] for card in cards]
        device, local = self._device(hosts)
        undo.callback(device.close)
        secret = new_secret()
        listener = device.listen("127.0.0.1:0" if local else "0.0.0.0:0", secret=secret)
        region = _send_region(device, self.needs.region_bytes)
        wires = Wires(self.process, device, region, staging=self.needs.staging, analysis=self.needs.analysis)
        self._receivers(wires)
        ticket = bytes(Ticket(reachable(listener.address), secret)).hex()
        self._tell("address", {"ticket": ticket, "device": device.id.hex()})
        addresses = dict(zip(self.needs.ranks, self._all("address"), strict=True))
        self._connect(wires, listener, addresses)
        self._senders(wires)
        return wires

    # ---- the store ----

    def _tell(self, what: str, card: dict[str, Any]) -> None:
        self.meeting.store.set(f"{self.prefix}/{what}/{self.meeting.rank}", json.dumps(card))

    def _all(self, what: str) -> list[dict[str, Any]]:
        """The cards of all ranks; waits for them."""
        cards: list[dict[str, Any]] = []
        for rank in range(self.meeting.size):
            key = f"{self.prefix}/{what}/{rank}"
            while not self._there(key):
                self._look(what, rank)
            card = json.loads(self.meeting.store.get(key))
            self._refuse_failed(rank, card)
            cards.append(card)
        return cards

    def _there(self, key: str) -> bool:
        """Whether a key is in the store; looks for a slice of time. A store's own wait would warn of
        each slice.
        """
        end = min(time.monotonic() + _SLICE_S, self.deadline)
        naps = Backoff(*_NAPS)
        try:
            while not self.meeting.store.check([key]):
                if time.monotonic() >= end:
                    return False
                naps.nap()
        except RuntimeError as error:
            why = f"the store does not answer any more, since the process that keeps it has ended ({error})"
            raise PeerLost(WHAT, self.process, why) from error
        return True

    def _look(self, what: str, rank: int) -> None:
        """Ends the wait for a rank where it has become useless."""
        for other in range(self.meeting.size):
            key = f"{self.prefix}/address/{other}"
            if self.meeting.store.check([key]):
                self._refuse_failed(other, json.loads(self.meeting.store.get(key)))
        if time.monotonic() >= self.deadline:
            why = (
                f"rank {rank} ({self.needs.ranks[rank]}) has not come to it in {self.timeout:g} s: "
                "see whether its process runs, and opens the same plan"
            )
            raise DeadlineExceeded(WHAT, self.process, why, status="deadline")

    def _refuse_failed(self, rank: int, card: dict[str, Any]) -> None:
        if "error" in card and rank != self.meeting.rank:
            raise PeerLost(WHAT, self.process, f"rank {rank} ({self.needs.ranks[rank]}) failed to: {card['error']}")

    def _compare(self, cards: list[dict[str, Any]]) -> None:
        """Names the ranks whose graph or plan differs from that of most."""
        prints = [(card["fingerprint"], tuple(card["ranks"])) for card in cards]
        most = max(prints, key=lambda one: (prints.count(one), -prints.index(one)))
        differ = [rank for rank, one in enumerate(prints) if one != most]
        if differ:
            named = ", ".join(f"rank {rank} ({self.needs.ranks[rank]})" for rank in differ)
            why = (
                f"the plan of {named} differs from that of the others: all ranks need the same model, loss, optimizer, "
                "shapes of the batch, placement and version of torch"
            )
            raise InvalidArgument(WHAT, self.process, why)

    # ---- device and memory ----

    def _device(self, hosts: list[dict[str, str]]) -> tuple[rt.Device, bool]:
        """A device that joins all hosts, as the backend of process groups chooses it."""
        apart = next((why for host in hosts if (why := why_apart(hosts[0], host)) is not None), None)
        chosen = torch_url()
        try:
            return rt.Device(chosen or ("shm://" if apart is None else "verbs://")), apart is None
        except ProviderUnavailable as error:
            if chosen or apart is None:
                raise
            why = f"{error.why}; and shm:// does not join the processes: {apart}"
            raise ProviderUnavailable(WHAT, "verbs://", why) from error

    def _receivers(self, wires: Wires) -> None:
        """Makes the receiving ends."""
        device = wires.device
        _receivers(wires, {edge.name: edge for edge in self.edges})
        for peer in self.peers:
            options = EdgeOptions(rank=1, eager=_NOTE_MAX)
            wires.hears[peer] = device.recv_edge(f"{peer}>{self.process}:{NOTES}", dtype="uint8", options=options)
        if self.needs.numbers and self.process in self.needs.takers:
            name = self._numbers(self.process)
            wires.numbers_in = device.recv_edge(name, shape=(self.needs.numbers,), dtype="float64")

    # ---- channels ----

    def _connect(self, wires: Wires, listener: rt.Listener, addresses: dict[str, dict[str, Any]]) -> None:
        """One channel to each peer: the later rank connects, the earlier one accepts."""
        order = self.needs.ranks
        awaited = {
            bytes.fromhex(addresses[peer]["device"]): peer
            for peer in self.peers
            if order.index(peer) > self.meeting.rank
        }
        for peer in self.peers:
            if order.index(peer) < self.meeting.rank:
                ticket = bytes.fromhex(addresses[peer]["ticket"])
                wires.channels[peer] = self._insist(peer, partial(wires.device.connect, ticket))
        while awaited:
            first = next(iter(awaited.values()))
            channel = self._insist(first, listener.accept)
            if channel.peer_id in awaited:
                wires.channels[awaited.pop(channel.peer_id)] = channel

    def _insist(self, peer: str, attempt: Callable[..., _T]) -> _T:
        """Tries in slices of time, and reads between them what the others report."""
        while True:
            try:
                return attempt(timeout=min(_SLICE_S, max(self.deadline - time.monotonic(), 0.001)))
            except DeadlineExceeded:
                self._look("address", self.needs.ranks.index(peer))

    def _senders(self, wires: Wires) -> None:
        """Opens the sending ends. Each asks the peer once, which has made its end before."""
        left = max(self.deadline - time.monotonic(), 1.0)
        _senders(wires, {edge.name: edge for edge in self.edges}, left)
        for peer in self.peers:
            name, options = f"{self.process}>{peer}:{NOTES}", EdgeOptions(rank=1)
            wires.tells[peer] = wires.channels[peer].send_edge(name, dtype="uint8", options=options, timeout=left)
        if self.needs.numbers and self.meeting.rank == 0:
            for taker in self.needs.takers:
                name, shape = self._numbers(taker), (self.needs.numbers,)
                numbers = wires.channels[taker].send_edge(name, shape=shape, dtype="float64", timeout=left)
                wires.numbers_out.append(numbers)

    def _numbers(self, taker: str) -> str:
        return f"{self.needs.ranks[0]}>{taker}:{NUMBERS}"


def _send_region(device: rt.Device, nbytes: int) -> Region:
    return device.region(max(nbytes, 1 << 16), access=Access.REMOTE_READ)


def _receivers(wires: Wires, edges: Mapping[str, Edge]) -> None:
    """Makes the receiving ends of a process's edges by their names; the slots of static edges lie in
    one region.
    """
    mine = {name: edge for name, edge in edges.items() if edge.target == wires.process}
    size = sum(edge.slots * ((edge.bytes or 0) + _PER_SLOT) for edge in mine.values() if edge.kind == "static")
    region = wires.device.region(max(size, 1 << 16), access=Access.REMOTE_WRITE) if mine else None
    for name, edge in mine.items():
        shape = _sizes(edge) if edge.kind == "static" else None
        options = _options(edge, region if edge.kind == "static" else None, wires.staging)
        opened = wires.device.recv_edge(name, shape=shape, dtype=_dtype(edge), options=options)
        wires.recvs[edge.name] = opened


def _senders(wires: Wires, edges: Mapping[str, Edge], timeout: float) -> None:
    """Opens the sending ends of a process's edges by their names. Each asks the peer once, which has
    made its end before.
    """
    for name, edge in edges.items():
        if edge.source == wires.process:
            shape = _sizes(edge) if edge.kind == "static" else None
            options, channel = _options(edge, None, wires.staging), wires.channels[edge.target]
            opened = channel.send_edge(name, shape=shape, dtype=_dtype(edge), options=options, timeout=timeout)
            wires.sends[edge.name] = opened


def _options(edge: Edge, region: Region | None, staging: bool) -> EdgeOptions:
    if edge.kind == "static":
        return EdgeOptions(flow=edge.flow, slots=edge.slots, region=region, staging=staging)
    return EdgeOptions(rank=len(edge.shape), slots=edge.slots, region=region, staging=staging)


def _sizes(edge: Edge) -> tuple[int, ...]:
    return tuple(size for size in edge.shape if isinstance(size, int))


def _dtype(edge: Edge) -> str:
    return str(edge.dtype).removeprefix("torch.")
