"""The state of a run, saved by torch.distributed.checkpoint from all processes, and runs that go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training
from forked import outcomes

STEPS = 4


def check(results: list[Any], first: int) -> None:
    """Compares losses from a step on, parameters and states with one process that was never stopped."""
    losses, model, made_by, _ = training.alone("fcn5", "adam", 1, STEPS)
    expected = dict(model.named_parameters())
    assert all(torch.equal(one, other) for one, other in zip(results[0][0], losses[0][first:], strict=True))
    held = {}
    for _, state in results:
        held.update(state)
    for key, tensor in held.items():
        kind, _, full = key.partition("/")
        name, _, word = full.rpartition("/") if kind == "state" else (full, "", "")
        assert torch.equal(tensor, made_by.state[expected[name]][word] if word else expected[name]), key
    assert {f"parameter/{name}" for name in expected} <= held.keys()


@pytest.mark.slow
def test_a_training_goes_on_from_a_checkpoint_after_a_kill_with_as_many_servers_and_with_others(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    found = outcomes(training.checkpointed, 3, 2, folder, 0, STEPS, "server1")
    assert [word for word, _ in found] == ["failed", "failed", "died"], found
    assert all("server1" in text for _, text in found[:2])
    for servers in (2, 1, 3):
        found = outcomes(training.checkpointed, 1 + servers, servers, folder, 2, STEPS, "")
        assert all(word == "done" for word, _ in found), found
        check([result for _, result in found], 2)
