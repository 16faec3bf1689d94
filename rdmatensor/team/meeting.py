"""The protocol by which a group is made: the next step of one member. This module never waits or
sends, and does not know torch.

A member goes through these steps; each waits for something of the others, and may fail:

    card     puts its card, which tells its address, where every member can read it
    cards    waits until all members have put theirs
    tie      for each peer: a channel and shared memory, new or of an earlier group; tells its block for the peer
    attach   for each peer: finds the peer's block
    meet     tells each peer "I have attached to all"
    met      for each peer: waits until it has told the same
    ready    the group may be used, and left

The step `meet` is needed because a member that has attached to all could work, but must not leave,
since a slower member may still look for its memory. Once all have told that they are attached, no
member looks for another any more, and each may leave at once.

A member that fails tells all members that can still hear it, so that none waits for it. A peer
whose connection ended in an orderly way is lost only to members that it has not told `meet`: before
that, no member leaves in an orderly way.

Cards of an earlier run may lie where the cards are put, until their members put new ones. So a
member that waits reads all cards again from time to time, and begins anew (`again`) when one has
changed. Members whose readings differ must not become ready with each other:

  - `meet` tells a peer a digest of the reading, and `met` waits for the digest of the own one.
  - A member that begins anew puts a renewed card, once, and only then ends its attempt. So whoever
    hears of the end, reads the cards again and finds one changed, begins anew too, and fails not.
  - The first card tells peers that are known the places of their blocks. They count only while no
    card is renewed: a block at a place serves one attempt, since what an ended attempt wrote there
    remains. Otherwise blocks have a name, which contains the digest of the reading.

`tests/torch/ranks/explore_meeting.py` runs these steps for all members in every order, with deaths,
failures and a second group; `explore_cards.py` does so with cards of an earlier run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

__all__ = ["Making", "Step"]

_EACH = ("tie", "attach", "meet", "met")  # with each peer in turn
_KINDS = ("card", "cards", "tie", "attach", "meet", "met", "ready")


@dataclass(frozen=True, slots=True)
class Step:
    """A step: an action or a wait. `peer` is a rank, or -1 where it concerns all."""

    kind: str
    peer: int = -1


@dataclass(frozen=True, slots=True)
class Making:
    """The progress of one member in making one group of `size`."""

    rank: int
    size: int
    done: int = 0
    renewed: bool = False
    """The member has begun anew: its card tells no places."""

    @property
    def step(self) -> Step:
        """The next step; at the end always `ready`."""
        steps = _steps(self.rank, self.size)
        return steps[min(self.done, len(steps) - 1)]

    def next(self) -> Making:
        """The state after the step was done."""
        return Making(self.rank, self.size, self.done + 1, self.renewed)

    def past(self) -> Making:
        """The state after the step was done with all peers at once."""
        steps, kind, done = _steps(self.rank, self.size), self.step.kind, self.done
        while done < len(steps) and steps[done].kind == kind:
            done += 1
        return Making(self.rank, self.size, done, self.renewed)

    def again(self) -> Making:
        """The state after a card had changed, or was of an earlier run: the card is renewed, if it
        is not yet, and all cards are awaited again.
        """
        return Making(self.rank, self.size, 1 if self.renewed else 0, renewed=True)

    @property
    def ready(self) -> bool:
        return self.step.kind == "ready"


@functools.cache
def _steps(rank: int, size: int) -> tuple[Step, ...]:
    peers = [peer for peer in range(size) if peer != rank]
    return tuple(Step(kind, peer) for kind in _KINDS for peer in (peers if kind in _EACH else [-1]))
