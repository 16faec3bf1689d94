/* poll.c: where completions come back. HOT: no allocation, lock, system call or log on the way of a successful completion.
 *
 * Completions are matched to their link's ring by token (RDMA-RULES 22), retire their items and all unsignaled ones before
 * them, and end operations. A failure ends its channel as soon as the link's turn is left. */
#include "core/copy.h"

/* Where posting is copying, one step moves at most this much for each starved link, so that nobody waits long. */
enum { RT_PUMP_BYTES = 1 << 20 };

/* What went wrong with a link, to be acted on when its turn is left. The first cause counts; what follows from it does not. */
typedef struct rt_trouble {
    rt_link *link; /* NULL: nothing */
    const char *doing;
    int32_t status;
    rt_completion completion;
    uint64_t size;
    uint32_t opcode;
} rt_trouble;

/* Fails the channel of a link in trouble, saying what, on what, why. The queue's turn is held, so that the link stays. */
static void act(const rt_trouble *trouble)
{
    static const char *const names[] = {"", "a WRITE", "a READ", "a WRITE with immediate", "a SEND"};
    rt_link *link = trouble->link;
    const char *peer = link->channel->peer;
    if (trouble->doing != NULL) {
        rt_link_fail(link, trouble->status, trouble->doing);
        return;
    }
    rt_detail detail;
    if (trouble->opcode == 0)
        rt_fail(&detail, RT_E_DEVICE_LOST, 0, "qp %u of the channel to %s: a completion for no posted operation (token 0x%llx)",
                link->index, peer, (unsigned long long)trouble->completion.token);
    else
        rt_fail(&detail, trouble->status, 0, "%s of %llu bytes on qp %u to %s failed: %s (vendor error 0x%x)",
                names[trouble->opcode], (unsigned long long)trouble->size, link->index, peer,
                link->channel->device->provider->completion_name(trouble->completion.foreign_status),
                trouble->completion.vendor_error);
    if (trouble->status == RT_E_REMOTE_ACCESS)
        rt_channel_doubt(link->channel, &detail);
    else if (trouble->status != RT_E_FLUSHED || atomic_load(&link->channel->doubt) == RT_DOUBT_NONE)
        rt_channel_fail(link->channel, &detail); /* else it is flushed because of a refusal */
}

/* Retires the items up to and including that of the completion. Link turn held. */
static void retire(rt_link *link, const rt_completion *completion, rt_trouble *trouble)
{
    uint32_t position = (uint32_t)completion->token & (uint32_t)(RT_TOKEN_RECEIVE - 1);
    uint32_t count = ((position - link->tail) & (uint32_t)(RT_TOKEN_RECEIVE - 1)) + 1;
    if (count > link->head - link->tail) {
        *trouble = (rt_trouble){.link = link, .completion = *completion};
        return;
    }
    for (; count > 0; count--) {
        const rt_inflight *item = &link->ring[link->tail & link->ring_mask];
        rt_op *op = item->op;
        bool failed = count == 1 && completion->status != RT_OK;
        link->tail++;
        link->last_completed++;
        if (failed && trouble->link == NULL)
            *trouble = (rt_trouble){link, NULL, completion->status, *completion, op != NULL ? item->size : 0, item->opcode};
        if (op == NULL) {
            rt_rpc_sent(link->channel, (uint32_t)item->size);
            continue;
        }
        assert(op->outstanding > 0);
        op->outstanding--;
        if (failed) {
            if (op->status == RT_OK)
                op->status = rt_doubt_status(link->channel, completion->status);
            op->cancelled = true;
        }
        if (op->outstanding == 0 && rt_list_empty(&op->node) && !rt_doubt_hold(link, op))
            rt_op_end(link, op);
    }
}

static rt_link *link_of(const rt_queue *queue, const rt_completion *completion)
{
    uint32_t id = (uint32_t)(completion->token >> 32);
    return id < queue->device->link_capacity ? atomic_load_explicit(&queue->device->links[id], memory_order_acquire) : NULL;
}

/* Retires a batch, taking each link's turn once per run of its completions. A channel fails before the next link is looked at. */
static void retire_all(rt_queue *queue, const rt_completion *completions, uint32_t count)
{
    uint32_t index = 0;
    while (index < count) {
        rt_link *link = link_of(queue, &completions[index]);
        if (link == NULL) {
            index++;
            continue;
        }
        rt_trouble trouble = {.link = NULL};
        rt_turn_take(&link->turn);
        for (; index < count && link_of(queue, &completions[index]) == link; index++)
            retire(link, &completions[index], &trouble);
        rt_turn_leave(&link->turn);
        if (trouble.link != NULL)
            act(&trouble);
    }
}

/* Goes on posting for links whose operations did not fit; stops at the first that fails. One that somebody posts on right now
 * is looked at again before anyone sleeps: he may have left his items to us. (Where posting is copying, the queue's kick sees
 * to that, and he may be at it for long.) */
static int64_t pump(rt_queue *queue, rt_trouble *trouble)
{
    int64_t moved = 0;
    uint64_t budget = queue->device->limits.completes_in_post ? RT_PUMP_BYTES : UINT64_MAX;
    rt_turn_take(&queue->links_turn);
    RT_LIST_EACH(node, &queue->links) {
        rt_link *link = RT_LIST_ENTRY(node, rt_link, queue_node);
        if (!rt_turn_try(&link->turn)) {
            moved += !queue->device->limits.completes_in_post;
            continue;
        }
        int64_t items = link->starved ? rt_link_pump(link, budget) : 0;
        rt_turn_leave(&link->turn);
        moved += items >= 0 ? items : 1;
        if (items < 0) {
            *trouble = (rt_trouble){.link = link, .doing = "posting", .status = (int32_t)items};
            break;
        }
    }
    rt_turn_leave(&queue->links_turn);
    return moved;
}

/* Somebody may sleep until the queue was looked at: tells him that it was. */
void rt_queue_tell(rt_queue *queue)
{
    atomic_fetch_add(&queue->epoch, 1); /* before the look for followers, who announce themselves before they look at it */
    if (atomic_load(&queue->followers) != 0)
        rt_futex_wake(&queue->epoch, INT_MAX, false);
}

/* The queue itself failed: no completion will come through it any more, so every channel that uses it ends. */
static void lose_queue(rt_queue *queue, int status)
{
    rt_detail detail;
    rt_fail(&detail, status, 0, "completion queue %u of device %s cannot be polled any more (%s)", queue->index,
            queue->device->pdevice->name, rt_status_name(status));
    rt_turn_take(&queue->links_turn);
    RT_LIST_EACH(node, &queue->links)
        rt_channel_fail(RT_LIST_ENTRY(node, rt_link, queue_node)->channel, &detail);
    rt_turn_leave(&queue->links_turn);
}

/* One look at the queue, with its turn held. */
int rt_queue_step_held(rt_queue *queue)
{
    rt_completion completions[RT_POLL_BATCH];
    rt_device *device = queue->device;
    int count = device->provider->poll(device->pdevice, queue->index, completions, RT_POLL_BATCH);
    if (count < 0) {
        lose_queue(queue, count);
        return count;
    }
    retire_all(queue, completions, (uint32_t)count);
    rt_trouble trouble = {.link = NULL};
    int64_t moved = atomic_load_explicit(&queue->starved, memory_order_acquire) != 0 ? pump(queue, &trouble) : 0;
    if (trouble.link != NULL)
        act(&trouble);
    if (count == 0 && moved == 0)
        return 0;
    rt_queue_tell(queue);
    return count + (moved > 0 ? 1 : 0);
}

int rt_queue_step(rt_queue *queue)
{
    if (!rt_turn_try(&queue->turn))
        return 0;
    int moved = rt_queue_step_held(queue);
    rt_queue_leave(queue);
    return moved;
}
