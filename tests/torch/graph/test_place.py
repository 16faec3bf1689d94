"""Placements: which process runs which node, and what is refused."""

from __future__ import annotations

import pytest
import torch
import training
from torch import fx, nn
from torch.nn import functional

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import origin, writes
from rdmatensor.torch.graph.capture import Captured, capture
from rdmatensor.torch.graph.cut import Cut
from rdmatensor.torch.graph.place import ByFunction, ParameterServer


def captured(name: str, optimizer: str = "sgd", **words: float) -> Captured:
    model, batch, loss_fn = training.made(name)
    return capture(model, loss_fn, training.OPTIMIZERS[optimizer](model), batch, **words)


@pytest.mark.parametrize("name", ["fcn5", "lstm", "transformer"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_write_to_a_parameter_or_state_is_on_its_server(name: str, optimizer: str) -> None:
    step = captured(name, optimizer)
    roles = ParameterServer(2).place(step, 3).roles
    written = 0
    for node in step.module.graph.nodes:
        for argument in writes(node):
            source = step.inputs.get(origin(argument))
            if source is not None and source.kind in ("parameter", "state"):
                written += 1
                assert roles[node] == roles[origin(argument)] != "worker"
    assert written >= len(step.names)


def test_variables_go_to_servers_by_bytes_the_largest_first() -> None:
    step = captured("fcn5")
    roles = ParameterServer(2).place(step, 3).roles
    held = {"server0": 0, "server1": 0}
    sizes = []
    for node, source in step.inputs.items():
        if source.kind == "parameter":
            size = node.meta["val"].nbytes
            held[roles[node]] += size
            sizes.append(size)
    assert abs(held["server0"] - held["server1"]) <= max(sizes)
    again = ParameterServer(2).place(captured("fcn5"), 3).roles
    assert [role for node, role in roles.items()] == [role for node, role in again.items()]


def test_a_rule_names_servers_by_patterns() -> None:
    step = captured("fcn5")
    roles = ParameterServer(2, rule={"*.bias": 1, "0.*": 0}).place(step, 3).roles
    for node, source in step.inputs.items():
        if source.kind in ("parameter", "state") and source.name.split("/")[0].endswith(".bias"):
            assert roles[node] == "server1"
    with pytest.raises(InvalidArgument, match="servers 0 to 1"):
        ParameterServer(2, rule={"*": 2}).place(step, 3)


def test_the_joint_norm_of_gradients_is_on_the_first_server_and_scaling_on_each() -> None:
    step = captured("fcn5", clip_grad_norm=1.0)
    roles = ParameterServer(2).place(step, 3).roles
    joint = next(node for node in step.module.graph.nodes if node.name == "stack")
    assert roles[joint] == "server0"
    edges = Cut(step, ParameterServer(2).place(step, 3)).edges
    between = [edge for edge in edges if {edge.source, edge.target} == {"server0", "server1"}]
    assert between and all(edge.bytes == 4 for edge in between)


def test_buffers_and_parameters_that_no_step_changes_stay_with_the_worker() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = (torch.randn(3, 4), torch.randint(0, 2, (3,)))
    step = capture(model, functional.cross_entropy, optimizer, batch)
    placed = ParameterServer(1).place(step, 2)
    for node, source in step.inputs.items():
        if source.kind == "buffer" or source.name.startswith("0."):
            assert placed.roles[node] == "worker"
    assert not [edge for edge in Cut(step, placed).edges if "0." in edge.tensor or "running" in edge.tensor]


@pytest.mark.parametrize(("servers", "workers", "size"), [(2, None, 2), (1, 2, 4), (0, 1, 1)])
def test_numbers_of_processes_that_do_not_fit_are_refused(servers: int, workers: int | None, size: int) -> None:
    with pytest.raises(InvalidArgument, match="place a step"):
        ParameterServer(servers, workers).place(captured("fcn5"), size)


def test_a_number_that_would_cross_is_refused_with_its_node_and_line() -> None:
    step = captured("fcn5", "adam")
    bias = next(node for node in step.module.graph.nodes if "_local_scalar_dense" in str(node.target))

    def apart(node: fx.Node) -> str:
        return "front" if node is bias or node in bias.all_input_nodes else "back"

    with pytest.raises(Unsupported, match="does not cross between processes, only tensors do"):
        Cut(step, ByFunction(apart).place(step, 2))


def test_a_function_places_nodes_and_what_it_leaves_open_follows_its_argument() -> None:
    step = captured("fcn5")
    placed = ByFunction(lambda node: None if node.op == "call_function" else "all").place(step, 1)
    assert set(placed.roles.values()) == {"all"}
    with pytest.raises(InvalidArgument, match="2 processes, and 1 roles"):
        ByFunction(lambda node: "all").place(step, 2)
    with pytest.raises(InvalidArgument, match="a role is a name"):
        ByFunction(lambda node: "a role").place(step, 1)
