"""perftest: ib_write_lat and ib_write_bw on the same RDMA device; the limit of WRITEs through
libibverbs.
"""

from __future__ import annotations

import shutil
import subprocess
from urllib.parse import parse_qsl, urlsplit

import rdmatensor as rt
from rdmatensor.bench.modes.base import Mode, Setup
from rdmatensor.bench.modes.external import ProgramEnd, numbers_of

__all__ = ["Perftest", "PerftestRead"]

TOOLS = {"write": ("ib_write_lat", "ib_write_bw"), "read": ("ib_read_lat", "ib_read_bw")}
MESSAGE_MAX = 8 << 20  # soft-RoCE's largest message; perftest does not split


def gid_of(url: str) -> list[str]:
    """The arguments by which perftest takes the GID of a device URL: an index, which is all it knows."""
    gid = dict(parse_qsl(urlsplit(url).query)).get("gid", "")
    return ["-x", gid] if gid.isdecimal() else []


class Perftest(Mode):
    """The yardstick of RDMA devices; needs such a device."""

    name = "perftest"
    kind = "limit"
    verb = "write"
    install = "apt-get install perftest"

    def version(self) -> str:
        said = subprocess.run([TOOLS[self.verb][1], "-V"], capture_output=True, text=True, check=False).stdout
        return f"perftest {said.split()[-1] if said.split() else '?'}"

    def missing(self, setup: Setup) -> str:
        tool = TOOLS[self.verb][1]
        if shutil.which(tool) is None:
            return f"{tool} is not installed: {self.install}"
        verbs = next((info for info in rt.providers() if info.provider == "verbs"), None)
        if verbs is None or not verbs.devices:
            return "there is no RDMA device; for soft-RoCE: rdmatensor vm run -- rdmatensor bench"
        if urlsplit(setup.url).scheme != "verbs":
            return "it measures RDMA devices: --provider verbs"
        return ""

    def end(self, setup: Setup) -> PerftestEnd:
        return PerftestEnd(setup, self.verb)


class PerftestRead(Perftest):
    """The same for READs; measured on request."""

    name = "perftest-read"
    verb = "read"
    standard = False


class PerftestEnd(ProgramEnd):
    """One end of perftest. A message is at most 8 MiB; larger sizes are measured with 8 MiB, and
    their latency is not.
    """

    transport = "verbs"

    def __init__(self, setup: Setup, verb: str) -> None:
        super().__init__(setup)
        self._latency, self._bandwidth = TOOLS[verb]
        self._verb = verb
        with rt.Device(setup.url) as chosen:
            self._device, _, port = chosen.name.partition(":")
        self._where = ["-d", self._device, *(["-i", port] if port else []), *gid_of(setup.url)]
        self.note = f"{self._latency}, {self._bandwidth} on {self._device}; C at both ends, which spin"

    def _run(self, tool: str, count: int, *more: str) -> list[float]:
        size = str(min(self.size, MESSAGE_MAX))
        said = self.run([tool, *self._where, "-F", "-s", size, "-n", str(max(5, count)), *more])
        return numbers_of(said) if self.setup.first else []

    def quantiles(self, count: int, warm: bool) -> dict[str, float | None]:
        told: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p99", "p999"))
        told["count"] = float(max(5, count))
        if self.size > MESSAGE_MAX:
            return told
        found = self._run(self._latency, count)
        if found:  # bytes, iterations, min, max, typical, average, deviation, 99 %, 99.9 %
            told |= {"p50": found[4] / 1e6, "p99": found[7] / 1e6, "p999": found[8] / 1e6}
        return told

    def _transfers(self, count: int) -> list[float]:
        depth = max(1, min(self.depth, count))
        return self._run(self._bandwidth, count, *(("-t", str(depth)) if self._verb == "write" else ()))

    def push(self, count: int) -> float:
        return (count + 1) * self.size / (self._transfers(count)[3] * 2**20)  # average, in MiB a second

    def pull(self, count: int) -> None:
        self._transfers(count)
