"""The capabilities and promises of an opened device."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and promises of a device. Numbers are maxima; sizes are bytes."""

    message_size_max: int
    """Bytes of one work item; larger copies are cut into several."""
    region_size_max: int
    region_count_max: int
    link_count_max: int
    """QPs of the device."""
    completion_queue_max: int
    work_depth: int
    """Work items outstanding on one QP."""
    receive_depth: int
    completion_depth: int
    read_depth: int
    """READs in progress on one QP; 0 when the device cannot READ."""
    segments_max: int
    inline_size_max: int
    send_size_max: int
    completes_in_post: bool
    """A copy is finished when the call that posts it returns."""
    orders_writes: bool
    """A later WRITE of a QP is placed after an earlier one."""
    orders_bytes_within_a_write: bool
    """The bytes of one WRITE are placed in ascending order."""
    places_words_whole: bool
    """An aligned WRITE of 8 bytes is seen whole or not at all."""
    can_wake_receiver: bool
    """A WRITE wakes a peer that waits for it; otherwise that peer polls."""
    carries_immediate: bool
    immediate_covers_earlier: bool
    """A WRITE with immediate completes at the receiver after all earlier WRITEs of its QP are placed."""
    reaches_gpu_memory: bool
    exposes_caller_memory: bool
    """Memory the caller owns may be given remote rights."""
    pins_memory: bool
    """Registered memory counts against RLIMIT_MEMLOCK."""
    maps_remote: bool
    """The peer's memory can be read in place: `Remote.view()` works."""
    local_anywhere: bool
    """The local end of a WRITE or READ may be unregistered memory: edges stage nothing."""
    keys_per_peer: bool
    """A region can give each peer a key of its own: `Access.PER_PEER_KEYS`."""
    virtual_time: bool
    """Time is the provider's own and passes only while a thread waits."""
