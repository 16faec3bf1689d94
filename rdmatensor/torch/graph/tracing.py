"""One step run on fake tensors, and the graph that is recorded of it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from rdmatensor.errors import InvalidArgument, Unsupported
from rdmatensor.torch.graph.alias import writes
from rdmatensor.torch.graph.inputs import Input
from rdmatensor.torch.graph.recording import Recorder
from rdmatensor.torch.graph.recurrent import Recurrent
from rdmatensor.torch.graph.refusal import explained, refusal
from rdmatensor.torch.graph.shapes import Dimensions, Dynamic, Guards
from rdmatensor.torch.graph.subject import Subject, check_plain
from rdmatensor.torch.graph.updating import State, fresh_state, numbers, shadow

__all__ = ["Clipping", "Traced", "trace"]


@dataclass(frozen=True, slots=True)
class Clipping:
    """Limits of gradients, applied before the update: of the norm of all, of each value."""

    norm: float | None = None
    value: float | None = None

    def __bool__(self) -> bool:
        return self.norm is not None or self.value is not None


@dataclass(frozen=True, slots=True)
class Traced:
    """The graph of a step, its placeholders, and the conditions under which it holds."""

    module: fx.GraphModule
    inputs: dict[fx.Node, Input]
    loss: fx.Node
    gradients: tuple[fx.Node | None, ...]
    guards: Guards


def trace(
    subject: Subject,
    loss: Callable[[Any], torch.Tensor],
    optimizer: Optimizer,
    batch: Mapping[str, torch.Tensor],
    structure: Any,
    *,
    dynamic: Dynamic,
    clipping: Clipping,
) -> Traced:
    """Runs the step once on fake tensors. Raises InvalidArgument for what cannot be captured.

    Modules, optimizer, gradients and random generators are afterwards as before, also then.
    """
    return _Tracing(subject, loss, optimizer, structure, clipping).run(batch, dynamic)


class _Tracing:
    def __init__(
        self,
        subject: Subject,
        loss: Callable[[Any], torch.Tensor],
        optimizer: Optimizer,
        structure: Any,
        clipping: Clipping,
    ) -> None:
        try:
            from torch._subclasses.fake_tensor import FakeTensorMode
            from torch.fx.experimental.symbolic_shapes import ShapeEnv
        except ImportError as error:
            raise _missing(error) from error

        self.subject = subject
        self.loss = loss
        self.optimizer = optimizer
        self.structure = structure
        self.clipping = clipping
        self.environment = ShapeEnv(duck_shape=False, allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.mode.cache_enabled = False  # a result from the cache forgets that two of its tensors are one
        self.recorder = Recorder(__file__)
        self.inputs: list[Input] = []
        self.fakes: list[Any] = []
        self.varies = False  # whether any size does
        self.used: list[int] = []  # by position of a gradient among the results: index of its parameter
        self.originals = list(subject.parameters.values())
        self.number_of = {parameter: i for i, parameter in enumerate(self.originals)}
        self.group_of = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}

    def run(self, batch: Mapping[str, torch.Tensor], dynamic: Dynamic) -> Traced:
        try:
            from torch.fx.experimental.proxy_tensor import make_fx
        except ImportError as error:
            raise _missing(error) from error

        def step(*values: Any) -> list[torch.Tensor]:  # make_fx miscounts the arguments of a bound method
            return self.step(values)

        dimensions = Dimensions(self.environment, batch, dynamic)
        self.varies = bool(dimensions.symbols)
        with _undisturbed(), self.mode:
            self.add_inputs(batch, dimensions)
            try:
                module = make_fx(step, tracing_mode="real")(*self.fakes)
            except InvalidArgument:
                raise
            except Exception as error:
                raise self.explained(error) from error
        symbols = {source.name: fake for source, fake in zip(self.inputs, self.fakes, strict=True)}
        return self.finished(module, Guards(dimensions, batch, self.structure, symbols))

    def explained(self, error: Exception) -> InvalidArgument:
        """The refusal for an error of the step."""
        if self.recorder.phase == "update":
            return refusal(
                f"the update of {type(self.optimizer).__name__}",
                "its update branches on the value of its state, or leaves torch, and the graph is the same for every "
                f"step; use SGD, Adam, AdamW, RMSprop or Adagrad ({type(error).__name__}: {error!s:.200})",
            )
        path = self.recorder.modules[-1] if self.recorder.modules else self.recorder.last.module
        otherwise = self.recorder.last.source or (f"module {path}" if path else "the model")
        return explained(error, until=__file__, otherwise=otherwise)

    def add(self, value: Any, *fields: Any) -> None:
        self.inputs.append(Input(*fields))
        self.fakes.append(value)

    def add_inputs(self, batch: Mapping[str, torch.Tensor], dimensions: Dimensions) -> None:
        for index, (name, parameter) in enumerate(self.subject.parameters.items()):
            self.add(_fake(parameter), "parameter", name, index)
        for index, (name, buffer) in enumerate(self.subject.buffers.items()):
            self.add(_fake(buffer), "buffer", name, index)
        names = list(self.subject.parameters)
        for index, parameter in enumerate(self.originals):
            for key, value in self.state_of(parameter).items():
                if isinstance(value, torch.Tensor):
                    self.add(_fake(value), "state", f"{names[index]}/{key}", index, key)
        for group, key, value in numbers(self.optimizer):
            name = f"group{group}/{key}"
            fake = _fake(value) if isinstance(value, torch.Tensor) else self.symbol(name, float(value))
            self.add(fake, "number", name, group, key)
        for index, (name, tensor) in enumerate(batch.items()):
            self.add(dimensions.fake(name, tensor).requires_grad_(tensor.requires_grad), "batch", name, index)

    def state_of(self, parameter: torch.Tensor) -> State:
        """The state the parameter has, or will have before its first step."""
        if parameter not in self.group_of or not parameter.requires_grad:
            return {}
        state = self.optimizer.state.get(parameter) or {}
        if any(isinstance(value, torch.Tensor) for value in state.values()):
            return state
        return fresh_state(self.optimizer, self.group_of[parameter], _fake(parameter))

    def symbol(self, name: str, value: float) -> Any:
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        source = ConstantSource(name)
        symbol = self.environment.create_unspecified_symbol(value, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.environment.create_symfloatnode(symbol, hint=value, source=source)

    def step(self, values: tuple[Any, ...]) -> list[torch.Tensor]:
        parameters, buffers, batch = [], [], []
        states: dict[int, State] = {}
        given: dict[tuple[int, str], Any] = {}
        for source, value in zip(self.inputs, values, strict=True):
            if source.kind == "parameter":
                parameters.append(value.detach().requires_grad_(self.originals[source.index].requires_grad))
            elif source.kind == "buffer":
                buffers.append(value)
            elif source.kind == "state":
                states.setdefault(source.index, {})[source.key] = value
            elif source.kind == "number":
                given[source.index, source.key] = value
            else:
                batch.append(value.detach().requires_grad_(value.requires_grad))
        recorder = self.recorder
        recurrent = Recurrent() if self.varies else contextlib.nullcontext()
        with torch.enable_grad(), recorder:
            with recurrent, self.subject.replaced(parameters, buffers, recorder.entered, recorder.left):
                loss = self.loss(pytree.tree_unflatten(batch, self.structure))
            _check_loss(loss)
            recorder.phase = "backward"
            gradients = self.backward(loss, parameters)
            recorder.phase = "update"
            self.clip(parameters)
            self.update(parameters, states, given)
            self.keep_buffers()
            result = [loss.detach(), *gradients]
            recorder.flush()
        return result

    def backward(self, loss: torch.Tensor, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
        wanted = [
            index
            for index, parameter in enumerate(parameters)
            if parameter.requires_grad and (self.originals[index] in self.group_of or self.clipping)
        ]
        if not wanted:
            raise refusal(type(self.optimizer).__name__, "none of its parameters requires a gradient")
        gradients = torch.autograd.grad(loss, [parameters[index] for index in wanted], allow_unused=True)
        found = []
        for index, gradient in zip(wanted, gradients, strict=True):
            if gradient is None:
                continue
            if gradient.layout is not torch.strided:
                name = list(self.subject.parameters)[index]
                raise refusal(name, "its gradient is sparse, which no edge can carry; use sparse=False")
            parameters[index].grad = gradient
            self.used.append(index)
            found.append(gradient)
        return found

    def clip(self, parameters: list[torch.Tensor]) -> None:
        """Clipping writes into gradients, so each has memory of its own first, as in eager mode."""
        if not self.clipping:
            return
        clipped = [parameter for parameter in parameters if parameter.grad is not None]
        for parameter in clipped:
            assert parameter.grad is not None
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        if self.clipping.norm is not None:
            torch.nn.utils.clip_grad_norm_(clipped, self.clipping.norm, foreach=False)
        if self.clipping.value is not None:
            torch.nn.utils.clip_grad_value_(clipped, self.clipping.value, foreach=False)

    def update(
        self, parameters: list[torch.Tensor], states: dict[int, State], given: dict[tuple[int, str], Any]
    ) -> None:
        groups = [[parameters[self.number_of[p]] for p in group["params"]] for group in self.optimizer.param_groups]
        mine = {
            parameters[index]: {**self.optimizer.state.get(self.originals[index], {}), **state}
            for index, state in states.items()
        }
        self.mode.allow_scalar_outputs = True  # Adam reads its step
        other = shadow(self.optimizer, groups, mine, given)
        other.step()
        for index, state in states.items():
            self.check_state(index, state, other.state.get(parameters[index], {}))

    def check_state(self, index: int, before: State, after: State) -> None:
        """A step that leaves more than tensors changed in place would not go on in the next one."""
        kept = {**self.optimizer.state.get(self.originals[index], {}), **before}
        for key, value in after.items():
            if value is not kept.get(key) and not (type(value) in (int, float, bool) and value == kept.get(key)):
                raise refusal(
                    f"state {key!r} of {type(self.optimizer).__name__}",
                    "the step replaces it instead of changing a tensor in place, so the next one would not see it; "
                    "use an optimizer of torch.optim, or keep the state in tensors changed in place",
                )

    def keep_buffers(self) -> None:
        """A buffer that forward replaced by another tensor gets its values."""
        with torch.no_grad():
            for old, new in self.subject.changed:
                if old.shape != new.shape or old.dtype != new.dtype:
                    raise refusal(
                        "a buffer", f"forward replaces {old.dtype} {tuple(old.shape)} by {new.dtype} {tuple(new.shape)}"
                    )
                old.copy_(new)

    def finished(self, module: fx.GraphModule, guards: Guards) -> Traced:
        graph = module.graph
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        inputs = dict(zip(placeholders, self.inputs, strict=True))
        _strip(graph)
        _open_views(graph)
        output = next(iter(reversed(graph.nodes)))
        loss, *found = output.args[0]
        gradients: list[fx.Node | None] = [None] * len(self.originals)
        for index, node in zip(self.used, found, strict=True):
            gradients[index] = node if self.originals[index] in self.group_of else None
        output.args = ((loss,),)
        _drop_dead(graph)
        for node in graph.nodes:
            _check_node(module, node)
        for node in placeholders:
            if not node.users and inputs[node].kind in ("state", "number"):
                del inputs[node]
                graph.erase_node(node)
            else:
                node._rename(inputs[node].name.replace(".", "_").replace("/", "_"))
        module.recompile()
        return Traced(module, inputs, loss, tuple(gradients), guards)


def _missing(error: ImportError) -> Unsupported:
    why = f"its tracer is not where it was in torch 2.9 to 2.13 ({error}); install one of these"
    return Unsupported("capture of the training step", f"torch {torch.__version__}", why)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, torch.Tensor):
        raise refusal("the loss", f"loss_fn returns {type(loss).__name__}; it must be one tensor with one element")
    if loss.numel() != 1:
        raise refusal("the loss", f"its shape is {tuple(loss.shape)}; it must have one element: use .mean() or .sum()")
    if not loss.requires_grad:
        raise refusal("the loss", "it depends on no parameter that requires a gradient; look for .detach() and no_grad")


def _check_node(module: fx.GraphModule, node: fx.Node) -> None:
    """Refuses what runs, but not as part of a plan."""
    place = node.meta.get("source") or node.meta.get("module") or node.name
    if node.op == "get_attr" and not isinstance(getattr(module, str(node.target)), torch.Tensor):
        kind = type(getattr(module, str(node.target))).__name__
        raise refusal(place, f"it uses a {kind}, which a graph cannot hold; for random numbers use torch's default one")
    if _draws(node) and node.meta.get("phase") == "backward":
        raise refusal(
            place,
            "it draws random numbers again in the backward pass, as torch.utils.checkpoint does, and a graph cannot "
            "set the generator back; keep dropout out of what is checkpointed",
        )
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, torch.Tensor):
            check_plain(f"{place}, a result of {node.target}", value)


def _draws(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _strip(graph: fx.Graph) -> None:
    """Takes out the profiler's marks of Optimizer.step, and detach, which only makes an alias."""
    for node in reversed(list(graph.nodes)):
        if "profiler._record_function" in str(node.target):
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _open_views(graph: fx.Graph) -> None:
    """Makes views of operators that change the shape of their argument in place (transpose_).

    After the trace no node refers to the argument under its old shape, and with a view no node's
    result changes its shape while it is alive.
    """
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.inplace_view in node.target.tags:
            view = _functional(node.target)
            if view is not None:
                node.target = view


def _functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None)
    wanted = [(argument.name, str(argument.type)) for argument in target._schema.arguments]
    for overload in packet.overloads() if packet is not None else ():
        found = getattr(packet, overload)
        if [(argument.name, str(argument.type)) for argument in found._schema.arguments] == wanted and found.is_view:
            return found
    return None


def _drop_dead(graph: fx.Graph) -> None:
    """Removes nodes without users that neither write nor draw random numbers."""
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        if not writes(node) and not _draws(node):
            graph.erase_node(node)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts the random generators back; raises InvalidArgument if one that is not torch's was drawn from."""
    torchs, pythons = torch.get_rng_state(), random.getstate()
    numpy = sys.modules.get("numpy")
    numpys = numpy.random.get_state(legacy=False) if numpy else None
    drawn = False
    try:
        yield
        drawn = random.getstate() != pythons
    finally:
        torch.set_rng_state(torchs)
        random.setstate(pythons)
        if numpy:
            drawn = drawn or repr(numpy.random.get_state(legacy=False)) != repr(numpys)
            numpy.random.set_state(numpys)
    if drawn:
        raise refusal(
            "the model",
            "it draws from the generator of Python or NumPy, and the graph would repeat one draw for ever; "
            "draw with torch (torch.rand, torch.bernoulli)",
        )
