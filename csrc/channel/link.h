/* link.h: a queue pair joined to a peer's: its posted items, in order, and its operations. */
#ifndef RT_CHANNEL_LINK_H
#define RT_CHANNEL_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/turn.h"
#include "channel/op.h"
#include "device/device.h"

typedef struct rt_plink rt_plink;

typedef struct rt_link rt_link;

typedef struct rt_inflight {
    rt_op *op;     /* NULL: an RPC message … */
    uint64_t size; /* bytes; 0 for a message */
    uint32_t opcode;
    uint32_t slot; /* … in this slot */
} rt_inflight;

struct rt_link {
    rt_channel *channel;
    rt_plink *plink;
    rt_queue *queue;
    uint32_t index;     /* in channel->links: the QP number that users give */
    uint32_t id;        /* in device->links: the upper half of tokens */
    rt_list queue_node; /* in queue->links */
    rt_turn turn;       /* guards all below */
    rt_inflight *ring;  /* posted items in order; ring_mask + 1 entries */
    uint32_t ring_mask;
    uint32_t depth;      /* items allowed in flight */
    uint32_t head, tail; /* free-running: posted, retired */
    uint32_t unsignaled; /* posted since the last signaled item */
    bool starved;        /* counted in queue->starved */
    bool shut;
    _Atomic uint32_t sends;       /* slots of SENDs that are with the provider, one bit each; cleared without device->lock */
    struct rt_receives *receives; /* RECVs for immediates, or NULL: receives.c; device->lock */
    bool doubted;                 /* one of its items was refused, and the cause is not certain yet: doubt.c */
    rt_list doubted_ops;          /* operations that failed since; they end as soon as the cause is certain */
    rt_list starved_ops;
    rt_list free_ops;
    rt_op *ops;                           /* RT_OPS_PER_LINK */
    rt_channel_stats stats;               /* summed over links by rt_channel_get_stats */
    uint64_t last_posted, last_completed; /* sequence of work items, for the dump */
};

/* Tokens: link id << 32 | position in the ring; receives have RT_TOKEN_RECEIVE set and carry their slot. */
#define RT_TOKEN_RECEIVE (1ull << 31)
static inline uint64_t rt_token(const rt_link *link, uint32_t low)
{
    return ((uint64_t)link->id << 32) | low;
}
/* NULL: the link was removed before its flush came, or it never existed. */
static inline rt_link *rt_link_of_token(const rt_device *device, uint64_t token)
{
    uint32_t id = (uint32_t)(token >> 32);
    return id < device->link_capacity ? atomic_load_explicit(&device->links[id], memory_order_acquire) : NULL;
}

/* A SEND completed, so its slot is free. Under a queue's turn, without device->lock. Pairs with the
 * acquires of the RPC. */
static inline void rt_link_sent(rt_link *link, uint32_t slot)
{
    atomic_fetch_and_explicit(&link->sends, ~(1u << slot), memory_order_release);
}

/* Creates `count` links of a channel, spread over the device's queues, and their address bytes. device->lock held. */
int rt_links_create(rt_channel *channel, uint32_t count, rt_detail *detail);
/* Destroys links from `keep` upwards; they are quiet. device->lock held. */
void rt_links_destroy(rt_channel *channel, uint32_t keep);
/* Shuts all links and fails their unposted operations. device->lock held. */
void rt_links_shut(rt_channel *channel);
/* Whether every posted item has been retired. */
bool rt_links_quiet(rt_channel *channel);

void rt_links_free(rt_channel *channel);
void rt_links_fail_starved(rt_channel *channel, int status);
/* Ends operations whose provider links are already destroyed: the last resort of a closing
 * device. */
void rt_links_abandon(rt_channel *channel);

/* Translates a status that a provider reported for an operation into its meaning at this time. */
int32_t rt_doubt_status(const rt_channel *channel, int32_t status);
/* Holds a failed operation with nothing outstanding that would end now. False: let it end. Link
 * turn held. */
bool rt_doubt_hold(rt_link *link, rt_op *op);
#endif
