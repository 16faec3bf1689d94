"""Breadth-first exploration of the worlds that moves lead to, for explore_meeting.py and explore_cards.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

__all__ = ["FaultError", "search"]

World = TypeVar("World", bound=Hashable)


class FaultError(AssertionError):
    """A world that must not be; `search` adds the schedule that leads to it."""


def search(first: World, moves: Callable[[World], list[tuple[str, World]]]) -> int:
    """How many worlds there are. `moves` gives a world's moves by name; it raises FaultError where it finds a fault."""
    seen: dict[World, tuple[World, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        world = queue.popleft()
        try:
            following = moves(world)
        except FaultError as fault:
            raise FaultError(f"{fault}\n" + "\n".join(_schedule(seen, world))) from None
        for move, after in following:
            if after not in seen:
                seen[after] = (world, move)
                queue.append(after)
    return len(seen)


def _schedule(seen: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    """The moves that lead there."""
    found = []
    while (before := seen[world]) is not None:
        world, move = before
        found.append(move)
    return [f"  {index}. {move}" for index, move in enumerate(reversed(found), 1)]
