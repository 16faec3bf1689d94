"""The link between the two devices: its shape, its state, and what its ends counted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENDS = {"net-a": ("10.80.0.1", "10.80.0.2", "101"), "net-b": ("10.80.0.2", "10.80.0.1", "102")}
OTHER = {"net-a": "net-b", "net-b": "net-a"}


def tool(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=900).stdout


@contextmanager
def shaped(*netem: str) -> Iterator[None]:
    """The link with `tc ... netem` at both ends, and clean afterwards."""
    for end in ENDS:
        tool("tc", "qdisc", "replace", "dev", end, "root", "netem", *netem, "limit", "20000")
    try:
        yield
    finally:
        for end in ENDS:
            tool("tc", "qdisc", "delete", "dev", end, "root")


def down() -> None:
    tool("ip", "link", "set", "net-a", "down")


def up() -> None:
    """The link as it was: routes and neighbours went when it went down."""
    for end in ENDS:
        tool("ip", "link", "set", end, "up")
    for end, (own, other, table) in ENDS.items():
        tool("ip", "route", "replace", other, "dev", end, "src", own, "table", table)
        mac = Path("/sys/class/net", OTHER[end], "address").read_text().strip()
        tool("ip", "neighbour", "replace", other, "lladdr", mac, "dev", end, "nud", "permanent")
    for name in ("rxa", "rxb"):
        state = Path("/sys/class/infiniband", name, "ports/1/state")
        while "ACTIVE" not in state.read_text():  # pytest's timeout bounds this
            pass


@contextmanager
def cut() -> Iterator[None]:
    """The link down, and up again afterwards."""
    down()
    try:
        yield
    finally:
        up()


def counters() -> dict[str, int]:
    """The counts of both drivers, and the packets that the shaping of the link dropped."""
    found: dict[str, int] = {}
    for name in ("rxa", "rxb"):
        for path in Path("/sys/class/infiniband", name, "ports/1/hw_counters").iterdir():
            if path.name != "lifespan":
                found[path.name] = found.get(path.name, 0) + int(path.read_text())
    words = " ".join(tool("tc", "-s", "qdisc", "show", "dev", end) for end in ENDS).split()
    found["dropped"] = sum(int(words[at + 1].rstrip(",")) for at, word in enumerate(words) if word == "(dropped")
    return found
