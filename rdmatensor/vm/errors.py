"""The one kind of failure of `rdmatensor vm` itself, as against a failure of the command that it runs."""

from __future__ import annotations

from rdmatensor.errors import RdmaError

__all__ = ["VmError"]


class VmError(RdmaError):
    """The emulated machine could not be made, started or kept: says why and what to do."""
