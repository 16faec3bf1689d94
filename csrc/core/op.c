/* op.c: the life of an operation: taken from its link's pool, begun, pinned, ended, given back. The calls that begin copies are
 * in copy.c, how items are posted in post.c, how they retire in poll.c, how callers wait in wait.c. */
#include "core/copy.h"

enum { OP_INDEX_BITS = 8, OP_LINK_BITS = 6 };
_Static_assert(RT_OPS_PER_LINK == 1 << OP_INDEX_BITS, "operation numbers carry the index in the pool");
_Static_assert(RT_LINKS_PER_CHANNEL_MAX == 1 << OP_LINK_BITS, "operation numbers carry the link");

static rt_region *region_of(const rt_copy *copy)
{
    return (rt_region *)(uintptr_t)copy->region;
}

static rt_remote *remote_of(const rt_copy *copy)
{
    return (rt_remote *)(uintptr_t)copy->remote;
}

static int64_t number_of(const rt_link *link, const rt_op *op)
{
    return (int64_t)(op->generation << (OP_INDEX_BITS + OP_LINK_BITS) | (uint64_t)link->index << OP_INDEX_BITS | op->index);
}

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
    /* Number stores are releases, for rt_op_find: who finds another number in its place sees what the operation brought. */
    atomic_store_explicit(&op->number, 0, memory_order_release);
    atomic_store_explicit(&op->state, RT_OP_FREE, memory_order_relaxed);
    rt_list_prepend(&link->free_ops, &op->node); /* the next copy takes this one, which is in the cache */
}

/* Counts the operation in its regions, once for copies of one region in a row: from here on close refuses, and free looks
 * whether an operation uses the block, which takes this link's turn. Pairs with the loads of region.c. */
static void regions_hold(const rt_cursor *cursor)
{
    const rt_region *last = NULL;
    for (uint64_t index = 0; index < cursor->count; index++) {
        rt_region *region = region_of(&cursor->copies[index]);
        if (region != last)
            atomic_fetch_add_explicit(&region->operations, 1, memory_order_relaxed);
        last = region;
    }
}

static void regions_let_go(const rt_cursor *cursor)
{
    const rt_region *last = NULL;
    for (uint64_t index = 0; index < cursor->count; index++) {
        rt_region *region = region_of(&cursor->copies[index]);
        if (region != last)
            atomic_fetch_sub_explicit(&region->operations, 1, memory_order_release);
        last = region;
    }
}

/* Counts what the operation uses as used, and lets the caller hold its number. */
static void pin(rt_link *link, rt_op *op)
{
    if (op->prepared != NULL)
        rt_prepared_reference(op->prepared);
    regions_hold(&op->cursor);
    for (uint64_t index = 0; index < op->cursor.count; index++)
        rt_remote_reference(remote_of(&op->cursor.copies[index]));
    op->pinned = true;
    atomic_fetch_add_explicit(&link->channel->device->operations, 1, memory_order_relaxed);
    atomic_store_explicit(&op->number, number_of(link, op), memory_order_release);
}

static void unpin(const rt_link *link, rt_op *op)
{
    regions_let_go(&op->cursor);
    for (uint64_t index = 0; index < op->cursor.count; index++)
        rt_remote_unreference(remote_of(&op->cursor.copies[index]));
    op->pinned = false;
    if (op->prepared != NULL)
        rt_prepared_unreference(op->prepared);
    atomic_fetch_sub_explicit(&link->channel->device->operations, 1, memory_order_relaxed);
}

static void count(rt_link *link, rt_op *op)
{
    if (op->status != RT_OK || op->cancelled) {
        link->stats.failures++;
        return;
    }
    if (op->cursor.count == 1) {
        link->stats.writes += (op->cursor.copies[0].direction & RT_COPY_DIRECTION) == RT_WRITE;
        link->stats.reads += (op->cursor.copies[0].direction & RT_COPY_DIRECTION) == RT_READ;
    } else {
        for (uint64_t index = 0; index < op->cursor.count; index++) {
            link->stats.writes += (op->cursor.copies[index].direction & RT_COPY_DIRECTION) == RT_WRITE;
            link->stats.reads += (op->cursor.copies[index].direction & RT_COPY_DIRECTION) == RT_READ;
        }
    }
    link->stats.bytes_written += op->bytes_written;
    link->stats.bytes_read += op->bytes_read;
}

void rt_op_end(rt_link *link, rt_op *op)
{
    assert(op->outstanding == 0);
    count(link, op);
    if (op->pinned)
        unpin(link, op);
    if (atomic_load_explicit(&op->number, memory_order_relaxed) == 0) {
        rt_op_give(link, op);
        return;
    }
    if (op->unwatched && op->status == RT_OK && !op->cancelled) {
        rt_op_give(link, op);
        rt_device_tell(link->channel->device);
        return;
    }
    /* Pairs with the acquire of waiters: status and what a READ brought are visible to them. */
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
    /* No completion will call for whoever sleeps: there is room, and the provider just did not use it. */
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

/* Finds the operation of a number that is still held. NULL for a number that was never given or is over. */
rt_op *rt_op_find(rt_channel *channel, int64_t number, rt_link **link_out)
{
    uint64_t value = (uint64_t)number;
    uint64_t link_index = (value >> OP_INDEX_BITS) & ((1u << OP_LINK_BITS) - 1);
    if (number <= 0 || link_index >= channel->link_count)
        return NULL;
    rt_link *link = &channel->links[link_index];
    rt_op *op = &link->ops[value & (RT_OPS_PER_LINK - 1)];
    if (atomic_load_explicit(&op->number, memory_order_acquire) != number)
        return NULL;
    *link_out = link;
    return op;
}

int64_t rt_op_begin(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns)
{
    /* A small copy where posting is copying is over before this returns: its caller keeps all but the regions. */
    bool brief = link->channel->device->limits.completes_in_post && slice_end_ns == INT64_MAX;
    if (brief)
        regions_hold(&op->cursor);
    else
        pin(link, op);
    int status = rt_op_start(link, op, waited, slice_end_ns);
    bool finished = status == RT_OK && op->outstanding == 0;
    if (brief && !finished)
        pin(link, op);
    if (brief)
        regions_let_go(&op->cursor);
    if (finished) { /* in post: the short way out */
        atomic_store_explicit(&op->number, 0, memory_order_relaxed);
        rt_op_end(link, op);
        rt_turn_leave(&link->turn);
        return RT_OK;
    }
    link->stats.waits++;
    int64_t number = number_of(link, op);
    if (status == RT_E_AGAIN)
        rt_op_starve(link, op);
    else if (status != RT_OK && op->outstanding == 0)
        rt_op_end(link, op);
    rt_turn_leave(&link->turn);
    if (status != RT_OK && status != RT_E_AGAIN)
        rt_link_fail(link, status, "posting");
    return number;
}

/* Whether the operation is the one of this number. Link turn held: one that is unwatched may have given itself back before. */
static bool is_still(const rt_op *op, int64_t number)
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
    if (is_still(op, number)) { /* it had not given itself back */
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
    bool done = !is_still(op, number) || atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE;
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
    if (!is_still(op, number)) {
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
    int64_t number = number_of(link, op);
    atomic_store_explicit(&op->number, number, memory_order_release);
    return number;
}

int64_t rt_op_adopt(rt_link *link, const rt_copy *copies, uint32_t count)
{
    rt_op *op = rt_op_take(link);
    assert(op != NULL);
    op->unwatched = true;
    if (count == 1) /* the caller may forget the operation, and then its copy */
        op->single = copies[0];
    op->cursor = (rt_cursor){count == 1 ? &op->single : copies, count, 0, 0};
    pin(link, op);
    return rt_op_hold(link, op);
}

/* How one of several ended up: finished, on its way, or to be moved on. Link turn held. */
static void settle_one(rt_link *link, rt_op *op)
{
    bool posted = op->cursor.index == op->cursor.count || op->cancelled;
    if (posted && op->outstanding == 0) {
        if (op->status == RT_OK)
            atomic_store_explicit(&op->number, 0, memory_order_relaxed); /* who holds it finds nothing: it is over */
        rt_op_end(link, op);
        return;
    }
    if (!op->pinned)
        pin(link, op);
    link->stats.waits++;
    if (!posted)
        rt_op_starve(link, op);
}

int rt_op_settle(rt_link *link, int64_t number)
{
    rt_op *op = &link->ops[number & (RT_OPS_PER_LINK - 1)];
    int status = op->status;
    settle_one(link, op);
    return status;
}

int rt_ops_begin(rt_link *link, rt_op *const *ops, uint32_t count)
{
    int status = RT_OK;
    bool shut = link->shut, wait = !rt_list_empty(&link->starved_ops);
    for (uint32_t index = 0; index < count; index++) {
        if (!link->channel->device->limits.completes_in_post || wait)
            pin(link, ops[index]);
        if (!shut)
            continue;
        ops[index]->cancelled = true;
        ops[index]->status = RT_E_FLUSHED;
    }
    if (!shut && !wait)
        status = rt_link_post_together(link, ops, count);
    for (uint32_t index = 0; index < count; index++)
        settle_one(link, ops[index]);
    rt_turn_leave(&link->turn);
    if (status != RT_OK)
        rt_link_fail(link, status, "posting");
    return status;
}

/* What is not posted never will be; what is stays quarantined until it retires, for which a completion may have to be asked for. */
static int64_t abandon(rt_link *link, rt_op *op)
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
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the operation belongs to the parent");
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
        moved = abandon(link, op);
    }
    rt_turn_leave(&link->turn);
    if (moved < 0)
        rt_link_fail(link, (int)moved, "posting");
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN)
        return rt_fail(detail, RT_E_AGAIN, 0, "the operation was abandoned");
    rt_channel_await_failure(channel);
    return rt_channel_explain(channel, status, detail);
}

/* ---- what is in flight, for quarantine ---- */

static bool overlaps(const rt_op *op, const rt_region *region, uint64_t offset, uint64_t size)
{
    for (uint64_t index = 0; op->pinned && index < op->cursor.count; index++) {
        const rt_copy *copy = &op->cursor.copies[index];
        if (region_of(copy) == region && copy->region_offset < offset + size && offset < copy->region_offset + copy->size)
            return true;
    }
    return false;
}

static bool link_range_busy(rt_link *link, const rt_region *region, uint64_t offset, uint64_t size)
{
    bool busy = false;
    rt_turn_take(&link->turn);
    for (uint32_t index = 0; !busy && index < RT_OPS_PER_LINK; index++)
        busy = overlaps(&link->ops[index], region, offset, size);
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
