/* op.c: the life of an operation: taken from its link's pool, begun, pinned, ended, given back. The
 * calls that begin copies are in copy.c, posting is in post.c, retiring in poll.c, waiting in
 * wait.c. */
#include <assert.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/pin.h"
#include "channel/prepared.h"
#include "channel/remote.h"
#include "device/device.h"
#include "device/queue.h"

rt_op *rt_op_take(rt_link *link)
{
    if (rt_list_empty(&link->free_ops))
        return NULL;
    rt_op *op = RT_LIST_ENTRY(link->free_ops.next, rt_op, node);
    rt_list_remove(&op->node);
    op->status = RT_OK;
    op->cancelled = op->pinned = op->unwatched = false;
    op->prepared = NULL;
    op->outstanding = 0;
    op->writes = op->reads = op->bytes_written = op->bytes_read = 0;
    atomic_store_explicit(&op->state, RT_OP_RUNNING, memory_order_relaxed);
    return op;
}

void rt_op_give(rt_link *link, rt_op *op)
{
    assert(op->outstanding == 0 && !op->pinned);
    op->generation++;
    /* Stores to `number` are releases; they pair with rt_op_find: a thread that sees the number
     * change also sees the operation's result. */
    atomic_store_explicit(&op->number, 0, memory_order_release);
    atomic_store_explicit(&op->state, RT_OP_FREE, memory_order_relaxed);
    rt_list_prepend(&link->free_ops, &op->node); /* the next copy takes this one, which is still in the cache */
}

static void op_unpin(const rt_link *link, rt_op *op)
{
    rt_op_release_regions(&op->cursor);
    for (uint64_t index = 0; index < op->cursor.count; index++)
        rt_remote_unreference(op->cursor.pieces[index].remote);
    op->pinned = false;
    if (op->prepared != NULL)
        rt_prepared_unreference(op->prepared);
    atomic_fetch_sub_explicit(&link->channel->device->operations, 1, memory_order_relaxed);
}

static void op_count(rt_link *link, rt_op *op)
{
    if (op->status != RT_OK || op->cancelled) {
        link->stats.failures++;
        return;
    }
    if (op->cursor.count == 1) {
        link->stats.writes += op->cursor.pieces[0].direction == RT_WRITE;
        link->stats.reads += op->cursor.pieces[0].direction == RT_READ;
    } else {
        for (uint64_t index = 0; index < op->cursor.count; index++) {
            link->stats.writes += op->cursor.pieces[index].direction == RT_WRITE;
            link->stats.reads += op->cursor.pieces[index].direction == RT_READ;
        }
    }
    link->stats.bytes_written += op->bytes_written;
    link->stats.bytes_read += op->bytes_read;
}

void rt_op_end(rt_link *link, rt_op *op)
{
    assert(op->outstanding == 0);
    op_count(link, op);
    if (op->pinned)
        op_unpin(link, op);
    if (atomic_load_explicit(&op->number, memory_order_relaxed) == 0) {
        rt_op_give(link, op);
        return;
    }
    if (op->unwatched && op->status == RT_OK && !op->cancelled) {
        rt_op_give(link, op);
        rt_device_tell(link->channel->device);
        return;
    }
    /* Pairs with the acquire of waiters: they see the status and the bytes that a READ brought. */
    atomic_store_explicit(&op->state, RT_OP_DONE, memory_order_release);
    rt_device_tell(link->channel->device);
}

void rt_op_starve(rt_link *link, rt_op *op)
{
    rt_list_append(&link->starved_ops, &op->node);
    if (link->starved)
        return;
    link->starved = true;
    atomic_fetch_add(&link->queue->starved, 1);
    /* The queue has room but the provider took nothing, so no completion will wake a sleeper: kick
     * it. */
    if (link->head - link->tail != link->depth)
        rt_queue_kick(link->queue);
}

void rt_op_fed(rt_link *link)
{
    if (!link->starved || !rt_list_empty(&link->starved_ops))
        return;
    link->starved = false;
    atomic_fetch_sub_explicit(&link->queue->starved, 1, memory_order_release);
}

/* Finds the operation of a number that is still held. NULL for a number that was never given or is
 * void. */
rt_op *rt_op_find(rt_channel *channel, int64_t number, rt_link **link_out)
{
    uint64_t value = (uint64_t)number;
    uint64_t link_index = (value >> RT_OP_INDEX_BITS) & ((1u << RT_OP_LINK_BITS) - 1);
    if (number <= 0 || link_index >= channel->link_count)
        return NULL;
    rt_link *link = &channel->links[link_index];
    rt_op *op = &link->ops[value & (RT_OPS_PER_LINK - 1)];
    if (atomic_load_explicit(&op->number, memory_order_acquire) != number)
        return NULL;
    *link_out = link;
    return op;
}

/* Whether the operation still has this number. Link turn held: an unwatched operation may have
 * given itself back before. */
static bool op_is_still(const rt_op *op, int64_t number)
{
    return atomic_load_explicit(&op->number, memory_order_relaxed) == number;
}

int rt_op_collect(rt_channel *channel, int64_t number)
{
    rt_link *link = NULL;
    rt_op *op = rt_op_find(channel, number, &link);
    if (op == NULL)
        return RT_OK;
    if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_RUNNING)
        return RT_E_AGAIN;
    int status = RT_OK;
    rt_turn_take(&link->turn);
    if (op_is_still(op, number)) { /* it has not given itself back */
        bool done = atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE;
        status = done ? op->status : RT_E_AGAIN;
        if (done)
            rt_op_give(link, op);
    }
    rt_turn_leave(&link->turn);
    return status;
}

bool rt_op_posted(rt_channel *channel, int64_t number)
{
    rt_link *link = NULL;
    rt_op *op = rt_op_find(channel, number, &link);
    if (op == NULL)
        return true;
    rt_turn_take(&link->turn);
    bool done = !op_is_still(op, number) || atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE;
    bool posted = done || rt_list_empty(&op->node);
    rt_turn_leave(&link->turn);
    return posted;
}

void rt_op_forget(rt_channel *channel, int64_t number)
{
    rt_link *link = NULL;
    rt_op *op = rt_op_find(channel, number, &link);
    if (op == NULL)
        return;
    rt_turn_take(&link->turn);
    if (!op_is_still(op, number)) {
        rt_turn_leave(&link->turn);
        return;
    }
    if (atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE)
        rt_op_give(link, op);
    else
        atomic_store_explicit(&op->number, 0, memory_order_relaxed);
    rt_turn_leave(&link->turn);
}

int64_t rt_op_hold(rt_link *link, rt_op *op)
{
    int64_t number = rt_op_number(link, op);
    atomic_store_explicit(&op->number, number, memory_order_release);
    return number;
}

int64_t rt_op_adopt(rt_link *link, const rt_piece *pieces, uint32_t count)
{
    rt_op *op = rt_op_take(link);
    assert(op != NULL);
    op->unwatched = true;
    if (count == 1) /* the caller may forget the operation, and its piece with it */
        op->few[0] = pieces[0];
    op->cursor = (rt_cursor){count == 1 ? op->few : pieces, count, 0, 0};
    rt_op_pin(link, op);
    return rt_op_hold(link, op);
}
