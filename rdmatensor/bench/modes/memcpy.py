"""memcpy: the channel's verb alone: a prepared WRITE to an address known from the start, followed
by a word.
"""

from __future__ import annotations

from collections import deque

import numpy as np

import rdmatensor as rt
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, Look, Setup
from rdmatensor.bench.modes.own import OwnEnd, OwnMode

__all__ = ["Memcpy"]

LINE = 64


class Memcpy(OwnMode):
    """memcpy without an edge. The benchmark adds its own flow control: a place is reused once the
    peer has released it.
    """

    name = "memcpy"

    def end(self, setup: Setup) -> MemcpyEnd:
        return MemcpyEnd(setup)


class MemcpyEnd(OwnEnd):
    """An edge as thin as Python allows: slots at the receiver, each with its word, and a credit
    word at the sender.
    """

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._step = max(1, depth // 2)  # places released at once; there are so many more than `depth`
        slots = self.slots = depth + self._step
        stride = -(-size // LINE) * LINE
        words = slots * stride
        total = words + (slots + 1) * LINE
        inbox = self.inbox = self.region(total, access=rt.Access.REMOTE_WRITE)
        # Where memory is mapped, a peer that waits copies a part of what it may READ.
        access = rt.Access.REMOTE_READ if self.device.limits.maps_remote else rt.Access.LOCAL
        outbox = self.outbox = self.region(stride + (slots + 1) * LINE, access=access)
        self.device.publish("inbox", inbox)
        self.remote = self.channel.lookup("inbox", timeout=DEADLINE_S)
        self.outgoing = outbox[:size].array()
        self._words = outbox[stride:].array(-1, np.uint64)
        here = [outbox[stride + LINE * slot :][:8] for slot in range(slots + 1)]
        there = [self.remote[words + LINE * slot :][:8] for slot in range(slots + 1)]
        self._sends = [
            self.channel.prepare_many(
                [(self.remote[slot * stride :][:size], outbox[:size]), (there[slot], here[slot])],
                qp=slot % self.channel.qps,
            )
            for slot in range(slots)
        ]
        self._give = self.channel.prepare(there[slots], here[slots])
        self._arrived = [inbox[words + LINE * slot :][:8] for slot in range(slots)]
        self._credit = inbox[words + LINE * slots :][:8]
        self._credits = self._credit.array(-1, np.uint64)
        self._places = [inbox[slot * stride :][:size] for slot in range(slots)]
        self._under_way: deque[rt.Transfer] = deque()
        self._giving: rt.Transfer | None = None
        self._at_once = self.device.limits.completes_in_post
        self._sent = self._taken = self._told = self._free = 0
        return self.registration_s(inbox, outbox)

    def send(self) -> None:
        number = self._sent
        slot = number % self.slots
        if number >= self.slots + self._free:
            self.channel.wait_word(self._credit, number - self.slots + 1, timeout=DEADLINE_S)
            self._free = int(self._credits[0])
        if self._at_once:
            self._words[slot * LINE // 8] = number + 1
            self._sends[slot]()
        else:
            if len(self._under_way) >= self.slots:
                self._under_way.popleft().wait(DEADLINE_S)
            self._words[slot * LINE // 8] = number + 1
            self._under_way.append(self._sends[slot].start())
        self._sent = number + 1

    def finish(self) -> None:
        while self._under_way:
            self._under_way.popleft().wait(DEADLINE_S)
        if self._giving is not None:
            self._giving.wait(DEADLINE_S)

    def receive(self, look: Look | None = None) -> None:
        number = self._taken
        slot = number % self.slots
        self.channel.wait_word(self._arrived[slot], number + 1, timeout=DEADLINE_S)
        if look is not None:
            look(self._places[slot].array())
        self._taken = number + 1
        if self._taken - self._told < self._step:
            return
        self._told = self._taken
        if not self._at_once and self._giving is not None:
            self._giving.wait(DEADLINE_S)
        self._words[self.slots * LINE // 8] = self._taken
        if self._at_once:
            self._give()
        else:
            self._giving = self._give.start()

    def copies(self) -> Copies:
        return Copies(0, self._sent)  # no code on this path copies

    def release(self) -> None:
        self.finish()
        for prepared in (*self._sends, self._give):
            prepared.close()
        self.device.unpublish("inbox")
        self.remote.close()
        del self.outgoing, self._words, self._places, self._arrived, self._credit, self._credits
        for region in (self.inbox, self.outbox):
            region.close()
        del self.inbox, self.outbox
