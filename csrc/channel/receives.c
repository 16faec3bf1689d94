/* receives.c: RECVs of a link beside those of the RPC; immediates consume them (EDGES.md section
 * 4). A RECV belongs to no edge: whatever arrives next on its link consumes it, so each is as large
 * as a message of the RPC. device->lock held throughout. */
#include <stdlib.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/message.h"
#include "channel/receives.h"
#include "region/pool.h"

struct rt_receives {
    uint32_t reserved;    /* by edges that are open */
    uint32_t count;       /* made; more than reserved when edges have closed: they serve the next edges */
    uint32_t outstanding; /* with the provider */
    uint32_t block_count;
    rt_segment *segments;  /* an array of `count` */
    rt_pool_block *blocks; /* the memory of the segments */
};

uint32_t rt_receives_count(const rt_link *link)
{
    return link->receives == NULL ? 0 : link->receives->count;
}

uint32_t rt_receives_outstanding(const rt_link *link)
{
    return link->receives == NULL ? 0 : link->receives->outstanding;
}

rt_segment rt_receives_slot(const rt_link *link, uint32_t index)
{
    return link->receives->segments[index];
}

void rt_receives_flushed(rt_link *link)
{
    if (link->receives != NULL && link->receives->outstanding > 0)
        link->receives->outstanding--;
}

int rt_receives_post(rt_link *link, uint32_t index, rt_detail *detail)
{
    struct rt_receives *receives = link->receives;
    int status = rt_link_receive(link, &receives->segments[index], RT_RPC_RECEIVES + index, detail);
    receives->outstanding += status == RT_OK;
    return status;
}

/* Takes memory for `more` RECVs. RT_E_AGAIN: the service makes room. */
static int receives_grow(rt_link *link, uint32_t more, rt_detail *detail)
{
    struct rt_receives *receives = link->receives;
    rt_pool_block *blocks = realloc(receives->blocks, (receives->block_count + 1) * sizeof *blocks);
    if (blocks != NULL)
        receives->blocks = blocks;
    rt_segment *segments = realloc(receives->segments, (receives->count + more) * sizeof *segments);
    if (segments != NULL)
        receives->segments = segments;
    if (blocks == NULL || segments == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for %u receives", more);
    rt_pool_block *block = &blocks[receives->block_count];
    int status = rt_pool_take_ready(link->channel->device, NULL, RT_POOL_LOCAL, (uint64_t)more * RT_RPC_MESSAGE_MAX,
                                    RT_RPC_MESSAGE_MAX, block, detail);
    if (status != RT_OK)
        return status;
    receives->block_count++;
    for (uint32_t index = 0; index < more; index++)
        segments[receives->count + index] = (rt_segment){.memory = block->region->memory,
                                                         .address = block->address + (size_t)index * RT_RPC_MESSAGE_MAX,
                                                         .size = RT_RPC_MESSAGE_MAX};
    return RT_OK;
}

int rt_receives_reserve(rt_link *link, uint32_t count, rt_detail *detail)
{
    const rt_limits *limits = &link->channel->device->limits;
    if (link->receives == NULL)
        link->receives = calloc(1, sizeof *link->receives);
    struct rt_receives *receives = link->receives;
    if (receives == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for receives");
    uint32_t wanted = receives->reserved + count;
    if (count > limits->receive_depth || wanted > limits->receive_depth - RT_RPC_RECEIVES)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "the edges with ordering=\"immediate\" of qp %u to %s need %u receives and it holds %u: take fewer slots, "
                       "or more qps",
                       link->index, link->channel->peer, wanted, limits->receive_depth - RT_RPC_RECEIVES);
    if (wanted > receives->count) {
        uint32_t more = wanted - receives->count;
        int status = receives_grow(link, more, detail);
        for (uint32_t index = 0; index < more && status == RT_OK; index++) {
            status = rt_receives_post(link, receives->count, detail);
            receives->count += status == RT_OK;
        }
        if (status != RT_OK)
            return status;
    }
    receives->reserved = wanted;
    return RT_OK;
}

void rt_receives_unreserve(rt_link *link, uint32_t count)
{
    if (link->receives != NULL && link->receives->reserved >= count)
        link->receives->reserved -= count;
}

void rt_receives_free(rt_link *link)
{
    struct rt_receives *receives = link->receives;
    if (receives == NULL)
        return;
    for (uint32_t index = 0; index < receives->block_count; index++)
        rt_pool_give(&receives->blocks[index]);
    free(receives->blocks);
    free(receives->segments);
    free(receives);
    link->receives = NULL;
}
