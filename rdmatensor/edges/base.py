"""The parts that both ends of a tensor edge have in common."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rdmatensor import _core
from rdmatensor.edges.options import EdgeOptions
from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.memory.layout import DType, Shape, as_dtype, as_shape, dtype_of_code
from rdmatensor.settings.arguments import name_bytes
from rdmatensor.stats import EdgeStats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import EdgeHandle, EdgeTerms
    from rdmatensor.owners import OwningDevice

__all__ = ["Edge", "make_terms"]


_Self = TypeVar("_Self", bound="Edge")


class Edge(_core.QuickEdge):
    """One end of a named one-way path for tensors: a `SendEdge` or a `RecvEdge`. A context manager.

    An edge is static when shape and element type are known beforehand: a tensor is written straight
    into a slot at the receiver. Otherwise it is dynamic: the sender writes a record that names the
    tensor, and the receiver fetches it.
    """

    __slots__ = (
        "__weakref__",
        "_copied_bytes",
        "_copies",
        "_dtype",
        "_final",
        "_registrations",
        "_shape",
        "device",
        "flow",
        "kind",
        "name",
    )

    _verb: ClassVar[str]

    def __init__(self, device: OwningDevice, handle: EdgeHandle, terms: EdgeTerms) -> None:
        self.device = device
        self.name = terms.name.decode()
        self.kind = "static" if terms.kind == _core.STATIC else "dynamic"
        self.flow = next(name for name, number in _core.FLOWS.items() if number == terms.flow)
        self._handle: EdgeHandle | None = handle
        self._shape: Shape | None = terms.shape if terms.kind == _core.STATIC else None
        self._dtype: DType | None = dtype_of_code(terms.dtype) if terms.dtype else None
        self._slice_ns = min(_core.SLICE_NS, device.timeout_ns)
        self._copies = self._copied_bytes = self._registrations = 0  # made in Python, added to C's counters
        self._final: tuple[EdgeStats, str, str] | None = None  # statistics, ordering and dump, once it is closed

    @property
    def shape(self) -> Shape | None:
        """The shape of every tensor of a static edge; None for a dynamic edge."""
        return self._shape

    @property
    def dtype(self) -> str | None:
        """The element type by its name; None for a dynamic edge that takes every one."""
        return None if self._dtype is None else self._dtype.name

    @property
    def ordering(self) -> str:
        """How the flag that says "it is here" is carried, and the reason: a sentence that begins
        with "tail", "chained" or "immediate" (RDMA-RULES 1 to 6). A receiver's is final once a
        sender has opened it.
        """
        handle = self._handle
        return self._final[1] if handle is None and self._final else _core.edge_info(self.live()).ordering

    @property
    def stats(self) -> EdgeStats:
        """Counters since the edge was made; those of a closed edge no longer change."""
        refuse_fork("read the statistics", repr(self))
        handle = self._handle
        if handle is None and self._final:
            return self._final[0]
        values = _core.edge_stats(self.live())
        values["copies"] += self._copies
        values["copied_bytes"] += self._copied_bytes
        values["registrations"] += self._registrations
        return EdgeStats(**values)

    def _count_copy(self, nbytes: int) -> None:
        self._copies += 1
        self._copied_bytes += nbytes

    @property
    def failure(self) -> RdmaError | None:
        """The error that ended the edge, or None while it is up."""
        handle = self._handle
        return self._closed_error("use an edge") if handle is None else _core.edge_failure(handle, repr(self))

    def dump(self) -> str:
        """A line for people, to find what hangs: what was last sent or received, what is expected
        and released.
        """
        refuse_fork("dump", repr(self))
        handle = self._handle
        return self._final[2] if handle is None and self._final else _core.edge_dump(self.live())

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Tells the peer; nothing more is sent or received. Twice is fine; in a forked child it
        does nothing.

        Tensors sent before still arrive. Received tensors stay readable as long as someone holds
        them.
        """
        handle = self._handle
        if handle is None or forked():
            return
        with contextlib.suppress(RdmaError):  # another thread is closing it and has set `_final`
            self._final = self.stats, self.ordering, self.dump()
        _core.edge_close(handle)  # wakes every thread that waits in a call on it
        self._handle = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self._shape} {self._dtype}" if self._shape is not None else "dynamic"
        return f"<{type(self).__name__} {self.name!r}, {what}, {self._state()}>"

    def _state(self) -> str:
        handle = self._handle
        if handle is None:
            return "closed"
        return "open" if forked() else _core.edge_state(handle)

    # ---- errors explained ----

    def live(self) -> EdgeHandle:
        handle = self._handle
        if handle is None:
            raise self._closed_error("use an edge")
        return handle

    def _closed_error(self, what: str) -> RdmaError:
        return _core.failure(_core.CLOSED, what, repr(self), "it, its channel or its device was closed")

    def _refusal(self, status: int, what: str) -> RdmaError:
        """The exception for a negative status of a call, in the core's words."""
        handle = self._handle
        if handle is None or status == _core.FORKED:
            return _core.failure(_core.CLOSED if handle is None else status, what, repr(self), "it was closed")
        return _core.edge_refusal(handle, status, what, repr(self))


def make_terms(
    name: str,
    shape: int | Sequence[int] | None,
    dtype: object,
    options: EdgeOptions,
    *,
    receives: bool,
    eager_default: int = 0,
) -> EdgeTerms:
    """The terms that one end states for an edge, checked as far as possible here; the core checks
    the rest.
    """
    what, on = "make an edge", repr(name)
    if not isinstance(options, EdgeOptions):
        raise TypeError(f"options are an rdmatensor.EdgeOptions, not {options!r}")
    rank, flow, verify, ordering, stripes = (
        options.rank, options.flow, options.verify, options.ordering, options.stripes,
    )  # fmt: skip
    slots, alignment, loop_check = (options.slots, options.alignment, options.check_loop) if receives else (0, 0, False)

    eager = 0
    if receives and shape is None:
        eager = eager_default if options.eager is None else options.eager

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(what, on, why)

    for word, value, known in (("flow", flow, _core.FLOWS), ("ordering", ordering, _core.ORDERINGS)):
        if value not in known and not (word == "ordering" and value is None):
            raise refuse(f"{word} is one of {', '.join(known)}, not {value!r}")
    if verify not in (None, "crc32c"):
        raise refuse(f'verify is None or "crc32c", not {verify!r}')
    if loop_check and flow != "loop":
        raise refuse('check_loop finds broken promises of flow="loop", and this edge has credits: leave it out')
    for word, number in (("stripes", stripes), ("slots", slots), ("alignment", alignment), ("eager", eager)):
        if not isinstance(number, int) or not 0 <= number < 1 << 32:
            raise refuse(f"{word} is a whole number from 0, not {number!r}")
    if shape is not None:
        kind = as_dtype("float32" if dtype is None else dtype)
        sizes = as_shape(shape, kind)
        if rank not in (None, len(sizes)):
            raise refuse(f"a shape of rank {len(sizes)} is not a tensor of rank {rank}")
        edge_kind, code, rank = _core.STATIC, kind.code, len(sizes)
    else:
        if flow == "loop":
            raise refuse('flow="loop" needs a static edge, with its shape: the sender of a dynamic one must be told')
        edge_kind, sizes, code = _core.DYNAMIC, (), 0 if dtype is None else as_dtype(dtype).code
        rank = _core.RANK_ANY if rank is None else rank
        if not isinstance(rank, int) or not (0 <= rank <= 16 or rank == _core.RANK_ANY):
            raise refuse(f"rank is 0 to 16, or None for any, not {rank!r}")
    return _core.EdgeTerms(
        name=name_bytes(name),
        kind=edge_kind,
        shape=sizes,
        dtype=code,
        rank=rank,
        flow=_core.FLOWS[flow],
        ordering=0 if ordering is None else _core.ORDERINGS[ordering],
        verify=verify is not None,
        stripes=stripes,
        slots=slots,
        loop_check=loop_check,
        staging=options.staging and not receives,
        qp=-1 if options.qp is None or receives else options.qp,
        alignment=alignment,
        eager_size=eager,
    )


def warn_of_trust(edge: Edge) -> None:
    """Warns when the edge uses a tail that the provider does not promise, which is granted when
    asked for by name.
    """
    info = _core.edge_info(edge.live())
    if info.trusting:
        warnings.warn(f"{edge!r}: {info.ordering}", RuntimeWarning, stacklevel=3)
