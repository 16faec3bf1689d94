"""The options of a run, as values that are checked once, here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rdmatensor.errors import InvalidArgument
from rdmatensor.vm import accel

__all__ = ["Options", "Shape", "duration", "memory_size", "percent", "variables"]

MEMORY_MIN = 512 << 20
MEMORY_MAX = 64 << 30


def percent(text: str) -> str:
    """A share of packets ("1%", "0.1%") in the spelling of tc; InvalidArgument if the text is not
    one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text.strip())
    if not match or not 0 <= float(match.group(1)) <= 100:
        raise InvalidArgument("shape the link", repr(text), "a share of packets lies between 0% and 100%, as in 1%")
    return f"{float(match.group(1)):g}%"


def duration(text: str) -> str:
    """A delay ("1ms", "250us", "0.5s") in the spelling of tc; InvalidArgument if the text is not
    one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if not match:
        raise InvalidArgument("shape the link", repr(text), "a delay has a unit: us, ms or s, as in 1ms")
    return f"{float(match.group(1)):g}{match.group(2)}"


def memory_size(text: str) -> int:
    """The bytes of "2G" or "1536M"; InvalidArgument outside of 512M to 64G."""
    match = re.fullmatch(r"(\d+)([MG])", text.strip().upper().removesuffix("IB").removesuffix("B"))
    size = int(match.group(1)) << {"M": 20, "G": 30}[match.group(2)] if match else 0
    if not MEMORY_MIN <= size <= MEMORY_MAX:
        raise InvalidArgument("size the guest's memory", repr(text), "it is 512M to 64G, as in 2G")
    return size


def variables(pairs: list[str], inherited: dict[str, str]) -> dict[str, str]:
    """Environment variables from "K=V", or from "K" with its value in `inherited`."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name:
            raise InvalidArgument(
                "set a variable", repr(pair), "it is --env NAME=VALUE, or --env NAME to pass yours on"
            )
        if equals:
            found[name] = value
        elif name in inherited:
            found[name] = inherited[name]
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """The impairments of packets on the link between two hosts, the same in both directions."""

    loss: str = ""
    delay: str = ""
    reorder: str = ""
    duplicate: str = ""
    corrupt: str = ""

    @property
    def netem(self) -> list[str]:
        """The arguments for `tc qdisc ... netem`; empty for a clean link."""
        words: list[str] = []
        if delay := self.delay or ("1ms" if self.reorder else ""):  # without a delay there is nothing to overtake
            words += ["delay", delay]
        for name, share in (
            ("loss", self.loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
        ):
            if share:
                words += [name, share]
        return [*words, "limit", "20000"] if words else []


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    command: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path.cwd)
    python: Path = Path("python3")
    hosts: int = 1
    shape: Shape = field(default_factory=Shape)
    memory: int = 2 << 30
    timeout: float = 300.0
    environment: dict[str, str] = field(default_factory=dict)
    shares: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    kernel: str = ""
    accel: str = "auto"
    plain: bool = False
    force_vm: bool = False

    def __post_init__(self) -> None:
        if self.hosts not in (1, 2):
            raise InvalidArgument("choose the hosts", str(self.hosts), "there are 1 or 2")
        if self.shape.netem and self.hosts == 1:
            why = "with one host the driver hands packets to itself and no link carries them: add --hosts 2"
            raise InvalidArgument("shape the link", "one host", why)
        if self.accel not in accel.NAMES:
            raise InvalidArgument("choose the accelerator", self.accel, f"it is one of {', '.join(accel.NAMES)}")
        if self.timeout <= 0:
            raise InvalidArgument("set the timeout", f"{self.timeout:g} s", "it is more than 0")

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the RDMA devices that the command finds in the guest."""
        return ("rxe0",) if self.hosts == 1 else ("rxa", "rxb")
