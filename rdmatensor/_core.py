"""The only importer of the compiled module: one typed function per call of the C interface, and status → exception.

Not here: objects, policy, waiting for longer than one slice (`until` loops over slices so that signals are handled).
Other half: csrc/rdmatensor.h.

Handles are opaque. Each owns its C object: when the last reference goes, the object is dropped, and a handle holds
the handle of the device it belongs to. So a call that another thread is inside keeps everything it uses alive, and
nothing on the hot path counts or locks. Closing means to forget the handle; a call without one fails in cffi
(TypeError), which callers explain. The garbage collector may end handles that it finds together in any order: what C
does not bear, a `Life` tells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NewType, cast

from rdmatensor import errors, fork
from rdmatensor._native import ffi, lib
from rdmatensor.life import Life
from rdmatensor.limits import Limits
from rdmatensor.stats import ChannelStats, DeviceStats, RegionStats

DeviceHandle = NewType("DeviceHandle", object)
RegionHandle = NewType("RegionHandle", object)
ListenerHandle = NewType("ListenerHandle", object)
ChannelHandle = NewType("ChannelHandle", object)
RemoteHandle = NewType("RemoteHandle", object)
PreparedHandle = NewType("PreparedHandle", object)

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
PROTOCOL: int = lib.RT_E_PROTOCOL
VERSION: int = lib.RT_E_VERSION
FORKED: int = lib.RT_E_FORKED

CHANNEL_STATES = ("connecting", "ready", "closed", "failed")  # by rt_channel_state
WAIT_POLICIES: Mapping[str, int] = {
    name: getattr(lib, f"RT_WAIT_{name.upper()}") for name in ("adaptive", "spin", "yield", "block")
}
HUGE_PAGES: Mapping[str, int] = {"auto": lib.RT_HUGE_AUTO, "off": lib.RT_HUGE_OFF, "require": lib.RT_HUGE_REQUIRE}

# ---- failure ----

Kinds = Mapping[int, type[errors.RdmaError]]


def failure(
    status: int, what: str, on: str = "", why: str = "", *, kinds: Kinds | None = None, error_number: int = 0
) -> errors.RdmaError:
    """The exception for a status; `kinds` says what some mean in this call instead of what errors.BY_STATUS says."""
    name = _text(lib.rt_status_name(status))
    kind = (kinds or {}).get(status) or errors.BY_STATUS.get(name, errors.RdmaError)
    if status == FORKED:
        why = fork.WHY
    return kind(what, on, why or name, status=name, error_number=error_number)


def _raise(detail: Any, status: int, what: str, on: str, kinds: Kinds | None = None) -> None:
    """Raises for a negative status, with the core's own words."""
    if status < 0:
        why = "it was closed meanwhile" if status == CLOSED and detail.status != CLOSED else _text(detail.text)
        raise failure(status, what, on, why, kinds=kinds, error_number=detail.error_number)


def _call(function: Callable[..., int], *arguments: object, what: str, on: str, kinds: Kinds | None = None) -> None:
    """A call whose last argument is the detail; raises when it fails."""
    detail = ffi.new("rt_detail *")
    _raise(detail, function(*arguments, detail), what, on, kinds)


def _text(chars: Any) -> str:
    return cast(str, "" if chars == ffi.NULL else ffi.string(chars).decode("utf-8", "replace"))


# ---- waiting ----


def until(
    device: DeviceHandle, step: Callable[[int], int], timeout_ns: int, gone: Callable[[], bool] | None = None
) -> int:
    """Calls `step(nanoseconds)` slice by slice until it gives something else than "not yet", or time is up: then AGAIN.

    Between the slices Python handles its signals, and CLOSED is given once `gone()`. Time is the device's.
    """
    now = lib.rt_device_now_ns
    deadline = now(device) + timeout_ns
    left = timeout_ns
    while True:
        status = step(left if left < SLICE_NS else SLICE_NS)
        if status not in (AGAIN, INTERRUPTED):
            return status
        if left <= 0:
            return AGAIN
        if gone is not None and gone():
            return CLOSED
        left = max(deadline - now(device), 0)


# ---- providers ----


def provider_names() -> list[str]:
    """All providers of this build, in the order in which auto:// tries them, then the others."""
    return [_text(lib.rt_provider_name_at(index)) for index in range(lib.rt_provider_count())]


def provider_why_not(provider: str) -> str:
    """Empty when the provider can be used on this machine, else why not."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_provider_viable(provider.encode(), detail)
    return "" if status == OK else _text(detail.text) or _text(lib.rt_status_name(status))


def provider_list(provider: str) -> list[tuple[str, str, Limits]]:
    """Name, state in words and limits of each device of a provider."""
    detail, capacity = ffi.new("rt_detail *"), 16
    while True:
        entries = ffi.new("rt_device_entry[]", capacity)
        count = lib.rt_provider_list(provider.encode(), entries, capacity, detail)
        _raise(detail, count, "list the devices", provider)
        if count <= capacity:
            return [
                (_text(entry.name), _text(entry.state), _values(Limits, entry.limits)) for entry in entries[0:count]
            ]
        capacity = count


def provider_command(provider: str, text: str) -> str:
    """Gives a provider a command for its fault plan; returns its reply."""
    detail, reply = ffi.new("rt_detail *"), ffi.new("char[]", 4096)
    status = lib.rt_provider_command(provider.encode(), text.encode(), reply, 4096, detail)
    _raise(detail, status, f"command {text!r}", provider)
    return _text(reply)


# ---- device ----


def device_open(
    provider: str, name: str, arguments: str, numbers: tuple[int, int, int, int], life: Life, kinds: Kinds
) -> DeviceHandle:
    """Opens a device; `numbers` are queues, QPs per peer, pollers and the wait policy.

    It closes when the handle and all handles of its channels, remotes and listeners are gone.
    """
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_device **")
    texts = [ffi.new("char[]", text.encode()) for text in (provider, name, arguments)]
    options = ffi.new("rt_device_options *", [*texts, *numbers])
    _raise(detail, lib.rt_device_open(options, out, detail), "open a device", f"{provider}://{name}", kinds)

    def end(device: Any, close: Callable[[Any], None] = lib.rt_device_close) -> None:
        close(device)
        life.ended = True
        life.kept.clear()

    return cast(DeviceHandle, ffi.gc(out[0], end))


def device_provider(device: DeviceHandle) -> str:
    return _text(lib.rt_device_provider(device))


def device_name(device: DeviceHandle) -> str:
    return _text(lib.rt_device_name(device))


def device_id(device: DeviceHandle) -> bytes:
    out = ffi.new("uint8_t[16]")
    lib.rt_device_id(device, out)
    return bytes(out)


def device_limits(device: DeviceHandle) -> Limits:
    out = ffi.new("rt_device_limits *")
    lib.rt_device_get_limits(device, out)
    return cast(Limits, _values(Limits, out))


def _values(kind: Any, out: Any) -> Any:
    """A dataclass of the struct's members of the same names."""
    values = {name: getattr(out, name) for name in kind.__annotations__}
    return kind(
        **{name: bool(value) if kind.__annotations__[name] == "bool" else value for name, value in values.items()}
    )


def device_stats(device: DeviceHandle) -> DeviceStats:
    out = ffi.new("rt_device_stats *")
    lib.rt_device_get_stats(device, out)
    return cast(DeviceStats, _values(DeviceStats, out))


def _report(function: Callable[[Any, Any, int], int], handle: object) -> str:
    capacity = 8192
    while True:
        text = ffi.new("char[]", capacity)
        needed = function(handle, text, capacity)
        if needed < capacity:
            return _text(text)
        capacity = needed + 1024  # it may grow meanwhile


device_queues: Callable[[DeviceHandle], int] = lib.rt_device_queues
device_qps_per_peer: Callable[[DeviceHandle], int] = lib.rt_device_qps_per_peer
device_dump: Callable[[DeviceHandle], str] = partial(_report, lib.rt_device_dump)
device_now_ns: Callable[[DeviceHandle], int] = lib.rt_device_now_ns
device_progress: Callable[[DeviceHandle], int] = lib.rt_device_progress
device_event_fd: Callable[[DeviceHandle], int] = lib.rt_device_event_fd
device_arm: Callable[[DeviceHandle], int] = lib.rt_device_arm

# ---- region ----


def region_create(device: DeviceHandle, nbytes: int, rights: int, huge_pages: int, life: Life, on: str) -> RegionHandle:
    """Registers new memory. Its memory goes when the handle is gone."""
    out, what = ffi.new("rt_region **"), f"register a region of {nbytes} bytes"
    _call(lib.rt_region_create, device, nbytes, rights, huge_pages, out, what=what, on=on)
    return _region(out[0], life, None, life)


def _region(pointer: Any, life: Life, lock: object, device_life: Life) -> RegionHandle:
    close, drop, null = lib.rt_region_close, lib.rt_region_drop, ffi.NULL

    def end(region: Any) -> None:
        if close(region, null) == BUSY and lock is not None:
            device_life.kept.append(lock)
        life.ended = True
        drop(region)

    return cast(RegionHandle, ffi.gc(pointer, end))


def region_adopt(
    device: DeviceHandle, owner: object, writable: bool, rights: int, life: Life, device_life: Life, on: str
) -> RegionHandle:
    """Registers memory of the caller, which `memory.probe` has looked at.

    The owner's buffer stays locked as long as the registration lives; if copies are still under way when the handle
    goes, as long as the device.
    """
    out, lock = ffi.new("rt_region **"), ffi.from_buffer(owner, require_writable=writable)
    address, size, what = ffi.cast("void *", lock), len(lock), "register memory of the caller"
    _call(lib.rt_region_adopt, device, address, size, rights, out, what=what, on=on)
    return _region(out[0], life, lock, device_life)


def region_close(region: RegionHandle, on: str) -> None:
    """Ends the registration; RegionBusy while copies use it. The memory stays readable until the handle is gone."""
    with contextlib.suppress(errors.ClosedError):  # by its device
        _call(lib.rt_region_close, region, what="close a region", on=on)


def region_stats(region: RegionHandle) -> RegionStats:
    out = ffi.new("rt_region_stats *")
    lib.rt_region_get_stats(region, out)
    return cast(RegionStats, _values(RegionStats, out))


def region_handle(region: RegionHandle, offset: int, nbytes: int, on: str) -> bytes:
    """The bytes that let a peer reach this range."""
    out, size, what = ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *"), f"make a handle of {nbytes} bytes"
    _call(lib.rt_region_handle, region, offset, nbytes, out, size, what=what, on=on)
    return bytes(ffi.buffer(out, size[0]))


region_address: Callable[[RegionHandle], int] = lib.rt_region_address
region_size: Callable[[RegionHandle], int] = lib.rt_region_size
region_allocate: Callable[[RegionHandle, int, int], int] = lib.rt_region_allocate
region_free: Callable[[RegionHandle, int], int] = lib.rt_region_free


def pointer_of(handle: RegionHandle | RemoteHandle) -> int:
    """The C object's address, for an `rt_copy`."""
    return int(ffi.cast("uintptr_t", handle))


def view(address: int, nbytes: int, keep: object) -> memoryview:
    """Memory as a writable view that keeps `keep` alive, as does everything made from it."""

    def release(_pointer: object, _keep: object = keep) -> None:
        pass

    return memoryview(ffi.buffer(ffi.gc(ffi.cast("char *", address), release), nbytes))


# ---- listener ----


def _at(call: Callable[..., int], kind: str, device: Any, address: str, secret: bytes, ns: int, what: str) -> Any:
    """What opens at an address. Its name may have to be resolved first, for which C asks to be called again."""
    detail, out, text = ffi.new("rt_detail *"), ffi.new(kind), address.encode()
    status = until(device, lambda _ns: call(device, text, secret, len(secret), out, detail), ns)
    _raise(detail, DEADLINE if status == AGAIN else status, what, address)
    return out[0]


def listener_open(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ListenerHandle:
    opened = _at(lib.rt_listener_open, "rt_listener **", device, address, secret, timeout_ns, "listen")
    return cast(ListenerHandle, _owned(opened, lib.rt_listener_close, device))


def listener_address(listener: ListenerHandle) -> str:
    return _text(lib.rt_listener_address(listener))


def listener_accept(
    device: DeviceHandle, listener: ListenerHandle, timeout_ns: int, gone: Callable[[], bool], on: str, why_late: str
) -> ChannelHandle:
    """The next channel; DeadlineExceeded with `why_late` when none came in time."""
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_channel **")
    status = until(device, lambda ns: cast(int, lib.rt_listener_accept(listener, ns, out, detail)), timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "accept a channel", on, why_late)
    _raise(detail, status, "accept a channel", on)
    return cast(ChannelHandle, _owned(out[0], lib.rt_channel_drop, device))


def listener_refusal(listener: ListenerHandle) -> str | None:
    """Why someone was turned away, oldest first; None when there is no one left to tell of."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_listener_refusal(listener, detail)
    return None if status in (AGAIN, CLOSED) else _text(detail.text)


def _owned(pointer: Any, drop: Callable[[Any], None], keep: object) -> Any:
    """A handle that drops its object, and then lets go of the handles of what that is part of."""

    def end(ended: Any, _keep: object = keep) -> None:
        drop(ended)

    return ffi.gc(pointer, end)


# ---- channel ----


def channel_connect(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ChannelHandle:
    """Begins to connect."""
    begun = _at(lib.rt_channel_connect, "rt_channel **", device, address, secret, timeout_ns, "connect")
    return cast(ChannelHandle, _owned(begun, lib.rt_channel_drop, device))


def channel_wait_ready(
    device: DeviceHandle, channel: ChannelHandle, timeout_ns: int, gone: Callable[[], bool], on: str, why_late: str
) -> None:
    """Waits until the channel is ready."""
    detail = ffi.new("rt_detail *")
    status = until(device, lambda ns: cast(int, lib.rt_channel_wait_ready(channel, ns, detail)), timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "connect", on, why_late)
    _raise(detail, status, "connect", on)


def channel_state(channel: ChannelHandle) -> str:
    return CHANNEL_STATES[lib.rt_channel_state(channel)]


def channel_failure(channel: ChannelHandle) -> tuple[int, str]:
    """The status that ended the channel, or OK, and why."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_channel_failure(channel, detail)
    return status, _text(detail.text)


def channel_peer(channel: ChannelHandle) -> str:
    return _text(lib.rt_channel_peer(channel))


def channel_stats(channel: ChannelHandle) -> ChannelStats:
    out = ffi.new("rt_channel_stats *")
    lib.rt_channel_get_stats(channel, out)
    return cast(ChannelStats, _values(ChannelStats, out))


# ---- the data path: as they are in C, bound once ----

channel_copy: Callable[[ChannelHandle, int, int, RemoteHandle, int, RegionHandle, int, int, int], int] = (
    lib.rt_channel_copy
)
channel_wait_word: Callable[[ChannelHandle, RegionHandle, int, int, int], int] = lib.rt_channel_wait_word
channel_qps: Callable[[ChannelHandle], int] = lib.rt_channel_qps
channel_queue_of: Callable[[ChannelHandle, int], int] = lib.rt_channel_queue_of
channel_close: Callable[[ChannelHandle], None] = lib.rt_channel_close
channel_dump: Callable[[ChannelHandle], str] = partial(_report, lib.rt_channel_dump)
channel_quiet: Callable[[ChannelHandle], int] = lib.rt_channel_quiet
prepared_run: Callable[[PreparedHandle], int] = lib.rt_prepared_run
prepared_start: Callable[[PreparedHandle], int] = lib.rt_prepared_start
op_wait: Callable[[ChannelHandle, int, int], int] = lib.rt_op_wait


def channel_copy_many(channel: ChannelHandle, qp: int, packed: bytes, count: int, timeout_ns: int) -> tuple[int, int]:
    """Copies many; `packed` must live until the operation ended. Gives it, or the status, and which copy is bad."""
    assert len(packed) == count * COPY_SIZE
    bad = ffi.new("uint64_t *")
    op = lib.rt_channel_copy_many(channel, qp, ffi.from_buffer("rt_copy[]", packed), count, timeout_ns, bad)
    return op, bad[0]


def prepared_create(
    device: DeviceHandle, channel: ChannelHandle, qp: int, packed: bytes, count: int, device_life: Life
) -> tuple[PreparedHandle | None, int, int]:
    """Binds copies. Gives the handle (None when it failed), the status and the index of a bad copy."""
    assert len(packed) == count * COPY_SIZE
    bad, out = ffi.new("uint64_t *"), ffi.new("rt_prepared **")
    copies = ffi.from_buffer("rt_copy[]", packed)
    status = lib.rt_prepared_create(channel, qp, copies, count, out, bad)
    if status != OK:
        return None, status, bad[0]

    def drop(ended: Any, end: Callable[[Any], None] = lib.rt_prepared_drop) -> None:
        if not device_life.ended:  # it counts down in regions, which the device has freed
            end(ended)

    return cast(PreparedHandle, _owned(out[0], drop, (channel, device))), OK, 0


def op_release(channel: ChannelHandle, op: int) -> tuple[int, str]:
    """Ends the interest in an operation. Gives its status, and why it failed; AGAIN: it was not done, and is
    abandoned.
    """
    detail = ffi.new("rt_detail *")
    status = lib.rt_op_release(channel, op, detail)
    return status, _text(detail.text)


# ---- address distribution ----


def device_publish(device: DeviceHandle, name: bytes, region: RegionHandle, offset: int, nbytes: int, on: str) -> None:
    _call(lib.rt_device_publish, device, name, region, offset, nbytes, what="publish", on=on)


def device_unpublish(device: DeviceHandle, name: bytes, on: str) -> None:
    _call(lib.rt_device_unpublish, device, name, what="unpublish", on=on)


def lookup(device: DeviceHandle, channel: ChannelHandle, name: bytes, timeout_ns: int, grace_ns: int, on: str) -> bytes:
    """Asks the peer for the handle under a name. The peer waits `timeout_ns`; its answer may take `grace_ns` more."""
    detail, out, size = ffi.new("rt_detail *"), ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *")
    number = until(device, lambda _ns: cast(int, lib.rt_lookup_start(channel, name, timeout_ns, detail)), 0)
    _raise(detail, number, "look up", on)
    try:
        status = until(
            device,
            lambda ns: cast(int, lib.rt_lookup_wait(channel, number, ns, out, size, detail)),
            timeout_ns + grace_ns,
        )
    finally:
        lib.rt_lookup_release(channel, number)
    if status == AGAIN:
        raise failure(DEADLINE, "look up", on, "the peer did not answer in time")
    _raise(detail, status, "look up", on)
    return bytes(ffi.buffer(out, size[0]))


# ---- remote ----


def remote_attach(
    device: DeviceHandle, channel: ChannelHandle, handle: bytes, timeout_ns: int, on: str
) -> RemoteHandle:
    """Makes the range of a handle usable through the channel."""
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_remote **")
    status = until(
        device, lambda ns: cast(int, lib.rt_remote_attach(channel, handle, len(handle), ns, out, detail)), timeout_ns
    )
    if status == AGAIN:
        raise failure(DEADLINE, "attach a handle", on, "the peer's memory could not be reached in time")
    kinds = {PROTOCOL: errors.InvalidArgument, VERSION: errors.InvalidArgument}
    _raise(detail, status, "attach a handle", on, kinds)
    return cast(RemoteHandle, _owned(out[0], lib.rt_remote_drop, (channel, device)))


remote_size: Callable[[RemoteHandle], int] = lib.rt_remote_size
remote_rights: Callable[[RemoteHandle], int] = lib.rt_remote_rights
remote_address: Callable[[RemoteHandle], int] = lib.rt_remote_address
"""Where the peer's range can be read in place; 0 where it cannot."""
