/* post.c: where a copy becomes work items. HOT: no allocation, lock, system call or log; the link's turn is held throughout.
 *
 * Cuts copies below the provider's largest message, decides inline and signaling, enters items into the link's ring. What
 * comes back is in poll.c; operations are in op.c; waiting is in wait.c. */
#include "core/copy.h"

/* Where posting is copying: below this many bytes a copy that is not waited for is still made at once, and no budget cuts items
 * smaller than this. */
enum { RT_IN_POST_ASYNC_MAX = 65536, RT_IN_POST_PIECE_MIN = 65536 };

typedef struct rt_batch {
    rt_work works[RT_POST_BATCH];
    rt_segment segments[RT_POST_BATCH];
    uint32_t count, segment_count;
    uint64_t bytes;
} rt_batch;

static rt_region *region_of(const rt_copy *copy)
{
    return (rt_region *)(uintptr_t)copy->region;
}

static rt_remote *remote_of(const rt_copy *copy)
{
    return (rt_remote *)(uintptr_t)copy->remote;
}

static bool cursor_at_end(const rt_cursor *cursor)
{
    return cursor->index == cursor->count;
}

/* Whether a copy makes an item although it has no bytes: its immediate says something. */
static bool speaks(const rt_copy *copy)
{
    return (copy->direction & (RT_COPY_IMMEDIATE | RT_COPY_EVERY_PIECE)) != 0;
}

/* Bytes of the next item; 0 when the copy under the cursor is empty. Where posting is copying the budget cuts it too. */
static uint64_t next_size(const rt_link *link, const rt_cursor *cursor, uint64_t budget)
{
    const rt_limits *limits = &link->channel->device->limits;
    uint64_t rest = cursor->copies[cursor->index].size - cursor->offset;
    uint64_t most = limits->message_size_max;
    if (limits->completes_in_post && budget < most)
        most = budget > RT_IN_POST_PIECE_MIN ? budget : RT_IN_POST_PIECE_MIN;
    return rest < most ? rest : most;
}

static void cursor_step(rt_cursor *cursor, uint64_t size)
{
    cursor->offset += size;
    if (cursor->offset == cursor->copies[cursor->index].size) {
        cursor->index++;
        cursor->offset = 0;
    }
}

/* Moves a cursor past items [first, end) of a batch, which were built from it. */
static void cursor_skip(rt_cursor *cursor, const rt_batch *batch, uint32_t first, uint32_t end)
{
    for (uint32_t index = first; index < end; index++) {
        const rt_work *work = &batch->works[index];
        for (uint32_t part = 0; part < work->segment_count; part++) {
            while (cursor->copies[cursor->index].size == 0 && !speaks(&cursor->copies[cursor->index]))
                cursor_step(cursor, 0);
            cursor_step(cursor, work->segments[part].size);
        }
    }
}

/* Adds the next `size` bytes under the cursor as a segment, and moves it. */
static void add_segment(rt_batch *batch, rt_cursor *cursor, uint64_t size)
{
    const rt_copy *copy = &cursor->copies[cursor->index];
    const rt_region *region = region_of(copy);
    batch->segments[batch->segment_count++] =
        (rt_segment){region->memory, region->address + copy->region_offset + cursor->offset, size};
    batch->bytes += size;
    cursor_step(cursor, size);
}

/* Adds to an item the copies that were joined to its first one, as far as one item can carry them. Returns the copy that ended it. */
static const rt_copy *join(const rt_link *link, rt_batch *batch, rt_cursor *cursor, const rt_copy *copy, uint64_t most)
{
    uint32_t parts_max = link->channel->device->limits.segments_max;
    uint32_t first = batch->segment_count - 1;
    while ((copy->direction & RT_COPY_JOINED) != 0 && cursor->offset == 0 && !cursor_at_end(cursor) && most != 0 &&
           batch->segment_count - first < parts_max && batch->segment_count < RT_POST_BATCH) {
        copy = &cursor->copies[cursor->index];
        uint64_t size = copy->size < most ? copy->size : most;
        if (size == 0)
            cursor_step(cursor, 0);
        else
            add_segment(batch, cursor, size);
        most -= size;
    }
    return copy;
}

/* Builds the next item from a copy of `size` bytes or its next piece, with what is joined to it. */
static void build_item(const rt_link *link, rt_cursor *cursor, rt_batch *batch, uint64_t size, uint64_t most)
{
    const rt_copy *copy = &cursor->copies[cursor->index];
    const rt_remote *remote = remote_of(copy);
    rt_work *work = &batch->works[batch->count++];
    uint32_t first = batch->segment_count;
    bool is_write = (copy->direction & RT_COPY_DIRECTION) == RT_WRITE;
    *work = (rt_work){
        .opcode = is_write ? RT_WORK_WRITE : RT_WORK_READ,
        .segments = &batch->segments[first],
        .remote = remote->premote,
        .remote_offset = remote->offset + copy->remote_offset + cursor->offset,
    };
    add_segment(batch, cursor, size);
    if ((copy->direction & ~(uint64_t)RT_COPY_DIRECTION) != 0) {
        const rt_copy *last = join(link, batch, cursor, copy, most - size);
        bool whole = cursor->offset == 0;
        if ((last->direction & RT_COPY_EVERY_PIECE) != 0 || (whole && (last->direction & RT_COPY_IMMEDIATE) != 0)) {
            work->opcode = RT_WORK_WRITE_IMM;
            work->immediate = (uint32_t)(last->direction >> RT_COPY_IMMEDIATE_SHIFT);
        }
    }
    work->segment_count = (uint16_t)(batch->segment_count - first);
    /* One inline segment: several of them have had faults in software devices (RDMA-RULES 38). */
    if (is_write && work->segment_count == 1 && size <= link->channel->device->limits.inline_size_max)
        work->flags = RT_WORK_INLINE;
}

static void batch_clear(rt_batch *batch)
{
    batch->count = batch->segment_count = 0;
    batch->bytes = 0;
}

/* Adds to the batch from a cursor, which it moves, up to `room` items and about `budget` bytes in all. */
static void build(const rt_link *link, rt_cursor *cursor, rt_batch *batch, uint32_t room, uint64_t budget)
{
    while (!cursor_at_end(cursor) && batch->count < room && batch->segment_count < RT_POST_BATCH && batch->bytes < budget) {
        uint64_t size = next_size(link, cursor, budget - batch->bytes);
        if (size != 0 || speaks(&cursor->copies[cursor->index]))
            build_item(link, cursor, batch, size, link->channel->device->limits.message_size_max);
        else
            cursor_step(cursor, 0);
    }
}

/* Gives every item its place in the ring, and asks for completions: at the end of the batch and every half queue, so that
 * slots come back in time (RDMA-RULES 23). */
static void number(rt_link *link, rt_batch *batch)
{
    uint32_t unsignaled = link->unsignaled;
    for (uint32_t index = 0; index < batch->count; index++) {
        batch->works[index].token = rt_token(link, (link->head + index) & (uint32_t)(RT_TOKEN_RECEIVE - 1));
        unsignaled++;
        if (index + 1 == batch->count || unsignaled >= link->depth / 2) {
            batch->works[index].flags |= RT_WORK_SIGNALED;
            unsignaled = 0;
        }
    }
}

/* Enters what the provider accepted of an operation's items [first, end). When all of the batch is finished, only counters change;
 * else every item takes its place in the ring, so that tokens say where: the finished ones retire with the first completion behind
 * them, as unsignaled ones do. */
static void enter_items(rt_link *link, rt_op *op, const rt_batch *batch, uint32_t first, uint32_t end, rt_posted posted)
{
    assert(posted.completed <= posted.accepted && posted.accepted <= batch->count);
    for (uint32_t index = first; index < end && index < posted.accepted; index++) {
        const rt_work *work = &batch->works[index];
        uint64_t size = work->segments[0].size;
        for (uint32_t part = 1; part < work->segment_count; part++)
            size += work->segments[part].size;
        if (work->opcode == RT_WORK_READ)
            op->bytes_read += size;
        else
            op->bytes_written += size;
        if (posted.completed == posted.accepted)
            continue;
        link->ring[link->head & link->ring_mask] = (rt_inflight){.op = op, .size = size, .opcode = work->opcode};
        link->head++;
        link->unsignaled = (work->flags & RT_WORK_SIGNALED) != 0 ? 0 : link->unsignaled + 1;
        op->outstanding++;
    }
}

/* The same of a batch that is one operation's, and the counters of any. */
static void enter(rt_link *link, rt_op *op, const rt_batch *batch, rt_posted posted)
{
    if (op != NULL)
        enter_items(link, op, batch, 0, batch->count, posted);
    link->stats.doorbells++;
    link->stats.work_items += posted.accepted;
    link->last_posted += posted.accepted;
    link->last_completed += posted.completed == posted.accepted ? posted.completed : 0;
}

int rt_link_post(rt_link *link, rt_op *op, uint64_t budget)
{
    const rt_device *device = link->channel->device;
    rt_batch batch;
    while (!cursor_at_end(&op->cursor)) {
        uint32_t room = link->depth - (link->head - link->tail);
        if (room == 0 || budget == 0)
            return RT_E_AGAIN;
        rt_cursor before = op->cursor;
        batch_clear(&batch);
        build(link, &op->cursor, &batch, room < RT_POST_BATCH ? room : RT_POST_BATCH, budget);
        if (batch.count == 0)
            continue;
        number(link, &batch);
        rt_posted posted = {0, 0};
        int status = device->provider->post(link->plink, batch.works, batch.count, &posted);
        enter(link, op, &batch, posted);
        if (status != RT_OK) {
            op->status = status;
            op->cancelled = true;
            return status;
        }
        if (posted.accepted < batch.count) {
            op->cursor = before;
            cursor_skip(&op->cursor, &batch, 0, posted.accepted);
            return RT_E_AGAIN;
        }
        budget -= batch.bytes < budget ? batch.bytes : budget;
    }
    return RT_OK;
}

bool rt_link_post_small(rt_link *link, const rt_copy *copies, uint32_t count, int64_t *number_out)
{
    const rt_device *device = link->channel->device;
    rt_batch batch;
    assert(count <= RT_SMALL_COPIES_MAX && device->limits.completes_in_post);
    if (link->shut || !rt_list_empty(&link->starved_ops) || rt_list_empty(&link->free_ops))
        return false;
    batch.count = batch.segment_count = count;
    for (uint32_t index = 0; index < count; index++) {
        const rt_copy *copy = &copies[index];
        const rt_region *region = region_of(copy);
        const rt_remote *remote = remote_of(copy);
        batch.segments[index] = (rt_segment){region->memory, region->address + copy->region_offset, copy->size};
        batch.works[index] = (rt_work){.opcode = RT_WORK_WRITE,
                                       .segment_count = 1,
                                       .segments = &batch.segments[index],
                                       .remote = remote->premote,
                                       .remote_offset = remote->offset + copy->remote_offset};
    }
    number(link, &batch);
    rt_posted posted = {0, 0};
    int status = device->provider->post(link->plink, batch.works, count, &posted);
    *number_out = 0;
    if (posted.completed == count) {
        link->stats.writes += count;
        for (uint32_t index = 0; index < count; index++)
            link->stats.bytes_written += copies[index].size;
        enter(link, NULL, &batch, posted);
        return true;
    }
    *number_out = rt_op_adopt(link, copies, count); /* a failure is told by a completion, which finds an operation */
    rt_op *op = &link->ops[*number_out & (RT_OPS_PER_LINK - 1)];
    enter(link, op, &batch, posted);
    cursor_skip(&op->cursor, &batch, 0, posted.accepted);
    op->status = status;
    op->cancelled = status != RT_OK;
    return true;
}

int rt_link_post_together(rt_link *link, rt_op *const *ops, uint32_t count)
{
    rt_batch batch;
    rt_cursor before[RT_POST_BATCH];
    uint32_t first[RT_POST_BATCH + 1] = {0}, room = link->depth - (link->head - link->tail);
    assert(count <= RT_POST_BATCH);
    room = room < RT_POST_BATCH ? room : RT_POST_BATCH;
    batch_clear(&batch);
    for (uint32_t index = 0; index < count; index++) {
        before[index] = ops[index]->cursor;
        build(link, &ops[index]->cursor, &batch, room, UINT64_MAX);
        first[index + 1] = batch.count;
        if (!cursor_at_end(&ops[index]->cursor))
            room = 0; /* what follows it must not overtake it */
    }
    rt_posted posted = {0, 0};
    int status = RT_OK;
    if (batch.count != 0) {
        number(link, &batch);
        status = link->channel->device->provider->post(link->plink, batch.works, batch.count, &posted);
        enter(link, NULL, &batch, posted);
    }
    for (uint32_t index = 0; index < count; index++) {
        rt_op *op = ops[index];
        uint32_t start = first[index], end = first[index + 1];
        enter_items(link, op, &batch, start, end, posted);
        if (posted.accepted >= end)
            continue;
        op->cursor = before[index];
        cursor_skip(&op->cursor, &batch, start, posted.accepted > start ? posted.accepted : start);
        op->status = op->status == RT_OK ? status : op->status;
        op->cancelled = op->cancelled || status != RT_OK;
    }
    return status;
}

/* A completion is owed for items of an abandoned operation that were posted unsignaled, and nothing else is to be posted that
 * would bring it: posts an item of no bytes that does. Link turn held. */
static int post_marker(rt_link *link, rt_op *op)
{
    const rt_device *device = link->channel->device;
    if (link->head - link->tail == link->depth)
        return RT_E_AGAIN;
    const rt_copy *copy = &op->cursor.copies[op->cursor.index];
    rt_segment segment = {region_of(copy)->memory, region_of(copy)->address + copy->region_offset, 0};
    rt_batch batch = {.count = 1};
    bool is_write = (copy->direction & RT_COPY_DIRECTION) == RT_WRITE;
    batch.works[0] = (rt_work){.opcode = is_write ? RT_WORK_WRITE : RT_WORK_READ,
                               .segment_count = 1,
                               .segments = &segment,
                               .remote = remote_of(copy)->premote,
                               .remote_offset = remote_of(copy)->offset + copy->remote_offset};
    number(link, &batch);
    rt_posted posted = {0, 0};
    int status = device->provider->post(link->plink, batch.works, 1, &posted);
    enter(link, op, &batch, posted);
    return status == RT_OK && posted.accepted == 0 ? RT_E_AGAIN : status;
}

/* What there is to do for the first starved operation: nothing more when the link is shut or the operation was given up. */
static int feed(rt_link *link, rt_op *op, uint64_t budget)
{
    if (link->shut) {
        op->cancelled = true;
        if (op->status == RT_OK)
            op->status = RT_E_FLUSHED;
        return RT_OK;
    }
    if (!op->cancelled)
        return rt_link_post(link, op, budget);
    bool alone = op->node.next == &link->starved_ops;
    bool owed = link->unsignaled != 0 && op->outstanding != 0 && op->status == RT_OK;
    return alone && owed ? post_marker(link, op) : RT_OK;
}

int64_t rt_link_pump(rt_link *link, uint64_t budget)
{
    uint64_t before = link->last_posted;
    int64_t ended = 0;
    while (!rt_list_empty(&link->starved_ops)) {
        rt_op *op = RT_LIST_ENTRY(link->starved_ops.next, rt_op, node);
        uint64_t bytes_before = op->bytes_written + op->bytes_read;
        int status = feed(link, op, budget);
        if (status == RT_E_AGAIN)
            break;
        uint64_t bytes = op->bytes_written + op->bytes_read - bytes_before;
        budget -= bytes < budget ? bytes : budget;
        rt_list_remove(&op->node);
        if (op->outstanding == 0) {
            rt_op_end(link, op);
            ended++;
        }
        if (status != RT_OK) {
            rt_op_fed(link);
            return status;
        }
    }
    rt_op_fed(link);
    return (int64_t)(link->last_posted - before) + ended;
}

/* Whether an operation may be copied by the thread that starts it without being waited for. */
static bool small(const rt_op *op)
{
    uint64_t bytes = 0;
    for (uint64_t index = 0; index < op->cursor.count && bytes <= RT_IN_POST_ASYNC_MAX; index++)
        bytes += op->cursor.copies[index].size;
    return bytes <= RT_IN_POST_ASYNC_MAX;
}

int rt_op_start(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns)
{
    const rt_device *device = link->channel->device;
    if (!rt_list_empty(&link->starved_ops) || (device->limits.completes_in_post && !waited && !small(op)))
        return RT_E_AGAIN;
    if (!device->limits.completes_in_post)
        return rt_link_post(link, op, UINT64_MAX);
    /* Posting is copying: look at the clock and at the channel between the pieces of a large copy. */
    for (;;) {
        int status = rt_link_post(link, op, device->limits.message_size_max);
        if (status != RT_E_AGAIN)
            return status;
        if (rt_device_time(device) >= slice_end_ns || link->head - link->tail == link->depth ||
            atomic_load_explicit(&link->channel->state, memory_order_relaxed) != RT_CHANNEL_READY)
            return RT_E_AGAIN;
    }
}
