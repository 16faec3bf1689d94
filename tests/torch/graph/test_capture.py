"""A captured step trains as the eager loop does, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import models
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, lr_scheduler
from twins import Twins

import rdmatensor as rt
from rdmatensor.torch.graph.capture import Captured, Input, capture


def using(kind: Callable[..., Optimizer], **settings: Any) -> Callable[[nn.Module], Optimizer]:
    return lambda model: kind(model.parameters(), **settings)


MOMENTUM = using(SGD, lr=0.1, momentum=0.9)


class Net(nn.Module):
    """Two linear layers, and whatever a test adds."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def small(model: nn.Module | None = None) -> models.Example:
    return model or Net(), (torch.randn(5, 3), torch.randn(5, 2)), functional.mse_loss


def captured(model: nn.Module, optimizer: Optimizer | None = None, **options: Any) -> Captured:
    _, batch, loss_fn = small(model)
    return capture(model, options.pop("loss_fn", loss_fn), optimizer or MOMENTUM(model), batch, **options)


def inputs(step: Captured, kind: str) -> list[str]:
    return [source.name for source in step.inputs.values() if source.kind == kind]


# optimizers


OPTIMIZERS = {
    "sgd": using(SGD, lr=0.1),
    "momentum": MOMENTUM,
    "nesterov": using(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampening": using(SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "maximize": using(SGD, lr=0.001, momentum=0.5, maximize=True),
    "adam": using(Adam, lr=0.01),
    "amsgrad": using(Adam, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": using(AdamW, lr=0.01),
    "rmsprop": using(RMSprop, lr=0.01),
    "rmsprop-centered": using(RMSprop, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": using(Adagrad, lr=0.01),
    "adagrad-decay": using(Adagrad, lr=0.01, lr_decay=0.1, initial_accumulator_value=0.2),
    "adamax": using(torch.optim.Adamax),
    "adadelta": using(torch.optim.Adadelta),
    "nadam": using(torch.optim.NAdam),
    "rprop": using(torch.optim.Rprop),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_step_trains_as_the_eager_loop(name: str) -> None:
    Twins(small(), OPTIMIZERS[name]).run()


@pytest.mark.parametrize("name", ["momentum", "dampening", "adam", "rmsprop-centered", "adagrad"])
def test_an_optimizer_that_has_run_keeps_its_state(name: str) -> None:
    Twins(small(), OPTIMIZERS[name], before=2).run(steps=2)


def test_values_asked_for_twice_before_the_first_step_still_are_those_of_the_first_step() -> None:
    twins = Twins(small(), OPTIMIZERS["dampening"])
    twins.captured.values(twins.batch)
    twins.run()


def test_parameter_groups_have_numbers_of_their_own() -> None:
    def optimizers(model: nn.Module) -> Optimizer:
        assert isinstance(model, Net)
        groups = [
            {"params": model.first.parameters(), "lr": 0.2, "momentum": 0.5, "dampening": 0.2},
            {"params": model.second.parameters(), "weight_decay": 0.1},
        ]
        return SGD(groups, lr=0.05, momentum=0.9)

    twins = Twins(small(), optimizers).run()
    assert {"group0/lr", "group1/lr", "group0/dampening", "group1/weight_decay"} <= set(
        inputs(twins.captured, "number")
    )


@pytest.mark.parametrize(
    ("optimizers", "scheduler"),
    [
        (MOMENTUM, partial(lr_scheduler.StepLR, step_size=2)),
        (MOMENTUM, partial(lr_scheduler.OneCycleLR, max_lr=0.3, total_steps=8)),
        (using(Adam, lr=0.01), partial(lr_scheduler.OneCycleLR, max_lr=0.03, total_steps=8)),
        (using(SGD, lr=1), partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: step / 4)),
    ],
    ids=["step", "one-cycle with momentum", "one-cycle with betas", "warm up from zero"],
)
@pytest.mark.filterwarnings("error")
def test_a_scheduler_changes_numbers_that_the_next_step_uses(optimizers: Any, scheduler: Any) -> None:
    Twins(small(), optimizers, scheduler=scheduler).run(steps=5)


def test_a_learning_rate_may_be_a_tensor() -> None:
    def optimizers(model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9)  # type: ignore[arg-type]

    Twins(small(), optimizers).run()


def test_a_setting_that_chooses_another_formula_is_not_changed_unnoticed() -> None:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    step = captured(model, optimizer)
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(rt.InvalidArgument, match=r"momentum was 0 and is 0\.9: .* capture again"):
        step.values(small()[1])
    optimizer.param_groups[0]["momentum"] = 0
    step.values(small()[1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda model: model.eval(), r"\(the model\), of which eval\(\) was called"),
        (lambda model: model.first.requires_grad_(False), "parameter weight of module first, which is frozen"),
        (lambda model: setattr(model.second, "bias", nn.Parameter(torch.zeros(2))), "which is another tensor"),
    ],
    ids=["eval", "frozen", "replaced"],
)
def test_a_model_that_changed_since_the_capture_is_captured_again(change: Any, why: str) -> None:
    model = Net()
    step = captured(model)
    change(model)
    with pytest.raises(rt.InvalidArgument, match=why + ".*capture again"):
        step.values(small()[1])


def test_a_number_that_becomes_zero_is_not_used_in_a_formula_for_others() -> None:
    model = Net()
    optimizer = MOMENTUM(model)
    step = captured(model, optimizer)
    optimizer.param_groups[0]["momentum"] = 0.0
    with pytest.raises(rt.InvalidArgument, match="momentum"):
        step.values(small()[1])


@pytest.mark.parametrize("setting", ["foreach", "fused"])
def test_foreach_and_fused_are_off_in_the_graph_and_on_in_the_optimizer(setting: str) -> None:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1, **{setting: True})
    step = captured(model, optimizer)
    assert not [node for node in step.module.graph.nodes if "_foreach" in str(node.target) or "_fused" in str(node)]
    assert optimizer.param_groups[0][setting] is True


def test_dampening_with_a_group_half_of_which_has_run_is_refused() -> None:
    model = Net()
    optimizer = OPTIMIZERS["dampening"](model)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    optimizer.step()
    step = captured(model, optimizer)
    with pytest.raises(rt.InvalidArgument, match="a group of their own"):
        step.values(small()[1])


def test_a_state_loaded_after_the_capture_is_used() -> None:
    twins = Twins(small(), MOMENTUM).run(steps=2)
    for optimizer in (twins.optimizer, twins.eager_optimizer):
        optimizer.load_state_dict(optimizer.state_dict())
    twins.run(steps=2)


# gradients


@pytest.mark.parametrize("options", [{"clip_grad_norm": 0.1}, {"clip_grad_value": 0.01}, {"clip_grad_norm": 100.0}])
def test_clipped_gradients_are_those_of_the_eager_loop(options: dict[str, float]) -> None:
    Twins(small(), MOMENTUM, **options).run()


def test_two_parameters_with_one_gradient_tensor_are_each_clipped_once() -> None:
    twins = Twins(models.lstm(), MOMENTUM, clip_grad_norm=0.01).run()
    gradients = twins.captured.gradients
    assert len(gradients) == len(set(gradients)) + 1  # oneDNN makes one for the two biases of an LSTM


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.last = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x)))


def test_a_tied_parameter_is_one_input() -> None:
    twins = Twins(small(Tied()), MOMENTUM).run()
    assert "first.weight" in twins.captured.names and "second.weight" not in twins.captured.names


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(7, 7)


def test_unused_parameters_are_skipped_and_get_no_state() -> None:
    twins = Twins(small(Unused()), using(Adam, lr=0.01)).run()
    at = twins.captured.names.index("spare.weight")
    assert twins.captured.gradients[at] is None and "spare.weight/exp_avg" not in inputs(twins.captured, "state")


def test_frozen_parameters_stay() -> None:
    model = Net()
    model.first.requires_grad_(False)
    Twins(small(model), MOMENTUM).run()


def test_parameters_that_the_optimizer_does_not_have_stay() -> None:
    def optimizers(model: nn.Module) -> Optimizer:
        assert isinstance(model, Net)
        return SGD(model.second.parameters(), lr=0.1)

    twins = Twins(small(), optimizers).run()
    assert [gradient is None for gradient in twins.captured.gradients] == [True, True, False, False]


def test_gradients_are_nodes_with_the_shapes_of_their_parameters() -> None:
    step = captured(Net())
    for gradient, parameter in zip(step.gradients, step._parameters, strict=True):
        assert gradient is not None and gradient.meta["val"].shape == parameter.shape


# models


@pytest.mark.parametrize("name", [name for name in models.ALL if name != "inception3"])
def test_a_model_trains_as_the_eager_loop(name: str) -> None:
    Twins(models.ALL[name](), MOMENTUM).run(steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", [MOMENTUM, using(Adam, lr=0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", models.ALL)
def test_a_model_trains_as_the_eager_loop_for_longer(name: str, optimizers: Any) -> None:
    Twins(models.ALL[name](), optimizers).run(steps=4)


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.ReLU(), nn.Linear(4, 2))


def test_batch_norm_updates_its_buffers_and_dropout_draws_in_order() -> None:
    Twins(small(normalized()), MOMENTUM).run()


def test_a_model_in_eval_mode_stays_in_it() -> None:
    model = normalized().eval()
    Twins(small(model), MOMENTUM).run()
    assert not any(module.training for module in model.modules())


class Replacing(Net):
    """Puts another tensor into a buffer's place, as code without in-place operators does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return super().forward(x - self.mean)


def test_a_buffer_that_forward_replaces_has_its_new_values() -> None:
    Twins(small(Replacing()), MOMENTUM).run()


class Stateful(Net):
    """Keeps tensors as plain attributes: one changed in place, one put in the place of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.last = torch.zeros(()), torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        result = super().forward(x) + self.last / self.count
        self.last = result.detach().mean(0)
        return result


def test_tensors_that_are_plain_attributes_go_from_step_to_step() -> None:
    twins = Twins(small(Stateful()), MOMENTUM)
    assert twins.model.count == 0
    twins.run()
    assert isinstance(twins.model, Stateful) and isinstance(twins.eager, Stateful)
    assert twins.model.count == 3 and torch.equal(twins.model.last, twins.eager.last)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 + x * 0


class OfMyOwn(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(Doubled.apply(self.first.weight.sum() * x))


def test_an_autograd_function_of_the_users_is_traced_with_its_backward() -> None:
    Twins(small(OfMyOwn()), using(SGD, lr=0.01)).run()


# batches and losses


def test_a_loss_function_whose_first_parameter_is_the_model_gets_the_batch_as_it_is() -> None:
    def loss_fn(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        out = model(batch["x"])
        return functional.mse_loss(out, batch["y"]["mean"]) + 0.1 * out.abs().mean()

    batch = {"x": torch.randn(5, 3), "y": {"mean": torch.randn(5, 2)}}
    twins = Twins((Net(), batch, loss_fn), MOMENTUM).run()
    assert inputs(twins.captured, "batch") == ["batch.x", "batch.y.mean"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(output * self.scale, target)


def test_a_loss_may_have_parameters() -> None:
    model, loss_fn = Net(), Scaled()
    _, batch, _ = small()
    optimizer = SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1)
    step = capture(model, loss_fn, optimizer, batch)
    before = loss_fn.scale.detach().clone()
    eager = functional.mse_loss(model(batch[0]) * loss_fn.scale, batch[1])
    (expected,) = torch.autograd.grad(eager, [loss_fn.scale])
    (loss,) = step.module(*step.values(batch))
    assert "loss_fn.scale" in step.names and torch.equal(loss, eager.detach())
    assert torch.equal(loss_fn.scale.detach(), before - 0.1 * expected)


def test_one_tensor_may_be_twice_in_a_batch() -> None:
    x = torch.randn(5, 3)
    Twins((nn.Linear(3, 3), (x, x), functional.mse_loss), MOMENTUM).run()


def test_a_batch_with_another_layout_in_memory_is_copied_into_the_captured_one() -> None:
    twins = Twins(small(), MOMENTUM)
    x, y = twins.batch
    twins.run((x.t().contiguous().t(), y), (x, y))


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ((torch.zeros(5, 3),), "the batch is"),
        (
            (torch.zeros(6, 3), torch.zeros(5, 2)),
            "dimension 0 of batch.0 is 6, the captured one was 5 and is not dynamic",
        ),
        ((torch.zeros(5, 3, dtype=torch.float64), torch.zeros(5, 2)), "batch.0 is torch.float64"),
        ((torch.zeros(5, 3, 1), torch.zeros(5, 2)), "batch.0 has 3 dimensions"),
    ],
)
def test_a_batch_of_another_form_is_refused(batch: Any, why: str) -> None:
    step = captured(Net())
    with pytest.raises(rt.InvalidArgument, match=why):
        step.values(batch)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ((torch.zeros(5, 3), 7), r"on batch.1: int 7 is no tensor"),
        ({"x": torch.zeros(5, 3)}, r"write `def loss_fn\(model, batch\)`"),
        ((torch.zeros(5, 3, dtype=torch.complex64), torch.zeros(5, 2)), "complex"),
    ],
)
def test_a_batch_that_cannot_be_captured_is_refused(batch: Any, why: str) -> None:
    model = Net()
    with pytest.raises(rt.InvalidArgument, match=why):
        capture(model, functional.mse_loss, MOMENTUM(model), batch)


# what the graph says about itself


def test_inputs_come_in_order_and_have_names() -> None:
    step = captured(normalized(), clip_grad_norm=1.0)
    placeholders = [node for node in step.module.graph.nodes if node.op == "placeholder"]
    assert placeholders == list(step.inputs)
    kinds = [source.kind for source in step.inputs.values()]
    assert kinds == sorted(kinds, key=["parameter", "buffer", "state", "number", "batch"].index)
    assert Input("parameter", "0.weight", 0) in step.inputs.values()
    assert Input("buffer", "1.running_mean", 0) in step.inputs.values()
    assert Input("state", "0.weight/momentum_buffer", 0, "momentum_buffer") in step.inputs.values()
    assert Input("number", "group0/lr", 0, "lr") in step.inputs.values()
    assert Input("batch", "batch.1", 1) in step.inputs.values()
    assert len({source.name for source in step.inputs.values()}) == len(step.inputs)


def test_every_node_knows_its_line_in_the_users_program() -> None:
    step = captured(Net())
    relu = next(node for node in step.module.graph.nodes if node.target is torch.ops.aten.relu.default)
    backward = next(node for node in step.module.graph.nodes if "threshold_backward" in str(node.target))
    line = Net.forward.__code__.co_firstlineno + 1
    assert step.source(relu) == step.source(backward) == f"test_capture.py:{line} in forward"
    assert step.source(step.module.graph.find_nodes(op="call_function", target=torch.ops.aten.add_.Tensor)[-1]) == (
        "the update of SGD"
    )
    assert (relu.meta["phase"], backward.meta["phase"]) == ("forward", "backward")


def test_a_module_of_torch_without_a_line_of_the_users_is_named() -> None:
    step = captured(normalized())
    norm = next(node for node in step.module.graph.nodes if "batch_norm" in str(node.target))
    assert norm.meta["module"] == "1" and step.source(norm) == "module 1"


class Annotated(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.annotate({"role": "stage0"}):
            x = torch.relu(self.first(x))
        with torch.fx.traceback.annotate({"role": "stage1"}):
            return self.second(x)


@pytest.mark.skipif(not hasattr(torch.fx.traceback, "annotate"), reason="torch before torch.fx.traceback.annotate")
def test_annotations_of_forward_reach_the_backward_pass() -> None:
    step = captured(Annotated())
    roles: dict[str, set[str]] = {}
    for node in step.module.graph.nodes:
        if node.op == "call_function" and "custom" in node.meta:
            roles.setdefault(str(node.meta["phase"]) + str(node.target), set()).add(node.meta["custom"]["role"])
    assert roles["forwardaten.addmm.default"] == {"stage0", "stage1"}
    assert roles["forwardaten.relu.default"] == roles["backwardaten.threshold_backward.default"] == {"stage0"}
    assert roles["backwardaten.mm.default"] == {"stage0", "stage1"}


def test_equal_steps_have_equal_fingerprints_and_others_do_not() -> None:
    def fingerprint(width: int = 4, **settings: Any) -> str:
        model = Net(width)
        return captured(model, SGD(model.parameters(), **{"lr": 0.1, **settings})).fingerprint

    assert fingerprint() == fingerprint() == fingerprint(lr=0.2)  # a number is no part of the graph
    others = [fingerprint(width=5), fingerprint(momentum=0.9), fingerprint(maximize=True)]
    assert len({fingerprint(), *others}) == 4


def test_a_second_capture_gives_the_same_graph() -> None:
    def graph() -> tuple[str, list[str]]:
        model, batch, loss_fn = models.lstm()
        step = capture(model, loss_fn, MOMENTUM(model), batch)
        return step.fingerprint, [node.format_node() or "" for node in step.module.graph.nodes]

    assert graph() == graph() == graph()


def test_a_constant_tensor_is_part_of_the_fingerprint() -> None:
    def fingerprint(value: float) -> str:
        weights = torch.full((2,), value)
        loss_fn = lambda output, target: ((output - target) * weights).pow(2).mean()  # noqa: E731
        return captured(Net(), loss_fn=loss_fn).fingerprint

    assert fingerprint(1.0) == fingerprint(1.0) != fingerprint(2.0)
