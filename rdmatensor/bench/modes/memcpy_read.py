"""memcpy-read: the channel's READ; the counterpart of perftest-read. Measured on request."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

import rdmatensor as rt
from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, Setup
from rdmatensor.bench.modes.own import OwnEnd, OwnMode

__all__ = ["MemcpyRead"]

LINE = 64


class MemcpyRead(OwnMode):
    """The READ mode. A READ moves a tensor one way by itself, so its time is that of one READ, not
    half of a round trip.
    """

    name = "memcpy-read"
    standard = False

    def end(self, setup: Setup) -> MemcpyReadEnd:
        return MemcpyReadEnd(setup)


class MemcpyReadEnd(OwnEnd):
    """One end of the READ mode. The first end READs memory that the second published; the second
    stays idle.
    """

    touches = ("none",)

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        stride = -(-size // LINE) * LINE
        access = rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE
        source = self.source = self.region(stride + 2 * LINE, access=access)  # tensor, incoming word, outgoing word
        into = self.into = self.region(stride * depth)
        self.device.publish("source", source)
        self.remote = self.channel.lookup("source", timeout=DEADLINE_S)
        self.outgoing = source[:size].array()
        self._places = [into[slot * stride :][:size] for slot in range(depth)]
        self._reads = [self.channel.prepare(place, self.remote[:size]) for place in self._places]
        self._word = source[stride : stride + 8]
        self._told = source[stride + LINE :][:8].array(-1, np.uint64)
        self._tell = self.channel.prepare(self.remote[stride : stride + 8], source[stride + LINE :][:8])
        self._turn = self._done = 0
        self.note = "prepared READs, one way each"
        return self.registration_s(source, into)

    def _say(self) -> None:
        self._told[0] += np.uint64(1)
        self._tell()

    def _hear(self) -> None:
        self._turn += 1
        self.channel.wait_word(self._word, self._turn, timeout=DEADLINE_S)

    def ping(self, count: int) -> NDArray[np.float64]:
        times = np.empty(count)
        read, now = self._reads[0], time.perf_counter_ns
        for index in range(count):
            begin = now()
            read()
            times[index] = now() - begin
        self._done += count
        return times / 1e9

    def pong(self, count: int) -> None:
        """Does nothing: a READ needs no help from this end."""

    def push(self, count: int) -> float:
        under_way: deque[rt.Transfer] = deque()
        begin = time.perf_counter()
        for number in range(count + 1):
            if len(under_way) >= self.depth:
                under_way.popleft().wait(DEADLINE_S)
            under_way.append(self._reads[number % self.depth].start())
        while under_way:
            under_way.popleft().wait(DEADLINE_S)
        elapsed = time.perf_counter() - begin
        self._done += count + 1
        self._say()
        return elapsed

    def pull(self, count: int) -> None:
        """Waits until the READs are over."""
        self._hear()

    def both(self, count: int) -> float:
        elapsed = self.push(count)
        self._hear()
        return elapsed

    def check_out(self, seed: int) -> None:
        pattern.fill(self.outgoing, seed)
        self._say()
        self._hear()

    def check_in(self, seed: int) -> int:
        self._hear()
        self._reads[0]()
        wrong = pattern.differences(self._places[0].array(), seed)
        self._say()
        return wrong

    def copies(self) -> Copies:
        return Copies(0, self._done)

    def release(self) -> None:
        for prepared in (*self._reads, self._tell):
            prepared.close()
        self.device.unpublish("source")
        self.remote.close()
        del self.outgoing, self._places, self._word, self._told
        for region in (self.source, self.into):
            region.close()
        del self.source, self.into
