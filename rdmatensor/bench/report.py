"""The report of a run: ratios, the table, the limiting factor, and the files."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rdmatensor.bench.numbers import PERCENTILES
from rdmatensor.bench.options import human
from rdmatensor.bench.run import Row, Run

__all__ = ["as_csv", "as_objects", "as_text", "limits", "relate", "table"]

# ---- ratios ----


def limit_of(rows: list[Row]) -> Row | None:
    """The limit among the rows of one size: perftest where there is a device, otherwise the floor of
    two cores, or of one.
    """
    found = {row.mode: row for row in rows if row.kind == "limit"}
    return found.get("perftest") or found.get("floor-two") or found.get("floor")


def p50(row: Row | None) -> float | None:
    return row.one_way_us["p50"] if row is not None and row.one_way_us else None


def ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value and to else None


def group_of(row: Row) -> tuple[str, int]:
    """The key of the rows that are compared with each other: one size of one operation."""
    return str(getattr(row, "collective", "")), row.bytes


def in_place(row: Row) -> bool:
    """Whether no byte moved; rows of collective calls have no such field."""
    return bool(getattr(row, "in_place", False))


def relate(rows: list[Row]) -> None:
    """Fills in each row's ratios to the limit and to the best peer of its size in the same run. Modes
    that hand tensors over in place are compared with peers that do so too.
    """
    for group in {group_of(row) for row in rows}:
        same = [row for row in rows if group_of(row) == group]
        limit = limit_of(same)
        for row in same:
            peers = [peer for peer in same if peer.kind == "peer" and in_place(peer) == in_place(row)]
            quick = min((peer for peer in peers if p50(peer)), key=lambda peer: p50(peer) or 0, default=None)
            wide = max(
                (peer for peer in peers if peer.gbytes_per_s), key=lambda peer: peer.gbytes_per_s or 0, default=None
            )
            row.ratio_to_limit = {
                "latency": ratio(p50(row), p50(limit)),
                "bandwidth": ratio(row.gbytes_per_s, limit.gbytes_per_s if limit else None),
            }
            row.ratio_to_best_peer = {
                "latency": ratio(p50(row), p50(quick)),
                "latency_peer": quick.mode if quick else None,
                "bandwidth": ratio(row.gbytes_per_s, wide.gbytes_per_s if wide else None),
                "bandwidth_peer": wide.mode if wide else None,
            }


# ---- the table ----


def short(value: float | None, digits: int = 3) -> str:
    """A number with about three digits, or a dash."""
    if value is None:
        return "-"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


HEAD = (
    "mode", "p50 µs", "p90", "p99", "p99.9", "samples", "GB/s", "transfers/s", "CPU s/GB", "copies", "reg. µs",
    "checked", "to limit", "to best peer",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    told = row.one_way_us or dict.fromkeys(PERCENTILES)
    marks = {name: row.samples * (1 - share) < 1 for name, share in PERCENTILES.items()}
    times = [short(told[name]) + ("*" if marks[name] and told[name] is not None else "") for name in PERCENTILES]
    cpu = row.cpu_s_per_gb
    both = "-" if cpu is None else f"{short(cpu['sender'], 2)} + {short(cpu['receiver'], 2)}"
    to_limit, to_peer = row.ratio_to_limit, row.ratio_to_best_peer
    return (
        row.mode, *times, f"{row.samples:,}", short(row.gbytes_per_s), short(row.transfers_per_s), both,
        "-" if row.copies_per_tensor is None else f"{row.copies_per_tensor:g}", short(row.registration_us),
        "yes" if row.verified else "no", pair_of(to_limit), "" if row.kind == "peer" else pair_of(to_peer),
    )  # fmt: skip


def pair_of(found: dict[str, Any]) -> str:
    """Latency and bandwidth relative to another row's, as text."""
    return f"{short(found.get('latency'), 2)} / {short(found.get('bandwidth'), 2)}"


def table(lines: Iterable[tuple[str, ...]]) -> list[str]:
    """The rows as text, with the first column aligned left and the others right."""
    kept = list(lines)
    widths = [max(len(line[column]) for line in kept) for column in range(len(kept[0]))]
    text = []
    for line in kept:
        others = [word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join([line[0].ljust(widths[0]), *others]).rstrip())
    return text


BUSY = 0.5
"""The load at which other programs were running: numbers measured then are lower than the machine's."""


def about(meta: dict[str, Any]) -> list[str]:
    """The subject, machine and date of the run; and a warning when other programs were running."""
    before = meta["load_before"]
    lines = [f"{meta['machine']}, load {before:.1f} before, {meta['date']}"]
    if before >= BUSY:
        lines += [
            f"WARNING: others were running (load {before:.1f}): the numbers are theirs too. Measure on an idle machine."
        ]
    return lines


def as_text(run: Run, meta: dict[str, Any]) -> str:
    """The whole report as text."""
    options = run.options
    lines: list[str] = []
    groups = list(dict.fromkeys(group_of(row) for row in run.rows))
    everything = table([HEAD, *(cells(row) for row in run.rows)])
    body = dict(zip((id(row) for row in run.rows), everything[1:], strict=True))
    lines.append(everything[0])
    for group in groups:
        same = [row for row in run.rows if group_of(row) == group]
        apart = "" if all(row.interleaved for row in same) else ", one mode after the other: memory is short"
        operation, size = group
        how = f"{max(row.depth for row in same)} under way for GB/s, {options.direction}"
        lines.append(f"{operation}, {human(size)}" if operation else f"{human(size)}, {how}{apart}")
        lines += [f"  {body[id(row)]}" for row in same]
    lines[0] = "  " + lines[0]
    lines[:0] = [*about(meta), ""]
    lines.append("")
    if any(operation for operation, _ in groups):
        lines += ["µs: one operation. Bytes: the input of one of two ranks. GB/s: those bytes by that time."]
    else:
        lines += ["µs: half a round trip. GB/s: until the last tensor is there. CPU s/GB: sender + receiver."]
    lines += ["to limit, to best peer: latency / bandwidth as multiples of theirs, at this size in this run."]
    if any(row.samples < 1000 for row in run.rows):
        lines += ["*: fewer samples than the percentile needs; it is the largest of them."]
    named = {row.mode: f"{row.mode}: {row.version}, over {row.provider}; {row.note}" for row in run.rows}
    lines += ["", *(line for text in named.values() for line in textwrap.wrap(text, 130, subsequent_indent="    "))]
    lines += missing_lines(run)
    for text in run.wrong:
        lines.append(f"WRONG BYTES: {text}")
    if not any(operation for operation, _ in groups):
        lines += ["", *textwrap.wrap(f"What limits it: {limits(run.rows)}", 130, subsequent_indent="    ")]
    return "\n".join(lines)


def missing_lines(run: Run) -> list[str]:
    lines = []
    for missing in run.missing:
        at = f" at {human(missing.bytes)}" if missing.bytes else ""
        lines += textwrap.wrap(f"{missing.mode}: not measured{at}: {missing.why}", 130, subsequent_indent="    ")
    return lines


# ---- what limits it ----


def limits(rows: list[Row]) -> str:
    """A sentence or two, from the numbers, on what the best of our modes must shed to be faster."""
    ours = [row for row in rows if row.kind == "ours" and not in_place(row)]
    if not ours:
        return "no mode of this library was measured."
    small, large = min(row.bytes for row in ours), max(row.bytes for row in ours)
    said = []
    quick = min((row for row in ours if row.bytes == small and p50(row)), key=lambda row: p50(row) or 0, default=None)
    limit = limit_of([row for row in rows if row.bytes == small])
    if quick is not None:
        said.append(f"at {human(small)}, {quick.mode} takes {short(p50(quick))} µs" + small_limit(quick, limit))
    wide = max((row for row in ours if row.bytes == large), key=lambda row: row.gbytes_per_s or 0)
    limit = limit_of([row for row in rows if row.bytes == large])
    if wide.gbytes_per_s and large > small:
        said.append(f"at {human(large)}, {wide.mode} moves {short(wide.gbytes_per_s)} GB/s" + large_limit(wide, limit))
    return "; ".join(said) + "."


OVER = 1.25
"""The tolerance of the limit. No mode is faster than the limit; a mode faster by this factor shows
that other programs disturbed the measurement of the limit, or that both ends copied where the limit
is that of one core.
"""


def small_limit(row: Row, limit: Row | None) -> str:
    own, least = p50(row), p50(limit)
    if not own or not least or limit is None:
        return ""
    rest = f"{short(own - least)} are the calls and the waiting" if own > least else "nothing is left to gain"
    return f", {limit.mode} {short(least)}: {rest}"


def large_limit(row: Row, limit: Row | None) -> str:
    share = row.ratio_to_limit.get("bandwidth")
    if limit is not None and share and share > OVER:
        why = "both ends copied, or others were running" if limit.mode == "floor" else "others were running"
        return f", more than {limit.mode} ({short(limit.gbytes_per_s)}): {why} while that was measured"
    if limit is not None and share and share >= 0.8:
        what = "memory" if limit.mode.startswith("floor") else "device"
        return f", {100 * share:.0f} % of what {limit.mode} does: the {what} limits it"
    busy = {end: used * (row.gbytes_per_s or 0) for end, used in (row.cpu_s_per_gb or {}).items()}
    end = max(busy, key=lambda name: busy[name], default="")
    beside = f", {100 * share:.0f} % of what {limit.mode} does" if limit is not None and share else ""
    if end and busy[end] >= 0.8:
        return f"{beside}: the {end}'s core limits it, which is busy {100 * min(busy[end], 1):.0f} % of the time"
    return f"{beside}: neither end's core is busy all the time, so it waits for the device or for the other end"


# ---- files ----


def as_objects(run: Run, meta: dict[str, Any]) -> dict[str, Any]:
    """The object of --json."""
    return {
        "meta": {**meta, "options": asdict(run.options)},
        "results": [asdict(row) for row in run.rows],
        "missing": [asdict(missing) for missing in run.missing],
    }


FLAT = (
    "mode", "provider", "bytes", "p50_us", "p90_us", "p99_us", "p999_us", "samples", "gbytes_per_s", "transfers_per_s",
    "sender_cpu_s_per_gb", "receiver_cpu_s_per_gb", "copies_per_tensor", "registration_us", "verified", "depth",
    "direction", "latency_to_limit", "bandwidth_to_limit", "latency_to_best_peer", "bandwidth_to_best_peer",
    "version", "note",
)  # fmt: skip


def as_csv(run: Run) -> str:
    """The rows with one column for each number; a missing number is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FLAT)
    for row in run.rows:
        told, cpu = row.one_way_us or {}, row.cpu_s_per_gb or {}
        flat = {
            **asdict(row),
            **{f"{name}_us": told.get(name) for name in PERCENTILES},
            **{f"{end}_cpu_s_per_gb": cpu.get(end) for end in ("sender", "receiver")},
            **{f"{name}_to_limit": row.ratio_to_limit.get(name) for name in ("latency", "bandwidth")},
            **{f"{name}_to_best_peer": row.ratio_to_best_peer.get(name) for name in ("latency", "bandwidth")},
        }
        writer.writerow(["" if flat[name] is None else flat[name] for name in FLAT])
    return text.getvalue()


def to_json(run: Run, meta: dict[str, Any]) -> str:
    """The text of --json."""
    return json.dumps(as_objects(run, meta), indent=1) + "\n"
