"""Decorators of methods whose last step is C (csrc/python/quick_parts.h)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import rdmatensor._native as native
from rdmatensor._native import QuickTensor

_Self = TypeVar("_Self")
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

Fits = Callable[[Any, Any], None]
"""A function that raises when a tensor's element type and shape are not the expected ones."""


def receiving(
    tensor: type[QuickTensor],
) -> Callable[[Callable[Concatenate[_Self, list[Any], _Given], None]], Callable[Concatenate[_Self, _Given], Any]]:
    """Decorates `RecvEdge.recv`: C hands out a tensor that is there, or that comes within a slice,
    without calling the method. Otherwise the method runs and puts the tensor to hand out into the
    list that it is given.
    """

    def quick(
        method: Callable[Concatenate[_Self, list[Any], _Given], None],
    ) -> Callable[Concatenate[_Self, _Given], Any]:
        doc = f"recv($self, /, timeout=None, *, out=None, borrow=False)\n--\n\n{inspect.getdoc(method)}"
        made: Callable[Concatenate[_Self, _Given], Any] = native.receiving(method, doc, tensor)
        return made

    return quick


def receiving_many(
    function: Callable[Concatenate[list[Any], _Given], None],
) -> Callable[_Given, list[Any]]:
    """Decorates `recv_many`: the function puts pairs of edges and tensors into the list that it is
    given. They are handed out, or go back to their edges when the function or a signal's handler
    raises.
    """
    doc = f"recv_many(edges, *, timeout=None)\n--\n\n{inspect.getdoc(function)}"
    made: Callable[_Given, list[Any]] = native.receiving_many(function, doc)
    return made


def handing(
    method: Callable[Concatenate[_Self, list[Any], _Given], _Result],
) -> Callable[Concatenate[_Self, _Given], _Result]:
    """Decorates a method that puts an item into its list with `hand`. C hands the item out as the
    last step. The item goes back into its pocket when the method or a signal's handler raises.
    """
    made: Callable[Concatenate[_Self, _Given], _Result] = native.handing(method)
    functools.update_wrapper(made, method)
    own = inspect.signature(method)
    itself, _taken, *given = own.parameters.values()
    made.__signature__ = own.replace(parameters=[itself, *given])  # type: ignore[attr-defined]
    return made
