"""Listeners, channels, their copies, and the memory of a peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from rdmatensor import errors
from rdmatensor._core.base import (
    AGAIN,
    CLOSED,
    COPY_SIZE,
    DEADLINE,
    HANDLE_SIZE_MAX,
    OK,
    PROTOCOL,
    VERSION,
    ChannelHandle,
    DeviceHandle,
    ListenerHandle,
    PreparedHandle,
    RegionHandle,
    RemoteHandle,
    check,
    failure,
    owned,
    report,
    text_of,
    until,
    values_of,
)
from rdmatensor._native import ffi, lib
from rdmatensor.life import Life
from rdmatensor.stats import ChannelStats

CHANNEL_STATES = ("connecting", "ready", "closed", "failed")  # by rt_channel_state

# ---- listener ----


def _at(begin: Callable[..., int], kind: str, device: Any, address: str, secret: bytes, ns: int, what: str) -> Any:
    """What opens at an address. Its name may have to be resolved first, for which C asks to be called again."""
    detail, out, text = ffi.new("rt_detail *"), ffi.new(kind), address.encode()
    status = until(device, lambda _ns: begin(device, text, secret, len(secret), out, detail), ns)
    check(detail, DEADLINE if status == AGAIN else status, what, address)
    return out[0]


def listener_open(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ListenerHandle:
    opened = _at(lib.rt_listener_open, "rt_listener **", device, address, secret, timeout_ns, "listen")
    return cast(ListenerHandle, owned(opened, lib.rt_listener_close, device))


def listener_address(listener: ListenerHandle) -> str:
    return text_of(lib.rt_listener_address(listener))


def listener_accept(
    device: DeviceHandle, listener: ListenerHandle, timeout_ns: int, gone: Callable[[], bool], on: str, why_late: str
) -> ChannelHandle:
    """The next channel; DeadlineExceeded with `why_late` when none came in time."""
    detail, out = ffi.new("rt_detail *"), ffi.new("rt_channel **")
    status = until(device, lambda ns: cast(int, lib.rt_listener_accept(listener, ns, out, detail)), timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "accept a channel", on, why_late)
    check(detail, status, "accept a channel", on)
    return cast(ChannelHandle, owned(out[0], lib.rt_channel_drop, device))


def listener_refusal(listener: ListenerHandle) -> str | None:
    """Why someone was turned away, oldest first; None when there is no one left to tell of."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_listener_refusal(listener, detail)
    return None if status in (AGAIN, CLOSED) else text_of(detail.text)


# ---- channel ----


def channel_connect(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ChannelHandle:
    """Begins to connect."""
    begun = _at(lib.rt_channel_connect, "rt_channel **", device, address, secret, timeout_ns, "connect")
    return cast(ChannelHandle, owned(begun, lib.rt_channel_drop, device))


def channel_wait_ready(
    device: DeviceHandle, channel: ChannelHandle, timeout_ns: int, gone: Callable[[], bool], on: str, why_late: str
) -> None:
    """Waits until the channel is ready."""
    detail = ffi.new("rt_detail *")
    status = until(device, lambda ns: cast(int, lib.rt_channel_wait_ready(channel, ns, detail)), timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "connect", on, why_late)
    check(detail, status, "connect", on)


def channel_state(channel: ChannelHandle) -> str:
    return CHANNEL_STATES[lib.rt_channel_state(channel)]


def channel_failure(channel: ChannelHandle) -> tuple[int, str]:
    """The status that ended the channel, or OK, and why."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_channel_failure(channel, detail)
    return status, text_of(detail.text)


def channel_peer(channel: ChannelHandle) -> str:
    return text_of(lib.rt_channel_peer(channel))


def channel_peer_id(channel: ChannelHandle) -> bytes:
    out = ffi.new("uint8_t[16]")
    lib.rt_channel_peer_id(channel, out)
    return bytes(out)


def channel_stats(channel: ChannelHandle) -> ChannelStats:
    out = ffi.new("rt_channel_stats *")
    lib.rt_channel_get_stats(channel, out)
    return cast(ChannelStats, values_of(ChannelStats, out))


# ---- the data path: as they are in C, bound once ----

channel_copy: Callable[[ChannelHandle, int, int, RemoteHandle, int, RegionHandle, int, int, int], int] = (
    lib.rt_channel_copy
)
channel_wait_word: Callable[[ChannelHandle, RegionHandle, int, int, int], int] = lib.rt_channel_wait_word
channel_qps: Callable[[ChannelHandle], int] = lib.rt_channel_qps
channel_queue_of: Callable[[ChannelHandle, int], int] = lib.rt_channel_queue_of
channel_close: Callable[[ChannelHandle], None] = lib.rt_channel_close
channel_dump: Callable[[ChannelHandle], str] = partial(report, lib.rt_channel_dump)
channel_quiet: Callable[[ChannelHandle], int] = lib.rt_channel_quiet
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

    return cast(PreparedHandle, owned(out[0], drop, (channel, device))), OK, 0


def channel_pointer(channel: ChannelHandle) -> int:
    """The C object's address, for `QuickChannel`."""
    return int(ffi.cast("uintptr_t", channel))


def prepared_pointer(prepared: PreparedHandle) -> int:
    """The C object's address, for `QuickPrepared`."""
    return int(ffi.cast("uintptr_t", prepared))


def op_release(channel: ChannelHandle, op: int) -> tuple[int, str]:
    """Ends the interest in an operation. Gives its status, and why it failed; AGAIN: it was not done, and is
    abandoned.
    """
    detail = ffi.new("rt_detail *")
    status = lib.rt_op_release(channel, op, detail)
    return status, text_of(detail.text)


# ---- memory of the peer ----


def lookup(device: DeviceHandle, channel: ChannelHandle, name: bytes, timeout_ns: int, grace_ns: int, on: str) -> bytes:
    """Asks the peer for the handle under a name. The peer waits `timeout_ns`; its answer may take `grace_ns` more."""
    detail, out, size = ffi.new("rt_detail *"), ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *")
    number = until(device, lambda _ns: cast(int, lib.rt_lookup_start(channel, name, timeout_ns, detail)), 0)
    check(detail, number, "look up", on)
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
    check(detail, status, "look up", on)
    return bytes(ffi.buffer(out, size[0]))


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
    check(detail, status, "attach a handle", on, kinds)
    return cast(RemoteHandle, owned(out[0], lib.rt_remote_drop, (channel, device)))


remote_size: Callable[[RemoteHandle], int] = lib.rt_remote_size
remote_rights: Callable[[RemoteHandle], int] = lib.rt_remote_rights
remote_address: Callable[[RemoteHandle], int] = lib.rt_remote_address
"""Where the peer's range can be read in place; 0 where it cannot."""
