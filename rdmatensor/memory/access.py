"""The rights that peers have on a region."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["Access"]


class Access(IntFlag):
    """The rights of a region, by purpose; combine them with `|`. The source of a WRITE and the
    target of a READ need none (RDMA-RULES 14).
    """

    LOCAL = 0
    """Peers cannot reach the region."""
    REMOTE_WRITE = 2
    """Peers may WRITE to the region."""
    REMOTE_READ = 4
    """Peers may READ the region. On one host (`shm://`), peers that wait then copy their part of
    large WRITEs out of the region, which is up to twice as fast.
    """
    RELAXED_ORDER = 8
    """The bus may reorder arriving data: for payload only, never for memory that holds flags
    (RDMA-RULES 3 and 4).
    """
    PER_PEER_KEYS = 16
    """Each channel that looks the region up gets a key of its own: no other channel can use the
    key, and it becomes invalid once the channel is closed or has failed. Publish such a region: it
    has no `handle()`. Unsupported where the device's `limits.keys_per_peer` is false, or with more
    than 8 QPs per peer. Over verbs the first look-up of each region by each peer costs one command
    to the adapter for each QP of the channel, and adapters have so many windows and no more:
    prefer few regions, and `qps_per_peer=1`.
    """
