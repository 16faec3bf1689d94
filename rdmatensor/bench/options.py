"""The options of a run: sizes, modes and settings, parsed from words; an error names the valid
values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rdmatensor.errors import InvalidArgument

__all__ = [
    "DIRECTIONS",
    "ORDERINGS",
    "PROVIDERS",
    "SIZES",
    "TOUCHES",
    "WAITS",
    "Options",
    "human",
    "size_of",
    "sizes_of",
]

PROVIDERS = ("auto", "verbs", "shm")
WAITS = ("adaptive", "spin", "yield", "block")
ORDERINGS = ("auto", "tail", "chained", "immediate")
DIRECTIONS = ("one-way", "both")
TOUCHES = ("none", "read", "rewrite")
SIZES = "64,4Ki,64Ki,1Mi,16Mi"
UNITS = {"": 1, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
SIZE_MAX = 64 << 30
STEP = 4  # the step of a range that names none
BUDGET_S = 28.0  # seconds for all rows together when no duration is given
ROUNDS = 5
BOUNDS = {"depth": (1, 128), "qps": (1, 64), "cqs": (1, 64), "rounds": (2, 100)}
DURATION = "seconds for each row, from 0.001 to 3600"


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a run. Times are in seconds, sizes in bytes. `duration` is the time that one
    row measures; with None, all rows together take about half a minute.
    """

    provider: str = "auto"
    device: str = ""
    modes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = field(default_factory=lambda: sizes_of(SIZES))
    depth: int = 8
    qps: int = 1
    cqs: int = 1
    duration: float | None = None
    direction: str = "one-way"
    wait: str = "adaptive"
    ordering: str = "auto"
    touch: str = "none"
    verify: bool = True
    pin: tuple[int, ...] = ()
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        choose("--provider", self.provider, PROVIDERS)
        choose("--wait", self.wait, WAITS)
        choose("--ordering", self.ordering, ORDERINGS)
        choose("--direction", self.direction, DIRECTIONS)
        choose("--touch", self.touch, TOUCHES)
        for name, (least, most) in BOUNDS.items():
            between(f"--{name}", getattr(self, name), least, most)
        if self.duration is not None and not 0.001 <= self.duration <= 3600:
            raise refused("--duration", f"{self.duration:g}", DURATION)
        if not self.sizes:
            raise refused("--sizes", "nothing", "sizes such as 64,64Ki,64Mi")

    def duration_of(self, modes: int) -> float:
        """The seconds that one row measures when `modes` modes are measured."""
        if self.duration is not None:
            return self.duration
        return min(1.0, max(0.04, BUDGET_S / max(1, modes * len(self.sizes))))


def refused(option: str, value: object, right: str) -> InvalidArgument:
    """The error for an invalid value, in one line, with the valid ones."""
    return InvalidArgument("bench", f"{option} {value}".strip(), f"expected {right}")


def choose(option: str, value: str, right: tuple[str, ...]) -> None:
    if value not in right:
        raise refused(option, repr(value), f"one of {', '.join(right)}")


def between(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise refused(option, value, f"a whole number from {least} to {most}")


def whole(option: str, word: str, least: int, most: int) -> int:
    """Parses a whole number and checks its bounds."""
    if not re.fullmatch(r"-?\d{1,9}", word.strip()):
        raise refused(option, repr(word), f"a whole number from {least} to {most}")
    between(option, int(word), least, most)
    return int(word)


def seconds(option: str, word: str) -> float:
    """Parses the seconds that a row measures."""
    try:
        return float(word)
    except ValueError:
        raise refused(option, repr(word), DURATION) from None


def size_of(word: str) -> int:
    """The bytes of a word such as `64`, `64Ki` or `1GiB`."""
    match = re.fullmatch(r"(\d+)\s*(ki|mi|gi|)b?", word.strip(), re.IGNORECASE)
    size = int(match.group(1)) * UNITS[match.group(2).lower()] if match else 0
    if not 1 <= size <= SIZE_MAX:
        right = "whole numbers of bytes from 1 to 64Gi, with Ki, Mi or Gi, as in 64,64Ki,64Mi"
        raise refused("--sizes", repr(word), right)
    return size


def sizes_of(text: str) -> tuple[int, ...]:
    """The sizes of `64,64Ki,64Mi` or of ranges `64..64Mi` (each size 4 times the last, or as in
    `64..64Mi*2`), ascending.
    """
    found: set[int] = set()
    for word in text.split(","):
        match = re.fullmatch(r"\s*(.+?)\.\.(.+?)(?:\*(\d+))?\s*", word)
        if match is None:
            found.add(size_of(word))
            continue
        size, last, step = size_of(match.group(1)), size_of(match.group(2)), int(match.group(3) or STEP)
        if step < 2 or size > last:
            right = "a range from small to large with a step of 2 or more, as in 64..64Mi*4"
            raise refused("--sizes", repr(word), right)
        while size <= last:
            found.add(size)
            size *= step
    return tuple(sorted(found))


def cpus_of(text: str) -> tuple[int, ...]:
    """The two CPUs of a text such as `0,1`."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 2 or min(found) < 0:
        raise refused("--pin", repr(text), "two CPUs, the sender's and the receiver's, as in 0,1")
    return found


def human(size: int) -> str:
    """The size in the largest unit that divides it: `64 B`, `64 KiB`."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"
