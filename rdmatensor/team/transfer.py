"""A send or receive of a team that outlives the call that began it."""

from __future__ import annotations

import asyncio
import time

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.copies.transfer import Transfer
from rdmatensor.errors import ClosedError, DeadlineExceeded, RdmaError
from rdmatensor.settings.arguments import timeout_ns

__all__ = ["TeamTransfer"]

_NAPS = (1e-5, 2e-3, 4)


class TeamTransfer(Transfer):
    """A send or receive under way. A thread of the team drives it.

    When the timeout of a wait is over, a receive is given up, and its array is no longer written
    to; so is a send that its receiver has not begun to take.
    """

    __slots__ = ("_limit_ns", "_quick", "_what")

    def __init__(self, team: _core.QuickTeam, keep: object, limit_ns: int, what: str) -> None:
        self._quick = _core.QuickTeamTransfer(team, keep)
        self._limit_ns = limit_ns
        self._what = what
        self._error: RdmaError | None = None

    def begin(self, sends: bool, peer: int, tag: int, dtype: int, address: int, nbytes: int) -> None:
        """Starts it, once."""
        try:
            self._quick._begin(sends, peer, tag, dtype, address, nbytes)
        except RdmaError as error:
            self._error = error

    @property
    def settled(self) -> bool:
        """Whether it is known to have ended."""
        return self._error is not None or self._quick._status != _core.AGAIN

    @property
    def source(self) -> int:
        """The rank from which a receive got its array; -1 before."""
        return self._quick._source

    def done(self) -> bool:
        return self.settled or self._step(0)

    def wait(self, timeout: float | None = None) -> None:
        limit = timeout_ns(timeout, self._limit_ns)
        if not self.settled:
            self._wait(limit)
        if self._error is not None:
            raise self._error

    def _wait(self, limit: int) -> None:
        end = time.monotonic_ns() + limit
        naps: Backoff | None = None
        while not self.settled:
            left = end - time.monotonic_ns()
            if self._step(max(min(left, _core.SLICE_NS), 0)):
                break
            if left <= 0:
                self.give_up()
                why = f"it was not done in {limit / 1e9:g} s, and is given up"
                self._error = DeadlineExceeded(self._what, repr(self._quick._team), why)
            elif time.monotonic_ns() - (end - left) < _core.SLICE_NS // 8:
                naps = naps or Backoff(*_NAPS)
                naps.nap(left / 1e9)  # another thread waits for it

    async def _awaited(self) -> None:
        naps = Backoff(*_NAPS)
        while not self.done():
            await asyncio.sleep(naps.next())

    def give_up(self) -> None:
        """Ends it: its memory is no longer touched."""
        if not self.settled:
            self._error = ClosedError(self._what, repr(self._quick._team), "the team was closed")
        self._quick._end()

    def _step(self, slice_ns: int) -> bool:
        """Waits for at most a slice; keeps the core's error for whoever waits."""
        try:
            return self._quick._wait(slice_ns)
        except RdmaError as error:
            self._error = error
            return True

    def __repr__(self) -> str:
        return self._repr(self._what, not self.settled)
