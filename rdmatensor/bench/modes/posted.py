"""Ends of libraries with non-blocking sends and receives: Gloo, MPI."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from typing import Any

from rdmatensor.bench.modes.base import Bytes, End, Look, NotHere
from rdmatensor.bench.native import read

__all__ = ["PostedEnd"]


class PostedEnd(End):
    """Latency with blocking calls, bandwidth with `depth` operations begun at each end and receives
    posted ahead.
    """

    places: list[Bytes]
    """The receive buffers, one for each tensor that may be under way."""

    @abstractmethod
    def begin_send(self) -> Any: ...
    @abstractmethod
    def begin_receive(self, slot: int) -> Any: ...
    @abstractmethod
    def wait(self, begun: Any) -> None: ...

    def receive(self, look: Look | None = None) -> None:
        self.wait(self.begin_receive(0))
        if look is not None:
            look(self.places[0])

    def send(self) -> None:
        self.wait(self.begin_send())

    def push(self, count: int) -> float:
        rewrite = self.setup.touch == "rewrite"
        back = self.begin_receive(0)
        under_way: deque[Any] = deque()
        begin = time.perf_counter()
        for number in range(count):
            if rewrite:
                while under_way:
                    self.wait(under_way.popleft())
                self.outgoing.fill(number & 255)
            elif len(under_way) >= self.depth:
                self.wait(under_way.popleft())
            under_way.append(self.begin_send())
        while under_way:
            self.wait(under_way.popleft())
        self.wait(back)
        return time.perf_counter() - begin

    def pull(self, count: int) -> None:
        reads = self.setup.touch != "none"
        coming = deque(self.begin_receive(slot) for slot in range(min(self.depth, count)))
        for number in range(count):
            self.wait(coming.popleft())
            if reads:
                read(self.places[number % self.depth])
            if number + self.depth < count:
                coming.append(self.begin_receive(number % self.depth))
        self.send()

    def both(self, count: int) -> float:
        if self.setup.touch != "none":
            raise NotHere("its loop of both directions touches no bytes: measure --direction one-way")
        begin = time.perf_counter()
        coming = deque(self.begin_receive(slot) for slot in range(min(self.depth, count)))
        going: deque[Any] = deque()
        for number in range(count):
            if len(going) >= self.depth:
                self.wait(going.popleft())
            going.append(self.begin_send())
            self.wait(coming.popleft())
            if number + self.depth < count:
                coming.append(self.begin_receive(number % self.depth))
        while going:
            self.wait(going.popleft())
        return time.perf_counter() - begin
