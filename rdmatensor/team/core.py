"""The C objects of teams, and their memory: a pair for each peer, and one member's side of a team."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rdmatensor import _core
from rdmatensor.errors import ClosedError, NameTaken, OutOfMemory
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.memory.access import Access
from rdmatensor.memory.remote import Remote, RemoteSpan

if TYPE_CHECKING:
    from rdmatensor.channel import Channel
    from rdmatensor.device import Device
    from rdmatensor.memory.buffer import Buffer
    from rdmatensor.memory.region import Region
    from rdmatensor.stats import TeamStats

__all__ = ["CHUNK", "SLOTS", "SPINS", "Place", "Stock", "TeamCore", "TeamPair"]

CHUNK = 1 << 16
CHUNKS_MAPPED, CHUNKS_COPIED = 8, 16  # chunks of a pair: at first where it can grow; else for good
SLOTS = 8
SPINS = 2000
_BLOCKS = 32  # number of blocks that a pair's first region holds
_PART = "rdmatensor/pair"


class Stock:
    """Regions of one purpose in which blocks are allocated; another region is registered when all
    are full. Regions live as long as the device.
    """

    def __init__(self, device: Device, access: Access, nbytes: int) -> None:
        self._device = device
        self._access = access
        self._nbytes = nbytes
        self._regions: list[Region] = []

    def allocate(self, nbytes: int) -> Buffer:
        """A block filled with zeros."""
        block = self._find(nbytes)
        if block is None:
            grown = max(self._nbytes, nbytes, sum(region.nbytes for region in self._regions) // 4)
            region = self._device.region(grown, access=self._access, huge_pages="off")
            block = region.allocate(nbytes)
            self._regions.append(region)
        _core.memory_clear(block.region.address + block.offset, nbytes)
        return block

    def region_of(self, block: Buffer) -> tuple[int, Region]:
        """The region in which a block lies, and its index."""
        return next((index, region) for index, region in enumerate(self._regions) if region is block.region)

    def _find(self, nbytes: int) -> Buffer | None:
        for region in reversed(self._regions):
            try:
                return region.allocate(nbytes)
            except OutOfMemory:
                continue
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a block, in words that a peer with the same pair can read: `str` and `parse`.

    It is not a secret: only the peer of the pair can reach the memory.
    """

    mark: str
    region: int
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.mark}/{self.region}/{self.offset}/{self.nbytes}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Parses the words; ValueError when they are not a place."""
        mark, *numbers = text.split("/")
        region, offset, nbytes = (int(number) for number in numbers)
        if min(region, offset, nbytes) < 0:
            raise ValueError(f"a block does not lie at {text!r}")
        return cls(mark, region, offset, nbytes)


class TeamPair:
    """The memory that this process and the peer of a channel share for all teams that both are
    members of.

    Only this peer can reach the memory: the chunks in which larger messages lie, and a block for
    each team. Both ends make a pair and call `meet`. It lasts as long as its channel.

    A team finds the peer's block by a published name, which costs a lookup over the channel, or by
    a `Place` that came by other means: a part of a region that is looked up once.
    """

    def __init__(self, channel: Channel, *, chunk: int = CHUNK, slots: int = SLOTS) -> None:
        device, maps = cast("Device", channel.device), channel.device.limits.maps_remote
        self.channel = channel
        self._chunk = chunk
        self._chunks = CHUNKS_MAPPED if maps else CHUNKS_COPIED
        self._block_nbytes = _core.block_size(slots, maps)
        nbytes = _core.pair_size(chunk, self._chunks, maps)
        first = nbytes + _BLOCKS * self._block_nbytes
        self._stock = Stock(device, Access.REMOTE_READ | Access.REMOTE_WRITE, first)
        self._part = self._stock.allocate(nbytes)
        self._stock._nbytes = _BLOCKS * self._block_nbytes
        self._remote: Remote | None = None
        self._mark = os.urandom(8).hex()
        self._published: set[int] = set()  # regions of the stock that are published to the peer
        self._found: dict[tuple[str, int], Remote] = {}  # the peer's regions, once looked up
        self._abandoned: list[Buffer] = []
        self._handle: _core.PairHandle | None = None
        channel.publish(_PART, self._part)

    def meet(self, *, timeout: float) -> None:
        """Finds the peer's part. NameNotFound when the peer has none yet: call again."""
        remote = self.channel.lookup(_PART, timeout=timeout)
        self._handle = _core.pair_create(
            self.channel.live(),
            self._part.live(),
            self._part.offset,
            remote.live(),
            self._chunk,
            self._chunks,
            self.channel.peer,
        )
        self._remote = remote

    def block(self) -> Buffer:
        """Memory for one team, all zero. A freed block is reused: the peer must not write to it any
        more by that time.
        """
        return self._stock.allocate(self._block_nbytes)

    def place(self, block: Buffer) -> Place:
        """The place of a block of this pair, for the peer's `find`."""
        index, region = self._stock.region_of(block)
        with contextlib.suppress(NameTaken):  # another thread published it
            if index not in self._published:
                self.channel.publish(f"{_PART}/{self._mark}/{index}", region)
        self._published.add(index)
        return Place(self._mark, index, block.offset, block.nbytes)

    def find(self, place: Place, *, timeout: float) -> RemoteSpan:
        """The peer's block at a place. NameNotFound when the peer replaced its pair with this
        process: the lookup waits at most `timeout` seconds. OutOfBounds when the region is smaller.
        """
        remote = self._found.get((place.mark, place.region))
        if remote is None:
            remote = self.channel.lookup(f"{_PART}/{place.mark}/{place.region}", timeout=timeout)
            self._found[place.mark, place.region] = remote
        return remote[place.offset : place.offset + place.nbytes]

    def abandon(self, block: Buffer) -> None:
        """Keeps an unused block, which the peer may still write to, as long as the pair."""
        self._abandoned.append(block)

    def live(self) -> _core.PairHandle:
        if self._handle is None:
            raise ClosedError("use a pair", self.channel.peer, "the two have not met")
        return self._handle


class TeamCore:
    """One member's side of a team of `size` processes. Make it, `join` each peer, then `meet`.

    For each peer it has a block of memory, which lies in their `TeamPair`; `words` supplies its
    local memory. `slots` is the number of messages that may be under way to one peer. `spins` is
    the number of polls before a waiting thread gives its core away: 0 where there are more members
    than cores. All members give the same `size`, `chunk` and `slots`.

    Code compiled against `csrc/rdmatensor_team.h` makes its calls: `address` is the C object,
    `api_address` the table of calls. Unsupported where the provider does not order WRITEs or has no
    real time.
    """

    def __init__(
        self,
        device: Device,
        rank: int,
        size: int,
        words: Stock,
        *,
        chunk: int = CHUNK,
        slots: int = SLOTS,
        spins: int = SPINS,
    ) -> None:
        self.device = device
        self.rank = rank
        self.size = size
        self._words = words.allocate(_core.words_size(size, slots))
        self._blocks: list[Buffer] = []
        self._remotes: list[Remote] = []
        self._handle: _core.TeamHandle | None = _core.team_create(
            device.live(), self._words.live(), self._words.offset, rank, size, (chunk, slots, spins), repr(self)
        )
        self.address: int = _core.team_address(self._handle)
        self.api_address: int = _core.team_api_address()

    def join(self, rank: int, pair: TeamPair, block: Buffer, theirs: RemoteSpan) -> None:
        """Makes a peer reachable, with our block for it, which belongs to the team from here on,
        and its block for us. If `theirs` is a `Remote`, it belongs to the team too; a part of one
        belongs to the pair.
        """
        place = (theirs.live(), theirs.offset, theirs.nbytes)
        _core.team_join(self.live(), rank, pair.live(), block.live(), block.offset, place, repr(self))
        self._blocks.append(block)
        if isinstance(theirs, Remote):
            self._remotes.append(theirs)

    def meet(self, sign: int, *, timeout: float) -> int | None:
        """Waits until all members have joined each other and said the same `sign`, 64 bits that are
        not all 0: from then on any may leave. After `timeout` seconds, or a few milliseconds, gives
        a rank that has not: call again with the same sign. Raises the error that ended the meeting.
        """
        end = time.monotonic() + timeout
        while (missing := _core.team_meet(self.live(), sign, int(timeout * 1e9), repr(self))) is not None:
            if time.monotonic() >= end:
                break
        return missing

    def abort(self, why: str) -> None:
        """Ends all calls under way here and, with a notice, at the peers; later calls are refused.
        Their errors contain `why`.
        """
        _core.team_abort(self.live(), why)

    def leave(self) -> None:
        """Tells the peers that this member makes no further call. Twice is fine."""
        if self._handle is not None and not forked():
            _core.team_leave(self._handle)

    @property
    def left(self) -> bool:
        """Whether every peer has left or is gone, so that none of them writes into the blocks any
        more.
        """
        return self._handle is None or _core.team_left(self._handle)

    @property
    def stats(self) -> TeamStats:
        """Counters since the team was made."""
        refuse_fork("read the statistics", repr(self))
        return _core.team_stats(self.live())

    def check(self) -> None:
        """Raises the error that ended the team, if it has ended."""
        _core.team_failure(self.live(), repr(self))

    def close(self) -> None:
        """Frees the team. No thread may be in one of its calls, or make one later. Twice is fine."""
        if self._handle is None or forked():
            return
        self.leave()
        self._handle = None  # drops the C object, which drains while its remotes still exist
        for remote in self._remotes:
            remote.close()
        for block in (*self._blocks, self._words):
            block.free()
        self._remotes.clear()
        self._blocks.clear()

    def live(self) -> _core.TeamHandle:
        if self._handle is None:
            raise ClosedError("use a team", repr(self), "it was closed")
        return self._handle

    def __repr__(self) -> str:
        return f"<Team, rank {self.rank} of {self.size}>"
