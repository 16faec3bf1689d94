"""Parts and edges: what crosses, how often, and by which flow."""

from __future__ import annotations

import pytest
import torch
import training
from torch import fx, nn
from torch.nn import functional

from rdmatensor.errors import Unsupported
from rdmatensor.torch.graph.alias import origin
from rdmatensor.torch.graph.capture import Captured, capture
from rdmatensor.torch.graph.cut import Cut
from rdmatensor.torch.graph.parts import lint
from rdmatensor.torch.graph.place import ByFunction, ParameterServer


def captured(name: str, optimizer: str = "sgd", **words: float) -> Captured:
    model, batch, loss_fn = training.made(name)
    return capture(model, loss_fn, training.OPTIMIZERS[optimizer](model), batch, **words)


@pytest.mark.parametrize("name", ["fcn5", "lstm", "alexnet", "transformer"])
@pytest.mark.parametrize(("servers", "workers"), [(1, 1), (2, 2)])
def test_each_edge_has_one_send_and_one_receive(name: str, servers: int, workers: int) -> None:
    step = captured(name)
    lint(Cut(step, ParameterServer(servers, workers).place(step, None)))


def test_each_parameter_and_each_gradient_crosses_once_for_each_worker() -> None:
    step = captured("fcn5")
    edges = Cut(step, ParameterServer(2, 2).place(step, 4)).edges
    assert len(edges) == 2 * 2 * len(step.names)
    assert len({edge.name for edge in edges}) == len(edges)
    assert all(edge.tensor.split()[0] in ("parameter", "gradient") for edge in edges)
    assert all(edge.ahead == edge.tensor.startswith("parameter") for edge in edges)


def test_the_order_of_the_loop_replaces_credits_where_the_gradient_answers_the_parameter() -> None:
    step = captured("lstm")
    edges = Cut(step, ParameterServer(2, 2).place(step, 4)).edges
    assert {edge.flow for edge in edges} == {"loop"} and {edge.slots for edge in edges} == {2}


def test_a_gradient_that_two_parameters_share_crosses_once() -> None:
    step = captured("lstm")
    shared = [g for g in step.gradients if g is not None and sum(g is other for other in step.gradients) > 1]
    edges = Cut(step, ParameterServer(1).place(step, 2)).edges
    gradients = [edge for edge in edges if edge.tensor.startswith("gradient")]
    assert len(gradients) == len({edge.node for edge in gradients})
    assert len(gradients) <= len(step.names) - (len(shared) > 0)


def test_a_view_crosses_as_the_memory_that_it_shows() -> None:
    step = captured("fcn5")
    nodes = {node.name: node for node in step.module.graph.nodes}
    for edge in Cut(step, ParameterServer(1).place(step, 2)).edges:
        assert nodes[edge.node].target is not torch.ops.aten.t.default
        assert edge.born.startswith("node") or edge.ahead


def test_a_value_of_replicas_that_has_no_mean_is_refused() -> None:
    step = captured("fcn5")
    placed = ParameterServer(1, 2).place(step, 3)
    roles = dict(placed.roles)
    relu = next(node for node in roles if node.target is torch.ops.aten.relu.default)
    roles[next(iter(relu.users))] = "server0"
    with pytest.raises(Unsupported, match="only of gradients"):
        Cut(step, type(placed)(roles, placed.replicas, placed.ranks))


def test_memory_that_another_role_owns_is_not_written() -> None:
    step = captured("fcn5")

    def apart(node: fx.Node) -> str:
        return "keeper" if node.op == "placeholder" else "user"

    with pytest.raises(Unsupported, match="it lives in keeper"):
        Cut(step, ByFunction(apart).place(step, 2))


def test_a_tensor_that_is_written_in_place_crosses_as_its_reader_sees_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = (torch.randn(3, 4), torch.randint(0, 2, (3,)))
    step = capture(model, functional.cross_entropy, optimizer, batch)
    seen = False

    def halves(node: fx.Node) -> str | None:
        nonlocal seen
        given = step.inputs.get(node)
        if given is not None:
            return "back" if given.name in ("2.weight", "2.bias", "batch.1") else "front"
        if node.meta.get("phase") == "forward":
            seen = seen or (node.meta.get("module") == "2")
            return "back" if seen else "front"
        return None

    cut = Cut(step, ByFunction(halves, ("front", "back")).place(step, 2))
    lint(cut)
    order = list(cut.part("front").module.graph.nodes)
    writer = next(node for node in order if node.target is torch.ops.aten.relu_.default)
    sends = [node for node in order if "send" in str(node.target) and origin(node.args[0]) is origin(writer)]
    assert sends and all(order.index(send) > order.index(writer) for send in sends)
