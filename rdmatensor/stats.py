"""Counters of devices, regions and channels, as they stood when they were asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AllocationStats", "ChannelStats", "DeviceStats", "EdgeStats", "RegionStats"]


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Counters of a device. Sizes are bytes, times nanoseconds."""

    regions: int
    """Registered now."""
    region_bytes: int
    registrations: int
    """Since the device was opened."""
    registered_bytes: int
    registering_ns: int
    channels: int
    channels_lost: int
    operations_in_flight: int
    quarantined_bytes: int
    """Freed or abandoned, but the provider may still touch them."""


@dataclass(frozen=True, slots=True)
class RegionStats:
    """Counters of a region. Sizes are bytes, times nanoseconds."""

    size: int
    allocated_bytes: int
    allocations: int
    """Buffers alive now."""
    peak_bytes: int
    largest_free_bytes: int
    quarantined_bytes: int
    registering_ns: int
    huge_pages: bool
    operations_in_flight: int


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Counters of a channel. Only transfers that succeeded count in the first four."""

    writes: int
    reads: int
    bytes_written: int
    bytes_read: int
    work_items: int
    """Posted to the provider."""
    doorbells: int
    failures: int
    deadlines: int
    waits: int
    """Transfers that were not done when they were posted."""


@dataclass(frozen=True, slots=True)
class TeamStats:
    """Counters of a team. Bytes are payload."""

    collectives: int
    sends: int
    receives: int
    bytes_sent: int
    bytes_received: int
    staged_bytes: int
    """Copied into this member's registered memory on the way out."""
    reduced_in_place_bytes: int
    """Reduced straight out of a peer's memory."""
    direct_bytes: int
    """Read straight out of a peer's tensor by collective calls: reduced, or copied into this member's tensors."""
    direct_received_bytes: int
    """Read straight out of a sender's tensor by receives: copied where memory can be mapped, else by READs."""
    unexpected: int
    """Messages that came before their receive and were kept meanwhile."""
    unexpected_bytes: int
    sleeps: int


@dataclass(frozen=True, slots=True)
class AllocationStats:
    """Counters of what a region served to a framework's allocator."""

    served: int
    served_bytes: int
    fell_back: int
    """Found no room, or the region closed; with `when_full="ordinary"` they were allocated elsewhere."""
    fell_back_bytes: int
    alive: int
    """Of those served, not freed yet."""
    alive_bytes: int


@dataclass(frozen=True, slots=True)
class EdgeStats:
    """Counters of one end of an edge since it was made."""

    transfers: int
    """Tensors sent, or received."""
    bytes: int
    copies: int
    """Made by this library besides the transfer itself: staging of tensors outside registered memory, and `out=` where
    the bytes could not come there directly.
    """
    copied_bytes: int
    waits: int
    """Sends that found no credit; receives that found no tensor."""
    registrations: int
    """Of memory for this edge after it was opened."""
    keys: int
    """Registrations of the sender that its records refer to."""
    eager: int
    """Tensors that rode in their record."""
    fetched: int
    borrowed: int
    corrupt: int
    """Tensors that did not fit their checksum, and were not handed out."""
    credits: int
    """WRITEs that returned credit."""
    sequence: int
    """The newest sent, or received."""
    released: int
    """All up to this one are released."""
