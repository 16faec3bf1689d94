"""A process of one mode, `python -m rdmatensor.bench.worker SOCKET FAMILY MODE ROLE`, started by
the command.

It answers one command after the other and does nothing in between. When the command is gone, it
ends at once, even in the middle of a transfer. ROLE `rank` is for modes whose launcher starts both
processes: the rank then decides which of them is first.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from rdmatensor.bench import numbers
from rdmatensor.bench.collectives import COLLECTIVES
from rdmatensor.bench.modes import MODES, Mode
from rdmatensor.bench.modes.base import End, NotHere, Setup
from rdmatensor.bench.wire import Gone, Lines

__all__ = ["main"]


def cpu_seconds() -> float:
    """Processor time of this process and of the children it has waited for."""
    total = 0.0
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(whose)
        total += used.ru_utime + used.ru_stime
    return total


class Worker:
    """Runs commands on one end of a mode. Every method `do_*` is a command and gives the answer."""

    def __init__(self, mode: Mode, role: str) -> None:
        self.mode = mode
        self.role = role
        self.end: End | None = None
        self.halves: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.told: list[dict[str, float | None]] = []

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answers one command; a failure is an answer too."""
        action: Callable[..., dict[str, Any]] = getattr(self, f"do_{message.pop('do')}")
        try:
            return {"ok": True, **action(**message)}
        except NotHere as why:
            return {"ok": False, "not_here": True, "why": str(why)}
        except Exception as error:
            traceback.print_exc()
            return {"ok": False, "why": f"{type(error).__name__}: {error}"}

    @property
    def here(self) -> End:
        assert self.end is not None
        return self.end

    def do_open(self, setup: dict[str, Any], pin: int | None) -> dict[str, Any]:
        if pin is not None:
            os.sched_setaffinity(0, {pin})
        self.end = self.mode.end(Setup(role=self.role, **setup))
        return {"version": self.mode.version()}

    def do_offer(self) -> dict[str, Any]:
        return {"offer": self.here.offer()}

    def do_meet(self, offer: dict[str, Any]) -> dict[str, Any]:
        self.here.meet(offer)
        end = self.here
        return {"transport": end.transport, "note": end.note, "checks": end.checks, "samples": end.samples}

    def do_prepare(self, size: int, depth: int) -> dict[str, Any]:
        self.halves.clear()
        self.told.clear()
        if self.here.setup.touch not in self.here.touches:
            raise NotHere(f"its loops cannot follow --touch {self.here.setup.touch}")
        took = self.here.prepare(size, depth)
        return {"registration_s": took, "token": self.here.token(), "note": self.here.note}

    def do_know(self, token: str) -> dict[str, Any]:
        self.here.know(token)
        return {}

    def do_release(self) -> dict[str, Any]:
        self.here.release()
        return {}

    def do_latency(self, count: int, keep: bool) -> dict[str, Any]:
        """Measures round trips. With `keep`, half of each joins the samples of this size."""
        if not self.here.samples:
            told = self.here.quantiles(count, not keep)
            if keep and self.role == "first":
                self.told.append(told)
            p50 = told["p50"] or 0.0
            return {"p50": p50, "seconds": p50 * 2 * count}
        if self.role == "second":
            self.here.pong(count)
            return {}
        halves = self.here.ping(count)
        if keep:
            self.halves.append(halves)
        return {"p50": float(np.median(halves)), "seconds": float(halves.sum() * 2)}

    def do_bandwidth(self, count: int, both: bool) -> dict[str, Any]:
        """Measures transfers with `depth` in flight. CPU seconds are those of this end alone."""
        before = cpu_seconds()
        if both:
            elapsed: float | None = self.here.both(count)
        elif self.role == "second":
            elapsed = self.here.pull(count)  # type: ignore[func-returns-value]
        else:
            elapsed = self.here.push(count)
        return {"seconds": elapsed, "cpu_s": cpu_seconds() - before}

    def do_check(self, seed: int, sender: str) -> dict[str, Any]:
        """Checks one tensor byte for byte where it arrives."""
        if self.role == sender:
            self.here.check_out(seed)
            return {}
        return {"wrong": self.here.check_in(seed)}

    def do_result(self) -> dict[str, Any]:
        """The percentiles of all samples of this size, and the counters."""
        copies = self.here.copies()
        answer: dict[str, Any] = {"copies": None if copies is None else [copies.copies, copies.tensors]}
        if self.halves:
            samples = np.concatenate(self.halves)
            answer |= {"samples": len(samples), "one_way_us": numbers.summary(samples)}
        if self.told:
            count = sum(int(told["count"] or 0) for told in self.told)
            answer |= {"samples": count, "one_way_us": numbers.joined(self.told)}
        return answer

    def do_call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Calls a method that only some modes have: collectives, external programs."""
        result = getattr(self.here, f"call_{name}")(**arguments)
        return {"result": result}

    def do_close(self) -> dict[str, Any]:
        self.here.close()
        return {}


def end_with(lines: Lines) -> None:
    """Ends this process when the command is gone; a sleeping thread waits for that."""

    def watch() -> None:
        poll = select.poll()
        poll.register(lines.fileno(), select.POLLRDHUP | select.POLLHUP)
        poll.poll()
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str, family: str, name: str, role: str) -> None:
    """Serves commands until the connection ends."""
    lines = Lines.to(path)
    mode = (COLLECTIVES if family == "collectives" else MODES)[name]
    if role == "rank":
        role = ("first", "second")[mode.rank()]
    lines.tell({"mode": name, "role": role, "pid": os.getpid()})
    end_with(lines)
    worker = Worker(mode, role)
    try:
        while True:
            message = lines.hear()
            lines.tell(worker.do(message))
    except Gone:
        pass
    sys.stdout.flush()
    os._exit(0)  # foreign libraries may hold threads that never end


if __name__ == "__main__":
    main(*sys.argv[1:])
