"""Listeners, channels, their copies, and the memory of a peer."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from rdmatensor import errors
from rdmatensor._core.base import (
    AGAIN,
    CLOSED,
    COPY_SIZE,
    DEADLINE,
    EXISTS,
    HANDLE_SIZE_MAX,
    NOT_FOUND,
    OK,
    PROTOCOL,
    VERSION,
    ChannelHandle,
    DeviceHandle,
    Life,
    ListenerHandle,
    Owner,
    PreparedHandle,
    RegionHandle,
    RemoteHandle,
    call,
    check,
    failure,
    report,
    text_of,
    until,
    values_of,
)
from rdmatensor._native import Held, ffi, hold, lib
from rdmatensor.stats import ChannelStats

CHANNEL_STATES = ("connecting", "ready", "closed", "failed")  # by rt_channel_state

_OF_ADDRESSES = {NOT_FOUND: errors.AddressError, EXISTS: errors.AddressError}

# ---- listener ----


def _at(begin: Callable[..., int], owner: Owner, device: Any, address: str, secret: bytes, ns: int, what: str) -> Any:
    """The object that `begin` opens at an address. C asks to be called again while it resolves the
    name.
    """
    detail, text = ffi.new("rt_detail *"), address.encode()
    status = until(device, lambda _ns: begin(device, text, secret, len(secret), owner.out, detail), ns)
    check(detail, DEADLINE if status == AGAIN else status, what, address, _OF_ADDRESSES)
    return owner.handle()


def listener_open(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ListenerHandle:
    owner = Owner("rt_listener **", lib.rt_listener_close, device)
    return cast(ListenerHandle, _at(lib.rt_listener_open, owner, device, address, secret, timeout_ns, "listen"))


def listener_address(listener: ListenerHandle) -> str:
    return text_of(lib.rt_listener_address(listener))


def channel_owner(device: DeviceHandle) -> Owner:
    """The owner for a channel of the device that is yet to be made."""
    return Owner("rt_channel **", lib.rt_channel_drop, device)


def listener_accept(
    device: DeviceHandle, listener: ListenerHandle, owner: Owner, step: Callable[[], bool], timeout_ns: int,
    gone: Callable[[], bool], on: str, why_late: str,
) -> None:  # fmt: skip
    """Waits until the next channel is in `owner`, or until `step()` is true. DeadlineExceeded with
    `why_late` when neither happens in time.
    """
    detail = ffi.new("rt_detail *")

    def look(ns: int) -> int:
        return OK if owner.filled or step() else cast(int, lib.rt_listener_accept(listener, ns, owner.out, detail))

    status = until(device, look, timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "accept a channel", on, why_late)
    check(detail, status, "accept a channel", on)


def listener_refusal(listener: ListenerHandle) -> str | None:
    """The reason for the oldest refusal not reported yet; None when there is none."""
    detail = ffi.new("rt_detail *")
    status = lib.rt_listener_refusal(listener, detail)
    return None if status in (AGAIN, CLOSED) else text_of(detail.text)


# ---- channel ----


def channel_connect(device: DeviceHandle, address: str, secret: bytes, timeout_ns: int) -> ChannelHandle:
    """Starts to connect and returns at once."""
    begun = _at(lib.rt_channel_connect, channel_owner(device), device, address, secret, timeout_ns, "connect")
    return cast(ChannelHandle, begun)


def channel_wait_ready(
    device: DeviceHandle, channel: ChannelHandle, timeout_ns: int, gone: Callable[[], bool], on: str, why_late: str
) -> None:
    """Waits until the channel is ready."""
    detail = ffi.new("rt_detail *")
    status = until(device, lambda ns: cast(int, lib.rt_channel_wait_ready(channel, ns, detail)), timeout_ns, gone)
    if status == AGAIN:
        raise failure(DEADLINE, "connect", on, why_late)
    check(detail, status, "connect", on)


def channel_unanswered(channel: ChannelHandle) -> bool:
    """Whether the channel failed before the other end sent a byte, so that a retry may help."""
    return bool(lib.rt_channel_unanswered(channel))


def channel_state(channel: ChannelHandle) -> str:
    return CHANNEL_STATES[lib.rt_channel_state(channel)]


def channel_failure(channel: ChannelHandle) -> tuple[int, str]:
    """The status that ended the channel (OK while it is up) and the reason."""
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


# ---- the data path: the C functions themselves, bound once ----

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


def channel_copy_many(
    owner: object, keep: object, channel: ChannelHandle, qp: int, packed: bytes, count: int, timeout_ns: int
) -> tuple[int | Held, int]:
    """Copies many. Gives the operation, which keeps `packed` alive, or a status; and the index of
    the bad copy.

    `owner` is the channel.
    """
    assert len(packed) == count * COPY_SIZE
    bad, copies = ffi.new("uint64_t *"), ffi.from_buffer("rt_copy[]", packed)
    op = hold(owner, (keep, packed), False, lib.rt_channel_copy_many, channel, qp, copies, count, timeout_ns, bad)
    return op, bad[0]


def prepared_create(
    device: DeviceHandle, channel: ChannelHandle, qp: int, packed: bytes, count: int, device_life: Life
) -> tuple[PreparedHandle | None, int, int]:
    """Binds copies. Gives the handle (None when it failed), the status and the index of a bad copy."""
    assert len(packed) == count * COPY_SIZE

    def drop(ended: Any, end: Callable[[Any], None] = lib.rt_prepared_drop) -> None:
        if not device_life.ended:  # it decrements counts in regions; the device has freed those
            end(ended)

    bad, owner = ffi.new("uint64_t *"), Owner("rt_prepared **", drop, (channel, device))
    status = lib.rt_prepared_create(channel, qp, ffi.from_buffer("rt_copy[]", packed), count, owner.out, bad)
    return (cast(PreparedHandle, owner.handle()), OK, 0) if status == OK else (None, status, bad[0])


def channel_pointer(channel: ChannelHandle) -> int:
    """The C object's address, for `QuickChannel`."""
    return int(ffi.cast("uintptr_t", channel))


def prepared_pointer(prepared: PreparedHandle) -> int:
    """The C object's address, for `QuickPrepared`."""
    return int(ffi.cast("uintptr_t", prepared))


# ---- names for the peer alone ----


def channel_publish(
    channel: ChannelHandle, name: bytes, region: RegionHandle, offset: int, nbytes: int, on: str
) -> None:
    call(lib.rt_channel_publish, channel, name, region, offset, nbytes, what="publish", on=on)


def channel_unpublish(channel: ChannelHandle, name: bytes, on: str) -> None:
    call(lib.rt_channel_unpublish, channel, name, what="unpublish", on=on)


# ---- memory of the peer ----


def lookup(
    owner: object, device: DeviceHandle, channel: ChannelHandle, name: bytes, timeout_ns: int, grace_ns: int, on: str
) -> bytes:
    """Asks the peer for the handle under a name. The peer waits `timeout_ns`; its answer may take
    `grace_ns` longer.
    """
    detail, out, size = ffi.new("rt_detail *"), ffi.new("uint8_t[]", HANDLE_SIZE_MAX), ffi.new("size_t *")
    asked = hold(owner, None, True, lib.rt_lookup_start, channel, name, timeout_ns, detail)
    deadline = time.monotonic_ns() + timeout_ns
    while asked == AGAIN and time.monotonic_ns() < deadline:
        asked = hold(owner, None, True, lib.rt_lookup_start, channel, name, timeout_ns, detail)
    if isinstance(asked, int):
        check(detail, asked, "look up", on)
        raise AssertionError("a lookup has a number")
    number = asked.number
    status = until(
        device, lambda ns: cast(int, lib.rt_lookup_wait(channel, number, ns, out, size, detail)), timeout_ns + grace_ns
    )
    del asked  # the lookup ends, here or where the call is interrupted
    if status == AGAIN:
        raise failure(DEADLINE, "look up", on, "the peer did not answer in time")
    check(detail, status, "look up", on)
    return bytes(ffi.buffer(out, size[0]))


def remote_attach(
    device: DeviceHandle, channel: ChannelHandle, handle: bytes, timeout_ns: int, on: str
) -> RemoteHandle:
    """Makes the range that a handle names usable through the channel."""
    detail, owner = ffi.new("rt_detail *"), Owner("rt_remote **", lib.rt_remote_drop, (channel, device))
    size = len(handle)
    status = until(
        device, lambda ns: cast(int, lib.rt_remote_attach(channel, handle, size, ns, owner.out, detail)), timeout_ns
    )
    if status == AGAIN:
        raise failure(DEADLINE, "attach a handle", on, "the peer's memory could not be reached in time")
    kinds = {PROTOCOL: errors.InvalidArgument, VERSION: errors.InvalidArgument}
    check(detail, status, "attach a handle", on, kinds)
    return cast(RemoteHandle, owner.handle())


remote_size: Callable[[RemoteHandle], int] = lib.rt_remote_size
remote_rights: Callable[[RemoteHandle], int] = lib.rt_remote_rights
remote_address: Callable[[RemoteHandle], int] = lib.rt_remote_address
"""The address at which the peer's range can be read in place; 0 where it cannot be."""
