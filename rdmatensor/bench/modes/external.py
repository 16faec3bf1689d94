"""Ends that run a program which measures on its own: ucx_perftest, perftest."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import Any

from rdmatensor.bench.modes.base import DEADLINE_S, End, NotHere

__all__ = ["ProgramEnd", "numbers_of"]

TRIES = 100
PAUSE_S = 0.05  # between attempts to reach a server that is starting


def numbers_of(text: str) -> list[float]:
    """The last line of a program's output that consists of numbers."""
    for line in reversed(text.splitlines()):
        try:
            found = [float(word) for word in line.split()]
        except ValueError:
            continue
        if len(found) > 2:
            return found
    raise RuntimeError(f"no line of numbers in what it printed: {text.strip()[-200:]}")


class ProgramEnd(End):
    """An end that runs a program anew for every measurement: the second end the server, the first
    the client. Bytes cannot be inspected.
    """

    touches = ("none",)
    checks = False
    samples = False

    def offer(self) -> dict[str, Any]:
        with socket.socket() as probe:  # these programs take no port 0
            probe.bind((self.setup.bind, 0))
            return {"port": probe.getsockname()[1]}

    def meet(self, offer: dict[str, Any]) -> None:
        self._port = int(offer["port"])

    def run(self, command: list[str], seconds: float = DEADLINE_S) -> str:
        """Runs the program at this end and gives its output. The client tries until the server is
        ready.
        """
        words = [command[0], *([self.setup.connect] if self.setup.first else []), "-p", str(self._port), *command[1:]]
        for _ in range(TRIES if self.setup.first else 1):
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
            if done.returncode == 0:
                return done.stdout
            time.sleep(PAUSE_S)
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{' '.join(words)} failed: {said[-1] if said else done.returncode}")

    def both(self, count: int) -> float:
        raise NotHere("the program measures one direction at a time")
