"""The error of `rdmatensor vm` itself, as opposed to a failure of the command that it runs."""

from __future__ import annotations

from rdmatensor.errors import RdmaError

__all__ = ["VmError"]


class VmError(RdmaError):
    """The emulated machine could not be made, started or kept; the text gives the reason and the
    remedy.
    """
