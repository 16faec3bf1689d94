/* post.c: the operations of edges: taken, begun one by one or several with one doorbell, and
 * collected when they have ended. HOT. */
#include "channel/post.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/poll.h"
#include "channel/start.h"
#include "edge/post.h"

int rt_edge_reserve(rt_link *const *links, uint32_t count, rt_op **ops_out)
{
    for (uint32_t index = 0; index < count; index++) {
        rt_turn_take(&links[index]->turn);
        ops_out[index] = rt_op_take(links[index]);
        if (ops_out[index] != NULL)
            ops_out[index]->unwatched = true;
        rt_turn_leave(&links[index]->turn);
        if (ops_out[index] != NULL)
            continue;
        rt_queue_step(links[index]->queue);
        for (uint32_t taken = 0; taken < index; taken++) {
            rt_turn_take(&links[taken]->turn);
            rt_op_give(links[taken], ops_out[taken]);
            rt_turn_leave(&links[taken]->turn);
        }
        return RT_E_BUSY;
    }
    return RT_OK;
}

int rt_edge_post_reserved(rt_link *link, rt_op *op, const rt_piece *copies, uint64_t count, int64_t end_ns, int64_t *number_out)
{
    rt_turn_take(&link->turn);
    if (link->shut) {
        rt_op_give(link, op);
        rt_turn_leave(&link->turn);
        return rt_channel_refuse(link->channel, NULL);
    }
    if (count == 1)
        op->few[0] = copies[0];
    op->cursor = (rt_cursor){count == 1 ? op->few : copies, count, 0, 0};
    *number_out = rt_op_begin(link, op, true, end_ns);
    return RT_OK;
}

int rt_edge_post(rt_link *link, const rt_piece *copies, uint64_t count, int64_t end_ns, int64_t *number_out)
{
    rt_op *op;
    int status = rt_edge_reserve(&link, 1, &op);
    return status == RT_OK ? rt_edge_post_reserved(link, op, copies, count, end_ns, number_out) : status;
}

bool rt_edge_may_post(rt_link *const *links, uint32_t count)
{
    bool may = true;
    for (uint32_t index = 0; may && index < count; index++) {
        rt_turn_take(&links[index]->turn);
        may = !rt_list_empty(&links[index]->free_ops);
        rt_turn_leave(&links[index]->turn);
    }
    return may;
}

bool rt_edge_post_small(rt_link *link, const rt_piece *copies, uint32_t count, int64_t *number_out)
{
    int status = RT_OK;
    bool taken = rt_link_post_small(link, copies, count, number_out);
    if (taken && *number_out != 0)
        status = rt_op_settle(link, *number_out);
    rt_turn_leave(&link->turn);
    if (status != RT_OK)
        rt_link_fail(link, status, "posting");
    return taken;
}

int rt_edge_collect(rt_channel *channel, int64_t *ops, uint32_t count)
{
    int status = RT_OK;
    for (uint32_t index = 0; index < count; index++) {
        if (ops[index] == 0)
            continue;
        int ended = rt_op_collect(channel, ops[index]);
        if (ended != RT_E_AGAIN)
            ops[index] = 0;
        if (status == RT_OK || (status == RT_E_AGAIN && ended != RT_OK))
            status = ended; /* a failure outranks operations under way: its number is void, so it is reported once */
    }
    /* A flushed operation ended with its channel, whose failure tells why; so did one whose link
     * the peer shut first, as happens with an end made here. */
    bool unsure = status == RT_E_FLUSHED || status == RT_E_PEER_LOST;
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    bool over = state == RT_CHANNEL_FAILED || state == RT_CHANNEL_CLOSED;
    return unsure && over ? rt_channel_refuse(channel, NULL) : status;
}

bool rt_edge_pending(rt_channel *channel, int64_t *ops, uint32_t count)
{
    bool pending = false;
    (void)rt_edge_collect(channel, ops, count);
    for (uint32_t index = 0; index < count; index++)
        pending = pending || ops[index] != 0;
    return pending;
}

/* ---- several with one doorbell ---- */

void rt_edge_together_flush(rt_edge_together *together)
{
    if (together->count == 0)
        return;
    rt_turn_take(&together->link->turn);
    rt_ops_begin(together->link, together->ops, together->count); /* the number of each tells how it ends */
    together->count = together->copies = 0;
}

int rt_edge_together_add(rt_edge_together *together, rt_link *link, const rt_piece *copies, uint32_t count, int64_t *number_out)
{
    rt_op *op = NULL;
    if (together->count != 0 && (together->link != link || together->copies + count > RT_POST_BATCH))
        rt_edge_together_flush(together);
    int status = rt_edge_reserve(&link, 1, &op);
    if (status != RT_OK) {
        rt_edge_together_flush(together);
        return status;
    }
    if (count == 1)
        op->few[0] = copies[0];
    op->cursor = (rt_cursor){count == 1 ? op->few : copies, count, 0, 0};
    *number_out = rt_op_hold(link, op);
    together->link = link;
    together->ops[together->count++] = op;
    together->copies += count;
    return RT_OK;
}
