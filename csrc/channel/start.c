/* start.c: begins operations, settles those whose copies were posted at once, and gives operations
 * up. */
#include "channel/start.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/pin.h"
#include "channel/post.h"
#include "device/fork.h"

int64_t rt_op_begin(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns)
{
    /* A small copy where posting is copying is over before this returns: its caller keeps
     * everything but the regions alive. */
    bool brief = link->channel->device->limits.completes_in_post && slice_end_ns == INT64_MAX;
    if (brief)
        rt_op_hold_regions(&op->cursor);
    else
        rt_op_pin(link, op);
    int status = rt_op_start(link, op, waited, slice_end_ns);
    bool finished = status == RT_OK && op->outstanding == 0;
    if (brief && !finished)
        rt_op_pin(link, op);
    if (brief)
        rt_op_release_regions(&op->cursor);
    if (finished) { /* finished while posting: the short way out */
        atomic_store_explicit(&op->number, 0, memory_order_relaxed);
        rt_op_end(link, op);
        rt_turn_leave(&link->turn);
        return RT_OK;
    }
    link->stats.waits++;
    int64_t number = rt_op_number(link, op);
    if (status == RT_E_AGAIN)
        rt_op_starve(link, op);
    else if (status != RT_OK && op->outstanding == 0)
        rt_op_end(link, op);
    rt_turn_leave(&link->turn);
    if (status != RT_OK && status != RT_E_AGAIN)
        rt_link_fail(link, status, "posting");
    return number;
}

/* Settles one of several: it is finished, under way, or must be posted further. Link turn held. */
static void op_settle(rt_link *link, rt_op *op)
{
    bool posted = op->cursor.index == op->cursor.count || op->cancelled;
    if (posted && op->outstanding == 0) {
        if (op->status == RT_OK)
            atomic_store_explicit(&op->number, 0, memory_order_relaxed); /* a holder of the number finds nothing: it is over */
        rt_op_end(link, op);
        return;
    }
    if (!op->pinned)
        rt_op_pin(link, op);
    link->stats.waits++;
    if (!posted)
        rt_op_starve(link, op);
}

int rt_op_settle(rt_link *link, int64_t number)
{
    rt_op *op = &link->ops[number & (RT_OPS_PER_LINK - 1)];
    int status = op->status;
    op_settle(link, op);
    return status;
}

int rt_ops_begin(rt_link *link, rt_op *const *ops, uint32_t count)
{
    int status = RT_OK;
    bool shut = link->shut, wait = !rt_list_empty(&link->starved_ops);
    for (uint32_t index = 0; index < count; index++) {
        if (!link->channel->device->limits.completes_in_post || wait)
            rt_op_pin(link, ops[index]);
        if (!shut)
            continue;
        ops[index]->cancelled = true;
        ops[index]->status = RT_E_FLUSHED;
    }
    if (!shut && !wait)
        status = rt_link_post_together(link, ops, count);
    for (uint32_t index = 0; index < count; index++)
        op_settle(link, ops[index]);
    rt_turn_leave(&link->turn);
    if (status != RT_OK)
        rt_link_fail(link, status, "posting");
    return status;
}

/* Abandons an operation: its unposted part never is posted; its posted part stays quarantined until
 * it retires, for which a completion may have to be requested. */
static int64_t op_abandon(rt_link *link, rt_op *op)
{
    link->stats.deadlines++;
    op->cancelled = true;
    if (rt_list_empty(&op->node))
        return 0;
    if (op->outstanding != 0 && link->unsignaled != 0)
        return rt_link_pump(link, link->channel->device->limits.completes_in_post ? 0 : UINT64_MAX);
    rt_list_remove(&op->node);
    rt_op_fed(link);
    if (op->outstanding == 0)
        rt_op_end(link, op);
    return 0;
}

int rt_op_release(rt_channel *channel, int64_t number, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    rt_link *link = NULL;
    rt_op *op = rt_op_find(channel, number, &link);
    if (op == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "operation %lld is not one of this channel, or was released", (long long)number);
    rt_turn_take(&link->turn);
    if (atomic_exchange_explicit(&op->number, 0, memory_order_relaxed) != number) {
        rt_turn_leave(&link->turn);
        return rt_fail(detail, RT_E_INVALID, 0, "operation %lld was released by another thread", (long long)number);
    }
    int status = RT_E_AGAIN;
    int64_t moved = 0;
    if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE) {
        status = op->status;
        rt_op_give(link, op);
    } else {
        moved = op_abandon(link, op);
    }
    rt_turn_leave(&link->turn);
    if (moved < 0)
        rt_link_fail(link, (int)moved, "posting");
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN)
        return rt_fail(detail, RT_E_AGAIN, 0, "the operation was given up before it ended");
    rt_channel_await_failure(channel);
    return rt_channel_explain(channel, status, detail);
}
