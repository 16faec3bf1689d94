"""Counters of devices, regions and channels: snapshots of the moment at which they were read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AllocationStats", "ChannelStats", "DeviceStats", "EdgeStats", "RegionStats"]


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Counters of a device. Sizes are bytes, times nanoseconds."""

    regions: int
    """Regions registered now."""
    region_bytes: int
    registrations: int
    """Registrations since the device was opened."""
    registered_bytes: int
    registering_ns: int
    channels: int
    channels_lost: int
    """Channels that were ready and failed; those that either end closed do not count."""
    unaccepted: int
    """Channels waiting for `Listener.accept` now. A listener holds at most 64, and refuses more."""
    connects_refused: int
    """Connections refused at this device's listeners; `Listener.refusals` names the peers and the
    reasons.
    """
    operations_in_flight: int
    quarantined_bytes: int
    """Bytes that were freed or abandoned, but that the provider may still touch."""


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
    """Work items posted to the provider."""
    doorbells: int
    failures: int
    deadlines: int
    waits: int
    """Transfers that were not done when their posting returned."""


@dataclass(frozen=True, slots=True)
class TeamStats:
    """Counters of a team. Bytes are payload."""

    collectives: int
    sends: int
    receives: int
    bytes_sent: int
    bytes_received: int
    staged_bytes: int
    """Bytes copied into this member's registered memory before being sent."""
    reduced_in_place_bytes: int
    """Bytes reduced directly out of a peer's memory."""
    direct_bytes: int
    """Bytes that collective calls read directly out of a peer's tensor, to reduce them or copy them
    into this member's tensors.
    """
    direct_received_bytes: int
    """Bytes that receives read directly out of a sender's tensor: copied where memory can be
    mapped, else by READs.
    """
    unexpected: int
    """Messages that came before their receive and were kept until then."""
    unexpected_bytes: int
    kept_bytes: int
    """The bytes kept now, with 128 for each message; at most 1 MiB for each peer."""
    kept_bytes_max: int
    held_back: int
    """Small sends that waited for their receive, since the receiver kept enough of this member's
    messages.
    """
    sleeps: int


@dataclass(frozen=True, slots=True)
class AllocationStats:
    """Counters of what a region served to a framework's allocator."""

    served: int
    served_bytes: int
    fell_back: int
    """Allocations that found no room, or a closed region; with `when_full="ordinary"` they were
    made elsewhere.
    """
    fell_back_bytes: int
    alive: int
    """Served allocations that are not freed yet."""
    alive_bytes: int


@dataclass(frozen=True, slots=True)
class EdgeStats:
    """Counters of one end of an edge since it was made."""

    transfers: int
    """Tensors sent or received."""
    bytes: int
    copies: int
    """Copies that this library made besides the transfer itself: staging of tensors outside
    registered memory, and `out=` where the bytes could not arrive there directly.
    """
    copied_bytes: int
    waits: int
    """Sends that found no credit; receives that found no tensor."""
    registrations: int
    """Registrations of memory for this edge after it was opened."""
    keys: int
    """Registrations of the sender that its records refer to."""
    eager: int
    """Tensors that travelled in their record."""
    fetched: int
    borrowed: int
    corrupt: int
    """Tensors whose checksum did not match; they were not handed out."""
    lent: int
    """Tensors sent out of loans (`SendEdge.loan`)."""
    lent_in_place: int
    """Those of them that were written in the receiver's slot, so that no byte was copied. The others
    lay in registered memory of the sender's.
    """
    credits: int
    """WRITEs that returned credit."""
    sequence: int
    """The sequence number of the newest tensor sent or received."""
    released: int
    """The highest sequence number up to which all tensors are released."""
