"""The errors of a process group's calls when their arguments are wrong or the members do not agree.

`except RuntimeError` catches them, as it catches the corresponding errors of torch's own backends;
so do ValueError and rdmatensor.InvalidArgument.
"""

from __future__ import annotations

from torch.distributed import DistBackendError

from rdmatensor.errors import InvalidArgument

__all__ = ["ArgumentError", "ArgumentTypeError", "DisagreementError"]


class ArgumentError(InvalidArgument, RuntimeError):
    """An argument of this member's call is wrong. Nothing was sent."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A tensor has the wrong element type. Nothing was sent."""


class DisagreementError(InvalidArgument, DistBackendError):  # type: ignore[misc]
    """The members made different calls, or a send does not match its receive: the text describes
    both sides.
    """
