"""The kinds of fabrics over which contract tests run, and why some cannot be had in this run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rdmatensor as rt
from rdmatensor.testing import Fabric, FakeVerbsFabric, ShmFabric, SimFabric, VerbsFabric

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(os.environ.get("RDMATENSOR_FAKE_IBVERBS", ROOT / "build" / "plain" / "libfakeibverbs.so"))
SMALL = "message_size_max=4096&work_depth=4&read_depth=1&segments_max=1&inline_max=0&links_per_peer=2&queues=2"
HARDWARE = Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir())
UNORDERED = "orders_writes=0&orders_bytes=0&jitter_ns=20000"


def _verbs(**options: Any) -> Fabric:
    """Over the first real device, or over both where `rdmatensor vm run --hosts 2` has joined two."""
    devices = os.environ.get("RDMATENSOR_RXE_DEVICES", "").split(",")
    return VerbsFabric(f"verbs://{devices[0]}", there=f"verbs://{devices[-1]}", **options)


MAKERS: dict[str, Callable[..., Fabric]] = {
    "sim": SimFabric,
    "sim-small": lambda **options: SimFabric(arguments=SMALL, **options),
    "sim-unordered": lambda **options: SimFabric(arguments=UNORDERED, **options),
    "shm": ShmFabric,
    "verbs-fake": lambda **options: FakeVerbsFabric(FAKE, **options),
    "verbs-overtaking": lambda **options: FakeVerbsFabric(FAKE, overtaking=7, **options),
    "verbs": _verbs,
}


def _why_not(kind: str) -> str:
    """Why a fabric cannot be had in this run; empty when it can."""
    if kind.startswith("verbs") and HARDWARE and kind != "verbs":
        return "this machine has a real RDMA device, and one process loads one libibverbs"
    if kind == "verbs" and not HARDWARE:
        return "this machine has no RDMA device"
    if kind in ("verbs-fake", "verbs-overtaking"):
        if not FAKE.exists():
            return f"{FAKE} is not built; `make` does it"
        try:
            FakeVerbsFabric.load(FAKE)
        except rt.ProviderUnavailable as error:
            return error.why
    return ""


WHY_NOT = {kind: _why_not(kind) for kind in MAKERS}
