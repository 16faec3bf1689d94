"""Notes on each node while a step is traced: phase, source line, module, the user's annotations.

A node of the backward pass gets the notes of the forward operator whose gradient it computes:
autograd numbers both alike.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from rdmatensor.torch.graph.alias import places_written
from rdmatensor.torch.graph.refusal import is_users, place_of, refusal

__all__ = ["Phase", "Recorder"]

Phase = Literal["forward", "backward", "update"]


@dataclass(frozen=True, slots=True)
class _Notes:
    source: str = ""
    module: str = ""
    custom: dict[str, Any] = field(default_factory=dict)
    number: int = -1
    """Autograd's number of the operator, which its gradient has too."""


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Writes `meta["phase"]`, `meta["source"]`, `meta["module"]`, `meta["number"]` and `meta["custom"]` into nodes.

    The trace enters it inside make_fx's own mode, sets `phase`, and calls `entered` and `left`
    around modules. `until` is the file in whose frames the user's part of a stack begins.
    """

    def __init__(self, until: str) -> None:
        super().__init__()
        self.phase: Phase = "forward"
        self.modules: list[str] = []
        self.last = _Notes()
        self._until = until
        self._of_forward: dict[int, _Notes] = {}
        self._seen: fx.Node | None = None

    def entered(self, path: str) -> None:
        self.modules.append(path)

    def left(self) -> None:
        self.modules.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last = self._notes()
        _check_written(func, args, self.last)
        result = func(*args, **(kwargs or {}))
        self.flush()
        return result

    def flush(self) -> None:
        """Gives the notes to the nodes made since the last call."""
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        mode = get_proxy_mode()
        if mode is None:
            return
        newest: fx.Node | None = None
        for node in reversed(mode.tracer.graph.nodes):
            newest = newest or node
            if node is self._seen or node.op == "placeholder":
                break
            node.meta["phase"] = self.phase
            node.meta["source"] = self.last.source
            node.meta["module"] = self.last.module
            node.meta["number"] = self.last.number
            if self.last.custom:
                node.meta["custom"] = dict(self.last.custom)
        self._seen = newest

    def _notes(self) -> _Notes:
        if self.phase == "update":
            return _Notes()
        source = self._source()
        node = torch._C._current_autograd_node()
        if node is not None:
            notes = self._of_forward.get(node._sequence_nr(), _Notes())
            if not source:
                return notes
            notes = replace(notes, source=source)  # a backward function of the user's, or forward once more
        elif self.phase == "backward":
            return _Notes()
        else:
            notes = _Notes(source, self.modules[-1] if self.modules else "", _annotations())
        # the operator's node in the graph of autograd was made just before the operator itself
        number = torch._C._autograd._get_sequence_nr() - 1
        self._of_forward.setdefault(number, replace(notes, number=number))
        return replace(notes, number=number)

    def _source(self) -> str:
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename != self._until:
            if is_users(frame.f_code.co_filename):
                return place_of(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        return ""


def _check_written(func: Any, args: Any, notes: _Notes) -> None:
    """A tensor of which the trace has no stand-in would be changed by the trace itself."""
    from torch._subclasses.fake_tensor import FakeTensor

    if not isinstance(func, torch._ops.OpOverload):
        return
    for place in places_written(func):
        tensor = args[place] if place < len(args) else None
        if isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor):
            raise refusal(
                notes.source or (f"module {notes.module}" if notes.module else "the loss"),
                f"{func} changes a tensor that belongs neither to the model nor to the batch; make it a buffer of the "
                "model (register_buffer)",
            )


def _annotations() -> dict[str, Any]:
    """The notes of `torch.fx.traceback.annotate` at this point of the user's program."""
    from torch.fx import traceback

    return dict(traceback.get_current_meta().get("custom") or {})
