/* immediate.c: immediates that serve as flags of tensors (EDGES.md section 4). device->lock
 * held. */
#include "edge/immediate.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "edge/slot.h"
#include "proto/edge_mode.h"

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
static int immediate_take(rt_edge *edge, const rt_link *link, uint32_t immediate, rt_detail *detail)
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
        return RT_OK; /* for an edge that was closed here before the sender knew */
    rt_turn_take(&edge->turn);
    int status = immediate_take(edge, link, immediate, detail);
    if (status != RT_OK) {
        rt_edge_fail(edge, detail);
        rt_edge_receiver_end(&edge->rx, status);
    }
    rt_turn_leave(&edge->turn);
    channel->device->provider->memory_wake(channel->device->pdevice);
    return RT_OK; /* a fault of the edge ends only the edge */
}
