"""The refusal of a step that cannot be captured: the line of the user's program, the reason, the remedy."""

from __future__ import annotations

import os
import traceback

import torch

from rdmatensor.errors import InvalidArgument

__all__ = ["explained", "is_users", "place_of", "refusal"]

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep

_READS = (
    "it reads the value of a tensor (.item(), bool(), float(), a branch), and the graph is the same for every batch; "
    "compute with tensors (torch.where, torch.clamp), or do it outside the step"
)
_SHAPES = (
    "the shape of a result depends on values (nonzero, a mask as an index, unique), and shapes are planned before the "
    "run; multiply by the mask, or use torch.where"
)
_UNKNOWN = "torch cannot tell the shape of the operator's result; say how with register_fake"
_OUTSIDE = "it leaves torch (numpy, lists, raw memory), where nothing is recorded; use operators of torch"
_NUMBERS = (
    "torch's own code for this operator wants sizes as numbers; leave the dimension out of `dynamic` and use a plan "
    "for each size"
)
_REMEDIES = {
    "symbolic sizes": _NUMBERS,
    "DataDependentOutputException": _READS,
    "GuardOnDataDependentSymNode": _READS,
    "DynamicOutputShapeException": _SHAPES,
    "UnsupportedOperatorException": _UNKNOWN,
    "UnsupportedFakeTensorException": _UNKNOWN,
    "numpy": _OUTSIDE,
    "tolist": _OUTSIDE,
    "data pointer": _OUTSIDE,
    "Generator": "it draws from a generator of its own, which a graph cannot hold; use torch's default generator",
}
"""The reason and the remedy, by a word in the type or in the text of an error."""
_OTHERWISE = "it fails on tensors that have shapes and no values; if the eager loop does not, it needs the values"


def refusal(on: str, why: str) -> InvalidArgument:
    """The error for something that cannot be captured."""
    return InvalidArgument("capture of the training step", on, why)


def is_users(filename: str) -> bool:
    """Whether a source file is neither torch's nor this package's."""
    if filename.startswith("<"):  # no file; a prompt counts as the user's
        return filename.startswith(("<stdin", "<ipython"))
    return not filename.startswith((_TORCH, _HERE))


def place_of(filename: str, line: int, function: str) -> str:
    """A place in a program: "file.py:12 in forward"."""
    return f"{os.path.basename(filename)}:{line} in {function}"


def explained(error: Exception, *, until: str, otherwise: str) -> InvalidArgument:
    """The refusal for an error that came up while the step ran on fake tensors.

    `until` is the file in whose frames the user's part of the stack begins; `otherwise` is named
    if the stack has no line of the user's.
    """
    text = f"{type(error).__name__}: {str(error).strip()}"
    found = next((remedy for mark, remedy in _REMEDIES.items() if mark in text), _OTHERWISE)
    return refusal(_line(error, until) or otherwise, f"{found} ({text.splitlines()[0]:.300})")


def _line(error: Exception, until: str) -> str:
    """The innermost line of the user's program in the step."""
    frames = traceback.extract_tb(error.__traceback__)
    first = max((number for number, frame in enumerate(frames) if frame.filename == until), default=len(frames))
    users = [frame for frame in frames[first:] if is_users(frame.filename)]
    if not users:
        return ""
    frame = users[-1]
    return f"{place_of(frame.filename, frame.lineno or 0, frame.name)} `{frame.line}`"
