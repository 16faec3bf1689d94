"""One member's execution of the steps of meeting.py, by which a team or a process group is made.

The members find each other through a store (store.py; for process groups torch's), each at its own
pace and in its own thread.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rdmatensor.backoff import Backoff
from rdmatensor.errors import DeadlineExceeded, NameNotFound, PeerLost, RdmaError
from rdmatensor.fork import forked
from rdmatensor.memory.buffer import Buffer
from rdmatensor.memory.remote import RemoteSpan
from rdmatensor.settings.rendezvous import host_identity
from rdmatensor.team.core import SPINS, Place, TeamCore, TeamPair
from rdmatensor.team.fabric import GONE_S, MAKE, SLICE_S, Fabric, acquire
from rdmatensor.team.meeting import Making
from rdmatensor.team.store import Store

__all__ = ["Member", "join"]

_NEWS = 0.5  # seconds between checks of the store for members that gave up or restarted
# Between two looks at the store for the others' keys, which most members put within 0.1 s: at most a tenth late.
_LOOKS = (0.0002, 0.02, 10)
_PLACES_MAX = 64  # the largest group whose cards contain places: each member reads all cards


class _StaleError(Exception):
    """A card that was read has changed, or belongs to an earlier run: the member begins anew."""


class _Meeting:
    """One member's execution of the steps of meeting.py."""

    def __init__(self, store: Store, rank: int, size: int, timeout: float, ranks: Sequence[int] = ()) -> None:
        self.store, self.rank, self.size, self.ranks = store, rank, size, ranks
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.nonce = os.urandom(8).hex()
        self.cards: list[dict[str, Any]] = []
        self.known: dict[int, TeamPair] = {}  # by rank, from earlier groups
        self.told: dict[int, tuple[TeamPair, Buffer]] = {}  # blocks whose places are in our card
        self.why: Exception | None = None
        self.began = time.time()
        self._told_host = False
        self._trouble: list[dict[str, Any]] = []  # the store's entries of members that gave up
        self._due = time.monotonic() + _NEWS

    # ---- reasons to stop ----

    def left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.001)

    def lost(self, peer: int, why: str) -> PeerLost:
        return PeerLost(MAKE, f"rank {peer}", why)

    def look(self, peer: int) -> None:
        """Called between two slices of a wait for a peer: raises when waiting has become useless."""
        now = time.monotonic()
        if now > self.deadline:
            why = f"it did not come in {self.timeout:g} s" + (f"; last: {self.why}" if self.why else "")
            raise DeadlineExceeded(MAKE, f"rank {peer}", why) from self.why
        if now < self._due:
            return
        self._due = now + _NEWS
        # The store may have ended with a member that is ready and has left; a loss shows in the
        # channels.
        with contextlib.suppress(RuntimeError):
            self._read_trouble()
        if self._cards_changed():
            raise _StaleError

    def _read_trouble(self) -> None:
        """Raises when a member gave up: a member whose card was read, or one that has put none."""
        count = int(self.store.add("trouble", 0))
        while len(self._trouble) < count and self.store.check([f"trouble/{len(self._trouble) + 1}"]):
            self._trouble.append(json.loads(bytes(self.store.get(f"trouble/{len(self._trouble) + 1}"))))
        for entry in self._trouble:
            rank = int(entry["rank"])
            if rank == self.rank:
                continue
            if self.cards:
                known = self.cards[rank]["nonce"] == entry["nonce"]
            else:  # an old entry belongs to an earlier run
                known = entry["time"] > self.began - GONE_S and not self.store.check([f"card/{rank}"])
            if known:
                raise self.lost(rank, f"it gave up: {entry['why']}")

    def give_up(self, why: BaseException) -> None:
        """Tells the members that wait for this one."""
        text = str(why) or type(why).__name__
        entry = {"nonce": self.nonce, "rank": self.rank, "time": time.time(), "why": text}
        with contextlib.suppress(Exception):
            index = self.store.add("trouble", 1)
            self.store.set(f"trouble/{index}", json.dumps(entry))

    # ---- cards ----

    def put(self, **values: dict[str, Any]) -> None:
        """Puts this member's values under their names, in one operation of the store."""
        keys = [f"{name}/{self.rank}" for name in values]
        self.store.multi_set(keys, list(map(json.dumps, values.values())))

    def wait_for(self, name: str) -> list[dict[str, Any]]:
        """The values that all members have put under `name`. Polls the store instead of waiting in
        it: a waiting torch client would block the process's other threads from the store.
        """
        keys = [f"{name}/{rank}" for rank in range(self.size)]
        pauses = Backoff(*_LOOKS)
        while not self.store.check(keys):
            self._look_for_missing(keys, time.monotonic())
            pauses.nap()
        return self._read(keys)

    def _look_for_missing(self, keys: list[str], now: float) -> None:
        """Raises when the time is over, or when a member that has not put its key is known to be
        gone.
        """
        if now > self.deadline:
            ranks = ", ".join(str(rank) for rank, key in enumerate(keys) if not self.store.check([key]))
            raise DeadlineExceeded(MAKE, f"rank {ranks}", f"not there after {self.timeout:g} s")
        for rank, pair in self.known.items():
            if pair.channel.state != "ready" and not self.store.check([keys[rank]]):
                raise self._lost_with(pair, rank)
        if now < self._due:
            return
        self._due = now + _NEWS
        self._read_trouble()

    def _lost_with(self, pair: TeamPair, peer: int) -> PeerLost:
        failure = pair.channel.failure
        return self.lost(peer, failure.why if failure is not None else "its connection ended")

    def _read(self, keys: list[str]) -> list[dict[str, Any]]:
        return [dict(json.loads(bytes(value))) for value in self.store.multi_get(keys)]

    def _read_cards(self) -> list[dict[str, Any]]:
        return self._read([f"card/{rank}" for rank in range(self.size)])

    def _cards_changed(self) -> bool:
        with contextlib.suppress(RuntimeError):  # as above
            return self._read_cards() != self.cards
        return False

    def hosts(self) -> list[dict[str, str]]:
        """The hosts of all members, for members without a fabric; a member with one tells its host
        with its card.
        """
        self._told_host = True
        self.put(host=host_identity())
        return self.wait_for("host")

    # ---- the steps ----

    def go(self, fabric: Fabric) -> _Attempt:
        """Executes all steps from the card on."""
        making = Making(self.rank, self.size)
        attempt: _Attempt | None = None
        try:
            while not making.ready:
                step = making.step
                try:
                    if step.kind == "card":
                        self._put_card(fabric, making.renewed)
                    elif step.kind == "cards":
                        if attempt is not None:  # not before the renewed card is put
                            attempt.end("a member's card has changed")
                            attempt = None
                        self._wait_for_cards()
                        attempt = _Attempt(self, fabric)
                    else:
                        assert attempt is not None
                        getattr(attempt, step.kind)(step.peer)
                except _StaleError:
                    making = making.again()
                except RdmaError:
                    # A peer may have ended its attempt since a card has changed, before this member
                    # saw it.
                    if attempt is None or time.monotonic() > self.deadline or not self._cards_changed():
                        raise
                    making = making.again()
                else:
                    making = making.past() if step.kind in ("meet", "met") else making.next()
            assert attempt is not None
            attempt.finish()
            return attempt
        except BaseException as error:
            self.give_up(error)
            if attempt is not None:
                attempt.end(str(error) or type(error).__name__)
            self.abandon()
            raise

    def _put_card(self, fabric: Fabric, renewed: bool) -> None:
        """Puts our card. The first one tells known peers the places of their blocks, so that they
        need no lookup.
        """
        self.abandon()
        self.known = fabric.known(self.ranks) if self.size <= _PLACES_MAX and not renewed else {}
        for rank, pair in self.known.items():
            if pair.channel.state == "ready":
                self.told[rank] = (pair, pair.block())
        places = {rank: str(pair.place(block)) for rank, (pair, block) in self.told.items()}
        values = {"card": {"nonce": self.nonce, "renewed": renewed, "places": places, **fabric.card}}
        if not self._told_host:  # members without a fabric wait for it
            values["host"] = fabric.card["host"]
            self._told_host = True
        self.put(**values)

    def _wait_for_cards(self) -> None:
        self.cards = self.wait_for("card")
        devices = {rank: pair.channel.peer_id.hex() for rank, pair in self.known.items()}
        if any(self.cards[rank]["device"] != device for rank, device in devices.items()):
            raise _StaleError  # the card is of an earlier run, or the rank is now a different process

    def abandon(self) -> None:
        """Abandons the blocks that peers were told of and that no team has, since they may write to
        them.
        """
        for pair, block in self.told.values():
            pair.abandon(block)
        self.told = {}


class _Attempt:
    """The team and blocks made for one reading of the cards. Its steps are those of meeting.py."""

    def __init__(self, meeting: _Meeting, fabric: Fabric) -> None:
        self.meeting, self.fabric = meeting, fabric
        cards = meeting.cards
        same = sum(card["host"]["kernel"] == cards[meeting.rank]["host"]["kernel"] for card in cards)
        spins = SPINS if same <= int(cards[meeting.rank]["cores"]) else 0
        self.team = TeamCore(fabric.device, meeting.rank, meeting.size, fabric.words, spins=spins)
        self.pairs: dict[int, TeamPair] = {}
        self.blocks: dict[int, Buffer] = {}  # that do not belong to the team yet
        self.published: list[TeamPair] = []
        self.by_place = not any(card.get("renewed") for card in cards)

    @functools.cached_property
    def digest(self) -> str:
        """Equal for members that have read the same cards."""
        return hashlib.sha256(json.dumps(self.meeting.cards, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The name of this group's blocks, for peers that are not told their places."""
        return f"rdmatensor/team/{self.digest}"

    def tie(self, peer: int) -> None:
        told = self.meeting.told.get(peer) if self.by_place else None
        if told is not None and told[0].channel.state != "ready":
            raise self.meeting._lost_with(told[0], peer)
        pair = self._try(peer, lambda: self.fabric.tie(self.meeting, peer))
        if told is not None and told[0] is not pair:
            raise self.meeting.lost(peer, "its connection was lost while the group was made")
        if told is not None:
            self.blocks[peer] = self.meeting.told.pop(peer)[1]
        else:
            self.blocks[peer] = pair.block()
            self._try(peer, lambda: pair.channel.publish(self.name, self.blocks[peer]))
            self.published.append(pair)
        self.pairs[peer] = pair

    def attach(self, peer: int) -> None:
        while True:
            try:
                theirs = self._try(peer, lambda: self._find(peer, min(SLICE_S, self.meeting.left())))
                break
            except (NameNotFound, DeadlineExceeded):  # not published yet, or busy: the meeting's deadline applies
                self.meeting.look(peer)
        self._try(peer, lambda: self.team.join(peer, self.pairs[peer], self.blocks[peer], theirs))
        del self.blocks[peer]

    def _find(self, peer: int, timeout: float) -> RemoteSpan:
        pair, text = self.pairs[peer], self.meeting.cards[peer]["places"].get(str(self.meeting.rank))
        if text is None or not self.by_place:
            return pair.channel.lookup(self.name, timeout=timeout)
        return pair.find(Place.parse(text), timeout=timeout)

    def meet(self, _peer: int) -> None:
        """Tells all peers that this member has attached, and what cards it has read."""
        self._meet(0.0)

    def met(self, _peer: int) -> None:
        """Waits until all peers have attached, having read the same cards."""
        while (missing := self._meet(min(SLICE_S, self.meeting.left()))) is not None:
            self.meeting.look(missing)

    def _meet(self, timeout: float) -> int | None:
        try:
            return self.team.meet(int(self.digest[:15], 16) + 1, timeout=timeout)
        except RdmaError as error:
            raise type(error)(MAKE, f"rank {self.meeting.rank}", error.why, status=error.status) from error

    def _try(self, peer: int, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (NameNotFound, DeadlineExceeded):
            raise
        except RdmaError as error:
            why = error.why if error.what == MAKE else f"{error.why} ({error.what})"
            raise type(error)(MAKE, f"rank {peer}", why, status=error.status) from error

    def finish(self) -> None:
        self._unpublish()
        self.meeting.abandon()

    def end(self, why: str) -> None:
        """Gives up the attempt: peers that have joined are told, and the memory stays until they
        are done with it.
        """
        self._unpublish()
        self.team.abort(why)
        self.team.leave()
        for peer, block in self.blocks.items():
            self.pairs[peer].abandon(block)
        self.fabric.park(self.team)

    def _unpublish(self) -> None:
        for pair in self.published:
            with contextlib.suppress(RdmaError):
                pair.channel.unpublish(self.name)


class Member:
    """This process's membership in one team. Its holder calls `end` when the team ends."""

    def __init__(self, fabric: Fabric, team: TeamCore, pairs: dict[int, TeamPair]) -> None:
        self.team = team
        self._fabric = fabric
        self._share = fabric.share(team, pairs)
        self._ending = threading.Lock()
        self._ended = False

    @property
    def fabric(self) -> Fabric:
        """The device and the other objects that all members of this process share."""
        return self._fabric

    def end(self) -> None:
        """Tells the peers. The memory stays until they no longer write to it. Twice is fine; in a
        forked child it does nothing.
        """
        if forked():
            return
        with self._ending:
            if self._ended:
                return
            self._ended = True
        self._fabric.release(self._share)


def join(store: Store, rank: int, size: int, timeout: float, ranks: Sequence[int] = (), url: str = "") -> Member:
    """Makes the team with all members, each of which makes this call. `timeout` in seconds covers
    all of it; `ranks` are the members' ranks in the whole job, or empty when they are not known;
    `url` names the device of this process's teams, unless empty.
    """
    meeting = _Meeting(store, rank, size, timeout, ranks)
    try:
        fabric = acquire(meeting.hosts, url)
    except BaseException as error:
        meeting.give_up(error)
        raise
    try:
        fabric.sweep()
        attempt = meeting.go(fabric)
        return Member(fabric, attempt.team, {ranks[peer]: pair for peer, pair in attempt.pairs.items() if ranks})
    except BaseException:
        fabric.release(None)
        raise
