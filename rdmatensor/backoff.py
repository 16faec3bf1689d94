"""The one curve by which pauses grow between two checks for something that no event announces; that
of C is `csrc/base/backoff.h`.
"""

from __future__ import annotations

import time

__all__ = ["Backoff"]


class Backoff:
    """Pauses of one wait, in seconds. Used by one thread at a time.

    A pause is a share of the time that the wait has paused so far, between `first` and `last`. With
    `share=1` pauses double, which suits work in the background. A greater share checks more often:
    what is awaited is then found late by no more than that share.
    """

    __slots__ = ("_paused", "first", "last", "share")

    def __init__(self, first: float, last: float, share: int = 1) -> None:
        self.first = first
        self.last = last
        self.share = share
        self._paused = 0.0

    def next(self) -> float:
        """The length of the next pause, which counts as made."""
        pause = min(max((self._paused + self.first) / self.share, self.first), self.last)
        self._paused += pause
        return pause

    def next_ns(self) -> int:
        """The same in nanoseconds."""
        return round(self.next() * 1e9)

    def nap(self, limit: float = float("inf")) -> None:
        """Sleeps for the next pause, at most `limit`. Without any lock."""
        time.sleep(max(min(self.next(), limit), 0.0))

    def reset(self) -> None:
        """Something was found: begins anew with the first pause."""
        self._paused = 0.0
