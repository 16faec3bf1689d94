"""One end of a collective: it runs one operation many times, and checks its result once."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from rdmatensor.bench import numbers
from rdmatensor.bench.modes.base import End

__all__ = ["OPERATIONS", "RANKS", "CollectiveEnd", "expected"]

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier")
RANKS = 2
Result = Callable[[], np.ndarray[Any, np.dtype[np.float32]]]


def inputs(rank: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A rank's float32 input: whole numbers, so that sums are exact in any order."""
    return ((np.arange(count) % 1021) + 1 + rank * 7).astype(np.float32)


def expected(operation: str, rank: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The values a rank must hold afterwards, when each rank put `count` elements in."""
    all_of = [inputs(other, count) for other in range(RANKS)]
    part = count // RANKS
    total: np.ndarray[Any, np.dtype[np.float32]] = np.sum(all_of, axis=0, dtype=np.float32)
    if operation == "barrier":
        return np.zeros(0, np.float32)
    if operation == "all_reduce":
        return total
    if operation == "reduce_scatter":
        return total[rank * part : (rank + 1) * part]
    if operation == "all_gather":
        return np.concatenate(all_of)
    if operation == "broadcast":
        return all_of[0]
    return np.concatenate([one[rank * part : (rank + 1) * part] for one in all_of])


class CollectiveEnd(End):
    """One rank. A row's `bytes` are those of one rank's input; the first end is rank 0."""

    def rank(self) -> int:
        return 0 if self.setup.first else 1

    @abstractmethod
    def make(self, operation: str, count: int) -> tuple[Callable[[], object], Result, Callable[[], None]]:
        """For float32 tensors of `count` elements: the call, a function for its result, and one
        that resets the input.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Waits until both ranks are here."""

    def call_begin(self, operation: str, size: int) -> None:
        """Prepares an operation on `size` bytes."""
        self._operation, self._count = operation, size // 4
        self._call, self._result, self._reset = self.make(operation, self._count)
        self._times: list[float] = []

    def call_round(self, count: int, keep: bool) -> float:
        """Runs the call `count` times in a row; gives the median in seconds."""
        self.barrier()
        times = []
        now, call = time.perf_counter, self._call
        for _ in range(count):
            begin = now()
            call()
            times.append(now() - begin)
        if keep:
            self._times += times
        return float(np.median(times))

    def call_check(self) -> int:
        """The number of elements of the result that are wrong."""
        self._reset()
        self.barrier()
        self._call()
        got = np.asarray(self._result()).ravel()
        right = expected(self._operation, self.rank(), self._count)
        return int(np.count_nonzero(got != right)) + abs(len(got) - len(right))

    def call_summary(self) -> dict[str, Any]:
        """Percentiles of all samples."""
        return {"samples": len(self._times), "one_way_us": numbers.summary(np.array(self._times))}
