/* post.c: turns copies into work items. HOT: no allocation, lock, system call or log; the link's
 * turn is held throughout.
 *
 * Cuts copies below the provider's largest message, decides inline and signaling, enters items into
 * the link's ring. Completions are in poll.c; operations are in op.c; waiting is in wait.c. */
#include <assert.h>

#include "channel/link.h"
#include "channel/op.h"
#include "channel/post.h"
#include "channel/remote.h"
#include "device/device.h"
#include "region/region.h"

/* Where posting is copying: a copy below this many bytes is made at once even if nobody waits for
 * it, and no budget cuts items smaller than this. */
enum { RT_IN_POST_ASYNC_MAX = 65536, RT_IN_POST_PIECE_MIN = 65536 };

typedef struct rt_batch {
    rt_work works[RT_POST_BATCH];
    rt_segment segments[RT_POST_BATCH];
    uint32_t count, segment_count;
    uint64_t bytes;
} rt_batch;

static bool cursor_at_end(const rt_cursor *cursor)
{
    return cursor->index == cursor->count;
}

/* Whether a piece makes an item although it has no bytes, because it carries an immediate. */
static bool piece_speaks(const rt_piece *piece)
{
    return (piece->flags & (RT_PIECE_IMMEDIATE | RT_PIECE_IMMEDIATES)) != 0;
}

/* Bytes of the next item; 0 when the piece under the cursor is empty. Where posting is copying, the
 * budget limits it too. */
static uint64_t item_size_next(const rt_link *link, const rt_cursor *cursor, uint64_t budget)
{
    const rt_limits *limits = &link->channel->device->limits;
    uint64_t rest = cursor->pieces[cursor->index].size - cursor->offset;
    uint64_t most = limits->message_size_max;
    if (limits->completes_in_post && budget < most)
        most = budget > RT_IN_POST_PIECE_MIN ? budget : RT_IN_POST_PIECE_MIN;
    return rest < most ? rest : most;
}

static void cursor_step(rt_cursor *cursor, uint64_t size)
{
    cursor->offset += size;
    if (cursor->offset == cursor->pieces[cursor->index].size) {
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
            while (cursor->pieces[cursor->index].size == 0 && !piece_speaks(&cursor->pieces[cursor->index]))
                cursor_step(cursor, 0);
            cursor_step(cursor, work->segments[part].size);
        }
    }
}

/* Adds the next `size` bytes under the cursor as a segment, and moves it. */
static void segment_add(rt_batch *batch, rt_cursor *cursor, uint64_t size)
{
    const rt_piece *piece = &cursor->pieces[cursor->index];
    const rt_region *region = piece->region;
    batch->segments[batch->segment_count++] =
        (rt_segment){region->memory, region->address + piece->region_offset + cursor->offset, size};
    batch->bytes += size;
    cursor_step(cursor, size);
}

/* Adds to an item the pieces that are joined to its first one, as far as one item can carry them.
 * Returns the piece that ended it. */
static const rt_piece *pieces_join(const rt_link *link, rt_batch *batch, rt_cursor *cursor, const rt_piece *piece, uint64_t most)
{
    uint32_t parts_max = link->channel->device->limits.segments_max;
    uint32_t first = batch->segment_count - 1;
    while ((piece->flags & RT_PIECE_JOINED) != 0 && cursor->offset == 0 && !cursor_at_end(cursor) && most != 0 &&
           batch->segment_count - first < parts_max && batch->segment_count < RT_POST_BATCH) {
        piece = &cursor->pieces[cursor->index];
        uint64_t size = piece->size < most ? piece->size : most;
        if (size == 0)
            cursor_step(cursor, 0);
        else
            segment_add(batch, cursor, size);
        most -= size;
    }
    return piece;
}

/* Builds the next item from `size` bytes of the piece under the cursor, with the pieces joined to
 * it. */
static void item_build(const rt_link *link, rt_cursor *cursor, rt_batch *batch, uint64_t size, uint64_t most)
{
    const rt_piece *piece = &cursor->pieces[cursor->index];
    const rt_remote *remote = piece->remote;
    rt_work *work = &batch->works[batch->count++];
    uint32_t first = batch->segment_count;
    bool is_write = piece->direction == RT_WRITE;
    *work = (rt_work){
        .opcode = is_write ? RT_WORK_WRITE : RT_WORK_READ,
        .segments = &batch->segments[first],
        .remote = remote->premote,
        .remote_offset = remote->offset + piece->remote_offset + cursor->offset,
    };
    segment_add(batch, cursor, size);
    if (piece->flags != 0) {
        const rt_piece *last = pieces_join(link, batch, cursor, piece, most - size);
        bool whole = cursor->offset == 0;
        if ((last->flags & RT_PIECE_IMMEDIATES) != 0 || (whole && (last->flags & RT_PIECE_IMMEDIATE) != 0)) {
            work->opcode = RT_WORK_WRITE_IMM;
            work->immediate = last->immediate;
        }
    }
    work->segment_count = (uint16_t)(batch->segment_count - first);
    /* Inline only one segment: several of them have had faults in software devices (RDMA-RULES
     * 38). */
    if (is_write && work->segment_count == 1 && size <= link->channel->device->limits.inline_size_max)
        work->flags = RT_WORK_INLINE;
}

static void batch_clear(rt_batch *batch)
{
    batch->count = batch->segment_count = 0;
    batch->bytes = 0;
}

/* Adds items from a cursor to the batch, and moves the cursor: up to `room` items and about
 * `budget` bytes in all. */
static void batch_build(const rt_link *link, rt_cursor *cursor, rt_batch *batch, uint32_t room, uint64_t budget)
{
    while (!cursor_at_end(cursor) && batch->count < room && batch->segment_count < RT_POST_BATCH && batch->bytes < budget) {
        uint64_t size = item_size_next(link, cursor, budget - batch->bytes);
        if (size != 0 || piece_speaks(&cursor->pieces[cursor->index]))
            item_build(link, cursor, batch, size, link->channel->device->limits.message_size_max);
        else
            cursor_step(cursor, 0);
    }
}

/* Gives every item its place in the ring, and asks for completions: at the end of the batch and
 * every half queue, so that slots return in time (RDMA-RULES 23). */
static void batch_number(rt_link *link, rt_batch *batch)
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

/* Enters the items [first, end) of an operation that the provider accepted. When all of the batch
 * is finished, only counters change. Otherwise every item takes its place in the ring, so that
 * tokens give positions: the finished ones retire with the first completion behind them, as
 * unsignaled ones do. */
static void items_enter(rt_link *link, rt_op *op, const rt_batch *batch, uint32_t first, uint32_t end, rt_posted posted)
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

/* Enters a batch that belongs to one operation, or to none, and updates the link's counters. */
static void batch_enter(rt_link *link, rt_op *op, const rt_batch *batch, rt_posted posted)
{
    if (op != NULL)
        items_enter(link, op, batch, 0, batch->count, posted);
    link->stats.doorbells++;
    link->stats.work_items += posted.accepted;
    link->last_posted += posted.accepted;
    link->last_completed += posted.completed == posted.accepted ? posted.completed : 0;
}

/* Posts as much of an operation as the send queue takes, at most about `budget` bytes. RT_OK: all
 * is posted. RT_E_AGAIN: not yet. Another status: the link failed, `op` has the status, and the
 * caller fails the channel after it left the turn. */
static int link_post(rt_link *link, rt_op *op, uint64_t budget)
{
    const rt_device *device = link->channel->device;
    rt_batch batch;
    while (!cursor_at_end(&op->cursor)) {
        uint32_t room = link->depth - (link->head - link->tail);
        if (room == 0 || budget == 0)
            return RT_E_AGAIN;
        rt_cursor before = op->cursor;
        batch_clear(&batch);
        batch_build(link, &op->cursor, &batch, room < RT_POST_BATCH ? room : RT_POST_BATCH, budget);
        if (batch.count == 0)
            continue;
        batch_number(link, &batch);
        rt_posted posted = {0, 0};
        int status = device->provider->post(link->plink, batch.works, batch.count, &posted);
        batch_enter(link, op, &batch, posted);
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

bool rt_link_post_small(rt_link *link, const rt_piece *pieces, uint32_t count, int64_t *number_out)
{
    const rt_device *device = link->channel->device;
    rt_batch batch;
    assert(count <= RT_SMALL_COPIES_MAX && device->limits.completes_in_post);
    if (link->shut || !rt_list_empty(&link->starved_ops) || rt_list_empty(&link->free_ops))
        return false;
    batch.count = batch.segment_count = count;
    for (uint32_t index = 0; index < count; index++) {
        const rt_piece *piece = &pieces[index];
        const rt_region *region = piece->region;
        const rt_remote *remote = piece->remote;
        batch.segments[index] = (rt_segment){region->memory, region->address + piece->region_offset, piece->size};
        bool immediate = piece_speaks(piece);
        batch.works[index] = (rt_work){.opcode = immediate ? RT_WORK_WRITE_IMM : RT_WORK_WRITE,
                                       .immediate = immediate ? piece->immediate : 0,
                                       .segment_count = 1,
                                       .segments = &batch.segments[index],
                                       .remote = remote->premote,
                                       .remote_offset = remote->offset + piece->remote_offset};
    }
    batch_number(link, &batch);
    rt_posted posted = {0, 0};
    int status = device->provider->post(link->plink, batch.works, count, &posted);
    *number_out = 0;
    if (posted.completed == count) {
        link->stats.writes += count;
        for (uint32_t index = 0; index < count; index++)
            link->stats.bytes_written += pieces[index].size;
        batch_enter(link, NULL, &batch, posted);
        return true;
    }
    *number_out = rt_op_adopt(link, pieces, count); /* a completion reports a failure, and must find an operation */
    rt_op *op = &link->ops[*number_out & (RT_OPS_PER_LINK - 1)];
    batch_enter(link, op, &batch, posted);
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
        batch_build(link, &ops[index]->cursor, &batch, room, UINT64_MAX);
        first[index + 1] = batch.count;
        if (!cursor_at_end(&ops[index]->cursor))
            room = 0; /* later items must not overtake it */
    }
    rt_posted posted = {0, 0};
    int status = RT_OK;
    if (batch.count != 0) {
        batch_number(link, &batch);
        status = link->channel->device->provider->post(link->plink, batch.works, batch.count, &posted);
        batch_enter(link, NULL, &batch, posted);
    }
    for (uint32_t index = 0; index < count; index++) {
        rt_op *op = ops[index];
        uint32_t start = first[index], end = first[index + 1];
        items_enter(link, op, &batch, start, end, posted);
        if (posted.accepted >= end)
            continue;
        op->cursor = before[index];
        cursor_skip(&op->cursor, &batch, start, posted.accepted > start ? posted.accepted : start);
        op->status = op->status == RT_OK ? status : op->status;
        op->cancelled = op->cancelled || status != RT_OK;
    }
    return status;
}

/* Items of an abandoned operation were posted unsignaled, and nothing else is left to post that
 * would bring their completion: posts an item of no bytes that does. Link turn held. */
static int marker_post(rt_link *link, rt_op *op)
{
    const rt_device *device = link->channel->device;
    if (link->head - link->tail == link->depth)
        return RT_E_AGAIN;
    const rt_piece *piece = &op->cursor.pieces[op->cursor.index];
    rt_segment segment = {piece->region->memory, piece->region->address + piece->region_offset, 0};
    rt_batch batch = {.count = 1};
    bool is_write = piece->direction == RT_WRITE;
    batch.works[0] = (rt_work){.opcode = is_write ? RT_WORK_WRITE : RT_WORK_READ,
                               .segment_count = 1,
                               .segments = &segment,
                               .remote = piece->remote->premote,
                               .remote_offset = piece->remote->offset + piece->remote_offset};
    batch_number(link, &batch);
    rt_posted posted = {0, 0};
    int status = device->provider->post(link->plink, batch.works, 1, &posted);
    batch_enter(link, op, &batch, posted);
    return status == RT_OK && posted.accepted == 0 ? RT_E_AGAIN : status;
}

/* Moves the first starved operation on. When the link is shut or the operation was given up,
 * nothing more of it is posted. */
static int op_feed(rt_link *link, rt_op *op, uint64_t budget)
{
    if (link->shut) {
        op->cancelled = true;
        if (op->status == RT_OK)
            op->status = RT_E_FLUSHED;
        return RT_OK;
    }
    if (!op->cancelled)
        return link_post(link, op, budget);
    bool alone = op->node.next == &link->starved_ops;
    bool owed = link->unsignaled != 0 && op->outstanding != 0 && op->status == RT_OK;
    return alone && owed ? marker_post(link, op) : RT_OK;
}

int64_t rt_link_pump(rt_link *link, uint64_t budget)
{
    uint64_t before = link->last_posted;
    int64_t ended = 0;
    while (!rt_list_empty(&link->starved_ops)) {
        rt_op *op = RT_LIST_ENTRY(link->starved_ops.next, rt_op, node);
        uint64_t bytes_before = op->bytes_written + op->bytes_read;
        int status = op_feed(link, op, budget);
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

/* Whether an operation is small enough that the thread that starts it may copy it without being
 * asked to wait. */
static bool op_is_small(const rt_op *op)
{
    uint64_t bytes = 0;
    for (uint64_t index = 0; index < op->cursor.count && bytes <= RT_IN_POST_ASYNC_MAX; index++)
        bytes += op->cursor.pieces[index].size;
    return bytes <= RT_IN_POST_ASYNC_MAX;
}

int rt_op_start(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns)
{
    const rt_device *device = link->channel->device;
    if (!rt_list_empty(&link->starved_ops) || (device->limits.completes_in_post && !waited && !op_is_small(op)))
        return RT_E_AGAIN;
    if (!device->limits.completes_in_post)
        return link_post(link, op, UINT64_MAX);
    /* Posting is copying: check the clock and the channel between the pieces of a large copy. */
    for (;;) {
        uint64_t before = link->last_posted;
        int status = link_post(link, op, device->limits.message_size_max);
        if (status != RT_E_AGAIN)
            return status;
        bool full = link->last_posted == before || link->head - link->tail == link->depth;
        if (full || rt_device_time(device) >= slice_end_ns ||
            atomic_load_explicit(&link->channel->state, memory_order_relaxed) != RT_CHANNEL_READY)
            return RT_E_AGAIN;
    }
}
