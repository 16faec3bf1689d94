/* copy.c: the public calls that begin copies: one, many, prepared. They check everything that can be known here before
 * anything is posted: fork, state, QP, bounds, rights, overlap. post.c makes work items of what passed. */
#include <stdlib.h>

#include "core/copy.h"

struct rt_prepared {
    rt_channel *channel;
    rt_link *link;
    _Atomic uint32_t references; /* the caller's, and one per operation that runs it */
    uint64_t count;
    uint64_t bytes;
    rt_copy copies[];
};

enum { RT_UNTIMED_MAX = 65536 }; /* bytes that are copied without reading the clock where posting is copying */

static int64_t slice_end(const rt_device *device, int64_t timeout_ns)
{
    int64_t slice = timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS;
    return rt_device_time(device) + slice;
}

/* When a call that copies this many bytes must look up from copying; INT64_MAX: it is over before a clock would tell, or it is
 * the device that copies. */
static int64_t work_end(const rt_device *device, uint64_t bytes, int64_t timeout_ns)
{
    bool timed = timeout_ns > 0 && bytes > RT_UNTIMED_MAX && device->limits.completes_in_post;
    return timed ? slice_end(device, timeout_ns) : INT64_MAX;
}

/* Whether both ends share bytes, which no order of copying makes meaningful. Known where both devices live in this process. */
static bool overlap(const rt_copy *copy, const rt_region *region, const rt_remote *remote)
{
    uint64_t here = (uint64_t)(uintptr_t)region->address + copy->region_offset;
    uint64_t there = remote->alias_address + remote->offset + copy->remote_offset;
    return here < there + copy->size && there < here + copy->size;
}

static int check_copy(const rt_channel *channel, const rt_copy *copy)
{
    const rt_region *region = (const rt_region *)(uintptr_t)copy->region;
    const rt_remote *remote = (const rt_remote *)(uintptr_t)copy->remote;
    if (copy->direction != RT_WRITE && copy->direction != RT_READ)
        return RT_E_INVALID;
    if (region == NULL || remote == NULL || remote->channel != channel ||
        (region->device != NULL && region->device != channel->device))
        return RT_E_INVALID;
    if (region->memory == NULL)
        return RT_E_CLOSED;
    if (copy->size > region->size || copy->region_offset > region->size - copy->size)
        return RT_E_BOUNDS;
    if (copy->size > remote->size || copy->remote_offset > remote->size - copy->size)
        return RT_E_BOUNDS;
    uint32_t right = copy->direction == RT_WRITE ? RT_RIGHT_REMOTE_WRITE : RT_RIGHT_REMOTE_READ;
    if ((remote->rights & right) == 0)
        return RT_E_ACCESS;
    if (copy->direction == RT_READ && channel->device->limits.read_depth == 0)
        return RT_E_UNSUPPORTED;
    if (remote->alias_address != 0 && overlap(copy, region, remote))
        return RT_E_OVERLAP;
    return RT_OK;
}

static int check_all(const rt_channel *channel, const rt_copy *copies, uint64_t count, uint64_t *bytes_out, uint64_t *bad_out)
{
    uint64_t bytes = 0;
    for (uint64_t index = 0; index < count; index++) {
        int status = check_copy(channel, &copies[index]);
        if (status != RT_OK) {
            *bad_out = index;
            return status;
        }
        bytes += copies[index].size;
    }
    *bytes_out = bytes;
    return RT_OK;
}

static rt_link *link_of(rt_channel *channel, int32_t qp)
{
    uint32_t index = qp < 0 ? 0 : (uint32_t)qp;
    return index < channel->link_count ? &channel->links[index] : NULL;
}

/* Takes an operation of the link with its turn held; NULL with *status_out when there is none. */
static rt_op *take(rt_link *link, int *status_out)
{
    rt_turn_take(&link->turn);
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

static int64_t give_back(rt_link *link, rt_op *op)
{
    rt_turn_take(&link->turn);
    rt_op_give(link, op);
    rt_turn_leave(&link->turn);
    return RT_OK;
}

/* Waits for an operation as far as the slice goes; RT_OK when it ended well and its number is void. */
static int64_t finish(rt_link *link, int64_t number, int64_t slice_end_ns)
{
    rt_link *found = NULL;
    rt_op *op = rt_op_find(link->channel, number, &found);
    assert(op != NULL && found == link);
    return rt_op_wait_on(link, op, slice_end_ns) == RT_OK ? give_back(link, op) : number;
}

/* Starts an operation whose cursor is set, with the link's turn held, and waits for it as long as the caller may. */
static int64_t begin(rt_link *link, rt_op *op, uint64_t bytes, int64_t timeout_ns)
{
    const rt_device *device = link->channel->device;
    int64_t end = work_end(device, bytes, timeout_ns);
    int64_t number = rt_op_begin(link, op, timeout_ns > 0, end);
    if (number == RT_OK || timeout_ns <= 0)
        return number;
    return finish(link, number, end == INT64_MAX ? slice_end(device, timeout_ns) : end);
}

int64_t rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                        rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    rt_copy copy = {(uint64_t)(uintptr_t)region, region_offset, (uint64_t)(uintptr_t)remote, remote_offset, size, direction};
    int status = check_copy(channel, &copy);
    rt_link *link = link_of(channel, qp);
    if (status != RT_OK || link == NULL)
        return status != RT_OK ? status : RT_E_INVALID;
    rt_op *op = take(link, &status);
    if (op == NULL)
        return status;
    op->single = copy;
    op->cursor = (rt_cursor){&op->single, 1, 0, 0};
    return begin(link, op, size, timeout_ns);
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
    uint64_t bytes = 0;
    int status = check_all(channel, copies, count, &bytes, bad_out);
    if (status != RT_OK)
        return status;
    rt_op *op = take(link, &status);
    if (op == NULL)
        return status;
    op->cursor = (rt_cursor){copies, count, 0, 0};
    return begin(link, op, bytes, timeout_ns);
}

int rt_prepared_create(rt_channel *channel, int32_t qp, const rt_copy *copies, uint64_t count, rt_prepared **prepared_out,
                       uint64_t *bad_out)
{
    if (rt_forked())
        return RT_E_FORKED;
    rt_link *link = link_of(channel, qp);
    if (link == NULL || count > (SIZE_MAX - sizeof(rt_prepared)) / sizeof(rt_copy))
        return RT_E_INVALID;
    if (atomic_load_explicit(&channel->state, memory_order_acquire) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, NULL);
    uint64_t bytes = 0;
    int status = check_all(channel, copies, count, &bytes, bad_out);
    if (status != RT_OK)
        return status;
    rt_prepared *prepared = malloc(sizeof *prepared + count * sizeof *copies);
    if (prepared == NULL)
        return RT_E_NO_MEMORY;
    *prepared = (rt_prepared){.channel = channel, .link = link, .references = 1, .count = count, .bytes = bytes};
    rt_channel_reference(channel);
    for (uint64_t index = 0; index < count; index++) {
        rt_region *region = (rt_region *)(uintptr_t)copies[index].region;
        prepared->copies[index] = copies[index];
        atomic_fetch_add_explicit(&region->bound, 1, memory_order_relaxed);
        rt_region_reference(region);
        rt_remote_reference((rt_remote *)(uintptr_t)copies[index].remote);
    }
    *prepared_out = prepared;
    return RT_OK;
}

void rt_prepared_reference(rt_prepared *prepared)
{
    atomic_fetch_add_explicit(&prepared->references, 1, memory_order_relaxed);
}

/* The last reference may go under a turn, when an operation ends after its prepared copies were dropped. */
void rt_prepared_unreference(rt_prepared *prepared)
{
    if (atomic_fetch_sub_explicit(&prepared->references, 1, memory_order_acq_rel) == 1)
        free(prepared);
}

void rt_prepared_drop(rt_prepared *prepared)
{
    if (rt_forked())
        return;
    rt_channel *channel = prepared->channel;
    for (uint64_t index = 0; index < prepared->count; index++) {
        rt_region *region = (rt_region *)(uintptr_t)prepared->copies[index].region;
        rt_remote_unreference((rt_remote *)(uintptr_t)prepared->copies[index].remote);
        atomic_fetch_sub_explicit(&region->bound, 1, memory_order_release);
        rt_region_unreference(region);
    }
    rt_prepared_unreference(prepared);
    rt_channel_unreference(channel);
}

/* Takes an operation for prepared copies, with the link's turn held; NULL with *status_out when there is none. */
static rt_op *take_prepared(rt_prepared *prepared, int *status_out)
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
    op->cursor = (rt_cursor){prepared->copies, prepared->count, 0, 0};
    return op;
}

static int64_t run_prepared(rt_prepared *prepared, int64_t timeout_ns)
{
    int status = RT_OK;
    rt_op *op = take_prepared(prepared, &status);
    return op != NULL ? begin(prepared->link, op, prepared->bytes, timeout_ns) : status;
}

int64_t rt_prepared_run(rt_prepared *prepared)
{
    return run_prepared(prepared, RT_SLICE_NS);
}

int64_t rt_prepared_start(rt_prepared *prepared)
{
    return run_prepared(prepared, 0);
}

int64_t rt_prepared_run_briefly(rt_prepared *prepared, uint32_t looks)
{
    int status = RT_OK;
    rt_link *link = prepared->link;
    rt_op *op = take_prepared(prepared, &status);
    if (op == NULL)
        return status;
    int64_t number = rt_op_begin(link, op, false, INT64_MAX);
    bool done = number > 0 && rt_op_spin_on(link, op, looks) && op->status == RT_OK;
    return done ? give_back(link, op) : number;
}

int64_t rt_prepared_finish(rt_prepared *prepared, int64_t number)
{
    if (rt_forked())
        return RT_E_FORKED;
    return finish(prepared->link, number, slice_end(prepared->link->channel->device, RT_SLICE_NS));
}
