"""A plan in words, as JSON, and as a picture."""

from __future__ import annotations

import html
import json
import math
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rdmatensor.torch.graph.place import nbytes
from rdmatensor.torch.graph.timetable import as_dict, picture, words

if TYPE_CHECKING:
    from rdmatensor.torch.graph.crossing import Edge
    from rdmatensor.torch.graph.cut import Cut

__all__ = ["as_json", "svg", "text"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(nbytes: int) -> str:
    """Bytes for people: "1.5 MiB"."""
    value, unit = float(nbytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"


def text(cut: Cut, placement: str) -> str:
    """Processes, edges, sums, under a title that names the placement; of a pipeline its schedule."""
    pipeline = cut.placed.pipeline
    schedule = [] if pipeline is None else ["", *words(pipeline)]
    return "\n".join([_title(cut, placement), "", *_processes(cut), "", *_edges(cut), "", *_sums(cut), *schedule])


def _title(cut: Cut, placement: str) -> str:
    graph = cut.captured.module.graph
    count = sum(node.op not in ("placeholder", "output") for node in graph.nodes)
    return f"{placement}: one step of {count} operators for {len(cut.placed.ranks)} processes"


def _processes(cut: Cut) -> list[str]:
    rows: list[tuple[str, ...]] = [("rank", "process", "operators", "sends", "receives", "holds")]
    for rank, process in enumerate(cut.placed.ranks):
        sends = sum(edge.moved for edge in cut.edges if edge.source == process)
        receives = sum(edge.moved for edge in cut.edges if edge.target == process)
        operators = cut.nodes(cut.role_of(process))
        rows.append((str(rank), process, str(operators), size(sends), size(receives), size(_held(cut, process))))
    return _table(rows)


def _held(cut: Cut, process: str) -> int:
    """Bytes of the parameters and states that live in a process."""
    role = cut.role_of(process)
    lasting = ("parameter", "state", "buffer")
    return sum(
        nbytes(node)
        for node, given in cut.captured.inputs.items()
        if given.kind in lasting and cut.placed.roles.get(node) == role
    )


def _edges(cut: Cut) -> list[str]:
    rows: list[tuple[str, ...]] = [("edge", "tensor", "shape", "type", "bytes", "kind", "slots", "flow", "born")]
    for edge in cut.edges:
        ends = f"{edge.source} > {edge.target}"
        shape = "(" + ", ".join(map(str, edge.shape)) + ")"
        dtype = str(edge.dtype).removeprefix("torch.")
        nbytes = ("varies" if edge.bytes is None else size(edge.bytes)) + (f" x {edge.times}" if edge.times > 1 else "")
        rows.append((ends, edge.tensor, shape, dtype, nbytes, edge.kind, str(edge.slots), edge.flow, edge.born))
    return _table(rows)


def _sums(cut: Cut) -> list[str]:
    static = [edge for edge in cut.edges if edge.kind == "static"]
    loop = sum(edge.flow == "loop" for edge in static)
    moved = size(sum(edge.moved for edge in static))
    varying = len(cut.edges) - len(static)
    lines = [f"{len(static)} static edges move {moved} in each step; {varying} are dynamic."]
    lines.append(f"{loop} edges need no credits, since the step's own order keeps their slots from being overwritten.")
    reasons: dict[str, int] = defaultdict(int)
    for edge in cut.edges:
        if edge.flow != "loop":
            reasons[edge.why] += 1
    lines += [f"{count} have credits: {why}." for why, count in sorted(reasons.items())]
    return lines


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_json(cut: Cut, fingerprint: str) -> str:
    """Everything that `text` shows, and the reason of each edge."""

    def edge_of(edge: Edge) -> dict[str, Any]:
        return {**asdict(edge), "dtype": str(edge.dtype).removeprefix("torch.")}

    processes = [
        {
            "rank": rank,
            "process": process,
            "operators": cut.nodes(cut.role_of(process)),
            "held_bytes": _held(cut, process),
            "sent_bytes": sum(edge.moved for edge in cut.edges if edge.source == process),
            "received_bytes": sum(edge.moved for edge in cut.edges if edge.target == process),
        }
        for rank, process in enumerate(cut.placed.ranks)
    ]
    edges = [edge_of(edge) for edge in cut.edges]
    whole: dict[str, Any] = {"fingerprint": fingerprint, "processes": processes, "edges": edges}
    if cut.placed.pipeline is not None:
        whole["pipeline"] = as_dict(cut.placed.pipeline)
    return json.dumps(whole, indent=1)


_BOX = (150, 44)
_HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>'
)


def svg(cut: Cut) -> str:
    """The processes in a circle, and an arrow for what each sends to another in a step; of a pipeline the
    schedule below.
    """
    count = len(cut.placed.ranks)
    radius = max(160, 60 * count / math.pi)
    middle = radius + _BOX[0]
    where = {
        process: (
            middle + radius * math.sin(2 * math.pi * rank / count),
            middle - radius * math.cos(2 * math.pi * rank / count),
        )
        for rank, process in enumerate(cut.placed.ranks)
    }
    flows: dict[tuple[str, str], list[Edge]] = defaultdict(list)
    for edge in cut.edges:
        flows[edge.source, edge.target].append(edge)
    side = 2 * middle
    pipeline = cut.placed.pipeline
    schedule, height = ([], side) if pipeline is None else picture(pipeline, side, side)
    view = f'viewBox="0 0 {side:.0f} {height:.0f}" font-family="sans-serif" font-size="12"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {view}>', _HEAD]
    parts += [_arrow(where[source], where[target], edges) for (source, target), edges in flows.items()]
    parts += [_box(cut, process, *where[process]) for process in cut.placed.ranks]
    return "\n".join([*parts, *schedule, "</svg>"])


def _arrow(begin: tuple[float, float], end: tuple[float, float], edges: list[Edge]) -> str:
    """A bent arrow, so that both directions between two processes can be seen."""
    (x0, y0), (x1, y1) = begin, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    bend = 26.0
    mx, my = (x0 + x1) / 2 - dy * bend, (y0 + y1) / 2 + dx * bend
    tx, ty = x1 - dx * _BOX[0] / 2, y1 - dy * _BOX[1]
    moved = sum(edge.moved for edge in edges)
    width = 1 + math.log10(1 + moved / 1e4)
    varying = sum(edge.kind == "dynamic" for edge in edges)
    label = f"{len(edges)} tensors, {size(moved)}" + (f", {varying} of varying shape" if varying else "")
    title = html.escape("\n".join(f"{edge.tensor} {edge.shape}" for edge in edges))
    return (
        f'<g><title>{title}</title><path d="M{x0:.0f},{y0:.0f} Q{mx:.0f},{my:.0f} {tx:.0f},{ty:.0f}" fill="none" '
        f'stroke="#555" stroke-width="{width:.1f}" marker-end="url(#head)"/>'
        f'<text x="{mx:.0f}" y="{my:.0f}" text-anchor="middle" fill="#333">{html.escape(label)}</text></g>'
    )


def _box(cut: Cut, process: str, x: float, y: float) -> str:
    width, height = _BOX
    operators = cut.nodes(cut.role_of(process))
    words = f"{operators} operators, holds {size(_held(cut, process))}"
    return (
        f'<g><rect x="{x - width / 2:.0f}" y="{y - height / 2:.0f}" width="{width}" height="{height}" rx="6" '
        f'fill="#eef3fa" stroke="#456"/><text x="{x:.0f}" y="{y - 4:.0f}" text-anchor="middle" font-weight="bold">'
        f'{html.escape(process)}</text><text x="{x:.0f}" y="{y + 13:.0f}" text-anchor="middle" '
        f'font-size="10">{words}</text></g>'
    )
