"""The words of contract tests: functions that run where a party lives, and `Ends`, a channel with both its sides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

import rdmatensor as rt
from rdmatensor.testing import Fabric, Party

BOTH = rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ
PATTERN_SEED = 0x5EED


def pattern(nbytes: int, seed: int = 0) -> bytes:
    """Bytes in which a shift, a swap or a repetition shows."""
    return np.random.default_rng(PATTERN_SEED + seed).bytes(nbytes)


# ---- functions for party.call ----


def expose(party: Party, name: str, nbytes: int, access: int) -> bytes:
    """Publishes a new region, remembered under its name; its handle."""
    region = party.device.region(nbytes, access=rt.Access(access))
    party.kept[name] = region
    party.device.publish(name, region)
    return region.handle()


def make(party: Party, name: str, nbytes: int, access: int) -> None:
    """A new region that is not published."""
    party.kept[name] = party.device.region(nbytes, access=rt.Access(access))


def handle_of(party: Party, name: str, start: int, stop: int) -> bytes:
    return party.kept[name][start:stop].handle()


def peek(party: Party, name: str, start: int, stop: int) -> bytes:
    return bytes(party.kept[name][start:stop].view())


def poke(party: Party, name: str, start: int, data: bytes) -> None:
    party.kept[name][start : start + len(data)].view()[:] = data


def publish(party: Party, name: str, region: str) -> None:
    party.device.publish(name, party.kept[region])


def unpublish(party: Party, name: str) -> None:
    party.device.unpublish(name)


def await_word(party: Party, name: str, offset: int, value: int, timeout: float | None = None) -> None:
    party.kept["channel"].wait_word(party.kept[name][offset : offset + 8], value, timeout=timeout)


def close_channel(party: Party) -> None:
    party.kept["channel"].close()


def close_region(party: Party, name: str) -> None:
    party.kept[name].close()


def close_device(party: Party) -> None:
    party.device.close()


def state_of(party: Party) -> str:
    return party.kept["channel"].state


def pid_of(party: Party) -> int:
    return party.pid


def refusals(party: Party) -> list[str]:
    return party.listener.refusals()


def address(party: Party) -> str:
    return party.listener.address


def tidy(party: Party) -> None:
    """Undoes what a test did."""
    device, kept = party.device, party.kept
    kept.pop("held", None)
    for thing in kept.values():
        if isinstance(thing, rt.Edge):
            thing.close()
    for name, thing in kept.items():
        if isinstance(thing, rt.Region):
            with contextlib.suppress(rt.NameNotFound):
                device.unpublish(name)
    for thing in kept.values():
        if isinstance(thing, rt.Channel):
            thing.close()
    for thing in kept.values():
        if isinstance(thing, rt.Region):
            close_when_free(thing)
    kept.clear()


def close_when_free(region: rt.Region) -> None:
    """Closes a region that a closed channel may still be letting go of."""
    for _ in range(100_000):
        try:
            return region.close()
        except rt.RegionBusy:
            region.device.progress()
    return region.close()


class Ends:
    """A channel from here to there, made for one test."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.device = fabric.here.device
        self.there = fabric.there
        self.channel = fabric.connect()
        self._regions: list[rt.Region] = []
        self.edges: list[rt.Edge] = []
        """Made here by a test, to be closed after it."""
        self._names = 0

    @property
    def limits(self) -> rt.Limits:
        return self.device.limits

    def expose(self, nbytes: int, access: rt.Access = BOTH, data: bytes = b"") -> tuple[str, rt.Remote]:
        """Memory over there: its name, and how it is reached from here."""
        self._names += 1
        name = f"memory {self._names}"
        self.there.call(expose, name, nbytes, int(access))
        if data:
            self.poke(name, 0, data)
        return name, self.channel.lookup(name)

    def local(self, data: bytes | int) -> rt.Buffer:
        """A buffer here, filled with data or so many zero bytes."""
        nbytes = data if isinstance(data, int) else len(data)
        region = self.device.region(max(nbytes, 64))
        self._regions.append(region)
        buffer = region.allocate(nbytes)
        if not isinstance(data, int):
            buffer.view()[:] = data
        return buffer

    def peek(self, name: str, start: int, stop: int) -> bytes:
        data: bytes = self.there.call(peek, name, start, stop)
        return data

    def poke(self, name: str, start: int, data: bytes) -> None:
        self.there.call(poke, name, start, data)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.there.call(function, *args)

    def tidy(self) -> None:
        for edge in self.edges:
            edge.close()
        self.channel.close()
        for region in self._regions:
            close_when_free(region)
        self.there.call(tidy)
