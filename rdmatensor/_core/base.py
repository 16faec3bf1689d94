"""Handles, status codes, the mapping from status to exception, and helpers for calls into C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NewType, cast

from rdmatensor import errors
from rdmatensor._native import ffi, lib
from rdmatensor.locks import check_none_held
from rdmatensor.settings.config import debug_locks

DeviceHandle = NewType("DeviceHandle", object)
RegionHandle = NewType("RegionHandle", object)
ListenerHandle = NewType("ListenerHandle", object)
ChannelHandle = NewType("ChannelHandle", object)
RemoteHandle = NewType("RemoteHandle", object)
PreparedHandle = NewType("PreparedHandle", object)
EdgeHandle = NewType("EdgeHandle", object)
EdgeTensor = NewType("EdgeTensor", object)

SLICE_NS: int = lib.RT_SLICE_NS
HANDLE_SIZE_MAX = 160
COPY_SIZE: int = ffi.sizeof("rt_copy")
BLOCK_INDEX_BITS: int = lib.RT_BLOCK_INDEX_BITS
BLOCK_UNIT_BITS = 6  # a block's offset is in units of 64 bytes

WRITE: int = lib.RT_WRITE
READ: int = lib.RT_READ

OK: int = lib.RT_OK
AGAIN: int = lib.RT_E_AGAIN
INTERRUPTED: int = lib.RT_E_INTERRUPTED
DEADLINE: int = lib.RT_E_DEADLINE
BUSY: int = lib.RT_E_BUSY
CLOSED: int = lib.RT_E_CLOSED
BOUNDS: int = lib.RT_E_BOUNDS
OVERLAP: int = lib.RT_E_OVERLAP
ACCESS: int = lib.RT_E_ACCESS
INVALID: int = lib.RT_E_INVALID
NO_MEMORY: int = lib.RT_E_NO_MEMORY
NOT_FOUND: int = lib.RT_E_NOT_FOUND
EXISTS: int = lib.RT_E_EXISTS
REFUSED: int = lib.RT_E_REFUSED
UNSUPPORTED: int = lib.RT_E_UNSUPPORTED
CORRUPT: int = lib.RT_E_CORRUPT
PROTOCOL: int = lib.RT_E_PROTOCOL
VERSION: int = lib.RT_E_VERSION
FORKED: int = lib.RT_E_FORKED

# ---- failure ----

Kinds = Mapping[int, type[errors.RdmaError]]


def failure(
    status: int, what: str, on: str = "", why: str = "", *, kinds: Kinds | None = None, error_number: int = 0
) -> errors.RdmaError:
    """The exception for a status; `kinds` overrides errors.BY_STATUS for the statuses it names."""
    name = text_of(lib.rt_status_name(status))
    kind = (kinds or {}).get(status) or errors.BY_STATUS.get(name, errors.RdmaError)
    if status == FORKED:
        why = errors.ForkedProcessError.WHY
    return kind(what, on, why or name, status=name, error_number=error_number)


def check(detail: Any, status: int, what: str, on: str, kinds: Kinds | None = None) -> None:
    """Raises for a negative status, with the core's own words."""
    if status < 0:
        why = "it was closed meanwhile" if status == CLOSED and detail.status != CLOSED else text_of(detail.text)
        raise failure(status, what, on, why, kinds=kinds, error_number=detail.error_number)


def call(function: Callable[..., int], *arguments: object, what: str, on: str, kinds: Kinds | None = None) -> None:
    """A call whose last argument is the detail; raises when it fails."""
    detail = ffi.new("rt_detail *")
    check(detail, function(*arguments, detail), what, on, kinds)


def text_of(chars: Any) -> str:
    return cast(str, "" if chars == ffi.NULL else ffi.string(chars).decode("utf-8", "replace"))


process_forked: Callable[[], int] = lib.rt_process_forked

# ---- waiting ----

_DEBUG_LOCKS = debug_locks()


def until(
    device: DeviceHandle, step: Callable[[int], int], timeout_ns: int, gone: Callable[[], bool] | None = None
) -> int:
    """Calls `step(nanoseconds)` in slices until its status is final; AGAIN when the timeout is
    over.

    Python handles its signals between the slices. Gives CLOSED once `gone()` is true. Time is the
    device's.
    """
    now = lib.rt_device_now_ns
    deadline = now(device) + timeout_ns
    left = timeout_ns
    if _DEBUG_LOCKS:
        check_none_held("waiting")
    while True:
        status = step(left if left < SLICE_NS else SLICE_NS)
        if status not in (AGAIN, INTERRUPTED):
            return status
        if left <= 0:
            return AGAIN
        if gone is not None and gone():
            return CLOSED
        left = max(deadline - now(device), 0)


# ---- objects and structs ----


class Life:
    """Tells dependants whether their C object is gone: the garbage collector may finalize them after it."""

    __slots__ = ("ended", "kept")

    def __init__(self) -> None:
        self.ended = False
        self.kept: list[object] = []
        """Objects that must outlive the C object: buffers of the caller that a device may still
        touch.
        """


class Owner:
    """The place where a C call puts a new object, and the object's owner from that moment on. If
    the call is interrupted after C made the object and before a handle of it exists, nothing leaks.
    """

    __slots__ = ("__weakref__", "_out")

    def __init__(self, kind: str, drop: Callable[[Any], None], keep: object) -> None:
        def end(out: Any, _keep: object = keep) -> None:
            if out[0] != ffi.NULL:
                drop(out[0])

        self._out = ffi.gc(ffi.new(kind), end)

    @property
    def out(self) -> Any:
        """The out pointer, the last argument but one of the C call."""
        return self._out

    @property
    def filled(self) -> bool:
        return bool(self._out[0] != ffi.NULL)

    def handle(self) -> Any:
        """A handle that keeps the object alive. Several handles may exist; each of them keeps it."""

        def end(_pointer: object, _keep: object = self) -> None:
            pass

        return ffi.gc(self._out[0], end)


def pointer_of(handle: RegionHandle | RemoteHandle) -> int:
    """The C object's address, for an `rt_copy`."""
    return int(ffi.cast("uintptr_t", handle))


def values_of(kind: Any, out: Any) -> Any:
    """A dataclass made from the struct's members of the same names."""
    values = {name: getattr(out, name) for name in kind.__annotations__}
    return kind(
        **{name: bool(value) if kind.__annotations__[name] == "bool" else value for name, value in values.items()}
    )


def report(function: Callable[[Any, Any, int], int], handle: object) -> str:
    capacity = 8192
    while True:
        text = ffi.new("char[]", capacity)
        needed = function(handle, text, capacity)
        if needed < capacity:
            return text_of(text)
        capacity = needed + 1024  # it may grow meanwhile


def view(address: int, nbytes: int, keep: object) -> memoryview:
    """Memory as a writable view that keeps `keep` alive, as does everything made from it."""

    def release(_pointer: object, _keep: object = keep) -> None:
        pass

    return memoryview(ffi.buffer(ffi.gc(ffi.cast("char *", address), release), nbytes))


_cast, _buffer, _uintptr = ffi.cast, ffi.from_buffer, ffi.typeof("uintptr_t")


def address_of(owner: object) -> int:
    """The address of a contiguous buffer. ValueError or BufferError when it is not contiguous,
    TypeError when the object has no buffer.
    """
    return int(_cast(_uintptr, _buffer(owner)))
