"""What both ends of a tensor edge have in common."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument, RdmaError
from rdmatensor.fork import forked, refuse_fork
from rdmatensor.layout import DType, Shape, as_dtype, as_shape, dtype_of_code
from rdmatensor.rpc import name_bytes
from rdmatensor.stats import EdgeStats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rdmatensor._core import EdgeHandle, EdgeTerms
    from rdmatensor.device import Device

__all__ = ["Edge", "make_terms"]


class Edge(_core.QuickEdge):
    """One end of a named one-way path for tensors: a `SendEdge` or a `RecvEdge`. A context manager.

    Static when shape and element type are known before: a tensor is written straight into a slot at the receiver.
    Dynamic else: a record is written that names the tensor, and the receiver fetches it.
    """

    __slots__ = (
        "__weakref__",
        "_copied_bytes",
        "_copies",
        "_dtype",
        "_final",
        "_lock",
        "_registrations",
        "_shape",
        "device",
        "flow",
        "kind",
        "name",
    )

    _verb: ClassVar[str]

    def __init__(self, device: Device, handle: EdgeHandle, terms: EdgeTerms) -> None:
        self.device = device
        self.name = terms.name.decode()
        self.kind = "static" if terms.kind == _core.STATIC else "dynamic"
        self.flow = next(name for name, number in _core.FLOWS.items() if number == terms.flow)
        self._handle: EdgeHandle | None = handle
        self._shape: Shape | None = terms.shape if terms.kind == _core.STATIC else None
        self._dtype: DType | None = dtype_of_code(terms.dtype) if terms.dtype else None
        self._slice_ns = min(_core.SLICE_NS, device._timeout_ns)
        self._lock = threading.RLock()
        self._copies = self._copied_bytes = self._registrations = 0  # those that are made here and not in C
        self._final: tuple[EdgeStats, str, str] | None = None  # statistics, ordering and dump, once it is closed

    @property
    def shape(self) -> Shape | None:
        """Of every tensor of a static edge; None for a dynamic one."""
        return self._shape

    @property
    def dtype(self) -> str | None:
        """The element type by its name; None for a dynamic edge that takes every one."""
        return None if self._dtype is None else self._dtype.name

    @property
    def ordering(self) -> str:
        """How the flag that says "it is here" is carried, and why so: a sentence that begins with "tail", "chained" or
        "immediate" (RDMA-RULES 1 to 6). A receiver's is final once a sender has opened it.
        """
        handle = self._handle
        return self._final[1] if handle is None and self._final else _core.edge_info(self._live()).ordering

    @property
    def stats(self) -> EdgeStats:
        """Counters since the edge was made; those of a closed edge stand still."""
        refuse_fork("read the statistics", repr(self))
        handle = self._handle
        if handle is None and self._final:
            return self._final[0]
        values = _core.edge_stats(self._live())
        values["copies"] += self._copies
        values["copied_bytes"] += self._copied_bytes
        values["registrations"] += self._registrations
        return EdgeStats(**values)

    def _count_copy(self, nbytes: int) -> None:
        self._copies += 1
        self._copied_bytes += nbytes

    @property
    def failure(self) -> RdmaError | None:
        """What ended the edge, or None while it is up."""
        handle = self._handle
        return self._closed_error("use an edge") if handle is None else _core.edge_failure(handle, repr(self))

    def dump(self) -> str:
        """Who hangs? One line for people: what was last sent or received, expected and released."""
        refuse_fork("dump", repr(self))
        handle = self._handle
        return self._final[2] if handle is None and self._final else _core.edge_dump(self._live())

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Tells the peer; nothing more is sent or received. Twice is fine; in a forked child it does nothing.

        What was sent before still arrives. Tensors that were received stay readable as long as someone holds them.
        """
        with self._lock:
            handle = self._handle
            if handle is None or forked():
                return
            self._final = self.stats, self.ordering, self.dump()
            _core.edge_close(handle)
            self._handle = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self._shape} {self._dtype}" if self._shape is not None else "dynamic"
        return f"<{type(self).__name__} {self.name!r}, {what}, {'closed' if self._handle is None else 'open'}>"

    # ---- why not ----

    def _live(self) -> EdgeHandle:
        handle = self._handle
        if handle is None:
            raise self._closed_error("use an edge")
        return handle

    def _closed_error(self, what: str) -> RdmaError:
        return _core.failure(_core.CLOSED, what, repr(self), "it, its channel or its device was closed")

    def _refusal(self, status: int, what: str) -> RdmaError:
        """Why a call gave a negative status, in the core's words."""
        handle = self._handle
        if handle is None or status == _core.FORKED:
            return _core.failure(_core.CLOSED if handle is None else status, what, repr(self), "it was closed")
        return _core.edge_refusal(handle, status, what, repr(self))


def make_terms(
    name: str,
    *,
    shape: int | Sequence[int] | None,
    dtype: object,
    rank: int | None,
    flow: str,
    verify: str | None,
    ordering: str | None,
    stripes: int,
    slots: int = 0,
    loop_check: bool = False,
    staging: bool = False,
    qp: int | None = None,
    alignment: int = 0,
    eager: int = 0,
) -> EdgeTerms:
    """The words of an edge, checked as far as they can be here; the core checks the rest."""
    what, on = "make an edge", repr(name)

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(what, on, why)

    for word, value, known in (("flow", flow, _core.FLOWS), ("ordering", ordering, _core.ORDERINGS)):
        if value not in known and not (word == "ordering" and value is None):
            raise refuse(f"{word} is one of {', '.join(known)}, not {value!r}")
    if verify not in (None, "crc32c"):
        raise refuse(f'verify is None or "crc32c", not {verify!r}')
    if loop_check and flow != "loop":
        raise refuse('check_loop looks for a broken promise of flow="loop"; with credits there is none')
    for word, number in (("stripes", stripes), ("slots", slots), ("alignment", alignment), ("eager", eager)):
        if not isinstance(number, int) or not 0 <= number < 1 << 32:
            raise refuse(f"{word} is a whole number from 0, not {number!r}")
    if shape is not None:
        kind = as_dtype("float32" if dtype is None else dtype)
        sizes = as_shape(shape, kind)
        if rank not in (None, len(sizes)):
            raise refuse(f"a shape of rank {len(sizes)} is no tensor of rank {rank}")
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
        staging=staging,
        qp=-1 if qp is None else qp,
        alignment=alignment,
        eager_size=eager,
    )


def warn_of_trust(edge: Edge) -> None:
    """A tail that the provider does not promise is granted to who asks for it by name, and said aloud."""
    info = _core.edge_info(edge._live())
    if info.trusting:
        warnings.warn(f"{edge!r}: {info.ordering}", RuntimeWarning, stacklevel=3)
