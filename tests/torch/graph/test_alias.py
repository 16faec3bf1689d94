"""The schemas' answer, which memory a result is, is the answer of the memory itself."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import models
import pytest
import torch
from torch import fx, nn
from torch.optim import SGD, Adam

from rdmatensor.torch.graph.alias import aliased, is_view, maker, memories, origin, writes
from rdmatensor.torch.graph.capture import capture


class Watched(fx.Interpreter):
    """Runs a graph and checks each node: its storage, and the version of every tensor that it writes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.checked = 0

    def run_node(self, node: fx.Node) -> Any:
        tensors = {
            argument: self.env[argument]
            for argument in node.all_input_nodes
            if isinstance(self.env.get(argument), torch.Tensor)
        }
        before = {argument: _bits(tensor) for argument, tensor in tensors.items()}
        result = super().run_node(node)
        if node.op != "call_function":
            return result
        changed = {argument for argument, tensor in tensors.items() if not torch.equal(before[argument], _bits(tensor))}
        written = {origin(argument) for argument in writes(node)}
        assert all(origin(argument) in written for argument in changed), f"{node} writes {changed - set(writes(node))}"
        if isinstance(result, torch.Tensor) and result.numel():
            for other, value in self.env.items():
                if isinstance(value, torch.Tensor) and value.numel():
                    same = value.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
                    assert same == (origin(other) is origin(node)), f"{node.format_node()} and {other}: shared {same}"
                    self.checked += 1
        return result


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().contiguous().view(-1).view(torch.uint8)


EXAMPLES = {
    **{name: make for name, make in models.ALL.items() if name not in ("inception3", "alexnet", "vgg16", "sentence")},
    "norm": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 5)),
        (torch.randn(2, 3, 4, 4), torch.tensor([1, 2])),
        nn.functional.cross_entropy,
    ),
}


@pytest.mark.parametrize(
    "make",
    [*EXAMPLES.values(), *(pytest.param(models.ALL[name], marks=pytest.mark.slow) for name in ("alexnet", "vgg16"))],
    ids=[*EXAMPLES, "alexnet", "vgg16"],
)
def test_two_results_share_memory_exactly_if_their_origin_is_the_same(make: Any) -> None:
    model, batch, loss_fn = make()
    step = capture(model, loss_fn, SGD(model.parameters(), lr=0.1, momentum=0.9), batch)
    watched = Watched(step.module)
    watched.run(*step.values(batch))
    assert watched.checked > 100


def test_updates_with_clipping_and_several_states_are_seen_too() -> None:
    model, batch, loss_fn = models.fcn5()
    step = capture(model, loss_fn, Adam(model.parameters(), amsgrad=True), batch, clip_grad_norm=0.1)
    watched = Watched(step.module)
    watched.run(*step.values(batch))
    written = {origin(argument) for node in step.module.graph.nodes for argument in writes(node)}
    inputs = {source.name for node, source in step.inputs.items() if node in written}
    states = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
    assert inputs == {name for own in step.names for name in (own, *(f"{own}/{state}" for state in states))}


def graph_of(function: Any, *shapes: tuple[int, ...]) -> dict[str, fx.Node]:
    from torch.fx.experimental.proxy_tensor import make_fx

    module = make_fx(function, tracing_mode="fake")(*(torch.zeros(shape) for shape in shapes))
    return {node.name: node for node in module.graph.nodes}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ops.aten._unsafe_view.default(x, [8]),
        lambda x: torch.unsafe_split(x, 1)[0],
        lambda x: torch.ops.aten.unsafe_split_with_sizes.default(x, [1, 3])[0],
        lambda x: x.unbind(0)[1],
        lambda x: x.split(2)[1].t(),
        lambda x: x.view(8).add_(1),
        lambda x: torch.maximum(x, x, out=x),
    ],
)
def test_operators_that_share_memory_openly_or_silently_lead_to_their_argument(function: Any) -> None:
    nodes = graph_of(function, (4, 2))
    (result,) = nodes["output"].all_input_nodes
    assert origin(result) is maker(result) is next(iter(nodes.values()))


def test_results_of_one_operator_have_memory_of_their_own_and_one_maker() -> None:
    nodes = graph_of(lambda x: torch.ops.aten.native_layer_norm.default(x, [2], None, None, 1e-5), (4, 2))
    items = [node for node in nodes.values() if node.target is operator.getitem]
    assert len({origin(item) for item in items}) == len(items) == 3
    assert {maker(item).target for item in items} == {torch.ops.aten.native_layer_norm.default}


def test_batch_norm_writes_its_buffers_in_training_alone() -> None:
    def norm(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, training: bool) -> torch.Tensor:
        return torch.ops.aten.native_batch_norm.default(x, None, None, mean, variance, training, 0.1, 1e-5)[0]

    for training, count in ((True, 2), (False, 0)):
        nodes = graph_of(partial(norm, training=training), (4, 2), (2,), (2,))
        assert len(writes(nodes["native_batch_norm"])) == count


def test_a_view_computes_and_writes_nothing() -> None:
    nodes = graph_of(lambda x: x.t().add_(1).sum() + x.view(8).mean(), (4, 2))
    assert [name for name, node in nodes.items() if is_view(node)] == ["t", "view"]
    assert aliased(nodes["add_"]) is nodes["t"] and writes(nodes["add_"]) == (nodes["t"],)


def test_the_nodes_of_each_memory_are_listed_in_order() -> None:
    nodes = graph_of(lambda x: x.t().add_(1).sum(), (4, 2))
    first = next(iter(nodes.values()))
    assert memories(first.graph) == {first: (first, nodes["t"], nodes["add_"]), nodes["sum_1"]: (nodes["sum_1"],)}
