/* poll.c: the completion path. HOT: no allocation, lock, system call or log on the way of a
 * successful completion.
 *
 * A completion is matched to its link's ring by token (RDMA-RULES 22), retires its item and all
 * unsignaled ones before it, and ends operations. A failure ends its channel as soon as the link's
 * turn is left. */
#include <assert.h>

#include "channel/channel.h"
#include "channel/doubt.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/poll.h"
#include "channel/post.h"
#include "device/device.h"
#include "device/queue.h"

/* Where posting is copying, one step moves at most this much for each starved link, so that no
 * other link waits long. */
enum { RT_PUMP_BYTES = 1 << 20 };

/* A link's trouble, which is acted on after its turn is left. Only the first cause counts; later
 * ones follow from it. */
typedef struct rt_trouble {
    rt_link *link; /* NULL: nothing */
    const char *doing;
    int32_t status;
    rt_completion completion;
    uint64_t size;
    uint32_t opcode;
} rt_trouble;

/* The text of a failed operation: its kind and size, the cause, and where a peer was not reached, the link's two ends. The
 * queue's turn keeps the provider's link. */
static void trouble_describe(const rt_trouble *trouble, rt_detail *detail_out)
{
    static const char *const names[] = {"", "a WRITE", "a READ", "a WRITE with immediate", "a SEND"};
    const rt_link *link = trouble->link;
    const rt_provider *provider = link->channel->device->provider;
    char ends[256] = "";
    if (trouble->status == RT_E_PEER_LOST && link->plink != NULL)
        provider->link_describe(link->plink, ends, sizeof ends);
    rt_fail(detail_out, trouble->status, 0, "%s of %llu bytes on qp %u to %s failed: %s (vendor error 0x%x)%s%.180s",
            names[trouble->opcode], (unsigned long long)trouble->size, link->index, link->channel->peer,
            provider->completion_name(trouble->completion.foreign_status), trouble->completion.vendor_error,
            ends[0] != '\0' ? "; " : "", ends);
}

/* Fails the channel of a link in trouble. The queue's turn is held, so that the link stays. */
static void trouble_act(const rt_trouble *trouble)
{
    rt_link *link = trouble->link;
    if (trouble->doing != NULL) {
        rt_link_fail(link, trouble->status, trouble->doing);
        return;
    }
    rt_detail detail;
    if (trouble->opcode == 0)
        rt_fail(&detail, RT_E_DEVICE_LOST, 0, "qp %u of the channel to %s: a completion for no posted operation (token 0x%llx)",
                link->index, link->channel->peer, (unsigned long long)trouble->completion.token);
    else
        trouble_describe(trouble, &detail);
    if (trouble->status == RT_E_REMOTE_ACCESS)
        rt_channel_doubt(link->channel, &detail);
    else if (trouble->status != RT_E_FLUSHED || atomic_load(&link->channel->doubt) == RT_DOUBT_NONE)
        rt_channel_fail(link->channel, &detail); /* otherwise the flush is a consequence of a refusal */
}

/* Retires the items up to and including that of the completion. Link turn held. */
static void item_retire(rt_link *link, const rt_completion *completion, rt_trouble *trouble)
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
            *trouble = (rt_trouble){link, NULL, completion->status, *completion, item->size, item->opcode};
        if (op == NULL) {
            rt_link_sent(link, item->slot);
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

/* Retires a batch, taking each link's turn once per run of its completions. A channel fails before
 * the next link's completions are retired. */
static void items_retire(rt_queue *queue, const rt_completion *completions, uint32_t count)
{
    uint32_t index = 0;
    while (index < count) {
        rt_link *link = rt_link_of_token(queue->device, completions[index].token);
        if (link == NULL) {
            index++;
            continue;
        }
        rt_trouble trouble = {.link = NULL};
        rt_turn_take(&link->turn);
        for (; index < count && rt_link_of_token(queue->device, completions[index].token) == link; index++)
            item_retire(link, &completions[index], &trouble);
        rt_turn_leave(&link->turn);
        if (trouble.link != NULL)
            trouble_act(&trouble);
    }
}

/* Posts more for links whose operations did not fit; stops at the first that fails. A link whose
 * turn another thread holds counts as moved, so that it is checked again before anyone sleeps: that
 * thread may have left its items to us. (Where posting is copying, the queue's kick ensures that,
 * and the thread may hold the turn for long.) */
static int64_t queue_pump(rt_queue *queue, rt_trouble *trouble)
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

/* The queue itself failed: no completion will come through it any more, so every channel that uses
 * it ends. */
static void queue_lose(rt_queue *queue, int status)
{
    rt_detail detail;
    rt_fail(&detail, status, 0, "completion queue %u of device %s cannot be polled any more (%s)", queue->index,
            queue->device->pdevice->name, rt_status_name(status));
    rt_turn_take(&queue->links_turn);
    RT_LIST_EACH(node, &queue->links)
        rt_channel_fail(RT_LIST_ENTRY(node, rt_link, queue_node)->channel, &detail);
    rt_turn_leave(&queue->links_turn);
}

/* Polls the queue once, with its turn held. */
int rt_queue_step_held(rt_queue *queue)
{
    rt_completion completions[RT_POLL_BATCH];
    rt_device *device = queue->device;
    int count = device->provider->poll(device->pdevice, queue->index, completions, RT_POLL_BATCH);
    if (count < 0) {
        queue_lose(queue, count);
        return count;
    }
    items_retire(queue, completions, (uint32_t)count);
    rt_trouble trouble = {.link = NULL};
    int64_t moved = atomic_load_explicit(&queue->starved, memory_order_acquire) != 0 ? queue_pump(queue, &trouble) : 0;
    if (trouble.link != NULL)
        trouble_act(&trouble);
    if (count == 0 && moved == 0)
        return 0;
    rt_queue_tell(queue);
    return count + (moved > 0 ? 1 : 0);
}

void rt_queue_leave(rt_queue *queue)
{
    rt_turn_leave(&queue->turn);
    /* Pairs with turn_take_or_wish in poller.c: either it got the turn, or we find its request. */
    if (atomic_load(&queue->poller_wants) != 0 && atomic_exchange(&queue->poller_wants, 0) != 0)
        rt_event_signal(queue->poller_fd);
    /* Pairs with rt_device_arm: either it found the turn free, or we find its request. */
    while (atomic_load(&queue->loop_wants) != 0 && rt_turn_try(&queue->turn)) {
        if (atomic_exchange(&queue->loop_wants, 0) != 0 &&
            queue->device->provider->arm(queue->device->pdevice, queue->index) == RT_OK)
            rt_queue_step_held(queue);
        rt_turn_leave(&queue->turn);
    }
}

int rt_queue_step(rt_queue *queue)
{
    if (!rt_turn_try(&queue->turn))
        return 0;
    int moved = rt_queue_step_held(queue);
    rt_queue_leave(queue);
    return moved;
}
