"""Buffers of code that inductor has compiled are born in the region too."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch
from marking import ops

import rdmatensor as rt
from rdmatensor.torch.graph.sites import holds

CACHE = Path(__file__).resolve().parents[3] / "build" / "cache"


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = (x @ x).relu() + 1
        return y.sum(0), y * 2


@pytest.mark.slow
def test_buffers_of_compiled_segments_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    torch.set_num_threads(1)
    with rt.Device("shm://") as device:
        serve_and_compare(device.region(1 << 20))


def serve_and_compare(region: rt.Region) -> None:
    compiled = torch.compile(Net(), backend="inductor", fullgraph=True)
    given = torch.randn(32, 32)
    with torch.no_grad():
        compiled(given)
        sites, step = ops(lambda: compiled(given))
        with sites.tracing():
            rows, twice = step()[0]
            assert sites.found("rows", rows) is not None
            assert sites.found("twice", twice) is not None
        sites.serve(region)
        again = step()[0]
    assert all(holds(region, tensor) for tensor in again)
    assert torch.equal(again[0], rows) and torch.equal(again[1], twice)
    assert sites.stats.served == sites.stats.sites == region.stats.allocations == 2
