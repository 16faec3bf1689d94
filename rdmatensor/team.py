"""Processes that reduce together and send to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.access import Access
from rdmatensor.errors import ClosedError
from rdmatensor.fork import forked, refuse_fork

if TYPE_CHECKING:
    from rdmatensor.channel import Channel
    from rdmatensor.device import Device
    from rdmatensor.remote import Remote
    from rdmatensor.stats import TeamStats

__all__ = ["Team"]

CHUNK = 1 << 16
SLOTS = 8
SPINS = 2000


class Team:
    """One member's side of a team of `size` processes, made in two steps: this, then `join` for each peer.

    Each member registers one region, in which its messages to the others lie; where the provider maps memory
    (`limits.maps_remote`) they are read there and nothing is copied on the way. `chunk` is the most bytes of one
    message, `slots` how many may be under way to one peer, `spins` how often a waiting thread looks before it gives
    its core away: 0 where there are more members than cores. All members give the same `size`, `chunk` and `slots`.

    Its calls are made by code compiled against `csrc/rdmatensor_team.h`: `address` is the C object, `api_address` the
    table of calls. Unsupported where the provider does not order WRITEs or has no real time.
    """

    def __init__(
        self, device: Device, rank: int, size: int, *, chunk: int = CHUNK, slots: int = SLOTS, spins: int = SPINS
    ) -> None:
        numbers = (chunk, slots, spins)
        nbytes = _core.team_region_size(size, numbers, device.limits.maps_remote)
        self.device = device
        self.rank = rank
        self.size = size
        self.region = device.region(nbytes, access=Access.REMOTE_READ | Access.REMOTE_WRITE)
        self._remotes: list[Remote] = []
        self._closed = False
        self._handle: _core.TeamHandle | None = _core.team_create(
            device._live(), self.region._handle, rank, size, numbers, repr(self)
        )
        self.address: int = _core.team_address(self._handle)
        self.api_address: int = _core.team_api_address()

    def handle(self) -> bytes:
        """What the others need for `join`."""
        return self.region.handle()

    def join(self, rank: int, channel: Channel, handle: bytes, *, timeout: float | None = None) -> None:
        """Makes a peer reachable: a channel to its device, and the handle that its `Team.handle` gave."""
        remote = channel.attach(handle, timeout=timeout)
        attached = remote._attachment.live()
        _core.team_join(self._live(), rank, channel._live(), attached, repr(self))
        self._remotes.append(remote)

    def abort(self, why: str) -> None:
        """Ends all calls under way here and, with a notice, at the peers; later ones are refused. `why` is in their
        errors.
        """
        _core.team_abort(self._live(), why)

    def leave(self) -> None:
        """Tells the peers that this member makes no further call. Twice is fine."""
        if self._handle is not None and not forked():
            _core.team_leave(self._handle)

    @property
    def left(self) -> bool:
        """Whether every peer has left or is gone, so that nobody writes into the region any more."""
        return self._handle is None or _core.team_left(self._handle)

    @property
    def stats(self) -> TeamStats:
        """Counters since the team was made."""
        refuse_fork("read the statistics", repr(self))
        return _core.team_stats(self._live())

    def check(self) -> None:
        """Raises what ended the team, if anything did."""
        _core.team_failure(self._live(), repr(self))

    def close(self) -> None:
        """Frees it. Nobody may be inside one of its calls, nor make one later. Twice is fine."""
        if self._handle is None or forked():
            return
        self.leave()
        self._handle = None  # drops the C object, which drains, while its remotes are there
        for remote in self._remotes:
            remote.close()
        self._remotes.clear()
        self.region._close_with_device()

    def _live(self) -> _core.TeamHandle:
        if self._handle is None:
            raise ClosedError("use a team", repr(self), "it was closed")
        return self._handle

    def __repr__(self) -> str:
        return f"<Team, rank {self.rank} of {self.size}>"
