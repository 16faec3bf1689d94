/* copy.c: the public calls that begin copies: one, many, prepared. They check everything that can
 * be checked locally before anything is posted: fork, state, QP, bounds, rights, overlap. post.c
 * turns the checked copies into work items. */
#include <assert.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/prepared.h"
#include "channel/remote.h"
#include "channel/start.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"

/* The time at which a call that copies this many bytes must pause copying; INT64_MAX when the copy
 * is over before a clock would help, or when the device does the copying. */
static int64_t work_end(const rt_device *device, uint64_t bytes, int64_t timeout_ns)
{
    bool timed = timeout_ns > 0 && bytes > RT_UNTIMED_MAX && device->limits.completes_in_post;
    return timed ? rt_device_slice_end(device, timeout_ns) : INT64_MAX;
}

/* Whether the two ends share bytes, which no order of copying makes meaningful. Known where both
 * devices live in this process. */
static bool piece_overlaps(const rt_piece *piece)
{
    const rt_remote *remote = piece->remote;
    uint64_t here = (uint64_t)(uintptr_t)piece->region->address + piece->region_offset;
    uint64_t there = remote->alias_address + remote->offset + piece->remote_offset;
    return here < there + piece->size && there < here + piece->size;
}

/* Checks one copy against the state of its two ends. */
static int piece_check(const rt_channel *channel, const rt_piece *piece)
{
    const rt_region *region = piece->region;
    const rt_remote *remote = piece->remote;
    if (region == NULL || remote == NULL || remote->channel != channel ||
        (region->device != NULL && region->device != channel->device))
        return RT_E_INVALID;
    if (region->readonly && piece->direction == RT_READ)
        return RT_E_LOCAL_ACCESS;
    if (region->memory == NULL)
        return RT_E_CLOSED;
    if (piece->size > region->size || piece->region_offset > region->size - piece->size)
        return RT_E_BOUNDS;
    if (piece->size > remote->size || piece->remote_offset > remote->size - piece->size)
        return RT_E_BOUNDS;
    uint32_t right = piece->direction == RT_WRITE ? RT_RIGHT_REMOTE_WRITE : RT_RIGHT_REMOTE_READ;
    if ((remote->rights & right) == 0)
        return RT_E_ACCESS;
    if (piece->direction == RT_READ && channel->device->limits.read_depth == 0)
        return RT_E_UNSUPPORTED;
    if (remote->alias_address != 0 && piece_overlaps(piece))
        return RT_E_OVERLAP;
    return RT_OK;
}

/* Makes a piece of a copy as the interface has it, whose ends are numbers, and checks it. */
static int piece_of_copy(const rt_channel *channel, const rt_copy *copy, rt_piece *piece_out)
{
    if (copy->direction != RT_WRITE && copy->direction != RT_READ)
        return RT_E_INVALID;
    *piece_out = (rt_piece){.region = (rt_region *)(uintptr_t)copy->region,
                            .region_offset = copy->region_offset,
                            .remote = (rt_remote *)(uintptr_t)copy->remote,
                            .remote_offset = copy->remote_offset,
                            .size = copy->size,
                            .direction = (uint16_t)copy->direction};
    return piece_check(channel, piece_out);
}

/* Makes pieces of copies, all or none, with one reference and nothing referenced by them. *bad_out
 * is the index of a copy that is wrong. */
static int pieces_of_copies(rt_channel *channel, rt_link *link, const rt_copy *copies, uint64_t count, rt_prepared **prepared_out,
                            uint64_t *bad_out)
{
    if (count > (SIZE_MAX - sizeof(rt_prepared)) / sizeof(rt_piece))
        return RT_E_INVALID;
    rt_prepared *prepared = malloc(sizeof *prepared + count * sizeof(rt_piece));
    if (prepared == NULL)
        return RT_E_NO_MEMORY;
    *prepared = (rt_prepared){.channel = channel, .link = link, .references = 1, .count = count};
    for (uint64_t index = 0; index < count; index++) {
        int status = piece_of_copy(channel, &copies[index], &prepared->pieces[index]);
        if (status != RT_OK) {
            *bad_out = index;
            free(prepared);
            return status;
        }
        prepared->bytes += copies[index].size;
    }
    *prepared_out = prepared;
    return RT_OK;
}

static rt_link *link_of(rt_channel *channel, int32_t qp)
{
    uint32_t index = qp < 0 ? 0 : (uint32_t)qp;
    return index < channel->link_count ? &channel->links[index] : NULL;
}

/* Takes an operation of the link, whose turn the caller has, and leaves the turn held; NULL with
 * *status_out, and no turn held, when there is none. */
static rt_op *link_take_op_in_turn(rt_link *link, int *status_out)
{
    if (link->shut) {
        rt_turn_leave(&link->turn);
        *status_out = rt_channel_refuse(link->channel, NULL);
        return NULL;
    }
    rt_op *op = rt_op_take(link);
    if (op == NULL) {
        rt_turn_leave(&link->turn);
        *status_out = RT_E_BUSY;
    }
    return op;
}

static rt_op *link_take_op(rt_link *link, int *status_out)
{
    rt_turn_take(&link->turn);
    return link_take_op_in_turn(link, status_out);
}

/* As link_take_op, but RT_E_BUSY while another thread has the turn, which it keeps as long as it copies. */
static rt_op *link_try_op(rt_link *link, int *status_out)
{
    if (rt_turn_try(&link->turn))
        return link_take_op_in_turn(link, status_out);
    *status_out = RT_E_BUSY;
    return NULL;
}

static int64_t op_give_back(rt_link *link, rt_op *op)
{
    rt_turn_take(&link->turn);
    rt_op_give(link, op);
    rt_turn_leave(&link->turn);
    return RT_OK;
}

/* Waits for an operation until the slice ends; RT_OK when it ended well and its number is void. */
static int64_t op_finish(rt_link *link, int64_t number, int64_t slice_end_ns)
{
    rt_link *found = NULL;
    rt_op *op = rt_op_find(link->channel, number, &found);
    assert(op != NULL && found == link);
    return rt_op_wait_on(link, op, slice_end_ns) == RT_OK ? op_give_back(link, op) : number;
}

/* Starts an operation whose cursor is set, with the link's turn held, and waits for it as long as
 * the caller allows. */
static int64_t op_start(rt_link *link, rt_op *op, uint64_t bytes, int64_t timeout_ns)
{
    const rt_device *device = link->channel->device;
    int64_t end = work_end(device, bytes, timeout_ns);
    int64_t number = rt_op_begin(link, op, timeout_ns > 0, end);
    if (number == RT_OK || timeout_ns <= 0)
        return number;
    return op_finish(link, number, end == INT64_MAX ? rt_device_slice_end(device, timeout_ns) : end);
}

int64_t rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                        rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    if (direction != RT_WRITE && direction != RT_READ)
        return RT_E_INVALID;
    rt_piece piece = {region, region_offset, remote, remote_offset, size, (uint16_t)direction, 0, 0};
    int status = piece_check(channel, &piece);
    rt_link *link = link_of(channel, qp);
    if (status != RT_OK || link == NULL)
        return status != RT_OK ? status : RT_E_INVALID;
    rt_op *op = link_take_op(link, &status);
    if (op == NULL)
        return status;
    op->few[0] = piece;
    op->cursor = (rt_cursor){op->few, 1, 0, 0};
    return op_start(link, op, size, timeout_ns);
}

/* Begins an operation whose cursor is set, with the link's turn held, and looks for its end so often. */
static int64_t op_run_briefly(rt_link *link, rt_op *op, uint32_t looks)
{
    int64_t number = rt_op_begin(link, op, false, INT64_MAX);
    bool done = number > 0 && rt_op_spin_on(link, op, looks) && op->status == RT_OK;
    return done ? op_give_back(link, op) : number;
}

int64_t rt_channel_copy_briefly(rt_channel *channel, const rt_copy *copy, uint32_t looks)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    rt_piece piece;
    int status = piece_of_copy(channel, copy, &piece);
    if (status != RT_OK)
        return status;
    rt_link *link = &channel->links[0];
    rt_op *op = link_try_op(link, &status);
    if (op == NULL)
        return status;
    op->few[0] = piece;
    op->cursor = (rt_cursor){op->few, 1, 0, 0};
    return op_run_briefly(link, op, looks);
}

/* Copies as many ranges as an operation keeps itself. */
static int64_t copies_run_few(rt_link *link, const rt_copy *copies, uint64_t count, int64_t timeout_ns, uint64_t *bad_out)
{
    rt_piece few[RT_OP_FEW];
    uint64_t bytes = 0;
    int status = RT_OK;
    for (uint64_t index = 0; index < count; index++) {
        status = piece_of_copy(link->channel, &copies[index], &few[index]);
        if (status != RT_OK) {
            *bad_out = index;
            return status;
        }
        bytes += few[index].size;
    }
    rt_op *op = link_take_op(link, &status);
    if (op == NULL)
        return status;
    for (uint64_t index = 0; index < count; index++)
        op->few[index] = few[index];
    op->cursor = (rt_cursor){op->few, count, 0, 0};
    return op_start(link, op, bytes, timeout_ns);
}

int64_t rt_channel_copy_many(rt_channel *channel, int32_t qp, const rt_copy *copies, uint64_t count, int64_t timeout_ns,
                             uint64_t *bad_out)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    rt_link *link = link_of(channel, qp);
    if (link == NULL)
        return RT_E_INVALID;
    if (count <= RT_OP_FEW)
        return copies_run_few(link, copies, count, timeout_ns, bad_out);
    rt_prepared *prepared = NULL;
    int status = pieces_of_copies(channel, link, copies, count, &prepared, bad_out);
    if (status != RT_OK)
        return status;
    rt_op *op = link_take_op(link, &status);
    int64_t number = status;
    if (op != NULL) {
        op->prepared = prepared;
        op->cursor = (rt_cursor){prepared->pieces, count, 0, 0};
        number = op_start(link, op, prepared->bytes, timeout_ns);
    }
    rt_prepared_unreference(prepared); /* an operation that goes on has a reference of its own */
    return number;
}

int rt_prepared_create(rt_channel *channel, int32_t qp, const rt_copy *copies, uint64_t count, rt_prepared **prepared_out,
                       uint64_t *bad_out)
{
    if (rt_forked())
        return RT_E_FORKED;
    rt_link *link = link_of(channel, qp);
    if (link == NULL)
        return RT_E_INVALID;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    rt_prepared *prepared = NULL;
    int status = pieces_of_copies(channel, link, copies, count, &prepared, bad_out);
    if (status != RT_OK)
        return status;
    rt_channel_reference(channel);
    for (uint64_t index = 0; index < count; index++) {
        const rt_piece *piece = &prepared->pieces[index];
        atomic_fetch_add_explicit(&piece->region->bound, 1, memory_order_relaxed);
        rt_region_reference(piece->region);
        rt_remote_reference(piece->remote);
    }
    *prepared_out = prepared;
    return RT_OK;
}

void rt_prepared_drop(rt_prepared *prepared)
{
    if (rt_forked())
        return;
    rt_channel *channel = prepared->channel;
    for (uint64_t index = 0; index < prepared->count; index++) {
        rt_region *region = prepared->pieces[index].region;
        rt_remote_unreference(prepared->pieces[index].remote);
        atomic_fetch_sub_explicit(&region->bound, 1, memory_order_release);
        rt_region_unreference(region);
    }
    rt_prepared_unreference(prepared);
    rt_channel_unreference(channel);
}

/* Takes an operation for prepared copies by one of the two functions above and leaves the link's
 * turn held; NULL with *status_out when there is none. */
static rt_op *prepared_take(rt_prepared *prepared, rt_op *(*take)(rt_link *link, int *status_out), int *status_out)
{
    bool forked = rt_forked();
    if (forked || atomic_load_explicit(&prepared->channel->state, memory_order_acquire) != RT_CHANNEL_READY) {
        *status_out = forked ? RT_E_FORKED : rt_channel_refuse(prepared->channel, NULL);
        return NULL;
    }
    rt_op *op = take(prepared->link, status_out);
    if (op == NULL)
        return NULL;
    op->prepared = prepared;
    op->cursor = (rt_cursor){prepared->pieces, prepared->count, 0, 0};
    return op;
}

static int64_t prepared_run(rt_prepared *prepared, int64_t timeout_ns)
{
    int status = RT_OK;
    rt_op *op = prepared_take(prepared, link_take_op, &status);
    return op != NULL ? op_start(prepared->link, op, prepared->bytes, timeout_ns) : status;
}

int64_t rt_prepared_run(rt_prepared *prepared)
{
    return prepared_run(prepared, RT_SLICE_NS);
}

int64_t rt_prepared_start(rt_prepared *prepared)
{
    return prepared_run(prepared, 0);
}

int64_t rt_prepared_run_briefly(rt_prepared *prepared, uint32_t looks)
{
    int status = RT_OK;
    rt_op *op = prepared_take(prepared, link_try_op, &status);
    return op != NULL ? op_run_briefly(prepared->link, op, looks) : status;
}

int64_t rt_prepared_finish(rt_prepared *prepared, int64_t number)
{
    if (rt_forked())
        return RT_E_FORKED;
    return op_finish(prepared->link, number, rt_device_slice_end(prepared->link->channel->device, RT_SLICE_NS));
}
