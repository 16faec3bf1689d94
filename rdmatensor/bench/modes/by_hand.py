"""by-hand: shared memory as a user would write it: a ring of slots in a multiprocessing
SharedMemory, and words that both ends poll from Python.

`by-hand-in-place` computes its tensor in the slot and moves no byte, as loans do.
"""

from __future__ import annotations

import time
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, End, Look, Mode, Setup

__all__ = ["ByHand", "ByHandInPlace"]

LINE = 64
LOOKS_PER_CLOCK = 1024


class ByHand(Mode):
    """A ring in shared memory, into which the sender copies."""

    name = "by-hand"
    one_host_only = True

    def version(self) -> str:
        return f"multiprocessing.shared_memory, NumPy {np.__version__}"

    def missing(self, setup: Setup) -> str:
        return ""

    def end(self, setup: Setup) -> ByHandEnd:
        return ByHandEnd(setup, self.in_place)


class ByHandInPlace(ByHand):
    """The same ring; the sender makes its tensors in it."""

    name = "by-hand-in-place"
    in_place = True


class ByHandEnd(End):
    """One end: a ring each way, with two words on lines of their own, tensors sent and taken."""

    transport = "memory"
    note = "both ends spin in Python; no wake-up, no check that the other end lives"

    def __init__(self, setup: Setup, in_place: bool) -> None:
        super().__init__(setup)
        self._in_place = in_place
        self._number = 0

    def offer(self) -> dict[str, Any]:
        return {"name": self.setup.folder.rsplit("/", 1)[-1]}

    def meet(self, offer: dict[str, Any]) -> None:
        self._name = offer["name"]

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._number += 1
        self._slots = max(depth, 2)
        self._stride = -(-size // LINE) * LINE
        total = 2 * LINE + self._slots * self._stride
        rings = [self._ring(f"{self._name}-{self.name_of_mode}-{self._number}-{way}", total) for way in range(2)]
        mine, other = rings if self.setup.first else reversed(rings)
        self._rings = rings
        self._out_words, self._out = self._views(mine, size)
        self._in_words, self._in = self._views(other, size)
        self._private = np.zeros(0 if self._in_place else size, np.uint8)
        self._sent = self._taken = 0
        return None

    @property
    def name_of_mode(self) -> str:
        return "in-place" if self._in_place else "copy"

    @staticmethod
    def _ring(name: str, total: int) -> shared_memory.SharedMemory:
        """The segment of a name, which the end that comes first creates."""
        try:
            return shared_memory.SharedMemory(name, create=True, size=total)
        except FileExistsError:
            return shared_memory.SharedMemory(name)

    def _views(self, ring: shared_memory.SharedMemory, size: int) -> tuple[Any, list[Any]]:
        assert ring.buf is not None
        memory = ring.buf
        words = np.frombuffer(memory, np.uint64, 2 * LINE // 8)
        places = [np.frombuffer(memory, np.uint8, size, 2 * LINE + slot * self._stride) for slot in range(self._slots)]
        return words, places

    @property
    def outgoing(self) -> Any:  # type: ignore[override]
        return self._place() if self._in_place else self._private

    def _place(self) -> Any:
        """The next slot, once the receiver has taken what was in it."""
        if self._sent >= self._slots:
            self._wait(self._out_words, LINE // 8, self._sent - self._slots + 1)
        return self._out[self._sent % self._slots]

    @staticmethod
    def _wait(words: Any, index: int, value: int) -> None:
        looks, deadline = 0, 0.0
        while words[index] < value:
            looks += 1
            if looks % LOOKS_PER_CLOCK == 0:
                now = time.monotonic()
                deadline = deadline or now + DEADLINE_S
                if now > deadline:
                    raise TimeoutError(f"the other end did not move for {DEADLINE_S:g} s")

    def send(self) -> None:
        place = self._place()
        if not self._in_place:
            place[:] = self._private
        self._sent += 1
        self._out_words[0] = self._sent

    def receive(self, look: Look | None = None) -> None:
        self._wait(self._in_words, 0, self._taken + 1)
        if look is not None:
            look(self._in[self._taken % self._slots])
        self._taken += 1
        self._in_words[LINE // 8] = self._taken

    def check_out(self, seed: int) -> None:
        pattern.fill(self.outgoing, seed)
        self.send()

    def copies(self) -> Copies:
        return Copies(0, self._sent)

    def release(self) -> None:
        del self._out_words, self._in_words, self._out, self._in
        for ring in self._rings:
            ring.close()
            if self.setup.first:
                ring.unlink()
        del self._rings
