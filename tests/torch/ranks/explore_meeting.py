"""Making and leaving of groups, in every order: runs the steps of rdmatensor/team/meeting.py for all members at once.

A world is the state of every process: how far it is in making each of its groups, whether its device lives, whether it
died or gave up. From each world every process that can move does, one at a time; a death may strike anybody between
any two moves. Worlds that were seen before are not gone into again, so all interleavings are covered. `explore` raises
`FaultError` with the shortest schedule that leads to a world in which

    - a member failed although nobody died, gave up or ran out of time,
    - a living member waits for something that can never come, and nothing tells it,
    - a member looks for memory that its owner has given back.

Processes make their groups one after the other, with `threads` in two threads, or with `nested` the second while the
first is open: then they know each other, and their cards say where the blocks are. A process closes its device when it
makes and has no group, so that its next group begins with a new one, as the fabric does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from search import FaultError, search

from rdmatensor.team.meeting import Making

MAKING, READY, LEFT, FAILED = "making", "ready", "left", "failed"


@dataclass(frozen=True, slots=True)
class Part:
    """A process's part in one group."""

    state: str
    making: Making
    device: int  # which of the process's devices it uses; 0: it has not begun
    tied: frozenset[int]  # peers with which there is a channel, and for which the own block is told
    attached: frozenset[int]
    told: frozenset[int]  # peers that it has told `meet`
    known: frozenset[int] = frozenset()  # peers of an open group: its card tells them where their blocks are


@dataclass(frozen=True, slots=True)
class Process:
    parts: tuple[Part, ...]  # one for each group
    device: int = 0  # the living one, or 0
    devices: int = 0  # how many there were
    dead: bool = False


World = tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The worlds to explore, and mutants of the protocol that must be found out."""

    size: int
    groups: int = 1
    threads: bool = False  # groups are made at once, each process in an order of its own; else one after the other
    nested: bool = False  # the second group is made and left while the first one is open
    deaths: int = 0
    leaves_without_met: bool = False  # as it was: ready as soon as attached
    silent_failure: bool = False  # a member that fails tells nobody
    closed_is_lost: bool = False  # a connection that ended in good order always ends a meeting
    waits_blindly: bool = False  # nobody looks at known peers while cards are missing


def start(rules: Rules) -> World:
    return tuple(
        Process(
            tuple(
                Part(MAKING, Making(rank, rules.size), 0, frozenset(), frozenset(), frozenset())
                for _ in range(rules.groups)
            )
        )
        for rank in range(rules.size)
    )


def put(world: World, rank: int, group: int, part: Part, **process: object) -> World:
    old = world[rank]
    parts = (*old.parts[:group], part, *old.parts[group + 1 :])
    new = replace(old, parts=parts, **process)
    return (*world[:rank], settled(new), *world[rank + 1 :])


def settled(process: Process) -> Process:
    """The device goes with its last group."""
    used = any(part.device == process.device and part.state in (MAKING, READY) for part in process.parts)
    return process if used or process.device == 0 else replace(process, device=0)


def begun(part: Part) -> bool:
    return part.device != 0


def reaches(world: World, rank: int, peer: int, group: int) -> bool:
    """Whether the device that the peer uses in this group still lives."""
    other = world[peer]
    return not other.dead and other.device != 0 and other.device == other.parts[group].device


def trouble(world: World, rules: Rules, rank: int, group: int) -> bool:
    """The trouble that a waiting member finds out: a lost connection, or a member that gave up."""
    part = world[rank].parts[group]
    for peer in range(rules.size):
        other = world[peer].parts[group]
        if peer == rank:
            continue
        if other.state == FAILED and not rules.silent_failure:
            return True
        known = part.known if not rules.waits_blindly else frozenset[int]()
        if peer in part.tied | known and world[peer].dead:
            return True
        closed = not world[peer].dead and begun(other) and world[peer].device != other.device
        if peer in part.tied and closed and (rules.closed_is_lost or rank not in other.told):
            return True
    return False


def look_for(world: World, rules: Rules, rank: int, peer: int, group: int) -> bool | None:
    """Attaching: True found, False not told yet; raises when it looks at what is gone in good order."""
    other = world[peer].parts[group]
    if world[peer].dead:
        return None
    if other.state == LEFT:
        raise FaultError(f"member {rank} looks for the memory of member {peer} in group {group}, which has left")
    return rank in other.tied | other.known


def advance(world: World, rules: Rules, rank: int, group: int) -> World | None:
    """The next step of one member in one group, or None while it waits."""
    process, part = world[rank], world[rank].parts[group]
    step, peer = part.making.step, part.making.step.peer
    done = replace(part, making=part.making.next())
    if step.kind == "card":
        if rules.nested and group > 0:
            done = replace(done, known=process.parts[0].tied)
        if process.device:
            return put(world, rank, group, replace(done, device=process.device))
        number = process.devices + 1
        return put(world, rank, group, replace(done, device=number), device=number, devices=number)
    if step.kind == "cards":
        return put(world, rank, group, done) if all(begun(other.parts[group]) for other in world) else None
    if step.kind == "tie":
        # A connection needs a living peer; whether it comes from here or from there, it is there.
        if not reaches(world, rank, peer, group):
            return None
        return put(world, rank, group, replace(done, tied=part.tied | {peer}))
    if step.kind == "attach":
        if not look_for(world, rules, rank, peer, group):
            return None
        done = replace(done, attached=part.attached | {peer})
        if rules.leaves_without_met and len(done.attached) == rules.size - 1:
            done = replace(done, state=READY, told=done.attached)
        return put(world, rank, group, done)
    if step.kind == "meet":
        return put(world, rank, group, replace(done, told=part.told | {peer}))
    if step.kind == "met":
        if rank not in world[peer].parts[group].told:
            return None
        return put(world, rank, group, replace(done, state=READY if done.making.ready else MAKING))
    return None


def current(process: Process, rules: Rules) -> list[int]:
    """The groups that the process works at now."""
    open_ = [index for index, part in enumerate(process.parts) if part.state in (MAKING, READY)]
    if rules.nested and process.parts[0].state == READY:
        return open_[-1:]
    return open_ if rules.threads else open_[:1]


def moves(world: World, rules: Rules) -> list[tuple[str, World]]:
    found: list[tuple[str, World]] = []
    dead = sum(process.dead for process in world)
    for rank, process in enumerate(world):
        if process.dead:
            continue
        for group in current(process, rules):
            part = process.parts[group]
            if part.state == READY:
                found.append((f"{rank} leaves group {group}", put(world, rank, group, replace(part, state=LEFT))))
                continue
            after = advance(world, rules, rank, group)
            step = part.making.step
            if after is not None:
                name = f"{rank}: {step.kind}{'' if step.peer < 0 else f' {step.peer}'} in group {group}"
                found.append((name, after))
            elif begun(part) and trouble(world, rules, rank, group):
                found.append((f"{rank} fails in group {group}", put(world, rank, group, replace(part, state=FAILED))))
        if dead < rules.deaths:
            found.append((f"{rank} dies", (*world[:rank], replace(process, dead=True, device=0), *world[rank + 1 :])))
    return found


def never(world: World, rules: Rules, rank: int, group: int) -> bool:
    """Whether a member that waits is freed by a bound of its own: it waits for a process that died before there was a
    connection, whose card never comes (the deadline of the call) or whose listener is gone (GONE_S).
    """
    part = world[rank].parts[group]
    step = part.making.step
    if step.kind == "cards":
        strangers = [process for peer, process in enumerate(world) if peer not in part.known]
        return any(process.dead and not begun(process.parts[group]) for process in strangers) or any(
            process.parts[group].state == FAILED for process in world
        )
    if step.kind == "tie":
        return world[step.peer].dead
    return False


def check(world: World, rules: Rules, last: bool) -> None:
    dead = any(process.dead for process in world)
    for rank, process in enumerate(world):
        for group, part in enumerate(process.parts):
            if part.state == FAILED and not dead:
                raise FaultError(f"member {rank} failed in group {group}, and nobody died")
            waits = last and not process.dead and part.state == MAKING and group in current(process, rules)
            if waits and not never(world, rules, rank, group):
                raise FaultError(f"member {rank} waits in group {group} for ever, at {part.making.step}")


def out_of_time(world: World, rules: Rules, following: list[tuple[str, World]]) -> list[tuple[str, World]]:
    """The members that wait for what only a bound of their own ends."""
    return [
        (f"{rank} runs out of time in group {group}", put(world, rank, group, replace(part, state=FAILED)))
        for rank, process in enumerate(world)
        for group, part in enumerate(process.parts)
        if not process.dead
        and part.state == MAKING
        and group in current(process, rules)
        and not any(move.startswith(f"{rank}") and not move.endswith("dies") for move, _ in following)
        and never(world, rules, rank, group)
    ]


def explore(rules: Rules) -> int:
    """How many worlds there are; FaultError with a shortest schedule otherwise."""

    def following(world: World) -> list[tuple[str, World]]:
        found = moves(world, rules)
        found += out_of_time(world, rules, found)
        check(world, rules, not any(not move.endswith("dies") for move, _ in found))
        return found

    return search(start(rules), following)


ALL = {
    "2 members, 2 deaths": Rules(2, deaths=2),
    "3 members, 1 death": Rules(3, deaths=1),
    "3 members, 2 deaths": Rules(3, deaths=2),
    "4 members, 1 death": Rules(4, deaths=1),
    "2 members, two groups one after the other, 1 death": Rules(2, groups=2, deaths=1),
    "2 members, two groups at once, in two threads, 1 death": Rules(2, groups=2, threads=True, deaths=1),
    "3 members, two groups one after the other, 1 death": Rules(3, groups=2, deaths=1),
    "2 members, a group while another is open, 2 deaths": Rules(2, groups=2, nested=True, deaths=2),
    "3 members, a group while another is open, 1 death": Rules(3, groups=2, nested=True, deaths=1),
}

MUTANTS = {
    "ready as soon as attached, as it was": Rules(2, leaves_without_met=True),
    "a failure that nobody hears of": Rules(3, deaths=1, silent_failure=True),
    "an orderly end that ends a meeting": Rules(3, closed_is_lost=True),
    "cards waited for without a look at known members": Rules(2, groups=2, nested=True, deaths=1, waits_blindly=True),
}

if __name__ == "__main__":
    for name, rules in ALL.items():
        print(f"{name}: {explore(rules)} worlds", flush=True)
    for name, rules in MUTANTS.items():
        try:
            explore(rules)
        except FaultError as fault:
            print(f"{name}: {fault}")
        else:
            sys.exit(f"{name}: was not found out")
