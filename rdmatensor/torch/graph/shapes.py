"""Sizes that vary from batch to batch: their names, the batches a graph holds for, the kinds of tensors.

A graph that was captured with dynamic dimensions holds for a batch if every condition that the
capture met (`Guards`) is true for it. A graph does not check them by itself: another size could
fail late, or compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx
from torch.utils import _pytree as pytree

from rdmatensor.torch.graph.inputs import flatten_batch
from rdmatensor.torch.graph.refusal import refusal

if TYPE_CHECKING:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["Dimensions", "Dynamic", "Guards", "Shape", "named", "varying"]

Dynamic = Mapping[str, Sequence[int] | Mapping[int, str]]

_KEPT = 4096  # checked combinations of sizes; beyond, all are forgotten and checked again


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a node's result, as it is known before the run.

    `kind` is "static" (every size is a number), "dynamic" (the rank is known, some sizes are text in
    terms of the named dimensions) or "refused" (no edge can carry it, `why` says the reason).
    """

    kind: Literal["static", "dynamic", "refused"]
    sizes: tuple[int | str, ...] = ()
    dtype: torch.dtype = torch.float32
    why: str = ""


def varying(dynamic: Dynamic, batch: Any) -> Dynamic:
    """The named dimensions without those whose size in a batch is 0 or 1: for these torch makes other
    graphs, which hold for that size alone.
    """
    tensors, _ = flatten_batch(batch)
    found: dict[str, dict[int, str]] = {}
    for name, wanted in dynamic.items():
        words = named(name, tensors[name], wanted)
        found[name] = {place: word for place, word in words.items() if tensors[name].shape[place] > 1}
    return found


class Dimensions:
    """The named dimensions of a batch, each a symbol in `environment`.

    Raises InvalidArgument for a name that is no tensor of the batch, a dimension that it does not
    have, sizes of one name that differ, and sizes of 0 and 1, for which torch makes other graphs.
    """

    def __init__(self, environment: ShapeEnv, batch: Mapping[str, torch.Tensor], dynamic: Dynamic) -> None:
        self.environment = environment
        self.names: dict[str, dict[int, str]] = {}
        self.symbols: dict[str, Any] = {}  # by name, the torch.SymInt
        sizes: dict[str, int] = {}
        for tensor, wanted in dynamic.items():
            if tensor not in batch:
                raise refusal(f"dynamic[{tensor!r}]", f"the batch has no such tensor; it has {', '.join(batch)}")
            self.names[tensor] = named(tensor, batch[tensor], wanted)
            for dimension, name in self.names[tensor].items():
                size = batch[tensor].shape[dimension]
                if size < 2:
                    raise refusal(
                        f"dimension {dimension} of {tensor}",
                        f"its size is {size}; torch makes other graphs for 0 and 1: capture with a batch of 2 or more",
                    )
                if sizes.setdefault(name, size) != size:
                    raise refusal(
                        f"dimension {dimension} of {tensor}",
                        f"it is named {name!r}, which is {sizes[name]} elsewhere in the batch and {size} here",
                    )
        for name, size in sizes.items():
            self.symbols[name] = self._symbol(name, size)

    def fake(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A stand-in for a tensor of the batch, within the active fake mode."""
        named = self.names.get(name, {})
        if not named:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        sizes = [self.symbols[named[i]] if i in named else size for i, size in enumerate(tensor.shape)]
        return torch.empty(sizes, dtype=tensor.dtype)

    def _symbol(self, name: str, size: int) -> Any:
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        source = ConstantSource(name)
        symbol = self.environment.create_symbol(size, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.environment.create_symintnode(symbol, hint=size, source=source)


def named(tensor: str, value: torch.Tensor, wanted: Sequence[int] | Mapping[int, str]) -> dict[int, str]:
    """The names of a tensor's dimensions that vary, as `dynamic` gives them."""
    pairs = wanted.items() if isinstance(wanted, Mapping) else ((dimension, "") for dimension in wanted)
    named = {}
    for dimension, name in pairs:
        if not -value.dim() <= dimension < value.dim():
            raise refusal(f"dynamic[{tensor!r}]", f"it has {value.dim()} dimensions, and {dimension} is none of them")
        dimension %= value.dim()
        named[dimension] = name or f"{tensor}[{dimension}]"
    return named


class Guards:
    """The conditions under which a captured graph holds.

    `fixed` are named dimensions that an operator of the model fixed at one size (an unrolled
    recurrent layer its length): for another size another plan is needed. `texts` are the other
    conditions.
    """

    def __init__(
        self, dimensions: Dimensions, batch: Mapping[str, torch.Tensor], structure: Any, numbers: Mapping[str, Any]
    ) -> None:
        import sympy  # type: ignore[import-untyped]

        self._environment = dimensions.environment
        self._names = dimensions.names
        self._structure = structure
        self._batch = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()}
        self._wanting = {name for name, tensor in batch.items() if tensor.requires_grad}
        self._expressions = {name: symbol.node._expr for name, symbol in dimensions.symbols.items()}
        self._numbers = {name: value.node._expr for name, value in numbers.items() if isinstance(value, torch.SymFloat)}
        self._names_of = {e: sympy.Symbol(name) for name, e in (self._expressions | self._numbers).items()}
        self._conditions = self._found(self._names_of)
        self.fixed = {
            name: int(value)
            for name, e in self._expressions.items()
            if (value := self._environment.replacements.get(e, e)).is_Integer
        }
        self.texts = tuple(text for _, text in self._conditions)
        self._checked: dict[Any, str | None] = {}

    def _found(self, told: Mapping[Any, Any]) -> list[tuple[Any, str]]:
        import sympy

        found: dict[Any, str] = {}
        for guard in self._environment.guards:
            found.setdefault(guard.expr, str(guard.expr.xreplace(told)))
        for symbol, value in self._environment.replacements.items():
            if symbol in told:
                found.setdefault(sympy.Eq(symbol, value), f"{told[symbol]} == {value.xreplace(told)}")
        for name, e in self._expressions.items():
            bounds = self._environment.var_to_range.get(e)
            if bounds is not None:  # torch takes sizes of 0 and 1 for other cases, without a guard
                found.setdefault(sympy.Ge(e, bounds.lower), f"{name} >= {bounds.lower}")
        return list(found.items())

    @property
    def names(self) -> Mapping[str, Mapping[int, str]]:
        """The dimensions of the batch that vary: by tensor, their names."""
        return self._names

    def example_shapes(self) -> Any:
        """The captured batch without its values."""
        leaves = [torch.empty(shape, dtype=dtype, device="meta") for dtype, shape in self._batch.values()]
        return pytree.tree_unflatten(leaves, self._structure)

    def check(self, batch: Any) -> str | None:
        """None if the graph holds for a batch, or which condition is broken, in terms of its dimensions."""
        tensors, structure = flatten_batch(batch)
        if structure != self._structure:
            return f"the batch is {structure}, the captured one was {self._structure}"
        sizes = tuple((tensor.dtype, tensor.shape) for tensor in tensors.values())
        if sizes not in self._checked:
            if len(self._checked) >= _KEPT:
                self._checked.clear()
            self._checked[sizes] = self._check(tensors)
        return self._checked[sizes]

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the captured batch."""
        return {name: shape for name, (_, shape) in self._batch.items()}

    def differs(self, batch: Any) -> str | None:
        """None if a batch differs from the captured one in sizes alone, or how else it does: then no
        other capture of the same program is for it.
        """
        tensors, structure = flatten_batch(batch)
        if structure != self._structure:
            return f"the batch is {structure}, the captured one was {self._structure}"
        broken = (self._unlike(name, tensor) for name, tensor in tensors.items())
        return next((one for one in broken if one), None)

    def example(self, sizes: Mapping[str, Sequence[int]]) -> Any:
        """A batch of zeros with other sizes, by the names of its tensors."""
        leaves = [
            torch.zeros(tuple(sizes[name]), dtype=dtype, requires_grad=name in self._wanting)
            for name, (dtype, _) in self._batch.items()
        ]
        return pytree.tree_unflatten(leaves, self._structure)

    def _unlike(self, name: str, tensor: torch.Tensor) -> str | None:
        """The difference of a tensor that is none of sizes."""
        dtype, shape = self._batch[name]
        if tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, the captured one was {dtype}"
        if tensor.dim() != len(shape):
            return f"{name} has {tensor.dim()} dimensions, the captured one had {len(shape)}"
        return None

    def _check(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        values: dict[str, int] = {}
        for name, tensor in tensors.items():
            broken = self._broken_by(name, tensor, values)
            if broken:
                return broken
        for name, size in self.fixed.items():
            if values[name] != size:
                known = values[name]
                return f"{name} is {known}, and an operator of the model fixed it at {size}: it needs another plan"
        return self._broken({self._expressions[name]: size for name, size in values.items()})

    def _broken_by(self, name: str, tensor: torch.Tensor, values: dict[str, int]) -> str | None:
        """The condition that one tensor breaks by itself. Its named sizes are noted in `values`."""
        unlike = self._unlike(name, tensor)
        if unlike:
            return unlike
        _, shape = self._batch[name]
        named = self._names.get(name, {})
        for dimension, (size, captured) in enumerate(zip(tensor.shape, shape, strict=True)):
            place = f"dimension {dimension} of {name}"
            if dimension not in named:
                if size != captured:
                    return f"{place} is {size}, the captured one was {captured} and is not dynamic"
            elif values.setdefault(named[dimension], size) != size:
                return f"{named[dimension]} is {values[named[dimension]]}, and in {place} {size}"
        return None

    def laid_out(self, name: str, tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
        """A tensor of the batch with the layout that the graph was captured for; a copy if it has another."""
        if name in self._names:
            return tensor.detach().contiguous()
        if tensor.stride() == strides:
            return tensor.detach()
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor.detach())

    def shape_of(self, node: fx.Node) -> Shape:
        """The shape of a node's result, as it is known before the run."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return Shape("refused", why=f"it is {_kind(value)}, no tensor")
        sizes = tuple(size if isinstance(size, int) else self._told(size) for size in value.shape)
        return Shape("static" if all(isinstance(size, int) for size in sizes) else "dynamic", sizes, value.dtype)

    def _told(self, size: torch.SymInt) -> int | str:
        expression = size.node.expr
        return int(expression) if expression.is_Integer else str(expression.xreplace(self._names_of))

    def check_numbers(self, numbers: Mapping[str, float]) -> str | None:
        """The same for numbers of the optimizer, by their names ("group0/lr")."""
        return self._broken({self._numbers[name]: value for name, value in numbers.items() if name in self._numbers})

    @property
    def on_numbers(self) -> bool:
        """Whether any condition is about the optimizer's numbers."""
        known = set(self._numbers.values())
        return any(condition.free_symbols & known for condition, _ in self._conditions)

    def _broken(self, values: Mapping[Any, float]) -> str | None:
        import sympy

        known = {symbol: sympy.sympify(value) for symbol, value in values.items()}
        for condition, text in self._conditions:
            held = condition.free_symbols and condition.free_symbols <= known.keys()
            if held and condition.xreplace(known) == sympy.false:
                return f"{text} is not true"
        return None


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "several tensors"
    return "a number" if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) else type(value).__name__
