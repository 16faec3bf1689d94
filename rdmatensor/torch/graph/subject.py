"""The modules of a captured step, and the trace's tensors in their place.

A capture must leave the model as it was, whatever its forward does. A graph changes tensors in
place and nothing else, so a forward that changes other attributes of its modules is refused.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from rdmatensor.torch.graph.inputs import LossFn
from rdmatensor.torch.graph.refusal import refusal

__all__ = ["Subject", "check_plain"]

_HOOK = "rdmatensor.graph"
_KNOWN_TYPES = (torch.Tensor, nn.Parameter, nn.Buffer)
_REPLACED = ("_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")  # by `_put`


class Subject:
    """The modules of a step: the model, and the loss if that is a module; each tensor once.

    A parameter or buffer that is shared has the first of its names. A tensor that is a plain attribute
    of a module counts as a buffer. Names in the loss begin with "loss_fn.". Raises InvalidArgument for
    tensors and modules that cannot be captured.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        if not isinstance(model, nn.Module):
            raise refusal("the model", f"it is {type(model).__name__}, no torch.nn.Module")
        roots = [("", model)]
        if isinstance(loss_fn, nn.Module) and loss_fn is not model:
            roots.append(("loss_fn.", loss_fn))
        self.modules: dict[nn.Module, str] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        self.changed: list[tuple[torch.Tensor, torch.Tensor]] = []  # buffers that forward replaced: old, new
        self._homes: dict[str, tuple[nn.Module, str]] = {}  # of the buffers; in `_buffers`, or an attribute
        self._held: list[tuple[nn.Module, str, torch.Tensor, bool]] = []  # every place of every parameter
        seen: set[torch.Tensor] = set()
        for prefix, root in roots:
            for name, module in root.named_modules():
                self.modules.setdefault(module, (prefix + name).rstrip("."))
        for module, path in self.modules.items():
            _check_module(path, module)
            self._held += [(module, key, p, p.requires_grad) for key, p in module._parameters.items() if p is not None]
            for key, tensor in (*module._parameters.items(), *module._buffers.items(), *_attributes(module)):
                if tensor is None or tensor in seen:
                    continue
                seen.add(tensor)
                name = f"{path}.{key}" if path else key
                _check_tensor(name, tensor)
                if key in module._parameters:
                    self.parameters[name] = tensor
                else:
                    self.buffers[name] = tensor
                    self._homes[name] = (module, key)
        _check_memory({**self.parameters, **self.buffers})
        self._training = [(module, module.training) for module in self.modules]

    def changed_since(self) -> str:
        """The first thing that a graph keeps as it was and that has changed, in words, or ""."""
        for module, training in self._training:
            if module.training is not training:
                now = "train()" if module.training else "eval()"
                return f"module {self.modules[module] or '(the model)'}, of which {now} was called"
        for module, key, tensor, wanted in self._held:
            now = module._parameters.get(key)
            if now is not tensor or tensor.requires_grad is not wanted:
                what = "another tensor" if now is not tensor else "frozen" if wanted else "not frozen any more"
                return f"parameter {key} of module {self.modules[module] or '(the model)'}, which is {what}"
        return ""

    def buffer(self, name: str) -> torch.Tensor:
        """The live buffer of a name, which the user's code may have replaced since the capture."""
        module, key = self._homes[name]
        tensor = module._buffers[key] if key in module._buffers else module.__dict__.get(key)
        if not isinstance(tensor, torch.Tensor):
            raise refusal(name, f"it is {tensor!r:.40} since the capture; capture again")
        return tensor

    @contextlib.contextmanager
    def replaced(
        self,
        parameters: list[torch.Tensor],
        buffers: list[torch.Tensor],
        entered: Callable[[str], None],
        left: Callable[[], None],
    ) -> Iterator[None]:
        """While entered, the modules hold other tensors instead of their own, in the same order.

        `entered(path)` and `left()` are called around the forward of each module. Afterwards the
        modules are as before, with an error too; without one, `changed` lists the buffers that
        forward replaced. Raises InvalidArgument if it changed anything else.
        """
        table: dict[torch.Tensor, torch.Tensor] = {}
        table.update(zip(self.parameters.values(), parameters, strict=True))
        table.update(zip(self.buffers.values(), buffers, strict=True))
        saved = [(module, _Attributes(module)) for module in self.modules]
        try:
            for module, path in self.modules.items():
                _put(module, path, table, entered, left)
            yield
            self.changed = [pair for module, before in saved for pair in before.replaced_buffers(module, table)]
            for module, before in saved:
                before.check(module, self.modules[module], table)
        finally:
            for module, before in saved:
                before.restore(module)


def _put(
    module: nn.Module,
    path: str,
    table: dict[torch.Tensor, torch.Tensor],
    entered: Callable[[str], None],
    left: Callable[[], None],
) -> None:
    attributes = module.__dict__
    for name in ("_parameters", "_buffers"):
        held = attributes[name]
        attributes[name] = {key: None if tensor is None else table[tensor] for key, tensor in held.items()}
    attributes.update({key: table[tensor] for key, tensor in _attributes(module)})

    def enter(module: nn.Module, arguments: Any) -> None:
        entered(path)

    def leave(module: nn.Module, arguments: Any, result: Any) -> None:
        left()

    attributes["_forward_pre_hooks"] = OrderedDict([(_HOOK, enter), *attributes["_forward_pre_hooks"].items()])
    attributes["_forward_hooks"] = OrderedDict([*attributes["_forward_hooks"].items(), (_HOOK, leave)])


def _attributes(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a module holds as plain attributes; a capture takes them for buffers."""
    found = module.__dict__.items()
    return [(key, value) for key, value in found if type(value) is torch.Tensor and not value.requires_grad]


class _Attributes:
    """A module as it was before the trace: its attributes, and the members of plain containers."""

    def __init__(self, module: nn.Module) -> None:
        self.values = dict(module.__dict__)
        self.tensors = dict(_attributes(module))
        self.members = {key: _copied(value) for key, value in self.values.items() if type(value) in (list, dict, set)}

    def restore(self, module: nn.Module) -> None:
        module.__dict__.clear()
        module.__dict__.update(self.values)
        for key, members in self.members.items():
            container = self.values[key]
            container.clear()
            container.extend(members) if isinstance(container, list) else container.update(members)

    def replaced_buffers(
        self, module: nn.Module, table: dict[torch.Tensor, torch.Tensor]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for held, originals in ((module._buffers, self.members["_buffers"]), (module.__dict__, self.tensors)):
            for key, original in originals.items():
                now = held.get(key)
                if original is not None and isinstance(now, torch.Tensor) and now is not table[original]:
                    yield table[original], now

    def check(self, module: nn.Module, path: str, table: dict[torch.Tensor, torch.Tensor]) -> None:
        for key in self.members["_parameters"]:
            original = self.members["_parameters"][key]
            if original is not None and module._parameters.get(key) is not table[original]:
                raise _changed(path, key, "replaces the parameter", "update it through the optimizer")
        for key, original in self.members["_buffers"].items():
            now = module._buffers.get(key)
            if (now is None) != (original is None):
                raise _changed(path, key, "makes the buffer", "make it in __init__ and update it in place")
        for key, value in module.__dict__.items():
            if (
                key in _REPLACED
                or (key in self.tensors and isinstance(value, torch.Tensor))
                or (isinstance(module, nn.RNNBase) and key.startswith("_flat_weight"))
            ):
                continue  # nn.LSTM follows its parameters there
            before = self.values.get(key, _MISSING)
            same = value is before if key not in self.members else _same(value, self.members[key])
            if not same and not _equal(value, before):
                raise _changed(
                    path,
                    key,
                    "changes the attribute",
                    "a graph repeats the step of the capture, and the attribute would not change again: make it a "
                    "buffer that is updated in place, or change it outside forward",
                )


_MISSING = object()


def _copied(container: Any) -> Any:
    return container.copy()


def _same(value: Any, members: Any) -> bool:
    if type(value) is not type(members) or len(value) != len(members):
        return False
    if isinstance(value, dict):
        return all(key in members and value[key] is members[key] for key in value)
    if isinstance(value, set):
        return bool(value == members)
    return all(one is other for one, other in zip(value, members, strict=True))


def _equal(value: Any, before: Any) -> bool:
    plain = (bool, int, float, str, type(None), tuple, torch.Size, torch.dtype, torch.device, weakref.ref)
    return isinstance(value, plain) and type(value) is type(before) and bool(value == before)


def _changed(path: str, key: str, what: str, remedy: str) -> Exception:
    return refusal(f"module {path or '(the model)'}", f"its forward {what} {key!r}: {remedy}")


def _check_module(path: str, module: nn.Module) -> None:
    on = f"module {path}" if path else "the model"
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise refusal(on, "it is compiled by torch.jit; pass the nn.Module that it was made from")
    if kind == "OptimizedModule":
        raise refusal(on, "it is compiled by torch.compile; pass the module itself")
    if kind in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
        raise refusal(on, f"it is wrapped in {kind}, and the plan distributes it; pass its .module")
    if getattr(module, "sparse", False) is True and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        raise refusal(on, "sparse=True makes sparse gradients, which no edge can carry; use sparse=False")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        raise refusal(name, "its shape is not known yet; run the model once on a batch")
    if type(tensor) not in _KNOWN_TYPES:
        raise refusal(name, f"it is a {type(tensor).__name__}, of which a graph sees only the parts; use plain tensors")
    check_plain(name, tensor)
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise refusal(name, "it has a hook on its gradient, which a graph cannot call; remove it")


def check_plain(name: str, tensor: torch.Tensor) -> None:
    """Raises InvalidArgument for a tensor that is not dense, real and on the CPU."""
    if tensor.device.type != "cpu":
        raise refusal(name, f"it is on {tensor.device}; plans are for tensors on the CPU: use .cpu()")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise refusal(name, f"its layout is {tensor.layout}, quantized {tensor.is_quantized}; use dense tensors")
    if tensor.is_complex():
        raise refusal(name, "it is complex, which no edge can carry; use torch.view_as_real")


def _check_memory(tensors: dict[str, torch.Tensor]) -> None:
    """Two tensors over the same bytes are one value with two names, of which the graph would know nothing."""
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name) for name, tensor in tensors.items())
    end, before = 0, ""
    for first, last, name in spans:
        if first < end and last > first:
            raise refusal(name, f"it shares memory with {before}; make it the same tensor, or a copy")
        if last > end:
            end, before = last, name


def _extent(tensor: torch.Tensor) -> int:
    if tensor.numel() == 0:
        return 0
    reach = sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(reach + 1) * int(tensor.element_size())
