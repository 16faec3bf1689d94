/* edge.c: the parts of every end of an edge: references, memory, the newest trouble. Transport is
 * in send.c and receive.c, the messages are in ask.c, admit.c and round.c. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/poll.h"
#include "channel/remote.h"
#include "device/device.h"
#include "edge/edge.h"
#include "proto/edge_mode.h"
#include "region/pool.h"
#include "region/region.h"

/* ---- references ---- */

int rt_edge_fail(rt_edge *edge, const rt_detail *why)
{
    rt_detail_pass(&edge->trouble, why);
    return why->status;
}

void rt_edge_step(const rt_edge *edge)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
        rt_queue_step(edge->links[stripe]->queue);
}

void rt_edge_wire(rt_edge *edge, const rt_channel *channel, const rt_edge_message *answer, const rt_edge_layout *layout,
                  uint32_t first_link)
{
    const rt_limits *limits = &channel->device->limits;
    edge->wiring = (rt_edge_wiring){.layout = *layout,
                                    .verify = answer->verify != 0 && edge->terms.edge_kind == RT_EDGE_STATIC,
                                    .loop_check = answer->loop_check != 0,
                                    .orders_writes = limits->orders_writes,
                                    .covers_earlier = limits->immediate_covers_earlier,
                                    .record = edge->terms.edge_kind == RT_EDGE_DYNAMIC,
                                    .number = answer->number,
                                    .piece_size = limits->message_size_max,
                                    .apart_min = RT_EDGE_APART_MIN};
    for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++)
        edge->wiring.mode = answer->modes == 1u << mode ? (uint8_t)mode : edge->wiring.mode;
    for (uint32_t stripe = 0; stripe < layout->stripes; stripe++)
        edge->links[stripe] = &channel->links[(first_link + stripe) % channel->link_count];
}

void rt_edge_reference(rt_edge *edge)
{
    atomic_fetch_add_explicit(&edge->references, 1, memory_order_relaxed);
}

void rt_edge_let_go(rt_edge *edge)
{
    rt_remote *remotes[RT_EDGE_KEYS_MAX + 3];
    uint32_t count = 0;
    rt_turn_take(&edge->turn);
    bool lent = edge->loan != NULL && edge->loan->ticket != 0;
    if (edge->borrowed != 0 || lent) { /* the release of the last one calls this again, or the end of the edge does */
        rt_turn_leave(&edge->turn);
        return;
    }
    for (uint32_t key = 0; !edge->sender && key < edge->key_numbers.count; key++)
        remotes[count++] = edge->remotes[key];
    if (!edge->sender)
        memset(edge->remotes, 0, sizeof edge->remotes);
    remotes[count++] = edge->slots_remote;
    remotes[count++] = edge->lines_remote;
    remotes[count++] = edge->credit_remote;
    edge->slots_remote = edge->lines_remote = edge->credit_remote = NULL;
    edge->key_numbers.count = edge->sender ? edge->key_numbers.count : 0;
    rt_turn_leave(&edge->turn);
    while (count > 0) {
        if (remotes[--count] != NULL)
            rt_remote_unreference(remotes[count]);
    }
}

/* Frees an edge with nothing under way, and gives back all it holds. */
static void edge_free(rt_edge *edge)
{
    edge->borrowed = 0; /* nobody holds the edge any more; views of borrowed tensors and of loans hold their remotes themselves */
    if (edge->loan != NULL)
        rt_pool_give(&edge->loan->room);
    free(edge->loan);
    edge->loan = NULL;
    rt_edge_let_go(edge);
    for (uint32_t key = 0; edge->sender && key < edge->key_numbers.count; key++) {
        if (edge->keys[key] != NULL)
            rt_region_unreference(edge->keys[key]);
    }
    for (uint32_t slot = 0; edge->sent != NULL && slot < edge->tx.slots; slot++) {
        if (edge->sent[slot].kept != NULL)
            atomic_fetch_sub_explicit(&edge->sent[slot].kept->operations, 1, memory_order_release);
        rt_pool_give(&edge->sent[slot].staging);
        free(edge->sent[slot].copies);
    }
    if (edge->stage != NULL)
        rt_pool_give(&edge->stage->memory);
    if (edge->source != NULL)
        rt_region_unreference(edge->source);
    if (edge->asked_region != NULL)
        rt_region_unreference(edge->asked_region);
    rt_pool_give(&edge->spare);
    rt_pool_give(&edge->slots);
    rt_pool_give(&edge->lines);
    rt_pool_give(&edge->credit_line);
    free(edge->stage);
    free(edge->sent);
    free(edge->got);
    if (edge->channel != NULL)
        rt_channel_unreference(edge->channel);
    rt_device_unreference(edge->device);
    free(edge);
}

void rt_edge_unreference(rt_edge *edge)
{
    if (atomic_fetch_sub_explicit(&edge->references, 1, memory_order_acq_rel) == 1)
        edge_free(edge);
}

/* ---- the receiver ---- */

rt_edge *rt_edge_of_name(const rt_device *device, const char *name)
{
    RT_TABLE_EACH(node, &device->edges, rt_hash_text(name))
    {
        rt_edge *edge = RT_TABLE_ENTRY(node, rt_edge, name_node);
        if (strcmp(edge->name, name) == 0)
            return edge;
    }
    return NULL;
}

/* ---- the sender ---- */

int rt_edge_take(rt_channel *channel, rt_pool_use use, uint64_t size, uint64_t alignment, rt_pool_block *block_out,
                 bool *registered_out, rt_detail *detail)
{
    int status = rt_pool_take(channel->device, &channel->pools, use, size, alignment, block_out, registered_out, detail);
    return status == RT_E_CLOSED && !rt_channel_is_ready(channel) ? rt_channel_refuse(channel, detail) : status;
}
