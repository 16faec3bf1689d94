"""The bytes of a region follow from the memory in which sent tensors lie, and how long it is alive."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import models
import torch

import rdmatensor.torch.graph as rg
from rdmatensor.torch.graph.cut import Cut, Part
from rdmatensor.torch.graph.memory import ROOM, Memory, SentMemory, sent_memory, site_bytes
from rdmatensor.torch.graph.sites import Site


def memory(first: int, last: int, nbytes: int, **words: Any) -> Memory:
    given = {"maker": f"node{first}", "sent": ("one",), "varies": False, "lasts": False, **words}
    return Memory(first=first, last=last, nbytes=nbytes, **given)


def test_the_peak_counts_what_is_alive_at_once_and_the_sum_everything() -> None:
    found = SentMemory((memory(0, 4, 100), memory(3, 6, 50), memory(5, 9, 80), memory(8, 8, 40)))
    assert found.sum == 270
    assert found.peak == 150
    assert found.region_bytes >= ROOM + found.sum


def test_memory_is_alive_at_its_last_use_and_free_behind_it() -> None:
    assert SentMemory((memory(0, 4, 100), memory(4, 6, 50))).peak == 150
    assert SentMemory((memory(0, 4, 100), memory(5, 6, 50))).peak == 100


def test_what_lasts_is_alive_throughout() -> None:
    found = SentMemory((memory(0, 99, 1000, lasts=True), memory(2, 3, 10), memory(5, 6, 20)))
    assert (found.sum, found.peak) == (1030, 1020)


def test_what_varies_gets_twice_its_room() -> None:
    steady, varying = SentMemory((memory(0, 1, 6400),)), SentMemory((memory(0, 1, 6400, varies=True),))
    assert varying.region_bytes - ROOM == 2 * (steady.region_bytes - ROOM)


def test_nothing_sent_needs_next_to_nothing() -> None:
    assert (SentMemory(()).sum, SentMemory(()).peak, SentMemory(()).region_bytes) == (0, 0, ROOM)


def test_sites_count_with_their_alignment() -> None:
    assert site_bytes([]) == ROOM
    assert site_bytes([Site(0, 0, 1), Site(0, 1, 65)]) >= ROOM + 64 + 128


def parts(name: str, workers: int = 1) -> tuple[Part, Part, torch.nn.Module]:
    """A worker's part, the server's, and the model."""
    torch.manual_seed(1)
    model, batch, loss_fn = models.ALL[name]()
    captured = rg.capture(model, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), batch)
    cut = Cut(captured, rg.ParameterServer(1, workers).place(captured, workers + 1))
    worker, *_, server = (cut.part(process) for process in cut.placed.ranks)
    return worker, server, model


@pytest.mark.parametrize("name", ["fcn5", "lstm", "gru", "alexnet"])
def test_a_worker_keeps_room_for_its_gradients_and_a_server_for_its_parameters(name: str) -> None:
    worker, server, model = parts(name)
    gradients, held = sent_memory(worker), sent_memory(server)
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    assert {one for memory in gradients.memories for one in memory.sent} == {
        node.args[0].name
        for node in worker.sends  # type: ignore[union-attr]
    }
    assert held.sum == held.peak == nbytes
    assert all(memory.lasts for memory in held.memories)
    assert not any(memory.lasts or memory.varies for memory in gradients.memories)
    assert 0 < gradients.peak <= gradients.sum < gradients.region_bytes
    places = {node.name: number for number, node in enumerate(worker.module.graph.nodes)}
    for memory in gradients.memories:
        assert places[memory.maker] == memory.first <= min(places[one] for one in memory.sent)
        assert memory.last >= max(places[node.name] for node in worker.sends if node.args[0].name in memory.sent)  # type: ignore[union-attr]


def test_a_tensor_that_is_sent_twice_counts_once() -> None:
    _, server, model = parts("lstm", workers=2)  # each parameter goes to both workers
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    assert sum(edge.bytes or 0 for edge in server.sends.values()) == 2 * nbytes
    assert sent_memory(server).sum == nbytes
