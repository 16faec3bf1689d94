"""A plan as text, JSON and a picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree

import training
from test_plan import planned

import rdmatensor.torch.graph as rg


def test_the_text_has_every_edge_with_its_bytes_and_the_sum() -> None:
    plan = planned()
    text = plan.explain()
    for edge in plan.edges:
        assert any(f"{edge.source} > {edge.target}" in line and edge.tensor in line for line in text.splitlines())
    assert f"{len(plan.edges)} static edges move" in text
    for process in plan.processes:
        assert process in text


def test_the_json_is_the_plan() -> None:
    plan = planned()
    whole = json.loads(plan.json())
    assert [edge["name"] for edge in whole["edges"]] == [edge.name for edge in plan.edges]
    assert sum(one["sent_bytes"] for one in whole["processes"]) == sum(edge["bytes"] for edge in whole["edges"])
    assert whole["fingerprint"] == plan.fingerprint


def test_the_picture_has_a_box_for_each_process_and_an_arrow_for_each_direction() -> None:
    plan = planned()
    root = xml.etree.ElementTree.fromstring(plan.svg())
    shapes = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert shapes.count("rect") == len(plan.processes)
    assert shapes.count("title") == len({(edge.source, edge.target) for edge in plan.edges})


def test_explain_needs_one_process_alone() -> None:
    model, batch, loss_fn = training.made("lstm")
    text = rg.explain(model, loss_fn, training.OPTIMIZERS["adam"](model), batch, placement=rg.ParameterServer(2))
    assert "parameter cell.weight_ih_l0" in text and "gradient of" in text
