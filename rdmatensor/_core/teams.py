"""Teams: creation and teardown. Code compiled against torch makes their calls, through
`team_api_address`.
"""

from __future__ import annotations

from typing import Any, NewType, cast

from rdmatensor._core.base import (
    AGAIN,
    INTERRUPTED,
    ChannelHandle,
    DeviceHandle,
    Owner,
    RegionHandle,
    RemoteHandle,
    call,
    check,
    values_of,
)
from rdmatensor._native import ffi, lib
from rdmatensor.stats import TeamStats

TeamHandle = NewType("TeamHandle", object)
PairHandle = NewType("PairHandle", object)


def _options(rank: int, size: int, numbers: tuple[int, int, int]) -> Any:
    return ffi.new("rt_team_options *", [rank, size, *numbers])


def pair_size(chunk: int, chunks: int, maps_remote: bool) -> int:
    """The bytes of the memory that each of two processes shares with the other for all their teams."""
    return int(lib.rt_pair_size(chunk, chunks, int(maps_remote)))


def pair_create(
    channel: ChannelHandle, region: RegionHandle, offset: int, remote: RemoteHandle, chunk: int, chunks: int, on: str
) -> PairHandle:
    """A pair with the channel's peer: our part in `region`, and the peer's in `remote`."""
    owner = Owner("rt_pair **", lib.rt_pair_drop, (channel, region, remote))
    call(lib.rt_pair_create, channel, region, offset, remote, chunk, chunks, owner.out, what="make a pair", on=on)
    return cast(PairHandle, owner.handle())


def block_size(slots: int, maps_remote: bool) -> int:
    """The bytes that a member holds for one peer in one team."""
    return int(lib.rt_team_block_size(_options(0, 1, (0, slots, 0)), int(maps_remote)))


def words_size(size: int, slots: int) -> int:
    """The bytes of local memory that a member of a team of `size` needs."""
    return int(lib.rt_team_words_size(_options(0, size, (0, slots, 0))))


def memory_clear(address: int, nbytes: int) -> None:
    ffi.memmove(ffi.cast("void *", address), bytes(nbytes), nbytes)


def team_create(
    device: DeviceHandle,
    words: RegionHandle,
    words_at: int,
    rank: int,
    size: int,
    numbers: tuple[int, int, int],
    on: str,
) -> TeamHandle:
    """A team without its peers yet. It keeps its device and region. `numbers` are chunk, slots and
    spins.
    """
    owner = Owner("rt_team **", lib.rt_team_drop, (device, words))
    options = _options(rank, size, numbers)
    call(lib.rt_team_create, device, words, words_at, options, owner.out, what="make a team", on=on)
    return cast(TeamHandle, owner.handle())


def team_join(
    team: TeamHandle,
    rank: int,
    pair: PairHandle,
    region: RegionHandle,
    block: int,
    theirs: tuple[RemoteHandle, int, int],
    on: str,
) -> None:
    """Joins a peer. `theirs` is the place of the peer's block: remote, offset and size."""
    place = ffi.new("rt_team_place *", theirs)
    call(lib.rt_team_join, team, rank, pair, region, block, place, what=f"join rank {rank}", on=on)


def team_meet(team: TeamHandle, sign: int, timeout_ns: int, on: str) -> int | None:
    """Waits one slice until all members have joined each other and said the same sign: None when
    they have, else a rank that has not.
    """
    detail, missing = ffi.new("rt_detail *"), ffi.new("int32_t *")
    status = lib.rt_team_meet(team, sign, timeout_ns, missing, detail)
    if status in (AGAIN, INTERRUPTED):
        return int(missing[0])
    check(detail, status, "meet", on)
    return None


def team_failure(team: TeamHandle, on: str) -> None:
    """Raises the error that ended the team, if it has ended."""
    detail = ffi.new("rt_detail *")
    check(detail, lib.rt_team_failure(team, detail), "use a team", on)


def team_abort(team: TeamHandle, why: str) -> None:
    lib.rt_team_abort(team, why.encode())


def team_leave(team: TeamHandle) -> None:
    lib.rt_team_leave(team)


def team_left(team: TeamHandle) -> bool:
    return bool(lib.rt_team_left(team))


def team_stats(team: TeamHandle) -> TeamStats:
    out = ffi.new("rt_team_stats *")
    lib.rt_team_get_stats(team, out)
    return cast(TeamStats, values_of(TeamStats, out))


def team_address(team: TeamHandle) -> int:
    """The C object's address."""
    return int(ffi.cast("uintptr_t", team))


def team_api_address() -> int:
    """The address of the table of team functions."""
    return int(ffi.cast("uintptr_t", lib.rt_team_get_api()))
