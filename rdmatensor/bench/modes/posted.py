"""Ends of libraries whose sends and receives are begun and waited for: Gloo, MPI."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from typing import Any

from rdmatensor.bench.modes.base import Bytes, End, Look

__all__ = ["PostedEnd"]


class PostedEnd(End):
    """Latency by blocking calls, bandwidth with `depth` begun at each end, receives posted ahead."""

    places: list[Bytes]
    """As many as may be under way."""

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
        back = self.begin_receive(0)
        under_way: deque[Any] = deque()
        begin = time.perf_counter()
        for _ in range(count):
            if len(under_way) >= self.depth:
                self.wait(under_way.popleft())
            under_way.append(self.begin_send())
        while under_way:
            self.wait(under_way.popleft())
        self.wait(back)
        return time.perf_counter() - begin

    def pull(self, count: int) -> None:
        coming = deque(self.begin_receive(slot) for slot in range(min(self.depth, count)))
        for number in range(len(coming), count):
            self.wait(coming.popleft())
            coming.append(self.begin_receive(number % self.depth))
        while coming:
            self.wait(coming.popleft())
        self.send()

    def both(self, count: int) -> float:
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
