"""Collective calls bound to their arrays: the checks of arguments, and the core's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.errors import ClosedError, DeadlineExceeded, InvalidArgument, PeerLost, RdmaError
from rdmatensor.fork import refuse_fork
from rdmatensor.settings.arguments import timeout_ns
from rdmatensor.team.memory import Operand, apart, operand, result
from rdmatensor.team.reducing import number_of

if TYPE_CHECKING:
    from rdmatensor.memory.describe import Array

__all__ = ["NO_ROOT", "Binding", "PreparedCall"]

PreparedCall = _core.QuickTeamCall
"""A collective call that is bound to its arrays: calling it runs it and gives the result."""

NO_ROOT = -1
_BARRIER, _REDUCE, _REDUCE_SCATTER, _GATHER_ALL, _BROADCAST, _EXCHANGE = range(6)  # csrc/python/quick_team.c
_ALL_TO_ALL, _GATHER, _SCATTER = range(3)  # rt_team_exchange_for
_BYTES = 2  # the code of uint8, for calls that move no elements
_NONE: tuple[tuple[int, int], ...] = ()
_KINDS: dict[int, type[RdmaError]] = {
    _core.PROTOCOL: InvalidArgument,
    _core.CLOSED: PeerLost,
    _core.AGAIN: DeadlineExceeded,
}


class Binding(_core.QuickTeam):
    """The part of a team that binds its collective calls."""

    def __init__(self, rank: int, size: int, limit_ns: int) -> None:
        self.rank = rank
        self.size = size
        self._limit_ns = limit_ns

    def _bind_barrier(self, *, timeout: float | None = None) -> PreparedCall:
        return self._bound(_BARRIER, _NONE, _NONE, None, timeout=timeout)

    def _bind_all_reduce(
        self, array: Array, op: str = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> PreparedCall:
        return self._bind_reduction("all_reduce", array, NO_ROOT, op, out, timeout)

    def _bind_reduce(
        self, array: Array, root: int = 0, op: str = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> PreparedCall:
        self._check_rank(root, "reduce", "root")
        return self._bind_reduction("reduce", array, root, op, out, timeout)

    def _bind_reduction(
        self, what: str, array: Array, root: int, op: str, out: Array | None, timeout: float | None
    ) -> PreparedCall:
        mine = root in (NO_ROOT, self.rank)
        given = operand(array, what, self, written=out is None and mine)
        target = given if out is None else result(given, given.shape, out, what, self)
        apart(given, target, what, self, same=True)
        number = number_of(op, given.dtype, what, self)
        sends, receives = ((given.address, given.nbytes),), ((target.address, target.nbytes),)
        gives = target.given if mine else None
        return self._bound(_REDUCE, sends, receives, gives, given, target, reduction=number, root=root, timeout=timeout)

    def _bind_broadcast(self, array: Array, root: int = 0, *, timeout: float | None = None) -> PreparedCall:
        self._check_rank(root, "broadcast", "root")
        given = operand(array, "broadcast", self, written=root != self.rank)
        piece = ((given.address, given.nbytes),)
        return self._bound(_BROADCAST, _NONE, piece, given.given, given, root=root, count=given.nbytes, timeout=timeout)

    def _bind_all_gather(self, array: Array, *, out: Array | None = None, timeout: float | None = None) -> PreparedCall:
        what = "all_gather"
        given = operand(array, what, self)
        target = result(given, (self.size, *given.shape), out, what, self)
        apart(given, target, what, self)
        piece = ((given.address, given.nbytes),)
        return self._bound(
            _GATHER_ALL, piece, target.blocks(self.size), target.given, given, target, count=given.nbytes,
            timeout=timeout,
        )  # fmt: skip

    def _bind_gather(
        self, array: Array, root: int = 0, *, out: Array | None = None, timeout: float | None = None
    ) -> PreparedCall:
        what = "gather"
        self._check_rank(root, what, "root")
        given = operand(array, what, self)
        sends = tuple((given.address, given.nbytes if rank == root else 0) for rank in range(self.size))
        if root != self.rank:
            nothing = tuple((0, 0) for _ in range(self.size))
            return self._bound(_EXCHANGE, sends, nothing, None, given, reduction=_GATHER, root=root, timeout=timeout)
        target = result(given, (self.size, *given.shape), out, what, self)
        apart(given, target, what, self)
        return self._bound(
            _EXCHANGE, sends, target.blocks(self.size), target.given, given, target, reduction=_GATHER, root=root,
            timeout=timeout,
        )  # fmt: skip

    def _bind_scatter(
        self, array: Array | None, out: Array, root: int = 0, *, timeout: float | None = None
    ) -> PreparedCall:
        what = "scatter"
        self._check_rank(root, what, "root")
        target = operand(out, what, self, written=True)
        receives = tuple((target.address, target.nbytes if rank == root else 0) for rank in range(self.size))
        if root != self.rank:
            nothing = tuple((0, 0) for _ in range(self.size))
            return self._bound(
                _EXCHANGE, nothing, receives, target.given, target, reduction=_SCATTER, root=root, timeout=timeout
            )
        given = operand(array, what, self)
        if given.dtype is not target.dtype or given.shape != (self.size, *target.shape):
            why = (
                f"the array has {given.shape} of {given.dtype}; with this out= it has "
                f"{(self.size, *target.shape)} of {target.dtype}"
            )
            raise InvalidArgument(what, repr(self), why)
        apart(given, target, what, self)
        return self._bound(
            _EXCHANGE, given.blocks(self.size), receives, target.given, target, given, reduction=_SCATTER, root=root,
            timeout=timeout,
        )  # fmt: skip

    def _bind_reduce_scatter(
        self, array: Array, op: str = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> PreparedCall:
        what = "reduce_scatter"
        given = operand(array, what, self)
        number = number_of(op, given.dtype, what, self)
        target = result(given, self._part(given, what), out, what, self)
        apart(given, target, what, self)
        return self._bound(
            _REDUCE_SCATTER, given.blocks(self.size), ((target.address, target.nbytes),), target.given, target, given,
            reduction=number, timeout=timeout,
        )  # fmt: skip

    def _bind_all_to_all(self, array: Array, *, out: Array | None = None, timeout: float | None = None) -> PreparedCall:
        what = "all_to_all"
        given = operand(array, what, self)
        self._part(given, what)
        target = result(given, given.shape, out, what, self)
        apart(given, target, what, self)
        return self._bound(
            _EXCHANGE, given.blocks(self.size), target.blocks(self.size), target.given, given, target,
            reduction=_ALL_TO_ALL, timeout=timeout,
        )  # fmt: skip

    def _bound(
        self,
        kind: int,
        sends: tuple[tuple[int, int], ...],
        receives: tuple[tuple[int, int], ...],
        gives: Any,
        *operands: Operand,
        reduction: int = 0,
        root: int = NO_ROOT,
        count: int | None = None,
        timeout: float | None = None,
    ) -> PreparedCall:
        """The call of the core. `gives` is its result; the first operand has its type and, unless
        `count` says it, its number of elements.
        """
        self._check_open("make a collective call")
        dtype = operands[0].dtype.code if operands else _BYTES
        elements = count if count is not None else operands[0].elements if operands else 0
        limit = timeout_ns(timeout, self._limit_ns)
        keep = tuple(one.keep for one in operands)
        return _core.QuickTeamCall(self, kind, dtype, reduction, root, elements, limit, sends, receives, gives, keep)

    def _part(self, given: Operand, what: str) -> tuple[int, ...]:
        """The shape of one member's part of an array."""
        if not given.shape or given.shape[0] % self.size:
            why = f"the array's first dimension is divided by {self.size} members, and its shape is {given.shape}"
            raise InvalidArgument(what, repr(self), why)
        return (given.shape[0] // self.size, *given.shape[1:])

    def _check_rank(self, rank: int, what: str, name: str) -> None:
        if not 0 <= rank < self.size:
            raise InvalidArgument(what, repr(self), f"{name}={rank}: a rank is 0 to {self.size - 1}")

    def _check_open(self, what: str) -> None:
        refuse_fork(what, "a team")
        if self._handle is None:
            raise ClosedError(what, repr(self), "the team was closed")

    # ---- called by C ----

    def _raise(self, status: int, text: str) -> None:
        """Raises the error of a call that failed."""
        if self._handle is None:
            raise ClosedError("call a team", repr(self), "the team was closed meanwhile")
        raise _core.failure(status, "call a team", repr(self), text, kinds=_KINDS)

    def _refuse(self) -> None:
        """Raises the reason why a call cannot begin."""
        self._check_open("call a team")
        why = "another thread is in a collective call of this team, which runs one at a time: join a second team for it"
        raise InvalidArgument("call a team", repr(self), why)
