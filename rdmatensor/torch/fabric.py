"""What the process groups of one process share: a device, a listener, and one channel to each peer.

A group's members find each other through the store that torch gives them: each puts a card there (where it listens,
the secret, its device, its team's memory) and reads those of the others. Of two members the one with the higher rank
connects, unless an earlier group has a channel between the two already. The last group to end closes the device.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import rdmatensor as rt
from rdmatensor.config import torch_url
from rdmatensor.rendezvous import Ticket, new_secret, reachable
from rdmatensor.team import CHUNK, SLOTS, SPINS, Team

__all__ = ["Member", "device", "join"]

_NAP = 0.005  # seconds between two looks at what another process is to do
_lock = threading.RLock()  # one group at a time is made or ended
_fabric: _Fabric | None = None


def _host() -> str:
    """The same for processes that share memory: one boot of one kernel, one user."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/net')}/{os.getuid()}"


class _Fabric:
    def __init__(self, url: str, local: bool) -> None:
        self.url = url
        self.device = rt.Device(url)
        self.secret = new_secret()
        self.listener = self.device.listen("127.0.0.1:0" if local else "0.0.0.0:0", secret=self.secret)
        self.ticket = bytes(Ticket(reachable(self.listener.address), self.secret))
        self.channels: dict[bytes, rt.Channel] = {}
        self.members: set[Member] = set()
        self.parked: list[Team] = []

    def channel(self, store: Any, peer: int, connects: bool, deadline: float) -> tuple[dict[str, Any], rt.Channel]:
        """A peer's card and the channel to its device: the one there is, a new one, or the one that comes.

        The card is read again and again: it may be one of a process that is gone, of a run before a restart.
        """
        why: Exception | None = None
        while (left := deadline - time.monotonic()) > 0:
            card = _read(store, f"card/{peer}")
            known = self.channels.get(bytes.fromhex(card["device"]))
            if known is not None and known.state == "ready":
                return card, known
            try:
                if connects:
                    came = self.device.connect(bytes.fromhex(card["ticket"]), timeout=min(left, 5.0))
                else:
                    came = self.listener.accept(timeout=min(left, 0.2))
                self.channels[came.peer_id] = came
            except (rt.ConnectError, rt.PeerLost, rt.DeadlineExceeded) as error:
                why = error
                time.sleep(_NAP)
        raise rt.DeadlineExceeded("make a process group", f"rank {peer}", "it did not connect in time") from why

    def sweep(self) -> None:
        """Frees the memory of teams that nobody writes to any more."""
        for team in [team for team in self.parked if team.left]:
            self.parked.remove(team)
            team.close()

    def close(self) -> None:
        self.device.close()


class Member:
    """This process's place in one group. The compiled backend holds it, and calls `end` when the group ends."""

    def __init__(self, fabric: _Fabric, team: Team) -> None:
        self.fabric = fabric
        self.team = team

    def end(self) -> None:
        """Tells the peers. The memory stays until they do not write to it any more. Twice is fine."""
        global _fabric
        with _lock:
            if self not in self.fabric.members:
                return
            self.fabric.members.remove(self)
            self.team.leave()
            self.fabric.parked.append(self.team)
            self.fabric.sweep()
            if not self.fabric.members:
                self.fabric.close()
                if _fabric is self.fabric:
                    _fabric = None


def device() -> rt.Device | None:
    """The device that all groups share; None without groups."""
    with _lock:
        return None if _fabric is None else _fabric.device


def _read(store: Any, key: str) -> dict[str, Any]:
    return dict(json.loads(bytes(store.get(key))))


def _choose(hosts: list[str]) -> tuple[str, bool]:
    """The URL to open, and whether loopback reaches everybody."""
    local = len(set(hosts)) == 1
    chosen = torch_url()
    if chosen:
        return chosen, local
    return ("shm://" if local else "verbs://"), local


def join(store: Any, rank: int, size: int, timeout: float) -> Member:
    """Makes the group's team with all members, who call this alike. `timeout` in seconds, for all of it."""
    global _fabric
    deadline = time.monotonic() + timeout
    with _lock:
        store.set(f"host/{rank}", json.dumps({"host": _host(), "cores": len(os.sched_getaffinity(0))}))
        hosts = [_read(store, f"host/{peer}") for peer in range(size)]
        url, local = _choose([str(host["host"]) for host in hosts])
        if _fabric is None or _fabric.device.closed:
            _fabric = _Fabric(url, local)
        fabric = _fabric
        fabric.sweep()
        same = [host for host in hosts if host["host"] == hosts[rank]["host"]]
        spins = SPINS if len(same) <= int(hosts[rank]["cores"]) else 0
        team = Team(fabric.device, rank, size, chunk=CHUNK, slots=SLOTS, spins=spins)
        _meet(fabric, team, store, deadline)
        member = Member(fabric, team)
        fabric.members.add(member)
        return member


def _meet(fabric: _Fabric, team: Team, store: Any, deadline: float) -> None:
    card = {
        "provider": fabric.device.provider,
        "device": fabric.device.id.hex(),
        "ticket": fabric.ticket.hex(),
        "memory": team.handle().hex(),
    }
    store.set(f"card/{team.rank}", json.dumps(card))
    peers = [peer for peer in range(team.size) if peer != team.rank]
    while True:
        found = {peer: fabric.channel(store, peer, team.rank > peer, deadline) for peer in peers}
        cards = [card if peer == team.rank else found[peer][0] for peer in range(team.size)]
        if _agree(store, team, cards, deadline):
            break
    for peer, (other, channel) in found.items():
        try:
            team.join(peer, channel, bytes.fromhex(other["memory"]), timeout=max(deadline - time.monotonic(), 0.001))
        except rt.RdmaError as error:
            why = f"{error.why} ({error.what})"
            raise type(error)("make a process group", f"rank {peer}", why, status=error.status) from error


def _agree(store: Any, team: Team, cards: list[dict[str, Any]], deadline: float) -> bool:
    """Whether all members have read the same cards; False when one of them has changed meanwhile.

    A store may outlive a run that failed and be given to the next one with all that is in it.
    """
    ours = hashlib.sha256(json.dumps(cards, sort_keys=True).encode()).hexdigest()
    store.set(f"met/{team.rank}", json.dumps({"cards": ours}))
    for peer in range(team.size):
        while _read(store, f"met/{peer}")["cards"] != ours:
            if any(_read(store, f"card/{other}") != card for other, card in enumerate(cards)):
                return False
            if time.monotonic() > deadline:
                raise rt.DeadlineExceeded("make a process group", f"rank {peer}", "it did not come in time")
            time.sleep(_NAP)
    return True
