/* pin.h: the counts that an operation holds while it is under way: in regions, remotes, prepared
 * copies. HOT. */
#ifndef RT_CHANNEL_PIN_H
#define RT_CHANNEL_PIN_H

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/prepared.h"
#include "channel/remote.h"
#include "region/region.h"

enum { RT_OP_INDEX_BITS = 8, RT_OP_LINK_BITS = 6 };

_Static_assert(RT_OPS_PER_LINK == 1 << RT_OP_INDEX_BITS, "operation numbers carry the index in the pool");

_Static_assert(RT_LINKS_PER_CHANNEL_MAX == 1 << RT_OP_LINK_BITS, "operation numbers carry the link");

static inline int64_t rt_op_number(const rt_link *link, const rt_op *op)
{
    return (int64_t)(op->generation << (RT_OP_INDEX_BITS + RT_OP_LINK_BITS) | (uint64_t)link->index << RT_OP_INDEX_BITS |
                     op->index);
}

/* Counts the operation in its regions, once for consecutive copies of one region: from here on
 * close refuses, and free checks whether an operation uses the block, which takes this link's turn.
 * Pairs with the loads of region.c. */
static inline void rt_op_hold_regions(const rt_cursor *cursor)
{
    const rt_region *last = NULL;
    for (uint64_t index = 0; index < cursor->count; index++) {
        rt_region *region = cursor->pieces[index].region;
        if (region != last)
            atomic_fetch_add_explicit(&region->operations, 1, memory_order_relaxed);
        last = region;
    }
}

static inline void rt_op_release_regions(const rt_cursor *cursor)
{
    const rt_region *last = NULL;
    for (uint64_t index = 0; index < cursor->count; index++) {
        rt_region *region = cursor->pieces[index].region;
        if (region != last)
            atomic_fetch_sub_explicit(&region->operations, 1, memory_order_release);
        last = region;
    }
}

/* Counts the operation's regions, remotes and prepared copies as used, and lets the caller hold its
 * number. */
static inline void rt_op_pin(rt_link *link, rt_op *op)
{
    if (op->prepared != NULL)
        rt_prepared_reference(op->prepared);
    rt_op_hold_regions(&op->cursor);
    for (uint64_t index = 0; index < op->cursor.count; index++)
        rt_remote_reference(op->cursor.pieces[index].remote);
    op->pinned = true;
    atomic_fetch_add_explicit(&link->channel->device->operations, 1, memory_order_relaxed);
    atomic_store_explicit(&op->number, rt_op_number(link, op), memory_order_release);
}

#endif
