"""`Team`: collective calls, sends and receives between processes, on NumPy arrays and what is like
them.
"""

from __future__ import annotations

import atexit
import itertools
import threading
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from rdmatensor import _core
from rdmatensor.backoff import Backoff
from rdmatensor.errors import InvalidArgument
from rdmatensor.fork import forked, in_child
from rdmatensor.settings.arguments import timeout_ns
from rdmatensor.team import joining
from rdmatensor.team.binding import NO_ROOT, Binding, PreparedCall
from rdmatensor.team.launched import given_seat, seat
from rdmatensor.team.memory import Operand, operand
from rdmatensor.team.transfer import TeamTransfer

if TYPE_CHECKING:
    from rdmatensor.device import Device
    from rdmatensor.memory.describe import Array
    from rdmatensor.stats import TeamStats

__all__ = ["PreparedCall", "Team"]

Op = Literal["sum", "product", "min", "max", "and", "or", "xor"]
Call = Literal[
    "all_gather", "all_reduce", "all_to_all", "barrier", "broadcast", "gather", "reduce", "reduce_scatter", "scatter"
]
_LEAVE_S = 5.0
"""The longest wait, in a close, for threads that are still in calls."""

_numbers = itertools.count()
_live: weakref.WeakSet[Team] = weakref.WeakSet()


class Team(Binding):
    """The processes of a job, of which this one has the number `rank` of `size`: `Team.join()`.

    All members make the same collective calls in the same order, one at a time. Arrays are NumPy
    arrays, CPU tensors of torch, `rdmatensor.Tensor`, or objects with the buffer protocol; they are
    contiguous, and the members' have the same type and shape. Results go into `out=`, or into a new
    array. `timeout=` is in seconds; None takes that of `join`.

    A collective call that fails ends the team, at all members: DeadlineExceeded names the ranks that
    did not come, PeerLost a member that died, InvalidArgument members that made another call.
    Where the provider maps memory, arrays of 32 KiB and more that lie in a region of `device` at
    all members are read where they lie; others are copied through the team's memory.

    Threads: collective calls from one thread at a time, sends and receives from any. A context
    manager; leaving it closes the team.
    """

    def __init__(self, member: joining.Member, rank: int, size: int, limit_ns: int) -> None:
        """Made by `join`."""
        super().__init__(rank, size, limit_ns)
        self._member = member
        self._handle = member.team.live()
        self._pointer = member.team.address
        self._lock = threading.Lock()
        self._driver: threading.Thread | None = None
        self._receives: weakref.WeakSet[TeamTransfer] = weakref.WeakSet()
        self._sends: list[TeamTransfer] = []  # kept, so that a send that the caller drops goes on
        _live.add(self)
        weakref.finalize(self, member.end).atexit = False  # _close_all comes first

    @classmethod
    def join(
        cls,
        *,
        rank: int | None = None,
        size: int | None = None,
        folder: str | Path | None = None,
        url: str = "",
        timeout: float = 60.0,
    ) -> Team:
        """Joins the other processes of the job, each of which makes this call, as often as the
        others.

        Rank and size come from the launcher: `rdmatensor run`, torchrun, `mpirun` or `srun`. Or give
        all of `rank`, `size` and `folder`, a new folder that the processes share and nobody else
        can read. `url` names the device; else it is shared memory where that joins all members,
        else verbs. `timeout` in seconds bounds this call and is the default of the others.

        Raises InvalidArgument where nothing tells the rank, DeadlineExceeded with the ranks that did
        not come, PeerLost when a member gave up or died.
        """
        limit_ns = timeout_ns(timeout, 0)
        given = [value is not None for value in (rank, size, folder)]
        if any(given) and not all(given):
            raise InvalidArgument("join a team", why="rank=, size= and folder= are given together, or none of them")
        if rank is not None and size is not None and folder is not None:
            place = given_seat(rank, size, Path(folder))
        else:
            place = seat()
        store = place.store(f"team{next(_numbers)}", timeout)
        member = joining.join(store, place.rank, place.size, timeout, range(place.size), url)
        return cls(member, place.rank, place.size, limit_ns)

    # ---- what it is ----

    @property
    def device(self) -> Device:
        """The device of all teams of this process. Arrays in its regions need no copies; for peers to
        read them the region needs `Access.REMOTE_READ`.
        """
        self._check_open("use the device")
        return self._member.fabric.device

    @property
    def stats(self) -> TeamStats:
        """Counters since the team was made."""
        self._check_open("read the statistics")
        return self._member.team.stats

    @property
    def closed(self) -> bool:
        return self._handle is None

    # ---- collective calls ----

    def barrier(self, *, timeout: float | None = None) -> None:
        """Returns once all members have called it."""
        self._bind_barrier(timeout=timeout)()

    def all_reduce(
        self, array: Array, op: Op = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> Any:
        """The reduction of all members' arrays, element by element, at all members: in `out`, else in
        the array itself, which is given back.

        `and`, `or` and `xor` are of bits, for whole numbers and bool. A NaN makes minimum and
        maximum NaN.
        """
        return self._bind_all_reduce(array, op, out=out, timeout=timeout)()

    def reduce(
        self, array: Array, root: int = 0, op: Op = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> Any:
        """As `all_reduce`, at the root alone; None at the others, whose arrays stay as they are."""
        return self._bind_reduce(array, root, op, out=out, timeout=timeout)()

    def broadcast(self, array: Array, root: int = 0, *, timeout: float | None = None) -> Any:
        """The root's array at all members, in their arrays."""
        return self._bind_broadcast(array, root, timeout=timeout)()

    def all_gather(self, array: Array, *, out: Array | None = None, timeout: float | None = None) -> Any:
        """All members' arrays in the order of ranks: shape (size, *array.shape)."""
        return self._bind_all_gather(array, out=out, timeout=timeout)()

    def gather(self, array: Array, root: int = 0, *, out: Array | None = None, timeout: float | None = None) -> Any:
        """As `all_gather`, at the root alone; None at the others."""
        return self._bind_gather(array, root, out=out, timeout=timeout)()

    def scatter(self, array: Array | None, out: Array, root: int = 0, *, timeout: float | None = None) -> Any:
        """Row `rank` of the root's array, of shape (size, *out.shape), in each member's `out`. The
        others' `array` is not looked at.
        """
        return self._bind_scatter(array, out, root, timeout=timeout)()

    def reduce_scatter(
        self, array: Array, op: Op = "sum", *, out: Array | None = None, timeout: float | None = None
    ) -> Any:
        """The reduction of all members' arrays, of which each gets its part: rows
        `rank * n` to `(rank + 1) * n` of `size * n`.
        """
        return self._bind_reduce_scatter(array, op, out=out, timeout=timeout)()

    def all_to_all(self, array: Array, *, out: Array | None = None, timeout: float | None = None) -> Any:
        """Part `i` of each member's array, of `size * n` rows, goes to member `i`, which gets the parts
        in the order of ranks. The result has the array's shape.
        """
        return self._bind_all_to_all(array, out=out, timeout=timeout)()

    def prepare(self, call: Call, *arguments: Any, **options: Any) -> PreparedCall:
        """Binds a collective call to its arrays: `step = team.prepare("all_reduce", gradients)`, and
        then `step()` as often as needed, which checks nothing anew. It takes what the call takes,
        and keeps the arrays.
        """
        bind = getattr(self, f"_bind_{call}", None)
        if bind is None:
            raise InvalidArgument("prepare a call", repr(self), f"{call!r} is no collective call")
        prepared: PreparedCall = bind(*arguments, **options)
        return prepared

    # ---- sends and receives ----

    def send(self, array: Array, to: int, tag: int = 0, *, timeout: float | None = None) -> None:
        """Sends an array to a member, whose `recv` names this rank, or none, and the same tag. Returns
        when the array may be changed; for a large one, that is when the receiver has it.
        """
        self._begun(operand(array, "send", self), to, tag, True, timeout).wait()

    def recv(self, out: Array, source: int | None = None, tag: int = 0, *, timeout: float | None = None) -> int:
        """Receives an array into `out`, of the sender's type and size, from the rank `source` or from
        any. Gives the sender's rank. Arrays of one sender and tag come in the order of sending.
        """
        given = operand(out, "receive", self, written=True)
        transfer = self._begun(given, NO_ROOT if source is None else source, tag, False, timeout)
        transfer.wait()
        return transfer.source

    def send_async(self, array: Array, to: int, tag: int = 0, *, timeout: float | None = None) -> TeamTransfer:
        """Begins to send; the array must not be changed before the transfer is done. A send whose
        transfer is dropped goes on until the team is closed.
        """
        return self._driven(self._begun(operand(array, "send", self), to, tag, True, timeout))

    def recv_async(
        self, out: Array, source: int | None = None, tag: int = 0, *, timeout: float | None = None
    ) -> TeamTransfer:
        """Begins to receive; `source` of the transfer is the sender's rank once it is done. A transfer
        that is dropped is given up.
        """
        given = operand(out, "receive", self, written=True)
        return self._driven(self._begun(given, NO_ROOT if source is None else source, tag, False, timeout))

    def _driven(self, transfer: TeamTransfer) -> TeamTransfer:
        """The transfer; a thread drives it where no call of the caller's does."""
        if not transfer.settled:
            with self._lock:
                if self._driver is None:
                    name = f"rdmatensor team rank {self.rank}"
                    self._driver = threading.Thread(target=_drive, args=(weakref.ref(self),), name=name, daemon=True)
                    self._driver.start()
        return transfer

    # ---- the end ----

    def close(self) -> None:
        """Leaves the team. Calls under way in other threads raise ClosedError. Twice is fine."""
        if forked():
            return
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is None:
            return
        transfers = [transfer for transfer in (*self._sends, *self._receives) if not transfer.settled]
        if self._inside or transfers:
            self._member.team.abort(f"rank {self.rank} closed the team")
        naps, end = Backoff(1e-4, 0.05, 10), time.monotonic() + _LEAVE_S
        while self._inside and time.monotonic() < end:  # abort ends them
            naps.nap()
        for transfer in transfers:
            transfer.give_up()
        self._member.end()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.closed:
            self._member.team.abort(f"rank {self.rank} failed: {type(error).__name__}: {error}")
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"on {self._member.fabric.device.provider}"
        return f"<Team, rank {self.rank} of {self.size}, {state}>"

    def _begun(self, given: Operand, peer: int, tag: int, sends: bool, timeout: float | None) -> TeamTransfer:
        what = "send" if sends else "receive"
        self._check_open(what)
        if sends or peer != NO_ROOT:
            self._check_rank(peer, what, "to" if sends else "source")
            if peer == self.rank:
                raise InvalidArgument(what, repr(self), "a member does not send to itself")
        if not 0 <= tag < 1 << 32:
            raise InvalidArgument(what, repr(self), f"a tag is 0 to {(1 << 32) - 1}, not {tag}")
        limit = timeout_ns(timeout, self._limit_ns)
        transfer = TeamTransfer(self, given.keep, limit, f"{what}, rank {peer}" if peer >= 0 else what)
        if sends:
            self._sends = [*(kept for kept in self._sends if not kept.settled), transfer]
        else:
            self._receives.add(transfer)
        transfer.begin(sends, peer, tag, given.dtype.code, given.address, given.nbytes)
        return transfer


def _drive(of: weakref.ref[Team]) -> None:
    """Drives a team's sends and receives until none is under way."""
    while (team := of()) is not None:
        team._progress(_core.SLICE_NS)
        with team._lock:
            if not team._progress(0):  # one that is begun after this finds no driver, and starts one
                team._driver = None
                return
        del team


@atexit.register
def _close_all() -> None:
    """Leaves all teams before the interpreter ends, so that no peer takes this process for lost."""
    for team in list(_live):
        team.close()


@in_child
def _forget_all() -> None:
    """Drops all teams in a child made by fork: the parent ends them."""
    _live.clear()
