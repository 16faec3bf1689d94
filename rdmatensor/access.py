"""What peers may do with a region."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["Access"]


class Access(IntFlag):
    """Rights of a region, by purpose; combine them with `|`. The source of a WRITE and the target of a READ need none
    (RDMA-RULES 14).
    """

    LOCAL = 0
    """Peers reach nothing."""
    REMOTE_WRITE = 2
    """Peers may WRITE here."""
    REMOTE_READ = 4
    """Peers may READ here."""
    RELAXED_ORDER = 8
    """The bus may reorder what arrives: for payload only, never for memory that holds flags (RDMA-RULES 3 and 4)."""
    PER_PEER_KEYS = 16
    """Each channel that looks the region up gets a key of its own: no other channel can use it, and it is dead once the
    channel is closed or failed. Publish such a region: it has no `handle()`. Unsupported where the device's
    `limits.keys_per_peer` is false, or with more than 8 QPs per peer."""
