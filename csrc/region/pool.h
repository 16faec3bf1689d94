/* pool.h: registered memory in blocks, so that a registration serves many: of the device if no peer
 * reaches them, else of one peer alone. */
#ifndef RT_REGION_POOL_H
#define RT_REGION_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "region/region.h"

typedef struct rt_pools rt_pools;

/* The pools of one peer, in its channel. device->lock. */
typedef struct rt_peer_pools {
    rt_pools *pools; /* NULL: none yet, or none any more */
    bool open;       /* blocks may be taken from them: the channel has joined, and not ended */
} rt_peer_pools;

/* A peer's access to a block, which decides the pool: the device's for blocks that no peer reaches,
 * else one of the channel's. */
typedef enum rt_pool_use {
    RT_POOL_LOCAL = 0, /* source words, staged chunks, RECVs: no peer reads or writes them */
    RT_POOL_WRITTEN,   /* slots, flag lines, credits: the channel's peer writes them */
    RT_POOL_READ,      /* dynamic tensors that were copied: the channel's peer reads them */
    RT_POOL_COUNT,
} rt_pool_use;

/* From here on a block has a registration of its own. */
enum { RT_POOL_OWN_SIZE_MIN = 4 << 20 };

/* A block, of memory that is registered. */
typedef struct rt_pool_block {
    rt_region *region; /* referenced; NULL: none */
    int64_t block;     /* in the region's arena */
    uint64_t offset, size;
    uint8_t *address;
    rt_device *pooled; /* the device of its pool, whose service may wait for a channel's last block; else NULL */
    bool own;          /* the region is this block's alone */
    bool bound;        /* of a region of the caller's, which stays open meanwhile */
} rt_pool_block;

int rt_pools_open(rt_device *device, rt_detail *detail);
void rt_pools_close(rt_device *device); /* device->lock held; all channels are gone */
/* Registers the memory that is waited for, and ends registrations that are no longer used. Without
 * device->lock. True when there is more room. */
bool rt_pools_run(rt_device *device);
/* The channel is gone: no more memory of its pools is given out. device->lock held. */
void rt_pools_leave(rt_device *device, rt_peer_pools *peer);

/* Takes zeroed memory; the peer is ignored where the use is local. May register, which is slow:
 * *registered_out says so. RT_E_CLOSED: the device is closed, or the channel has ended. Without any
 * lock. */
int rt_pool_take(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                 rt_pool_block *block_out, bool *registered_out, rt_detail *detail);
/* The same for the control plane, with device->lock held: RT_E_AGAIN when there is no room yet, and
 * the service makes some. For sizes below RT_POOL_OWN_SIZE_MIN. */
int rt_pool_take_ready(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                       rt_pool_block *block_out, rt_detail *detail);
/* Takes it with a registration of its own, whatever its size: for a peer that is not known yet. `relaxed`: the bus may reorder
 * what arrives there. Without any lock. */
int rt_pool_take_own(rt_device *device, rt_pool_use use, bool relaxed, uint64_t size, uint64_t alignment,
                     rt_pool_block *block_out, rt_detail *detail);
/* Takes it from a region of the caller's. */
int rt_pool_take_from(rt_region *region, uint64_t size, uint64_t alignment, rt_pool_block *block_out, rt_detail *detail);
/* Gives the block back; no local operation is posted from it any more, or it is quarantined. Does
 * nothing when there is no block. */
void rt_pool_give(rt_pool_block *block);

#endif
