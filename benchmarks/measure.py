"""The parts that the benchmarks share: the machine and commit of a result, medians, and a second process."""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rdmatensor.bench import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def write(
    name: str, results: list[dict[str, Any]], provider: str = "shm", device: str = "", load: str | None = None
) -> Path:
    """Writes benchmarks/results/<name>.json and returns its path. `load` is the host's, where this is a guest."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    meta = machine.meta(provider, device, machine.load())
    if load:
        meta["load"] = float(load)
    path.write_text(json.dumps({"meta": meta, "results": results}, indent=1) + "\n")
    return path


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as text, the first column to the left and the others to the right."""
    kept = [tuple(row) for row in rows]
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    lines = []
    for row in kept:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def interleaved(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each run, taken in turn round by round, so that a drift of the machine meets all of them alike."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        run()
        seen[name].clear()
    for _ in range(rounds):
        for name, run in runs.items():
            seen[name].append(run())
    return {name: statistics.median(values) for name, values in seen.items()}


def per_call(call: Callable[[], object], count: int) -> float:
    """Seconds of one call, from `count` of them in a row."""
    repeat = range(count)
    begin = time.perf_counter()
    for _ in repeat:
        call()
    return (time.perf_counter() - begin) / count


def _compiled(name: str, *more: Path) -> ctypes.CDLL:
    """benchmarks/<name>.c as a library, with further sources. Compiled anew when one of them is newer."""
    path = ROOT / "build" / f"lib{name}.so"
    sources = [Path(__file__).with_name(f"{name}.c"), *more]
    if not path.exists() or path.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        path.parent.mkdir(exist_ok=True)
        command = [
            "cc",
            "-O3",
            "-std=gnu11",
            "-D_GNU_SOURCE",
            f"-I{ROOT / 'csrc'}",
            "-fPIC",
            "-shared",
            "-o",
            path,
            *sources,
        ]
        subprocess.run(command, check=True)
    return ctypes.CDLL(str(path))


def arena_library() -> ctypes.CDLL:
    """The compiled arena.c, with the arena itself in it."""
    library = _compiled("arena", ROOT / "csrc" / "memory" / "arena.c")
    for name in ("arena_one_size", "arena_random"):
        function = getattr(library, name)
        function.restype = ctypes.c_double
        function.argtypes = [ctypes.c_uint32]
    return library


class Peer:
    """A second process, `python <script> --peer <words>`, that talks over its standard streams, a line at a time."""

    def __init__(self, script: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, "--peer", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark's peer ended with status {self._process.wait()}")
        return line.strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
