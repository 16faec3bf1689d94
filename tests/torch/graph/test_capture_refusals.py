"""A step that cannot be captured is refused with the line of the user's program and the remedy."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, RAdam, SparseAdam

import rdmatensor as rt
from rdmatensor.torch.graph.capture import capture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.calls = 0
        self.seen: list[torch.Tensor] = []
        self.generator = torch.Generator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.before(x))

    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Branches(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Reads(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.max().item()


class Masks(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x + x[x > 0].sum()


class Leaves(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Counts(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


class Remembers(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x  # an attribute that is not there before the first step
        return x


class Collects(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return x


SEEN = torch.zeros(())


class Adds(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.add_(1)
        return x


class Rolls(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x * random.random()


class Draws(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(3, generator=self.generator)


class Complex(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real


class Checkpointed(Net):
    def before(self, x: torch.Tensor) -> torch.Tensor:
        result = torch.utils.checkpoint.checkpoint(self.dropped, x, use_reentrant=False)
        assert isinstance(result, torch.Tensor)
        return result

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x @ self.linear.weight.t() @ self.linear.weight)


def refused(model: nn.Module, optimizer: Any = None, **options: Any) -> rt.InvalidArgument:
    batch = options.pop("batch", (torch.randn(5, 3), torch.randn(5, 2)))
    loss_fn = options.pop("loss_fn", functional.mse_loss)
    with pytest.raises(rt.InvalidArgument) as caught:
        capture(model, loss_fn, optimizer or SGD(model.parameters(), lr=0.1), batch, **options)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (Branches, "torch.where"),
        (Reads, "torch.where"),
        (Masks, "multiply by the mask"),
        (Leaves, "use operators of torch"),
        (Draws, "for random numbers use torch's default one"),
        (Complex, "complex"),
        (Checkpointed, "checkpoint"),
        (Adds, "make it a buffer"),
    ],
)
def test_an_operation_that_cannot_be_captured_is_refused_with_its_line(kind: type[Net], remedy: str) -> None:
    error = refused(kind())
    function = kind.dropped if kind is Checkpointed else kind.before  # type: ignore[attr-defined]
    first = function.__code__.co_firstlineno
    assert f"test_capture_refusals.py:{first + 1} in {function.__name__}" in str(error)
    assert remedy in str(error)
    assert SEEN == 0


@pytest.mark.parametrize(("kind", "attribute"), [(Counts, "calls"), (Remembers, "last"), (Collects, "seen")])
def test_an_attribute_that_forward_changes_is_refused_by_name_and_put_back(kind: type[Net], attribute: str) -> None:
    model = kind()
    then = getattr(model, attribute, None)
    assert f"its forward changes the attribute '{attribute}'" in str(refused(model))
    assert getattr(model, attribute, None) == then


def test_draws_from_other_generators_are_refused_and_taken_back() -> None:
    then = random.getstate()
    assert "draw with torch" in str(refused(Rolls()))
    assert random.getstate() == then


OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "closure": (LBFGS, "wants a closure"),
    "sparse": (SparseAdam, "sparse gradients"),
    "branches": (RAdam, "its update branches on the value of its state"),
    "differentiable": (lambda p: SGD(p, lr=0.1, differentiable=True), "leave it False"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_cannot_be_captured_is_refused(name: str) -> None:
    make, why = OPTIMIZERS[name]
    model = Net()
    assert why in str(refused(model, make(list(model.parameters()))))


def test_hooks_that_a_graph_cannot_call_are_refused() -> None:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    assert "step hooks" in str(refused(model, optimizer))
    model.linear.weight.register_hook(lambda gradient: gradient * 2)
    assert "linear.weight: it has a hook" in str(refused(model))


def test_parameters_of_another_model_are_refused() -> None:
    assert "belongs neither to the model nor to loss_fn" in str(refused(Net(), SGD(Net().parameters(), lr=0.1)))


class Unknown(torch.optim.Optimizer):
    """An optimizer of the user's that makes its state in its first step."""

    def __init__(self, parameters: Any, *, in_place: bool = True) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.in_place = in_place

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                if not state:
                    state["sum"] = torch.zeros_like(parameter)
                if self.in_place:
                    state["sum"].add_(parameter.grad)
                else:
                    state["sum"] = state["sum"] + parameter.grad
                parameter.sub_(self.param_groups[0]["lr"] * state["sum"])


def test_an_unknown_optimizer_must_have_its_state_and_change_it_in_place() -> None:
    model = Net()
    optimizer = Unknown(model.parameters())
    assert "run one step before" in str(refused(model, optimizer))
    for in_place in (True, False):
        optimizer = Unknown(model.parameters(), in_place=in_place)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        if in_place:
            capture(model, functional.mse_loss, optimizer, (torch.randn(5, 3), torch.randn(5, 2)))
        else:
            assert "the step replaces it instead of changing a tensor in place" in str(refused(model, optimizer))


@pytest.mark.parametrize(
    ("loss_fn", "why"),
    [
        (lambda out, y: out - y, r"its shape is (5, 2)"),
        (lambda out, y: (out - y).sum().detach(), "depends on no parameter"),
        (lambda out, y: 3.0, "returns float"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss_fn: Any, why: str) -> None:
    assert why in str(refused(Net(), loss_fn=loss_fn))


def test_modules_that_hide_their_operators_are_refused() -> None:
    assert "pass the nn.Module that it was made from" in str(refused(torch.jit.script(nn.Linear(3, 2))))
    assert "pass the module itself" in str(refused(torch.compile(nn.Linear(3, 2))))
    assert "sparse=False" in str(refused(nn.Sequential(nn.Embedding(4, 2, sparse=True))))
    assert "run the model once" in str(refused(nn.LazyLinear(2), SGD([nn.Parameter(torch.zeros(1))], lr=0.1)))


def test_tensors_over_the_same_memory_are_refused() -> None:
    model = Net()
    model.other = nn.Parameter(model.linear.weight.detach()[0])
    text = str(refused(model))
    assert "shares memory with" in text and "linear.weight" in text and "other" in text


def test_an_error_of_the_program_itself_comes_with_its_line() -> None:
    error = refused(Net(), batch=(torch.randn(5, 4), torch.randn(5, 2)))
    assert "test_capture_refusals.py" in str(error) and "[5, 4] X [3, 2]" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
