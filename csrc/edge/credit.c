/* credit.c: whether a sender may send: the receiver's credit, and the slot's earlier operations.
 * HOT. */
#include "edge/credit.h"
#include "channel/channel.h"
#include "device/device.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "region/region.h"

/* Gives back the regions that the slots of released tensors kept. edge->turn held. */
static void kept_let_go(rt_edge *edge, uint64_t before)
{
    for (uint64_t sequence = before + 1; edge->terms.edge_kind == RT_EDGE_DYNAMIC && sequence <= edge->tx.released; sequence++) {
        rt_edge_sent *sent = &edge->sent[sequence % edge->tx.slots];
        if (sent->sequence != sequence || sent->kept == NULL)
            continue;
        atomic_fetch_sub_explicit(&sent->kept->operations, 1, memory_order_release);
        sent->kept = NULL;
    }
}

/* Gives back all kept regions, because nobody reads tensors of the edge any more. edge->turn
 * held. */
static void kept_let_go_all(rt_edge *edge)
{
    for (uint32_t slot = 0; slot < edge->tx.slots; slot++) {
        rt_region *kept = edge->sent[slot].kept;
        edge->sent[slot].kept = NULL;
        if (kept != NULL)
            atomic_fetch_sub_explicit(&kept->operations, 1, memory_order_release);
    }
}

/* Checks the credit and the channel. edge->turn held. */
int rt_edge_take_credit(rt_edge *edge)
{
    rt_detail detail;
    uint64_t before = edge->tx.released;
    int status = RT_OK;
    if (atomic_load_explicit(&edge->channel->state, memory_order_acquire) != RT_CHANNEL_READY) {
        status = rt_channel_refuse(edge->channel, NULL);
        if (!rt_edge_lost(edge))
            return status;
        rt_edge_sender_end(&edge->tx, status);
        kept_let_go_all(edge);
        return status;
    }
    if (edge->tx.state == RT_EDGE_OVER && edge->tx.failure == RT_E_PEER_CLOSED)
        kept_let_go_all(edge); /* the peer closes once it reads nothing any more */
    if (edge->terms.flow == RT_EDGE_FLOW_CREDIT) {
        /* Pairs with the release store, or the device's WRITE, of the receiver's credit. */
        uint64_t word = rt_load_acquire_u64((const uint64_t *)(const void *)edge->credit_line.address);
        status = rt_edge_sender_credit(&edge->tx, word, &detail);
        if (status != RT_OK)
            return rt_edge_fail(edge, &detail);
        kept_let_go(edge, before);
    }
    return RT_OK;
}

int rt_edge_may_send(rt_edge *edge, uint64_t *sequence_out)
{
    /* While credit is left, the credit line of a static edge is not read, so its cache line stays
     * with the receiver, who then writes it without fetching it first. */
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC;
    bool up = atomic_load_explicit(&edge->channel->state, memory_order_acquire) == RT_CHANNEL_READY;
    int status = !dynamic && up ? rt_edge_sender_next(&edge->tx, sequence_out) : RT_E_AGAIN;
    if (status == RT_E_AGAIN) {
        status = rt_edge_take_credit(edge);
        status = status == RT_OK ? rt_edge_sender_next(&edge->tx, sequence_out) : status;
    }
    if (status != RT_OK)
        return status;
    if (edge->stage != NULL && edge->stage->chunks.sequence != 0)
        return RT_E_AGAIN; /* an earlier tensor is still being staged: rt_edge_wait_sent moves it on */
    if (edge->stage != NULL && rt_edge_pending(edge->channel, edge->stage->ops, RT_EDGE_STAGES))
        return RT_E_AGAIN;
    rt_edge_sent *sent = &edge->sent[*sequence_out % edge->tx.slots];
    status = sent->sequence == 0 ? RT_OK : rt_edge_collect(edge->channel, sent->ops, edge->wiring.layout.stripes);
    bool posts = edge->device->limits.completes_in_post || rt_edge_may_post(edge->links, edge->wiring.layout.stripes);
    return status == RT_OK && !posts ? RT_E_AGAIN : status;
}

bool rt_edge_may_send_at_once(rt_edge *edge, uint64_t *sequence_out)
{
    const rt_edge_sent *sent = &edge->sent[(edge->tx.sent + 1) % edge->tx.slots];
    bool collected = edge->device->limits.completes_in_post && edge->stage == NULL;
    for (uint32_t stripe = 0; collected && stripe < edge->wiring.layout.stripes; stripe++)
        collected = sent->ops[stripe] == 0;
    return collected && rt_edge_may_send(edge, sequence_out) == RT_OK;
}
