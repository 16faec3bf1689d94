"""What the process groups of one process share: a device, a listener, and one channel to each peer.

A group's members find each other through the store that torch gives them: each puts a card there (where it listens,
the secret, its device, its team's memory) and reads those of the others. Of two members the one with the higher rank
connects, unless an earlier group has a channel between the two already. The last group to end closes the device.
"""

from __future__ import annotations

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

__all__ = ["Member", "join"]

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

    def channel(self, device_id: bytes, ticket: bytes, connects: bool, deadline: float, who: str) -> rt.Channel:
        """The channel to a device: the one there is, a new one, or the one that comes."""
        known = self.channels.get(device_id)
        if known is not None and known.state == "ready":
            return known
        if connects:
            made = self.device.connect(ticket, timeout=max(deadline - time.monotonic(), 0.001))
            self.channels[device_id] = made
            return made
        while True:
            try:
                came = self.listener.accept(timeout=max(deadline - time.monotonic(), 0.001))
            except rt.DeadlineExceeded as late:
                raise rt.DeadlineExceeded("make a process group", who, "it did not connect in time") from late
            self.channels[came.peer_id] = came
            if came.peer_id == device_id:
                return came

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
    cards = [_read(store, f"card/{peer}") for peer in range(team.size)]
    for peer, other in enumerate(cards):
        if peer == team.rank:
            continue
        who = f"rank {peer}"
        if other["provider"] != fabric.device.provider:
            raise rt.InvalidArgument(
                "make a process group",
                who,
                f"it uses {other['provider']}, not {fabric.device.provider}",
            )
        device_id, ticket = bytes.fromhex(other["device"]), bytes.fromhex(other["ticket"])
        channel = fabric.channel(device_id, ticket, team.rank > peer, deadline, who)
        team.join(peer, channel, bytes.fromhex(other["memory"]), timeout=max(deadline - time.monotonic(), 0.001))
