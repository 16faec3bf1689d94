"""The picture of a result: latency and bandwidth against size on log axes, with the limit.
matplotlib is optional.

`python -m rdmatensor.bench.plot PICTURE.png RESULT.json ...` draws results measured elsewhere, one
row of plots each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rdmatensor.errors import InvalidArgument

__all__ = ["STYLES", "check", "draw"]

# Paul Tol's scheme of twelve colours that the colour-blind can tell apart. The marks differ too, so
# that the picture also works in grey.
STYLES: dict[str, tuple[str, str]] = {
    "static": ("#332288", "o"), "dynamic": ("#88CCEE", "s"), "borrow": ("#44AA99", "^"), "copy": ("#117733", "v"),
    "memcpy": ("#6699CC", "D"), "rpc": ("#DDCC77", "P"), "mpi": ("#CC6677", "X"), "ucx": ("#AA4499", "<"),
    "nixl": ("#882255", ">"), "gloo": ("#AA4466", "p"), "grpc": ("#661100", "h"), "torch-rpc": ("#999933", "*"),
    "mooncake": ("#888888", "d"), "grpc-tcp": ("#BB5566", "H"), "memcpy-read": ("#004488", "8"),
    "static-c": ("#0077BB", "1"), "rpc-c": ("#EE7733", "2"), "loan": ("#009988", "3"), "by-hand": ("#BBBB00", "4"),
    "by-hand-in-place": ("#EE3377", "+"), "iceoryx2": ("#CC3311", "x"), "iceoryx2-loan": ("#33BBEE", "|"),
    "rdmatensor": ("#332288", "o"),
}  # fmt: skip
OTHER = ("#777777", ".")
LIMIT = {"color": "#000000", "linestyle": "--", "linewidth": 1.2}


def check(path: str) -> None:
    """Raises InvalidArgument, before anything is measured, when the picture could not be drawn
    afterwards.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise InvalidArgument("bench", f"--plot {path}", "expected a file that ends in .png or .svg")
    try:
        import_module("matplotlib")
    except ImportError:
        why = "matplotlib is not installed: pip install 'rdmatensor[bench]'"
        raise InvalidArgument("bench", f"--plot {path}", why) from None


def draw(path: str, *panels: tuple[str, list[dict[str, Any]]]) -> None:
    """Draws the rows of each result under its title, and writes the picture."""
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")

    figure = pyplot.figure(figsize=(12, 5.2 * len(panels)), layout="constrained")
    for part, (title, results) in zip(figure.subfigures(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        panel(part, title, results)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def panel(figure: Any, title: str, results: list[dict[str, Any]]) -> None:
    """Latency and bandwidth of one result, side by side."""
    axes = figure.subplots(1, 2)
    what = (("one way, µs (median; of our modes up to p99)", median), ("GB/s", rate))
    for axis, (name, value) in zip(axes, what, strict=True):
        for mode in dict.fromkeys(row["mode"] for row in results):
            rows = sorted((row for row in results if row["mode"] == mode and value(row)), key=lambda row: row["bytes"])
            if rows:
                line(axis, mode, rows, value)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("tensor, bytes")
        axis.set_ylabel(name)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        sizes = sorted({row["bytes"] for row in results})
        axis.set_xticks(sizes, [tick(size) for size in sizes], rotation=45 if len(sizes) > 8 else 0)
        axis.minorticks_off()
    axes[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize="medium")


def median(row: dict[str, Any]) -> float | None:
    return (row.get("one_way_us") or {}).get("p50")


def rate(row: dict[str, Any]) -> float | None:
    return row.get("gbytes_per_s")


def line(axis: Any, mode: str, rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> None:
    """Draws one mode's line, with bars up to p99 where the mode has them."""
    at, heights = [row["bytes"] for row in rows], [value(row) for row in rows]
    if rows[0].get("kind") == "limit":
        style = {**LIMIT, "linestyle": ":"} if mode == "floor-two" else LIMIT
        axis.plot(at, heights, label=f"{mode} (limit)", **style)
        return
    colour, mark = STYLES.get(mode, OTHER)
    ours = rows[0].get("kind") == "ours"
    axis.plot(at, heights, label=mode, color=colour, marker=mark, markersize=5, linewidth=2 if ours else 1)
    tails = [(row.get("one_way_us") or {}).get("p99") for row in rows]
    if ours and value is median and all(tails):
        axis.vlines(at, heights, tails, color=colour, linewidth=0.7, alpha=0.6)


def tick(size: int) -> str:
    for unit, scale in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if size >= scale:
            return f"{size / scale:g}{unit}"
    return str(size)


def main(picture: str, *results: str) -> None:
    """Draws files that --json wrote."""
    check(picture)
    found = [json.loads(Path(result).read_text()) for result in results]
    draw(picture, *((title_of(one["meta"]), one["results"]) for one in found))


def title_of(meta: dict[str, Any]) -> str:
    """The title of a result's picture: version, commit, provider and machine."""
    return f"rdmatensor {meta['version']} {meta['commit']}, {meta['provider']}, {meta['machine']}"


if __name__ == "__main__":
    main(*sys.argv[1:])
