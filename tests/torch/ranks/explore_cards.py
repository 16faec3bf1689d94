"""Cards of an earlier run, in every order: runs the steps of rdmatensor/team/meeting.py for members that make one
group where some find a card that is replaced later.

A world is the state of every member, the cards, and what members have written into each other's blocks. From each
world every member that can move does, one at a time; cards are read one by one, so a reading may mix what was never
there at once. `explore` raises `FaultError` with the shortest schedule that leads to a world in which

    - a member fails, since nobody died,
    - a member is ready and a peer writes into another block than the one that it reads, or into one that another
      attempt has used,
    - nobody can move, and not all members are ready.

Deaths, failures and a second group are explored by explore_meeting.py. The device of an earlier run is dead, and nobody
ties with it; or it is the same device, with blocks at other places.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, replace

from search import FaultError, search

from rdmatensor.team.meeting import Making

# A rank's card: none, one of an earlier run, the member's first, the renewed one.
NONE, OLD, FIRST, RENEWED = 0, 1, 2, 3

Reading = tuple[int, ...]
Place = tuple[int, int, Reading]
"""A block: its owner, the peer that may write to it, and the reading in its name; for one that a card tells of, the
card alone.
"""


@dataclass(frozen=True, slots=True)
class Member:
    making: Making
    reading: Reading = ()
    attempt: bool = False  # it has read all cards, and its team is there
    ending: Reading | None = None  # the reading of an attempt that is to be ended


@dataclass(frozen=True, slots=True)
class World:
    members: tuple[Member, ...]
    cards: Reading
    met: frozenset[tuple[Place, Reading]] = frozenset()  # a block, and what its word `met` says
    notices: frozenset[Place] = frozenset()  # blocks into which an ended attempt wrote its end


@dataclass(frozen=True, slots=True)
class Rules:
    """The worlds to explore, and mutants of the protocol that must be found out."""

    size: int
    old: frozenset[int]  # ranks of which a card of an earlier run is there
    known: frozenset[tuple[int, int]] = frozenset()  # (rank, peer): the rank's first card tells the peer a place
    same: bool = False  # the old cards are of the members' own devices
    met_unsigned: bool = False  # as it was: `met` says nothing about the reading
    keeps_card: bool = False  # as it was: who begins anew leaves its card with the places
    believes_notices: bool = False  # as it was: a peer's end is a failure, without a look at the cards
    ends_first: bool = False  # the attempt is ended before the renewed card is put
    places_always: bool = False  # places count beside renewed cards


def everybody(size: int) -> frozenset[tuple[int, int]]:
    return frozenset((rank, peer) for rank in range(size) for peer in range(size) if rank != peer)


def start(rules: Rules) -> World:
    members = tuple(Member(Making(rank, rules.size)) for rank in range(rules.size))
    return World(members, tuple(OLD if rank in rules.old else NONE for rank in range(rules.size)))


def block(rules: Rules, reading: Reading, owner: int, peer: int) -> Place:
    """The owner's block for a peer, in the eyes of one who has this reading."""
    by_place = rules.places_always or RENEWED not in reading
    told = (owner, peer) in rules.known and (reading[owner] == FIRST or (reading[owner] == OLD and rules.same))
    return (owner, peer, (reading[owner],) if by_place and told else reading)


def own_block(rules: Rules, member: Member, peer: int) -> Place:
    """The member's block for a peer. One that has begun anew has no block any more that its card tells of."""
    rank = member.making.rank
    place = block(rules, member.reading, rank, peer)
    return (rank, peer, member.reading) if member.making.renewed and not rules.places_always else place


def put(world: World, rank: int, member: Member) -> World:
    return replace(world, members=(*world.members[:rank], member, *world.members[rank + 1 :]))


def steps_of(member: Member, kind: str) -> frozenset[int]:
    """The peers with which the member has done its steps of this kind in this attempt."""
    making = member.making
    return _steps_before(making.rank, making.size, making.done, kind) if member.attempt else frozenset()


@functools.cache
def _steps_before(rank: int, size: int, done: int, kind: str) -> frozenset[int]:
    steps = (Making(rank, size, at).step for at in range(done))
    return frozenset(step.peer for step in steps if step.kind == kind)


def end(world: World, rules: Rules, rank: int, reading: Reading, attached: frozenset[int]) -> World:
    """The attempt is ended: peers whose blocks are attached get a notice."""
    return replace(world, notices=world.notices | {block(rules, reading, peer, rank) for peer in attached})


def anew(world: World, rules: Rules, rank: int) -> World:
    member = world.members[rank]
    making = member.making.again()
    if rules.keeps_card:
        making = replace(making, done=1)
    attached = steps_of(member, "attach")
    if rules.ends_first:
        return end(put(world, rank, Member(making)), rules, rank, member.reading, attached)
    # The attempt ends with the step `cards`. Until then `reading` holds the peers that were attached.
    world = put(world, rank, Member(making, ending=member.reading if attached else None))
    if making.step.kind == "cards" and attached:
        world = put(world, rank, replace(world.members[rank], ending=None))
        return end(world, rules, rank, member.reading, attached)
    if attached:
        world = put(world, rank, replace(world.members[rank], reading=tuple(sorted(attached))))
    return world


def changed(world: World, member: Member) -> bool:
    return member.reading != world.cards


def read(world: World, rules: Rules, rank: int) -> World | None:
    """The step `cards`: one more card, as far as it is there."""
    member = world.members[rank]
    at = len(member.reading)
    if world.cards[at] == NONE:
        return None
    reading = (*member.reading, world.cards[at])
    if len(reading) < rules.size:
        return put(world, rank, replace(member, reading=reading))
    others = any((rank, peer) in rules.known and card == OLD for peer, card in enumerate(reading)) and not rules.same
    if not member.making.renewed and others:
        return anew(put(world, rank, replace(member, reading=reading)), rules, rank)  # not the device that it knows
    return put(world, rank, replace(member, making=member.making.next(), reading=reading, attempt=True))


def advance(world: World, rules: Rules, rank: int) -> World | None:
    """The member's next step, or None while it waits."""
    member = world.members[rank]
    kind, peer = member.making.step.kind, member.making.step.peer
    if kind == "card":
        card = RENEWED if member.making.renewed else FIRST
        world = replace(world, cards=(*world.cards[:rank], card, *world.cards[rank + 1 :]))
        after = put(world, rank, Member(member.making.next()))
        return after if member.ending is None else end(after, rules, rank, member.ending, frozenset(member.reading))
    if kind == "cards":
        return read(world, rules, rank)
    done = replace(member, making=member.making.next())
    if kind == "tie":
        return None if member.reading[peer] == OLD and not rules.same else put(world, rank, done)
    theirs, mine = block(rules, member.reading, peer, rank), own_block(rules, member, peer)
    if kind == "attach":
        other = world.members[peer]
        published = other.attempt and other.reading == member.reading and rank in steps_of(other, "tie")
        named = theirs[2] == member.reading
        if named and other.making.ready and other.reading == member.reading:
            raise FaultError(f"member {rank} looks for the memory of member {peer}, which may have left")
        return put(world, rank, done) if not named or published else None
    if kind == "meet":
        told = frozenset(entry for entry in world.met if entry[0] != theirs)
        return replace(put(world, rank, done), met=told | {(theirs, member.reading)})
    if kind == "met":
        if any(place == mine and (rules.met_unsigned or said == member.reading) for place, said in world.met):
            return put(world, rank, done)
        if mine in world.notices and (rules.believes_notices or not changed(world, member)):
            raise FaultError(f"member {rank} fails: member {peer} has ended an attempt")
    return None


def moves(world: World, rules: Rules) -> list[tuple[str, World]]:
    found: list[tuple[str, World]] = []
    for rank, member in enumerate(world.members):
        if member.making.ready:
            continue
        step = member.making.step
        after = advance(world, rules, rank)
        if after is not None:
            found.append((f"{rank}: {step.kind}{'' if step.peer < 0 else f' {step.peer}'}", after))
        if step.kind in ("tie", "attach", "met") and changed(world, member):
            found.append((f"{rank} finds a card changed at {step.kind}", anew(world, rules, rank)))
    return found


def check(world: World, rules: Rules, last: bool) -> None:
    if not last:
        return
    for rank, member in enumerate(world.members):
        if not member.making.ready:
            raise FaultError(f"member {rank} waits for ever at {member.making.step}, having read {member.reading}")
    for rank, peer in everybody(rules.size):
        ours = own_block(rules, world.members[rank], peer)
        if OLD in world.members[rank].reading:
            raise FaultError(f"member {rank} is ready with a card of an earlier run")
        if block(rules, world.members[peer].reading, rank, peer) != ours:
            raise FaultError(f"members {rank} and {peer} are ready with different blocks")
        if ours in world.notices:
            raise FaultError(f"members {rank} and {peer} are ready with a block that another attempt has used")


def explore(rules: Rules) -> int:
    """How many worlds there are; FaultError with a shortest schedule otherwise."""

    def following(world: World) -> list[tuple[str, World]]:
        found = moves(world, rules)
        check(world, rules, not found)
        return found

    return search(start(rules), following)


ONE, BOTH = frozenset({0}), frozenset({0, 1})

ALL = {
    "2 members, 1 old card": Rules(2, ONE),
    "2 members, 2 old cards": Rules(2, BOTH),
    "2 members that know each other, 1 old card": Rules(2, ONE, everybody(2)),
    "2 members that know each other, 2 old cards": Rules(2, BOTH, everybody(2)),
    "2 members of which one knows the other, 1 old card": Rules(2, ONE, frozenset({(0, 1)})),
    "2 members of which the other knows the one, 1 old card": Rules(2, ONE, frozenset({(1, 0)})),
    "3 members, 1 old card": Rules(3, ONE),
    "3 members that know each other, 1 old card": Rules(3, ONE, everybody(3)),
    "3 members of which two know each other, 1 old card of one of them": Rules(3, ONE, frozenset({(0, 1), (1, 0)})),
    "3 members of which two know each other, 1 old card of the third": Rules(3, ONE, frozenset({(1, 2), (2, 1)})),
    "2 members that know each other, 2 old cards of the same devices": Rules(2, BOTH, everybody(2), same=True),
    "3 members of which two know each other, 1 old card of the same device": Rules(
        3, ONE, frozenset({(0, 1), (1, 0)}), same=True
    ),
}

MUTANTS = {
    "a word that says nothing of the reading, as it was": replace(
        ALL["2 members that know each other, 2 old cards of the same devices"], met_unsigned=True
    ),
    "a card that is kept, as it was": replace(ALL["3 members that know each other, 1 old card"], keeps_card=True),
    "an end that counts as a failure, as it was": Rules(3, ONE, everybody(3), same=True, believes_notices=True),
    "an attempt that is ended before the renewed card is put": Rules(3, ONE, everybody(3), same=True, ends_first=True),
    "places that count beside renewed cards": Rules(3, ONE, everybody(3), same=True, places_always=True),
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
