"""Calls that stand for the nodes of a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rdmatensor.torch.graph.sites import Sites


def ops(*calls: Callable[[], Any]) -> tuple[Sites, Callable[[], list[Any]]]:
    """Sites of a part of these nodes, and what runs them in order."""
    sites = Sites([f"node{number}" for number in range(len(calls))])

    def step() -> list[Any]:
        results = []
        for number, call in enumerate(calls):
            sites.enter(number)
            results.append(call())
            sites.leave()
        return results

    return sites, step
