"""The models of the paper under every placement: what crosses, what is copied, and whether it computes the same.

    python benchmarks/graph_table.py --models fcn5 lstm --optimizers sgd adam

One row for each model, placement and optimizer: the operators of a step, the edges, the bytes that a step moves, the
copies that senders made, the tensors that were sent from outside registered memory, and whether losses, parameters,
states and buffers are those of one process, bit for bit. Processes of this host, joined by shared memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests" / "torch"
sys.path[:0] = [str(TESTS / "graph"), str(TESTS / "ranks")]

import training  # noqa: E402
from ranks import Ranks  # noqa: E402

import rdmatensor.torch.graph as rg  # noqa: E402

MIDDLE: dict[str, dict[str, Any]] = {
    "fcn5": {"batch": 8, "width": 512, "inputs": 784, "classes": 10},
    "alexnet": {"batch": 2, "size": 127, "width": 16, "classes": 100},
    "vgg16": {"batch": 2, "size": 64, "width": 16, "hidden": 256, "classes": 100},
    "inception3": {"batch": 2, "size": 75, "divisor": 4, "classes": 100},
    "lstm": {"batch": 4, "length": 8, "vocabulary": 1000, "hidden": 256},
    "gru": {"batch": 4, "length": 8, "vocabulary": 1000, "hidden": 256},
    "seq2seq": {"batch": 4, "source": 8, "target": 9, "vocabulary": 1000, "hidden": 128},
    "sentence": {"batch": 4, "first": 7, "second": 8, "vocabulary": 1000, "hidden": 128, "size": 64},
    "transformer": {
        "batch": 2, "length": 16, "vocabulary": 1000, "longest": 64, "hidden": 128, "heads": 4, "layers": 2
    },
}  # fmt: skip
"""Sizes between the tests' and the paper's, for a machine with little memory."""

PLACEMENTS: dict[str, tuple[int, int, bool]] = {
    "1 server, 1 worker": (1, 1, False),
    "2 servers, 2 workers": (2, 2, False),
    "2 stages": (0, 2, True),
    "all-reduce of 2": (0, 2, False),
}
"""Servers, other processes, whether these are stages."""


def planned(name: str, sizes: dict[str, Any] | None, optimizer: str, placement: str) -> rg.Plan:
    servers, others, stages = PLACEMENTS[placement]
    chosen = rg.Stages(others) if stages else rg.ParameterServer(servers, others) if servers else rg.AllReduce()
    model, batch, loss_fn = training.made(name, sizes, drops=not stages)
    size = servers + others
    return rg.plan(model, loss_fn, training.OPTIMIZERS[optimizer](model), batch, placement=chosen, processes=size)


def differing(results: list[Any], optimizer: str, name: str, sizes: Any, placement: str, steps: int) -> list[str]:
    """The names of what is not as in one process."""
    _, others, stages = PLACEMENTS[placement]
    workers = 1 if stages else others
    made = partial(training.made, sizes=sizes, drops=not stages)
    losses, model, made_by, buffers = training.alone(name, optimizer, workers, steps, made_by_name=made)
    expected = dict(model.named_parameters())
    wrong: list[str] = []
    for rank, (found, state, trained, _, _) in enumerate(results):
        alone = losses[0 if stages else rank] if rank < others else []
        wrong += [f"loss of rank {rank}" for a, b in zip(found, alone, strict=False) if a is not None and a.ne(b)]
        for key, tensor in state.items():
            kind, _, full = key.partition("/")
            parameter, _, word = full.rpartition("/")
            if kind == "buffer":
                continue
            theirs = expected[full] if kind == "parameter" else made_by.state[expected[parameter]][word]
            if not torch.equal(tensor, theirs):
                wrong.append(key)
        if rank < workers and not stages:
            both = {**expected, **buffers[rank]}
            wrong += [f"{key} of rank {rank}" for key, tensor in both.items() if not torch.equal(trained[key], tensor)]
    return wrong


def row(ranks: Ranks, name: str, sizes: Any, optimizer: str, placement: str, steps: int) -> list[str]:
    """One row of the table."""
    servers, others, stages = PLACEMENTS[placement]
    began = time.monotonic()
    plan = planned(name, sizes, optimizer, placement)
    static = [edge for edge in plan.edges if edge.kind == "static"]
    words = {"sizes": sizes, "stages": stages}
    backend = "gloo" if servers or stages else "rdmatensor"
    results = ranks.run(
        training.by_plan, servers + others, name, optimizer, servers, steps, words, backend=backend, timeout=600
    )
    wrong = differing(results, optimizer, name, sizes, placement, steps)
    nodes = sum(node.op == "call_function" for node in plan.captured.module.graph.nodes)
    moved = sum(edge.bytes or 0 for edge in static)
    copies, outside = (sum(getattr(stats, word) for *_, stats in results) for word in ("copies", "outside"))
    equal = "yes" if not wrong else f"no: {', '.join(wrong[:3])}"
    print(f"{name}, {placement}, {optimizer}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    cells = nodes, len(static), len(plan.edges) - len(static), f"{moved:,}", copies, outside, equal
    return [name, placement, optimizer, *map(str, cells)]


HEAD = ["model", "placement", "optimizer", "nodes", "static", "dynamic", "bytes a step", "copies", "outside", "equal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MIDDLE), choices=list(MIDDLE))
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adam"], choices=list(training.OPTIMIZERS))
    parser.add_argument("--placements", nargs="+", default=list(PLACEMENTS), choices=list(PLACEMENTS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the sizes of the tests")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ranks = Ranks(4)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    try:
        for name in given.models:
            for placement in given.placements:
                for optimizer in given.optimizers:
                    sizes = None if given.tiny else MIDDLE[name]
                    try:
                        cells = row(ranks, name, sizes, optimizer, placement, given.steps)
                    except Exception as error:
                        ranks.close()
                        last = str(error).strip().splitlines()[-1]
                        cells = [name, placement, optimizer, *["?"] * 6, f"{type(error).__name__}: {last:.200}"]
                    print(f"| {' | '.join(cells)} |", flush=True)
    finally:
        ranks.close()


if __name__ == "__main__":
    main()
