"""Features that other frameworks add to our classes. Each framework's module is loaded on first
use.

This is the only upward import: no other module below rdmatensor.torch knows of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from rdmatensor.errors import Unsupported

if TYPE_CHECKING:
    from types import TracebackType

    from rdmatensor.memory.span import Registered
    from rdmatensor.stats import AllocationStats

__all__ = ["Allocation", "allocating", "torchrun_store"]


class Allocation(Protocol):
    """A region that serves a framework's allocations while the context is entered."""

    @property
    def region(self) -> Registered: ...

    @property
    def stats(self) -> AllocationStats:
        """Counters of the allocations served since it was made."""

    def __enter__(self) -> Allocation: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def allocating(region: Registered, when_full: str) -> Allocation:
    """See `Region.allocating`."""
    try:
        of_torch = import_module("rdmatensor.torch.allocator")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        why = "torch is not installed (pip install torch); region.empty(shape, dtype) makes tensors without it"
        raise Unsupported("allocate torch's tensors", repr(region), why) from None
    served: Allocation = of_torch.allocating(region, when_full=when_full)
    return served


def torchrun_store(rank: int, size: int, prefix: str, timeout: float) -> Any:
    """The store by which the processes of torchrun find each other, for names that begin with
    `prefix`; `timeout` in seconds. ModuleNotFoundError without torch.
    """
    return import_module("rdmatensor.torch.store").torchrun_store(rank, size, prefix, timeout)
