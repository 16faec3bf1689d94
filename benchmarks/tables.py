"""Writes the tables of README.md and docs/benchmarks.md from the files in benchmarks/results, and nothing else does.

    python benchmarks/tables.py            writes them anew
    python benchmarks/tables.py --check    says whether they agree with the files (status 1 when not)

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdmatensor.bench.options import human

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/benchmarks.md")
MARK = re.compile(r"(<!-- table: (\w[\w-]*) -->\n).*?(<!-- end -->)", re.DOTALL)

# The paper's micro-benchmark: RDMA.zerocp over the others, by tensor size (Xue et al., EuroSys 2019).
PAPER = {"grpc-tcp": ("gRPC.TCP", 1.7, 61.0), "rpc": ("RPC over RDMA", 1.3, 14.0), "copy": ("RDMA.cp", 1.2, 1.8)}


def load(name: str) -> dict[str, Any] | None:
    """A result file, or None while it has not been measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def short(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def conditions(found: dict[str, Any]) -> str:
    """The machine and commit that a result belongs to, in a line."""
    meta = found["meta"]
    return (
        f"{meta['machine']}, kernel {meta['kernel']}, {meta['provider']}, commit {meta['commit']}, "
        f"{meta['date'][:10]}, load {meta['load']:.1f} when it was written"
    )


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' + '---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


# ---- micro-benchmark ----


def grid(found: dict[str, Any], value: Callable[[dict[str, Any]], float | None], modes: list[str]) -> str:
    """Sizes down, modes across."""
    by = {(row["mode"], row["bytes"]): row for row in found["results"]}
    sizes = sorted({row["bytes"] for row in found["results"]})
    rows = []
    for size in sizes:
        cells = (short(value(by[mode, size])) if (mode, size) in by else "-" for mode in modes)
        rows.append((human(size), *cells))
    return markdown(("bytes", *modes), rows)


def p50(row: dict[str, Any]) -> float | None:
    return (row["one_way_us"] or {}).get("p50")


def rate(row: dict[str, Any]) -> float | None:
    value: float | None = row["gbytes_per_s"]
    return value


def modes_of(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["mode"] for row in found["results"]))


def transfers() -> str:
    """Everything that `make bench` measured of single transfers."""
    found = load("transfers")
    if found is None:
        return "Not measured yet: `make bench`."
    modes = modes_of(found)
    parts = [
        f"One way, median, µs ({conditions(found)}):",
        grid(found, p50, modes),
        "GB/s with `--depth 8`:",
        grid(found, rate, modes),
        "Copies of each tensor, counted, and CPU seconds per GB at sender + receiver, at the largest size:",
        costs(found),
    ]
    missing = [f"- {one['mode']}: {one['why']}" for one in found["missing"]]
    return "\n\n".join([*parts, *(["Not measured:\n\n" + "\n".join(missing)] if missing else [])])


def costs(found: dict[str, Any]) -> str:
    largest = max(row["bytes"] for row in found["results"])
    rows = []
    for row in (row for row in found["results"] if row["bytes"] == largest):
        cpu, copies = row["cpu_s_per_gb"], row["copies_per_tensor"]
        both = "-" if cpu is None else f"{cpu['sender']:.2g} + {cpu['receiver']:.2g}"
        rows.append((row["mode"], row["version"], "-" if copies is None else f"{copies:g}", both,
                     "yes" if row["verified"] else "no"))  # fmt: skip
    return markdown(("mode", "what", "copies", "CPU s/GB", "bytes checked"), rows)


def summary() -> str:
    """The few columns of the README."""
    found = load("transfers")
    if found is None:
        return "Not measured yet: `make bench`."
    there = modes_of(found)
    modes = [mode for mode in ("static", "dynamic", "floor", "mpi", "gloo", "grpc") if mode in there]
    return "\n\n".join([f"One way, median, µs ({conditions(found)}):", grid(found, p50, modes)])


# ---- the paper's figure ----


def ratios(found: dict[str, Any]) -> dict[str, dict[int, float]]:
    """How many times longer a tensor takes than with static, by mode and size."""
    by = {(row["mode"], row["bytes"]): p50(row) for row in found["results"]}
    sizes = sorted({row["bytes"] for row in found["results"]})
    answer: dict[str, dict[int, float]] = {}
    for mode in PAPER:
        seen = {}
        for size in sizes:
            other, own = by.get((mode, size)), by.get(("static", size))
            if other and own:
                seen[size] = other / own
        answer[mode] = seen
    return answer


def paper() -> str:
    """RDMA.zerocp and how many times longer the others take, on both providers, beside the paper's ranges."""
    found = {label: load(name) for label, name in (("shm", "paper-micro-shm"), ("rxe", "paper-micro-rxe"))}
    there = {label: one for label, one in found.items() if one is not None}
    if not there:
        return "Not measured yet: `make paper-micro`."
    times = {label: ratios(one) for label, one in there.items()}
    own = {
        label: {row["bytes"]: p50(row) for row in one["results"] if row["mode"] == "static"}
        for label, one in there.items()
    }
    rows = []
    for size in sorted({row["bytes"] for one in there.values() for row in one["results"]}):
        cells = []
        for label in there:
            cells.append(short(own[label].get(size)))
            cells += [f"{seen[size]:.2f}" if size in (seen := times[label][mode]) else "-" for mode in PAPER]
        rows.append((human(size), *cells))
    ranges = (f"{low:g} to {high:g}" for _, low, high in PAPER.values())
    rows.append(("the paper", *("-", *ranges) * len(there)))
    head = ["bytes"]
    for label in there:
        head += [f"{label}: RDMA.zerocp, µs", *(f"{name}, times" for name, _, _ in PAPER.values())]
    lines = [f"{label}: {conditions(one)}" for label, one in there.items()]
    said = [
        sentence(f"{name} on {label}", low, high, times[label][mode])
        for label in there
        for mode, (name, low, high) in PAPER.items()
        if times[label][mode]
    ]
    return "\n\n".join(["  \n".join(lines), markdown(tuple(head), rows), "\n".join(said)])


def sentence(label: str, low: float, high: float, seen: dict[int, float]) -> str:
    """How ours relates to a range of the paper."""
    least, most = min(seen, key=lambda size: seen[size]), max(seen, key=lambda size: seen[size])
    own = f"{seen[least]:.2g} ({human(least)}) to {seen[most]:.2g} ({human(most)}) times"
    below = [size for size in seen if seen[size] < low]
    above = [size for size in seen if seen[size] > high]
    said = f"- over {label}: {own}; the paper has {low:g} to {high:g}"
    if not below and not above:
        return said + ": all sizes lie within its range."
    parts = []
    if below:
        parts.append(f"less at {', '.join(human(size) for size in below)}")
    if above:
        parts.append(f"more at {', '.join(human(size) for size in above)}")
    return f"{said}: {'; '.join(parts)}."


# ---- the rest ----


def collectives() -> str:
    """Time of one collective of two ranks."""
    found = load("collectives")
    if found is None:
        return "Not measured yet: `make bench`."
    parts = [f"Median, µs, two ranks ({conditions(found)}):"]
    for operation in dict.fromkeys(row["collective"] for row in found["results"]):
        rows = [row for row in found["results"] if row["collective"] == operation]
        part = {**found, "results": rows}
        parts += [f"`{operation}`:", grid(part, p50, modes_of(part))]
    return "\n\n".join(parts)


def ranks() -> str:
    """With send and receive, with more ranks than cores, and over soft-RoCE."""
    parts = []
    for name in ("collectives-2", "collectives-4", "collectives-8", "collectives-rxe"):
        found = load(name)
        if found is None:
            continue
        by = {(row["operation"], row["bytes"], row["backend"]): row["seconds"] for row in found["results"]}
        backends = list(dict.fromkeys(row["backend"] for row in found["results"]))
        cells = dict.fromkeys((row["operation"], row["bytes"]) for row in found["results"])
        rows = [(what, human(size), *(short(1e6 * by[what, size, one]) for one in backends)) for what, size in cells]
        count = found["results"][0]["ranks"]
        parts += [
            f"{count} ranks, median, µs ({conditions(found)}):",
            markdown(("operation", "bytes", *backends), rows),
        ]
    return "\n\n".join(parts) or "Not measured yet: `make bench`."


def waiting() -> str:
    """An idle receiver, and more waiters than cores."""
    found = load("waiting")
    if found is None:
        return "Not measured yet: `make bench`."
    rows = []
    for row in found["results"]:
        if "pairs" in row:
            times = (f"{row[f'one_way_us_{name}']:.3g}" for name in ("p50", "p90", "p99"))
            rows.append((f"{row['mode']}, {row['pairs']} pair{'s' if row['pairs'] > 1 else ''}", *times))
    idle = next(row["share_of_a_core"] for row in found["results"] if row["mode"] == "idle receiver")
    text = f"An idle receiver uses {100 * idle:.2g} % of a core. 64 bytes back and forth, one way, µs:"
    return "\n\n".join([text, markdown(("", "p50", "p90", "p99"), rows)])


def channel() -> str:
    """The channel's verb alone beside the floor, in one run."""
    found = load("channel")
    if found is None:
        return "Not measured yet: `make bench`."
    by = {(row["mode"], row["bytes"]): row for row in found["results"]}
    rows = []
    for size in sorted({row["bytes"] for row in found["results"]}):
        floor = by["floor", size]
        cells = [short(p50(floor)), short(rate(floor))]
        for mode in ("memcpy", "memcpy-read"):
            row = by[mode, size]
            cells += [short(p50(row)), short(rate(row)), f"{(rate(row) or 0) / (rate(floor) or 1):.2f}"]
        rows.append((human(size), *cells))
    head = ("bytes", "floor, µs", "GB/s", "WRITE, µs", "GB/s", "of the floor's", "READ, µs", "GB/s", "of the floor's")
    return "\n\n".join([f"One way, median ({conditions(found)}):", markdown(head, rows)])


def batches() -> str:
    """Many copies in one call, the arena, and growth."""
    found = load("batches")
    if found is None:
        return "Not measured yet: `make bench`."
    rows = []
    for row in found["results"]:
        if "copies" in row:
            what = f"{row['mode']}, {row['copies']:,} of {row['bytes'] // row['copies']} bytes"
            rows.append((what, f"{row['copies_per_s'] / 1e6:.2f} million a second"))
        elif row["mode"] == "growth":
            rows.append((f"memory, over {row['transfers']:,} transfers", f"{row['grown_bytes']:,} bytes more"))
        else:
            rows.append((row["mode"], f"{1e3 * row['us']:,.0f} ns"))
    return "\n\n".join([conditions(found) + ":", markdown(("what", "figure"), rows)])


def ddp_step() -> str:
    """A step of training that is bound by communication."""
    found = load("ddp_step")
    if found is None:
        return "Not measured yet: `make bench`."
    rows = []
    for row in found["results"]:
        rows.append((row["mode"], f"{row['step_ms']:.0f}", f"{row['steps_per_s']:.2f}", f"{row['to_gloo']:.2f}"))
    head = ("way", "step, ms", "steps a second", "times Gloo's")
    return "\n\n".join([f"Medians ({conditions(found)}):", markdown(head, rows)])


def perftest() -> str:
    """Ours through Python beside perftest's C programs on one device, in one run."""
    found = load("perftest")
    if found is None:
        return "Not measured yet: `make rxe-perftest`."
    rows = []
    for row in found["results"]:
        values = (f"{short(row[side])} {row['unit']}" for side in ("ours", "perftest"))
        rows.append((row["mode"], human(row["bytes"]), *values, f"{row['ratio']:.2f}"))
    return "\n\n".join([conditions(found) + ":", markdown(("what", "bytes", "ours", "perftest", "ratio"), rows)])


TABLES: dict[str, Callable[[], str]] = {
    "transfers": transfers,
    "summary": summary,
    "paper": paper,
    "channel": channel,
    "batches": batches,
    "collectives": collectives,
    "ddp-step": ddp_step,
    "ranks": ranks,
    "waiting": waiting,
    "perftest": perftest,
}


def filled(text: str) -> str:
    """A document with its tables made anew."""
    return MARK.sub(lambda match: f"{match.group(1)}{TABLES[match.group(2)]()}\n{match.group(3)}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a table is not its file's")
    arguments = parser.parse_args()
    status = 0
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        after = filled(before)
        if after == before:
            continue
        if arguments.check:
            print(f"{name}: its tables are not those of benchmarks/results: make tables")
            status = 1
        else:
            path.write_text(after)
            print(f"{name}: written")
    return status


if __name__ == "__main__":
    sys.exit(main())
