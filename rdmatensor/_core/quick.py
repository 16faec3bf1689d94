"""Bases of classes whose usual calls are C from end to end (csrc/python/quick.h)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rdmatensor._core.capsules import taken
from rdmatensor._native import lib

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _types() -> Any:
    made = lib.rt_quick_types()
    if made == 0:
        raise MemoryError("no memory for the classes of edges and tensors")
    return taken(made)


_made = _types()

if TYPE_CHECKING:

    class QuickTensor:
        """What a tensor is to the quick calls: it has `release`."""

        _form: Any
        _keep: object
        _edge: Any
        _ticket: int

        def __init__(self, form: Any, keep: object, edge: Any = None, ticket: int = 0) -> None: ...
        def release(self) -> None: ...

    class QuickEdge:
        """What an end of an edge is to them. `_waiting` and `_backlog` are one place: a receiver has the former, a
        sender the latter.
        """

        _handle: Any
        _forms: tuple[Any, ...]
        _waiting: Any
        _backlog: Any
        _pointer: int
        _slice_ns: int

    class QuickBound:
        """What is bound to an edge: calling it sends."""

        _edge: Any
        _pointer: int
        _address: int
        _size: int

        def __call__(self, timeout: float | None = None) -> None: ...

    class QuickPrepared:
        """What copies are that were bound: calling it runs them."""

        _handle: Any
        _pointer: int
        _brief: bool

        def __call__(self, timeout: float | None = None) -> None: ...

    class QuickChannel:
        """What a channel is to them: it has `wait_word`, which goes on in `_wait_word`."""

        _handle: Any
        _pointer: int
        _slice_ns: int

        def wait_word(self, span: Any, value: int, *, timeout: float | None = None) -> None: ...

else:
    QuickTensor, QuickEdge, QuickBound = _made["Tensor"], _made["Edge"], _made["Bound"]
    QuickPrepared, QuickChannel = _made["Prepared"], _made["Channel"]


def receiving(tensor: type) -> Callable[[_Method], _Method]:
    """For `RecvEdge.recv` alone: a tensor that is there, or comes within a slice, is handed out without the method that
    is decorated.
    """

    def quick(method: _Method) -> _Method:
        doc = f"recv($self, /, timeout=None, *, out=None, borrow=False)\n--\n\n{inspect.getdoc(method)}"
        made: _Method = _made["receiving"](method, doc, tensor)
        return made

    return quick
