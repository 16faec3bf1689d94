/* edge_receives.c: RECVs beside those of the RPC, which immediates take (EDGES.md section 4), and what an immediate does. A RECV is not
 * of an edge: whatever comes next on its link takes it, so each is as large as a message of the RPC. device->lock held throughout. */
#include <stdlib.h>

#include "core/edge.h"

struct rt_receives {
    uint32_t reserved;    /* by edges that are open */
    uint32_t count;       /* made; more than reserved when edges have closed: they serve the next */
    uint32_t outstanding; /* with the provider */
    uint32_t block_count;
    rt_segment *segments;   /* count of them */
    rt_edge_memory *blocks; /* what they lie in */
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

/* Memory for `more` RECVs. */
static int grow(rt_link *link, uint32_t more, rt_detail *detail)
{
    struct rt_receives *receives = link->receives;
    bool registered = false;
    rt_edge_memory *blocks = realloc(receives->blocks, (receives->block_count + 1) * sizeof *blocks);
    if (blocks != NULL)
        receives->blocks = blocks;
    rt_segment *segments = realloc(receives->segments, (receives->count + more) * sizeof *segments);
    if (segments != NULL)
        receives->segments = segments;
    if (blocks == NULL || segments == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for %u receives", more);
    rt_edge_memory *block = &blocks[receives->block_count];
    int status = rt_edge_memory_take(link->channel->device, RT_RIGHT_REMOTE_WRITE, (uint64_t)more * RT_RPC_MESSAGE_MAX,
                                     RT_RPC_MESSAGE_MAX, block, &registered, detail);
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
        int status = grow(link, more, detail);
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
        rt_edge_memory_give(&receives->blocks[index]);
    free(receives->blocks);
    free(receives->segments);
    free(receives);
    link->receives = NULL;
}

/* ---- immediates ---- */

static bool stripe_of(const rt_edge *edge, const rt_link *link, uint32_t *stripe_out)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++) {
        if (edge->links[stripe] == link) {
            *stripe_out = stripe;
            return true;
        }
    }
    return false;
}

/* edge->turn held. */
static int take(rt_edge *edge, const rt_link *link, uint32_t immediate, rt_detail *detail)
{
    uint32_t stripe = 0, slot = 0;
    uint64_t flag = 0, count = 0;
    if (edge->wiring.mode != RT_EDGE_IMMEDIATE || !stripe_of(edge, link, &stripe))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an immediate on qp %u, which does not carry edge \"%s\"", link->index,
                       edge->name);
    int status = rt_edge_immediate_slot(&edge->wiring, immediate, &slot, detail);
    if (status != RT_OK)
        return status;
    uint8_t *line = rt_edge_line_address(edge, slot, stripe);
    uint64_t *flag_word = (uint64_t *)(void *)(line + RT_EDGE_LINE_FLAG),
             *count_word = (uint64_t *)(void *)(line + RT_EDGE_LINE_COUNT);
    status = rt_edge_immediate_take(&edge->wiring, immediate, stripe, *flag_word, *count_word, &flag, &count, detail);
    if (status != RT_OK && status != RT_E_AGAIN)
        return status;
    *count_word = count;
    if (status == RT_OK)
        rt_store_release_u64(flag_word, flag); /* pairs with the acquire load of the receiver */
    return RT_OK;
}

int rt_edge_immediate(rt_link *link, uint32_t immediate, rt_detail *detail)
{
    rt_detail own;
    detail = detail != NULL ? detail : &own;
    rt_channel *channel = link->channel;
    rt_edge *edge = rt_edge_of_number(channel, rt_edge_immediate_number(immediate), false);
    if (edge == NULL || !rt_edge_joined(edge))
        return RT_OK; /* of an edge that was closed here, which the sender did not know yet */
    rt_turn_take(&edge->turn);
    int status = take(edge, link, immediate, detail);
    if (status != RT_OK) {
        rt_edge_fail(edge, detail);
        rt_edge_receiver_end(&edge->rx, status);
    }
    rt_turn_leave(&edge->turn);
    channel->device->provider->memory_wake(channel->device->pdevice);
    return RT_OK; /* the edge's fault ends the edge */
}
