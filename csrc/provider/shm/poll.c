/* poll.c: completions. Successful send-side items make none; polling finds RECVs, which the polling
 * thread fills from the ring, and failures. HOT: no allocation, no lock, no log, no system call
 * except after a peer wrote invalid numbers.
 *
 * The peer may write to the ring at any time: each number is read once, checked, and only the
 * checked value is used. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <assert.h>
#include <string.h>

#include "base/waiter.h"

/* A poll takes microseconds; one whose thread was preempted may take longer. */
enum { SHM_POLLER_YIELDS = 64 };

/* Waits until the thread that made a sequence odd makes it even. */
static void sequence_wait_out(const _Atomic uint32_t *word)
{
    uint32_t sequence = atomic_load_explicit(word, memory_order_acquire);
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &(rt_wait_mode){.yields = SHM_POLLER_YIELDS}, INT64_MAX);
    while ((sequence & 1) != 0 && atomic_load_explicit(word, memory_order_acquire) == sequence)
        rt_waiter_idle(&waiter); /* a signal ends only the nap */
}

void shm_queue_wait_out(shm_queue *queue)
{
    sequence_wait_out(&queue->sequence);
}

void shm_helper_wait_out(shm_device *device)
{
    sequence_wait_out(&device->helping);
}

/* Takes failures of send items, in posting order. */
static uint32_t failures_take(shm_link *link, shm_queue *queue, rt_completion *completions_out, uint32_t capacity)
{
    uint32_t tail = atomic_load_explicit(&link->failure_tail, memory_order_relaxed), taken = 0;
    uint32_t head = atomic_load_explicit(&link->failure_head, memory_order_acquire); /* pairs with items_fail */
    for (; taken < capacity && tail != head; taken++, tail++) {
        const shm_failure *failure = &link->failures[tail % SHM_WORK_DEPTH];
        completions_out[taken] = (rt_completion){.token = failure->token,
                                                 .status = shm_outcome_status((enum shm_outcome)failure->outcome),
                                                 .foreign_status = failure->outcome};
    }
    if (taken != 0) {
        atomic_store_explicit(&link->failure_tail, tail, memory_order_release); /* pairs with items_fail */
        atomic_fetch_sub_explicit(&queue->failures, taken, memory_order_relaxed);
    }
    return taken;
}

/* Lets the poster use the RECV's place again. */
static void receive_retire(shm_link *link, uint32_t tail, const shm_receive *receive)
{
    atomic_store_explicit(&link->segment_tail, receive->first + receive->count,
                          memory_order_release); /* pairs with shm_receives_post */
    atomic_store_explicit(&link->receive_tail, tail + 1, memory_order_release);
}

/* Copies a message into the buffers of the RECV; false when they have no room for it. */
static bool receive_scatter(const shm_link *link, const shm_receive *receive, const uint8_t *bytes, uint32_t size)
{
    uint64_t room = 0;
    for (uint32_t index = 0; index < receive->count && room < size; index++)
        room += link->segments[(receive->first + index) % SHM_RECEIVE_SEGMENTS].size;
    if (room < size)
        return false;
    for (uint32_t index = 0; index < receive->count && size != 0; index++) {
        const rt_segment *segment = &link->segments[(receive->first + index) % SHM_RECEIVE_SEGMENTS];
        uint32_t part = segment->size < size ? (uint32_t)segment->size : size;
        assert(part == 0 || (segment->memory->access & RT_ACCESS_LOCAL_WRITE) != 0);
        memcpy(segment->address, bytes, part);
        bytes += part;
        size -= part;
    }
    return true;
}

/* Moves the next filled slot into the RECV. SHM_FULL: there is none. */
static enum shm_outcome ring_slot_take(shm_link *link, const shm_receive *receive, rt_completion *completion_out)
{
    uint32_t filled = atomic_load_explicit(&link->in->head, memory_order_acquire) - link->in_tail; /* pairs with ring_publish */
    if (filled == 0)
        return SHM_FULL;
    if (filled > SHM_RING_SLOTS)
        return SHM_RING_BROKEN;
    const shm_slot *slot = &link->in->slots[link->in_tail % SHM_RING_SLOTS];
    uint32_t kind = atomic_load_explicit(&slot->kind, memory_order_relaxed);
    uint32_t size = atomic_load_explicit(&slot->size, memory_order_relaxed);
    uint32_t immediate = atomic_load_explicit(&slot->immediate, memory_order_relaxed);
    if (kind == SHM_SLOT_SEND) {
        if (size > SHM_SEND_SIZE_MAX)
            return SHM_RING_BROKEN;
        if (!receive_scatter(link, receive, slot->bytes, size))
            return SHM_RECV_TOO_SHORT;
    } else if (kind != SHM_SLOT_IMMEDIATE || size > SHM_MESSAGE_SIZE_MAX) {
        return SHM_RING_BROKEN;
    }
    link->in_tail++;
    atomic_store_explicit(&link->in->tail, link->in_tail, memory_order_release); /* pairs with ring_check in post.c */
    *completion_out = (rt_completion){.token = receive->token,
                                      .size = size,
                                      .immediate = kind == SHM_SLOT_IMMEDIATE ? immediate : 0,
                                      .opcode = RT_WORK_RECV,
                                      .has_immediate = kind == SHM_SLOT_IMMEDIATE};
    shm_count(&link->receives_done, 1);
    return SHM_DONE;
}

/* Completes RECVs: with the bytes that arrived, or as failed once the link is in error. */
static uint32_t ring_receives_take(shm_link *link, rt_completion *completions_out, uint32_t capacity)
{
    uint32_t tail = atomic_load_explicit(&link->receive_tail, memory_order_relaxed), taken = 0;
    uint32_t head = atomic_load_explicit(&link->receive_head, memory_order_acquire); /* pairs with shm_receives_post */
    for (; taken < capacity && tail != head; taken++, tail++) {
        const shm_receive receive = link->receives[tail % SHM_RECEIVE_DEPTH];
        enum shm_outcome outcome;
        if (atomic_load_explicit(&link->state, memory_order_acquire) == SHM_LINK_ERROR) {
            outcome = atomic_exchange_explicit(&link->cause, SHM_FLUSHED, memory_order_relaxed);
        } else {
            outcome = ring_slot_take(link, &receive, &completions_out[taken]);
            if (outcome == SHM_FULL)
                break;
            if (outcome != SHM_DONE)
                shm_link_fail(link, SHM_FLUSHED);
        }
        if (outcome != SHM_DONE)
            completions_out[taken] =
                (rt_completion){.token = receive.token, .status = shm_outcome_status(outcome), .foreign_status = outcome};
        receive_retire(link, tail, &receive);
    }
    return taken;
}

/* Looks at all links of the queue, beginning where the last look that filled its answer ended. */
static uint32_t queue_look(shm_device *device, uint32_t index, rt_completion *completions_out, uint32_t capacity)
{
    shm_queue *queue = &device->queues[index];
    uint32_t high = atomic_load_explicit(&device->link_high, memory_order_acquire), taken = 0;
    for (uint32_t step = 0, at = queue->next; step < high && taken < capacity; step++, at++) {
        if (at >= high)
            at = 0;
        shm_link *link = atomic_load_explicit(&device->links[at], memory_order_acquire); /* pairs with shm_link_create */
        if (link == NULL)
            continue;
        if (link->base.send_queue == index)
            taken += failures_take(link, queue, completions_out + taken, capacity - taken);
        if (link->base.receive_queue == index && taken < capacity)
            taken += ring_receives_take(link, completions_out + taken, capacity - taken);
        queue->next = at + 1;
    }
    return taken;
}

int shm_poll(rt_pdevice *pdevice, uint32_t index, rt_completion *completions_out, uint32_t capacity)
{
    shm_device *device = shm_device_of(pdevice);
    shm_queue *queue = &device->queues[index];
    if (__builtin_expect(atomic_load_explicit(&queue->receivers, memory_order_relaxed) == 0 &&
                             atomic_load_explicit(&queue->failures, memory_order_relaxed) == 0,
                         1))
        return 0;
    uint32_t sequence = atomic_load_explicit(&queue->sequence, memory_order_relaxed);
    atomic_store_explicit(&queue->sequence, sequence + 1, memory_order_relaxed);
    rt_fence_full(); /* pairs with shm_link_destroy and shm_link_shut: we do not find the link, or they see us inside */
    uint32_t taken = queue_look(device, index, completions_out, capacity);
    atomic_store_explicit(&queue->sequence, sequence + 2, memory_order_release); /* pairs with shm_queue_wait_out */
    return (int)taken;
}
