"""Teams: making and ending them. Their calls are made from code compiled against torch, through `team_api_address`."""

from __future__ import annotations

from typing import Any, NewType, cast

from rdmatensor._core.base import ChannelHandle, DeviceHandle, RegionHandle, RemoteHandle, call, check, owned, values_of
from rdmatensor._native import ffi, lib
from rdmatensor.stats import TeamStats

TeamHandle = NewType("TeamHandle", object)


def _options(rank: int, size: int, numbers: tuple[int, int, int]) -> Any:
    return ffi.new("rt_team_options *", [rank, size, *numbers])


def team_region_size(size: int, numbers: tuple[int, int, int], maps_remote: bool) -> int:
    """Bytes of each member's region; `numbers` are chunk, slots and spins."""
    return int(lib.rt_team_region_size(_options(0, size, numbers), int(maps_remote)))


def team_create(
    device: DeviceHandle, region: RegionHandle, rank: int, size: int, numbers: tuple[int, int, int], on: str
) -> TeamHandle:
    """A team without its peers. It keeps its device and region."""
    out = ffi.new("rt_team **")
    call(lib.rt_team_create, device, region, _options(rank, size, numbers), out, what="make a team", on=on)
    return cast(TeamHandle, owned(out[0], lib.rt_team_drop, (device, region)))


def team_join(team: TeamHandle, rank: int, channel: ChannelHandle, remote: RemoteHandle, on: str) -> None:
    call(lib.rt_team_join, team, rank, channel, remote, what=f"join rank {rank}", on=on)


def team_failure(team: TeamHandle, on: str) -> None:
    """Raises what ended the team, if anything did."""
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
    """Where the table of a team's calls lies."""
    return int(ffi.cast("uintptr_t", lib.rt_team_get_api()))
