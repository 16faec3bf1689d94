"""Named dimensions vary: one capture holds for every batch that keeps its conditions, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import models
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam
from twins import Twins

import rdmatensor as rt
from rdmatensor.torch.graph.capture import Captured, capture

BOTH = {0: "batch", 1: "length"}
WORDS = {"batch.0": BOTH, "batch.1": BOTH}
ROWS = {"batch.0": {0: "batch"}, "batch.1": {0: "batch"}}
SENTENCES = {
    "batch.0": {0: "batch", 1: "source"},
    "batch.1": {0: "batch", 1: "target"},
    "batch.2": {0: "batch", 1: "target"},
}


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model: nn.Module) -> Adam:
    return Adam(model.parameters(), lr=0.01)


VARYING: dict[str, tuple[Callable[..., models.Example], Any, list[dict[str, int]]]] = {
    "fcn5": (models.fcn5, ROWS, [{"batch": 7}, {"batch": 2}]),
    "transformer": (models.transformer, WORDS, [{"batch": 3, "length": 9}, {"batch": 2, "length": 2}]),
    "lstm": (models.lstm, WORDS, [{"batch": 3, "length": 9}, {"batch": 5, "length": 2}]),
    "lstm of two layers": (partial(models.lstm, layers=2), WORDS, [{"batch": 3, "length": 7}]),
    "seq2seq of LSTMs": (
        partial(models.seq2seq, cell=nn.LSTM),
        SENTENCES,
        [{"batch": 3, "source": 7, "target": 3}, {"source": 2, "target": 6}],
    ),
    "gru": (models.gru, ROWS, [{"batch": 3}, {"batch": 5}]),
    "alexnet": (models.alexnet, ROWS, [{"batch": 3}]),
}


@pytest.mark.parametrize("name", VARYING)
def test_one_capture_trains_batches_of_other_sizes_as_the_eager_loop(name: str) -> None:
    make, dynamic, others = VARYING[name]
    twins = Twins(make(), sgd, dynamic=dynamic)
    batches = [make(**sizes)[1] for sizes in others]
    assert [twins.captured.guards.check(batch) for batch in batches] == [None] * len(batches)
    assert not twins.captured.guards.fixed
    twins.run(*batches, twins.batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARYING)
def test_one_capture_trains_batches_of_other_sizes_with_adam(name: str) -> None:
    make, dynamic, others = VARYING[name]
    twins = Twins(make(), adam, dynamic=dynamic)
    twins.run(twins.batch, *(make(**sizes)[1] for sizes in others), twins.batch)


def test_a_layer_with_a_node_for_every_word_fixes_its_length_and_says_so() -> None:
    twins = Twins(models.gru(), sgd, dynamic=WORDS)
    assert twins.captured.guards.fixed == {"length": 4}
    longer = models.gru(batch=3, length=5)[1]
    assert twins.captured.guards.check(longer) == (
        "length is 5, and an operator of the model fixed it at 4: it needs another plan"
    )
    with pytest.raises(rt.InvalidArgument, match="length is 5"):
        twins.captured.values(longer)
    twins.run(models.gru(batch=3)[1])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False, "dropout": 0.3}])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_has_the_same_operators_whether_its_sizes_vary_or_not(cell: Any, options: Any) -> None:
    def operators(dynamic: Any) -> list[str]:
        model = cell(3, 4, batch_first=True, **options)

        def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
            out, state = model(batch["x"])
            return out.mean() + (state[0] if isinstance(state, tuple) else state).mean()

        step = capture(model, loss_fn, sgd(model), {"x": torch.randn(2, 5, 3)}, dynamic=dynamic)
        return [str(node.target) for node in step.module.graph.nodes if "aten" in str(node.target)]

    varying = [name for name in operators({"batch.x": {0: "batch"}}) if "sym_" not in name]
    assert varying == operators(None)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_loop_over_cells_keeps_the_batch_dynamic(cell: Any) -> None:
    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        state = None
        for x in batch.unbind(1):
            state = model(x, state)
        assert state is not None
        return (state[0] if isinstance(state, tuple) else state).pow(2).mean()

    twins = Twins((cell(3, 4), torch.randn(2, 5, 3), loss_fn), sgd, dynamic={"batch": {0: "batch"}})
    twins.run(torch.randn(6, 5, 3), twins.batch)
    static = Twins((cell(3, 4), torch.randn(2, 5, 3), loss_fn), sgd)
    varying, fixed = (
        [str(node.target) for node in step.module.graph.nodes if "aten" in str(node.target)]
        for step in (twins.captured, static.captured)
    )
    assert [name for name in varying if "sym_" not in name] == fixed


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"batch": 1}, "batch >= 2 is not true"),
        ({"batch": 20}, "batch < 16 is not true"),
        ({"classes": 6, "size": 64}, "dimension 2 of batch.0 is 64, the captured one was 63 and is not dynamic"),
    ],
)
def test_a_batch_that_breaks_a_guard_is_named(sizes: dict[str, int], why: str) -> None:
    step = varying(models.alexnet(), ROWS)
    batch = models.alexnet(**sizes)[1]
    assert step.guards.check(batch) == why
    with pytest.raises(rt.InvalidArgument, match="batch"):
        step.values(batch)


def varying(example: models.Example, dynamic: Any) -> Captured:
    model, batch, loss_fn = example
    return capture(model, loss_fn, sgd(model), batch, dynamic=dynamic)


def test_dimensions_without_names_are_called_by_tensor_and_number() -> None:
    step = varying(models.fcn5(), {"batch.0": (0,), "batch.1": [-1]})
    x, y = models.fcn5(batch=4)[1]
    assert step.guards.check((x, y)) is None
    broken = step.guards.check((x, y[:3]))
    assert broken is not None and "batch.0[0]" in broken and "batch.1[0]" in broken


def test_equal_names_are_equal_sizes() -> None:
    step = varying(models.fcn5(), ROWS)
    x, y = models.fcn5(batch=4)[1]
    assert step.guards.check((x, y[:3])) == "batch is 4, and in dimension 0 of batch.1 3"


def test_a_condition_between_dimensions_is_evaluated() -> None:
    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch["x"], batch["y"]
        return model(x).mean() if x.shape[0] > 2 * y.shape[0] else model(y).mean()

    model = nn.Linear(3, 2)
    batch = {"x": torch.randn(7, 3), "y": torch.randn(2, 3)}
    step = capture(model, loss_fn, sgd(model), batch, dynamic={"batch.x": {0: "n"}, "batch.y": {0: "m"}})
    assert step.guards.check({"x": torch.randn(9, 3), "y": torch.randn(4, 3)}) is None
    broken = step.guards.check({"x": torch.randn(8, 3), "y": torch.randn(4, 3)})
    assert broken is not None and broken.endswith("is not true") and "n" in broken and "m" in broken


@pytest.mark.parametrize(
    ("dynamic", "why"),
    [
        ({"batch.2": (0,)}, "the batch has no such tensor; it has batch.0, batch.1"),
        ({"batch.0": (2,)}, "it has 2 dimensions, and 2 is none of them"),
        ({"batch.0": {0: "n", 1: "n"}}, "named 'n', which is 3 elsewhere in the batch and 12 here"),
    ],
)
def test_a_dimension_that_the_batch_does_not_have_is_refused(dynamic: Any, why: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=why):
        varying(models.fcn5(), dynamic)


def test_a_batch_of_one_is_no_example_of_a_batch_that_varies() -> None:
    with pytest.raises(rt.InvalidArgument, match="capture with a batch of 2 or more"):
        varying(models.fcn5(batch=1), ROWS)


def test_every_tensor_is_static_dynamic_or_refused() -> None:
    step = varying(models.transformer(), WORDS)
    kinds = {node: step.guards.shape_of(node) for node in step.module.graph.nodes if node.op != "output"}
    by_kind = {kind: [node for node in kinds if kinds[node].kind == kind] for kind in ("static", "dynamic", "refused")}
    assert all(kinds[gradient].kind == "static" for gradient in step.gradients if gradient is not None)
    assert all(kinds[node].kind == "static" for node in step.inputs if step.inputs[node].kind == "parameter")
    (words,) = [node for node in step.inputs if step.inputs[node].name == "batch.0"]
    assert kinds[words].kind == "dynamic" and kinds[words].sizes == ("batch", "length")
    assert kinds[words].dtype is torch.int64
    several = next(node for node in by_kind["refused"] if "native_layer_norm" in str(node.target))
    assert kinds[several].why == "it is several tensors, no tensor"
    assert any("*" in str(size) for node in by_kind["dynamic"] for size in kinds[node].sizes)


def test_a_capture_without_dynamic_dimensions_has_static_tensors_alone() -> None:
    step = varying(models.transformer(), None)
    assert not [node for node in step.module.graph.nodes if step.guards.shape_of(node).kind == "dynamic"]


def test_another_number_of_words_changes_no_gradient_that_padding_does_not_reach() -> None:
    model, batch, _ = models.lstm()
    ignoring = partial(functional.cross_entropy, ignore_index=-100)

    def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ignoring(output.flatten(0, 1), target.flatten())

    twins = Twins((model, batch, loss_fn), sgd, dynamic=WORDS)
    words, targets = models.lstm(batch=3, length=6)[1]
    targets[:, 4:] = -100
    twins.run((words, targets), batch)
