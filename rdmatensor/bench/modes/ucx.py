"""ucx: ucx_perftest with tagged UCP messages over the best transports that UCX finds; a C program
at both ends.
"""

from __future__ import annotations

import shutil
import subprocess

from rdmatensor.bench.modes.base import Mode, Setup
from rdmatensor.bench.modes.external import ProgramEnd, numbers_of

__all__ = ["Ucx"]

RANKS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Ucx(Mode):
    """UCX, measured by its own benchmark."""

    name = "ucx"
    install = "apt-get install ucx-utils"

    def version(self) -> str:
        said = subprocess.run(["ucx_info", "-v"], capture_output=True, text=True, check=False).stdout
        return "UCX " + next((line.split()[-1] for line in said.splitlines() if "ersion" in line), "?")

    def missing(self, setup: Setup) -> str:
        return "" if shutil.which("ucx_perftest") else f"ucx_perftest is not installed: {self.install}"

    def end(self, setup: Setup) -> UcxEnd:
        return UcxEnd(setup)


class UcxEnd(ProgramEnd):
    """One end of `tag_lat` and `tag_bw`. The program reports one percentile a run, so each round
    asks for another besides the median.
    """

    transport = "ucx"
    note = "ucx_perftest tag_lat, tag_bw; C at both ends, which spin"
    _round = 0

    def _run(self, test: str, count: int, *more: str) -> list[float]:
        counts = ["-s", str(self.size), "-n", str(count), "-w", str(max(1, count // 10))]
        said = self.run(["ucx_perftest", "-t", test, *counts, *more, "-f"])
        return numbers_of(said) if self.setup.first else []

    def quantiles(self, count: int, warm: bool) -> dict[str, float | None]:
        told: dict[str, float | None] = {"count": float(count), **dict.fromkeys(RANKS)}
        wanted = ["p50"]
        if not warm:
            wanted.append(list(RANKS)[1 + self._round % 3])
            self._round += 1
        for name in wanted:
            found = self._run("tag_lat", count, "-R", str(RANKS[name]))
            told[name] = found[1] / 1e6 if found else None
        return told

    def push(self, count: int) -> float:
        found = self._run("tag_bw", count)
        return (count + 1) * self.size / (found[5] * 2**20)  # overall, in MiB a second

    def pull(self, count: int) -> None:
        self._run("tag_bw", count)
