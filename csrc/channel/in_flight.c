/* in_flight.c: the ranges that operations use now. Quarantine asks for them, and so does a caller
 * that waits until a channel is quiet. */
#include "channel/in_flight.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"

static bool op_overlaps(const rt_op *op, const rt_region *region, uint64_t offset, uint64_t size)
{
    for (uint64_t index = 0; op->pinned && index < op->cursor.count; index++) {
        const rt_piece *piece = &op->cursor.pieces[index];
        if (piece->region == region && piece->region_offset < offset + size && offset < piece->region_offset + piece->size)
            return true;
    }
    return false;
}

static bool link_range_busy(rt_link *link, const rt_region *region, uint64_t offset, uint64_t size)
{
    bool busy = false;
    rt_turn_take(&link->turn);
    for (uint32_t index = 0; !busy && index < RT_OPS_PER_LINK; index++)
        busy = op_overlaps(&link->ops[index], region, offset, size);
    rt_turn_leave(&link->turn);
    return busy;
}

bool rt_region_range_busy(rt_region *region, uint64_t offset, uint64_t size)
{
    rt_device *device = region->device;
    bool busy = false;
    pthread_mutex_lock(&device->lock);
    RT_LIST_EACH(node, &device->channels) {
        rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        for (uint32_t index = 0; !busy && index < channel->link_count; index++)
            busy = link_range_busy(&channel->links[index], region, offset, size);
    }
    pthread_mutex_unlock(&device->lock);
    return busy;
}

int rt_channel_quiet(rt_channel *channel)
{
    if (rt_forked())
        return RT_E_FORKED;
    for (uint32_t index = 0; index < channel->link_count; index++) {
        rt_link *link = &channel->links[index];
        rt_turn_take(&link->turn);
        bool quiet = rt_list_empty(&link->starved_ops);
        for (uint32_t op = 0; quiet && op < RT_OPS_PER_LINK; op++)
            quiet = !link->ops[op].pinned;
        rt_turn_leave(&link->turn);
        if (!quiet)
            return RT_E_AGAIN;
    }
    return RT_OK;
}
