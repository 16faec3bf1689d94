/* slot.c: a slot at the receiver: turns its flag into a tensor, and its release into credit.
 * HOT. */
#include "edge/slot.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "edge/post.h"

uint8_t *rt_edge_slot_address(const rt_edge *edge, uint32_t slot)
{
    return edge->slots.address + rt_edge_slot_offset(&edge->wiring.layout, slot);
}

uint8_t *rt_edge_line_address(const rt_edge *edge, uint32_t slot, uint32_t stripe)
{
    uint8_t *base = edge->wiring.layout.tail ? edge->slots.address : edge->lines.address;
    return base + rt_edge_line_offset(&edge->wiring.layout, slot, stripe);
}

/* Loads one word of the flag lines of a slot. Pairs with the release store, or the device's WRITE, of the sender. */
static void words_load(const rt_edge *edge, uint32_t slot, uint32_t place, uint64_t *words_out)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
        words_out[stripe] =
            rt_load_acquire_u64((const uint64_t *)(const void *)(rt_edge_line_address(edge, slot, stripe) + place));
}

/* The channel has failed and its links are shut: nothing more is placed, so tensors that have not
 * arrived never will. */
void rt_edge_hear(rt_edge *edge)
{
    if (atomic_load_explicit(&edge->channel->state, memory_order_acquire) != RT_CHANNEL_READY && rt_edge_lost(edge))
        rt_edge_receiver_end(&edge->rx, rt_channel_refuse(edge->channel, NULL));
}

int rt_edge_look_once(rt_edge *edge, uint64_t *sequence_out, rt_detail *detail)
{
    uint64_t flags[RT_EDGE_STRIPES_MAX], begun[RT_EDGE_STRIPES_MAX];
    rt_edge_hear(edge);
    uint32_t slot = rt_edge_slot(&edge->wiring.layout, rt_edge_receiver_expects(&edge->rx));
    words_load(edge, slot, RT_EDGE_LINE_FLAG, flags);
    if (edge->rx.loop_check)
        words_load(edge, slot, RT_EDGE_LINE_BEGUN, begun);
    return rt_edge_receiver_look(&edge->rx, flags, edge->rx.loop_check ? begun : NULL, sequence_out, detail);
}

/* Whether the credit that is under way must progress before another is posted. edge->turn held. */
static bool credit_waits(const rt_edge *edge)
{
    return edge->credit_op != 0 && (edge->rx.credits_serial || !rt_op_posted(edge->channel, edge->credit_op));
}

/* Posts the credit that is due, as far as it can be posted now; the rest is owed. edge->turn
 * held. */
static void credit_post(rt_edge *edge)
{
    rt_edge_receiver *rx = &edge->rx;
    uint64_t word;
    if (edge->credit_op != 0 && rt_edge_collect(edge->channel, &edge->credit_op, 1) != RT_E_AGAIN)
        rt_edge_receiver_credit_done(rx);
    edge->credit_owed = credit_waits(edge);
    if (edge->credit_owed || edge->credit_remote == NULL || !rt_edge_receiver_credit_due(rx, &word))
        return; /* without a remote the edge is closed at both ends: nobody reads credits */
    int64_t number = 0;
    rt_store_release_u64((uint64_t *)(void *)edge->credit_line.address, word);
    int64_t end_ns = edge->device->limits.completes_in_post ? INT64_MAX : 0;
    bool small = edge->device->limits.completes_in_post;
    if (small) {
        rt_turn_take(&edge->links[0]->turn);
        small = rt_edge_post_small(edge->links[0], &edge->credit_copy, 1, &number);
    }
    if (!small && rt_edge_post(edge->links[0], &edge->credit_copy, 1, end_ns, &number) != RT_OK) {
        edge->credit_owed = rt_channel_state(edge->channel) == RT_CHANNEL_READY;
        return;
    }
    if (edge->credit_op != 0) /* the old operation ends before the one posted behind it */
        rt_op_forget(edge->channel, edge->credit_op);
    rt_edge_credit_posted(edge, word, number);
    edge->credit_owed = credit_waits(edge);
}

void rt_edge_give_credit(rt_edge *edge)
{
    credit_post(edge);
    if (edge->credit_owed)
        rt_edge_call(edge);
}

void rt_edge_forget(rt_edge *edge, uint64_t sequence)
{
    rt_edge_got *got = &edge->got[sequence % edge->rx.slots];
    edge->borrowed -= got->borrowed;
    got->decoded = got->borrowed = false;
}

int rt_edge_release_held(rt_edge *edge, uint64_t sequence, rt_detail *detail)
{
    uint64_t begun[RT_EDGE_STRIPES_MAX];
    if (edge->rx.loop_check)
        words_load(edge, rt_edge_slot(&edge->wiring.layout, sequence), RT_EDGE_LINE_BEGUN, begun);
    int status = rt_edge_receiver_release(&edge->rx, sequence, edge->rx.loop_check ? begun : NULL, detail);
    if (status != RT_E_INVALID && edge->got != NULL)
        rt_edge_forget(edge, sequence);
    rt_edge_give_credit(edge);
    return status;
}
