/* poll.c: where completions come back. HOT: no allocation, lock, system call or log on the way of a successful completion.
 *
 * Completions are matched to their link's ring by token (RDMA-RULES 22), retire their items and all unsignaled ones before
 * them, and end operations. Failures are collected and dealt with after every turn is left. */
#include "core/copy.h"

/* Where posting is copying, one step moves at most this much for each starved link, so that nobody waits long. */
enum { RT_PUMP_BYTES = 1 << 20 };

/* What a step found wrong, to be acted on without a turn. */
typedef struct rt_trouble {
    rt_link *link;
    int32_t status;
    rt_completion completion;
    uint64_t size;
    uint32_t opcode;
    uint32_t count;
} rt_trouble;

static void note(rt_trouble *trouble, rt_link *link, int32_t status, const rt_completion *completion, const rt_inflight *item)
{
    if (trouble->count++ != 0)
        return;
    trouble->link = link;
    trouble->status = status;
    trouble->completion = *completion;
    trouble->size = item != NULL ? item->size : 0;
    trouble->opcode = item != NULL ? item->opcode : 0;
}

/* Retires the items up to and including that of the completion. Link turn held. */
static void retire(rt_link *link, const rt_completion *completion, rt_trouble *trouble)
{
    uint32_t position = (uint32_t)completion->token & (uint32_t)(RT_TOKEN_RECEIVE - 1);
    uint32_t count = ((position - link->tail) & (uint32_t)(RT_TOKEN_RECEIVE - 1)) + 1;
    if (count > link->head - link->tail) {
        note(trouble, link, RT_E_DEVICE_LOST, completion, NULL);
        return;
    }
    for (; count > 0; count--) {
        const rt_inflight *item = &link->ring[link->tail & link->ring_mask];
        rt_op *op = item->op;
        bool failed = count == 1 && completion->status != RT_OK;
        link->tail++;
        link->last_completed++;
        if (failed && completion->status != RT_E_FLUSHED)
            note(trouble, link, completion->status, completion, item);
        if (op == NULL) {
            rt_rpc_sent(link->channel, (uint32_t)item->size);
            continue;
        }
        assert(op->outstanding > 0);
        op->outstanding--;
        if (failed) {
            if (op->status == RT_OK)
                op->status = completion->status;
            op->cancelled = true;
        }
        if (op->outstanding == 0 && rt_list_empty(&op->node))
            rt_op_end(link, op);
    }
}

static rt_link *link_of(const rt_queue *queue, const rt_completion *completion)
{
    uint32_t id = (uint32_t)(completion->token >> 32);
    return id < queue->device->link_capacity ? atomic_load_explicit(&queue->device->links[id], memory_order_acquire) : NULL;
}

/* Retires a batch, taking each link's turn once per run of its completions. */
static void retire_all(rt_queue *queue, const rt_completion *completions, uint32_t count, rt_trouble *trouble)
{
    uint32_t index = 0;
    while (index < count) {
        rt_link *link = link_of(queue, &completions[index]);
        if (link == NULL) {
            index++;
            continue;
        }
        rt_turn_take(&link->turn);
        for (; index < count && link_of(queue, &completions[index]) == link; index++)
            retire(link, &completions[index], trouble);
        rt_turn_leave(&link->turn);
    }
}

/* Goes on posting for links whose operations did not fit. Links that somebody posts on right now are left to him. */
static int64_t pump(rt_queue *queue, rt_trouble *trouble)
{
    int64_t moved = 0;
    uint64_t budget = queue->device->limits.completes_in_post ? RT_PUMP_BYTES : UINT64_MAX;
    rt_turn_take(&queue->links_turn);
    RT_LIST_EACH(node, &queue->links) {
        rt_link *link = RT_LIST_ENTRY(node, rt_link, queue_node);
        if (!rt_turn_try(&link->turn))
            continue;
        int64_t items = link->starved ? rt_link_pump(link, budget) : 0;
        rt_turn_leave(&link->turn);
        if (items >= 0)
            moved += items;
        else
            note(trouble, link, (int32_t)items, &(rt_completion){.status = (int32_t)items}, NULL);
    }
    rt_turn_leave(&queue->links_turn);
    return moved;
}

static void act(rt_queue *queue, const rt_trouble *trouble)
{
    const rt_device *device = queue->device;
    static const char *const names[] = {"an operation", "a WRITE", "a READ", "a WRITE with immediate", "a SEND", "a RECV"};
    rt_detail detail;
    const char *name = trouble->opcode <= RT_WORK_RECV ? names[trouble->opcode] : names[0];
    if (trouble->status == RT_E_DEVICE_LOST && trouble->opcode == 0)
        rt_fail(&detail, RT_E_DEVICE_LOST, 0, "qp %u of the channel to %s: a completion for no posted operation (token 0x%llx)",
                trouble->link->index, trouble->link->channel->peer, (unsigned long long)trouble->completion.token);
    else
        rt_fail(&detail, trouble->status, 0, "%s of %llu bytes on qp %u to %s failed: %s (vendor error 0x%x)", name,
                (unsigned long long)trouble->size, trouble->link->index, trouble->link->channel->peer,
                device->provider->completion_name(trouble->completion.foreign_status), trouble->completion.vendor_error);
    rt_channel_fail(trouble->link->channel, &detail);
}

/* One look at the queue, with its turn held. Failures come out in *trouble. */
static int look(rt_queue *queue, rt_trouble *trouble)
{
    rt_completion completions[RT_POLL_BATCH];
    rt_device *device = queue->device;
    int count = device->provider->poll(device->pdevice, queue->index, completions, RT_POLL_BATCH);
    if (count > 0)
        retire_all(queue, completions, (uint32_t)count, trouble);
    if (count < 0)
        return count;
    int64_t moved = atomic_load_explicit(&queue->starved, memory_order_acquire) != 0 ? pump(queue, trouble) : 0;
    if (count == 0 && moved == 0)
        return 0;
    atomic_fetch_add_explicit(&queue->epoch, 1, memory_order_release);
    if (atomic_load(&queue->followers) != 0)
        rt_futex_wake(&queue->epoch, INT_MAX, false);
    return count + (moved > 0 ? 1 : 0);
}

int rt_queue_step_held(rt_queue *queue)
{
    rt_trouble trouble = {.count = 0};
    int moved = look(queue, &trouble);
    if (trouble.count != 0)
        act(queue, &trouble);
    return moved;
}

int rt_queue_step(rt_queue *queue)
{
    if (!rt_turn_try(&queue->turn))
        return 0;
    int moved = rt_queue_step_held(queue);
    rt_turn_leave(&queue->turn);
    return moved;
}
