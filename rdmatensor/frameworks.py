"""What other frameworks add to a class of ours, loaded when it is first asked for.

The one door up: everything else below rdmatensor.torch knows nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rdmatensor.errors import Unsupported

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor.region import Region
    from rdmatensor.stats import AllocationStats

__all__ = ["Allocation", "allocating"]


class Allocation(Protocol):
    """A region that serves a framework's allocations while it is entered."""

    region: Region

    @property
    def stats(self) -> AllocationStats:
        """What it served since it was made."""

    def __enter__(self) -> Allocation: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def allocating(region: Region, when_full: str) -> Allocation:
    """See `Region.allocating`."""
    try:
        from rdmatensor.torch.allocator import allocating as of_torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        why = "torch is not installed (pip install torch); region.empty(shape, dtype) makes tensors without it"
        raise Unsupported("allocate torch's tensors", repr(region), why) from None
    return of_torch(region, when_full=when_full)
