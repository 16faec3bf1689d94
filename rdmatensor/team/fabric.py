"""The objects that the teams and process groups of one process share: a device, a listener, and a
channel with memory to each peer.

Two threads of a process may make two groups at once. `_lock` guards the shared objects and is never
held over the store, a connection or any other wait. The last group to end closes the device.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rdmatensor.backoff import Backoff
from rdmatensor.channel import Channel
from rdmatensor.device import Device
from rdmatensor.errors import (
    AddressError,
    ConnectError,
    DeadlineExceeded,
    InvalidArgument,
    NameNotFound,
    PeerLost,
    ProviderUnavailable,
)
from rdmatensor.fork import in_child
from rdmatensor.listener import Listener
from rdmatensor.memory.access import Access
from rdmatensor.settings.config import TORCH_LISTEN, torch_listen, torch_url
from rdmatensor.settings.rendezvous import (
    Ticket,
    addresses,
    host_and_port,
    host_identity,
    new_secret,
    reachable,
    why_apart,
)
from rdmatensor.settings.url import DeviceUrl
from rdmatensor.team.core import Stock, TeamCore, TeamPair

__all__ = ["MAKE", "SLICE_S", "Closable", "Fabric", "Share", "Waiting", "acquire", "device"]

MAKE = "make a process group"

SLICE_S = 0.1
"""The longest single wait for one peer; the other peers are checked after it."""

GONE_S = 30.0
"""A member that has put its card, and whose listener refuses connections for this long, counts as
dead. A restarted member puts a new card; its interpreter and torch have this long to start.
"""

_NAP_MAX = 0.2
_WORDS = 1 << 16  # bytes of local memory to begin with

_lock = threading.Lock()
_changed = threading.Condition(_lock)
_fabric: Fabric | None = None


@in_child
def _forget() -> None:
    """Renews the state in a child made by fork, which has none of the groups, nor the threads that
    may hold the lock.
    """
    global _lock, _changed, _fabric
    _lock = threading.Lock()
    _changed = threading.Condition(_lock)
    _fabric = None


class Closable(Protocol):
    """An object that is closed with a fabric's device."""

    def close(self) -> None: ...


More = TypeVar("More", bound=Closable)


class Waiting(Protocol):
    """The part of a member that makes a group which its waits for peers use."""

    cards: list[dict[str, Any]]
    """The members' cards by rank: the addresses that they have told each other."""
    why: Exception | None
    """The last error, after which the attempt is repeated."""

    def left(self) -> float:
        """The seconds left."""

    def look(self, peer: int) -> None:
        """Raises when waiting for the peer has become useless."""

    def lost(self, peer: int, why: str) -> PeerLost: ...


@dataclass(eq=False, slots=True)
class Share:
    """A group's share of the fabric."""

    team: TeamCore
    pairs: dict[int, TeamPair]
    """The pairs by the peers' ranks in the whole job, where those are known."""


def listen(device: Device, where: str, secret: bytes) -> Listener:
    """Listens at the first address of `where` ("host", "host:port", "host:first-last") whose port is
    free. AddressError where none is, with the range.
    """
    tried = addresses(where)
    for address in tried:
        try:
            return device.listen(address, secret=secret)
        except AddressError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    why = f"{TORCH_LISTEN} is {where!r}, and other listeners have all of its {len(tried)} ports: give as many as ranks"
    raise AddressError("listen", where, why, error_number=errno.EADDRINUSE)


class Fabric:
    """The device and the objects that belong to it. Members are changed under `_lock`."""

    def __init__(self, url: str, local: bool, members: int) -> None:
        self.url = url
        self.device = _device(url, members)
        self.secret = new_secret()
        self.listener = listen(self.device, torch_listen() or ("127.0.0.1" if local else "0.0.0.0"), self.secret)
        self.card: dict[str, Any] = {
            "host": host_identity(),
            "cores": len(os.sched_getaffinity(0)),
            "device": self.device.id.hex(),
            "ticket": bytes(Ticket(reachable(self.listener.address), self.secret)).hex(),
        }
        self._more: dict[object, Closable] = {}
        self.words = Stock(self.device, Access.LOCAL, _WORDS)
        self.users = 1  # groups that are being made or have not ended
        self.pairs: dict[bytes, TeamPair] = {}  # by the id of the peer's device
        self.tying: set[bytes] = set()  # peers to which a thread is making a pair
        self.arrived: dict[bytes, Channel] = {}  # connected by peers, and not claimed yet
        self.accepting = False
        self.parked: list[TeamCore] = []
        self.shares: list[Share] = []  # of groups that have not ended, in order of creation

    def more(self, make: Callable[[Device], More]) -> More:
        """The object that `make(device)` gives, made at the first call. It is closed with the device."""
        with _lock:
            if make not in self._more:
                self._more[make] = make(self.device)
            found: Any = self._more[make]
        made: More = found
        return made

    def known(self, ranks: Sequence[int]) -> dict[int, TeamPair]:
        """The existing pairs by rank in a new group: those with peers with which this process
        shares a live group.

        `ranks` are the members' ranks in the whole job.
        """
        with _lock:
            whole = {rank: pair for share in self.shares for rank, pair in share.pairs.items()}
        return {index: whole[rank] for index, rank in enumerate(ranks) if rank in whole}

    # ---- ties ----

    def tie(self, meeting: Waiting, peer: int) -> TeamPair:
        """The channel and the shared memory with a peer's device: the existing ones, or new ones."""
        key = bytes.fromhex(meeting.cards[peer]["device"])
        while True:
            with _lock:
                pair = self.pairs.get(key)
                if pair is not None and pair.channel.state == "ready":
                    return pair
                if key not in self.tying:
                    self.tying.add(key)
                    break
                _changed.wait(SLICE_S)  # another thread is making this pair
            meeting.look(peer)
        try:
            pair = self._make_pair(meeting, peer, key)
            with _lock:
                self.pairs[key] = pair
        finally:
            with _lock:
                self.tying.discard(key)
                _changed.notify_all()
        return pair

    def _make_pair(self, meeting: Waiting, peer: int, key: bytes) -> TeamPair:
        # Both ends decide alike, whatever their ranks in this group and in others.
        connects = self.device.id > key
        channel = self._connect(meeting, peer) if connects else self._accept(meeting, peer, key)
        pair = TeamPair(channel)
        while True:
            try:
                pair.meet(timeout=min(SLICE_S, meeting.left()))
                return pair
            except (NameNotFound, DeadlineExceeded):  # not published yet, or busy: the meeting's deadline applies
                meeting.look(peer)

    def _connect(self, meeting: Waiting, peer: int) -> Channel:
        ticket = bytes.fromhex(meeting.cards[peer]["ticket"])
        refused: float | None = None
        pauses = Backoff(0.001, _NAP_MAX)
        while True:
            try:
                return self.device.connect(ticket, timeout=min(meeting.left(), 2.0))
            except (ConnectError, PeerLost, DeadlineExceeded) as error:
                now = time.monotonic()
                refused = now if refused is None else refused
                if now - refused > GONE_S:
                    raise meeting.lost(peer, f"it is not reached any more: {error.why}") from error
                meeting.why = error
            meeting.look(peer)
            pauses.nap()

    def _accept(self, meeting: Waiting, peer: int, key: bytes) -> Channel:
        probe = _Probe(meeting.cards[peer]["ticket"])
        while True:
            with _lock:
                channel = self.arrived.pop(key, None)
                if channel is not None and channel.state == "ready":
                    return channel
                accepts = not self.accepting
                if accepts:
                    self.accepting = True
                else:
                    _changed.wait(SLICE_S)  # another thread accepts for all
            if accepts:
                self._accept_one(min(SLICE_S, meeting.left()))
            meeting.look(peer)
            if probe.gone():
                raise meeting.lost(peer, "its process does not answer any more")

    def _accept_one(self, timeout: float) -> None:
        channel = None
        try:
            channel = self.listener.accept(timeout=timeout)
        except (DeadlineExceeded, ConnectError, PeerLost):
            pass  # none came, or it is gone already
        finally:
            with _lock:
                self.accepting = False
                if channel is not None:
                    self.arrived[channel.peer_id] = channel
                _changed.notify_all()

    # ---- teardown ----

    def sweep(self) -> None:
        """Frees the memory of teams that no peer writes to any more, and pairs with peers that are
        gone.
        """
        with _lock:
            free = [team for team in self.parked if team.left]
            self.parked = [team for team in self.parked if team not in free]
            for key in [key for key, pair in self.pairs.items() if pair.channel.state != "ready"]:
                del self.pairs[key]
        for team in free:
            team.close()

    def share(self, team: TeamCore, pairs: dict[int, TeamPair]) -> Share:
        """Records a group that was made."""
        share = Share(team, pairs)
        with _lock:
            self.shares.append(share)
        return share

    def park(self, team: TeamCore) -> None:
        """Parks a team that was left: its memory stays until its peers are done with it."""
        with _lock:
            self.parked.append(team)

    def release(self, share: Share | None) -> None:
        """Ends a group's use of the fabric, and leaves its team if it was made. The last release
        closes the device.
        """
        global _fabric
        if share is not None:
            share.team.leave()
        with _lock:
            if share is not None:
                self.shares.remove(share)
                self.parked.append(share.team)
            self.users -= 1
            last = self.users == 0
            if last and _fabric is self:
                _fabric = None
        self.sweep()
        if last:
            for parked in self.parked:
                parked.close()  # drains: posted messages reach the peers before the connections end
            for more in self._more.values():
                more.close()
            self.device.close()


class _Probe:
    """Checks whether the process of a card still listens; used by members that wait for its
    connection.
    """

    def __init__(self, ticket: str) -> None:
        host, self._port = host_and_port(Ticket.parse(bytes.fromhex(ticket)).address)
        self._host = host.encode()  # as bytes, the name needs no codec, which would have to be imported
        self._due = time.monotonic() + 2.0
        self._refused: float | None = None

    def gone(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + 2.0
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.settimeout(1.0)
                probe.connect(where)
            self._refused = None
        except ConnectionRefusedError:
            self._refused = now if self._refused is None else self._refused
        except OSError:
            pass  # a busy or silent host proves nothing
        return self._refused is not None and now - self._refused > GONE_S


def device() -> Device | None:
    """The device that all groups share; None without groups."""
    with _lock:
        return None if _fabric is None else _fabric.device


def _device(url: str, members: int) -> Device:
    """The device of groups of so many members: over verbs with one QP for each, which is all that
    collective calls use, and with completion queues that have room for all of them.
    """
    parsed = DeviceUrl.parse(url)
    if parsed.scheme != "verbs":
        return Device(url)
    qps = parsed.qps_per_peer or 1
    if "&links=" not in f"&{parsed.arguments}":
        url += f"{'&' if '?' in url else '?'}links={qps * members}"
    return Device(url, qps_per_peer=qps)


def _open(hosts: list[dict[str, str]], url: str) -> Fabric:
    """A fabric whose device lets all these processes reach each other: the device that the user
    chose, else shared memory if it can join all of them, else verbs.
    """
    apart = next((why for host in hosts if (why := why_apart(hosts[0], host)) is not None), None)
    try:
        return Fabric(url or ("shm://" if apart is None else "verbs://"), apart is None, len(hosts))
    except ProviderUnavailable as error:
        if url or apart is None:
            raise
        raise ProviderUnavailable(MAKE, "verbs://", f"{error.why}; and shm:// does not join them: {apart}") from error


def acquire(hosts_of: Callable[[], list[dict[str, str]]], url: str = "") -> Fabric:
    """The process's fabric with one more user, who must release it. `hosts_of` waits until all
    members have told their hosts; it is called only when there is no fabric yet. `url` names the
    device; empty: the environment, or the hosts, decide.
    """
    global _fabric
    hosts: list[dict[str, str]] | None = None
    while True:
        with _lock:
            if _fabric is not None and not _fabric.device.closed:
                _check_url(_fabric, url)
                _fabric.users += 1
                return _fabric
        if hosts is None:
            hosts = hosts_of()
        made = _open(hosts, url or torch_url())
        with _lock:
            if _fabric is None or _fabric.device.closed:
                _fabric = made
                return made
        made.device.close()  # another thread was faster


def _check_url(fabric: Fabric, url: str) -> None:
    if url and url != fabric.url:
        why = (
            f"the teams and process groups of this process share one device, which is open as {fabric.url}: "
            "give that, or none"
        )
        raise InvalidArgument(MAKE, url, why)
