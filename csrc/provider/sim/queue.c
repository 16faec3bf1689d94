/* queue.c: the completion queues of a party. The files that complete work write to them; only the caller of `poll`
 * reads them. */
#include <assert.h>
#include <stdlib.h>

#include "provider/sim/sim.h"

int rt_sim_queue_reserve(sim_device *device, uint32_t queue, uint32_t count)
{
    sim_queue *target = &device->queues[queue];
    uint64_t wanted = target->reserved + count;
    uint32_t capacity = target->capacity == 0 ? 64 : target->capacity;
    while (capacity < wanted && capacity < device->base.limits.completion_depth)
        capacity *= 2;
    if (capacity != target->capacity) {
        sim_entry *entries = calloc(capacity, sizeof *entries);
        if (entries == NULL)
            return RT_E_NO_MEMORY;
        for (uint32_t at = target->tail; at != target->head; at++)
            entries[at & (capacity - 1)] = target->entries[at & (target->capacity - 1)];
        free(target->entries);
        target->entries = entries;
        target->capacity = capacity;
    }
    target->reserved = wanted;
    return RT_OK;
}

void rt_sim_queue_unreserve(sim_device *device, uint32_t queue, uint32_t count)
{
    assert(device->queues[queue].reserved >= count);
    device->queues[queue].reserved -= count;
}

void rt_sim_queue_forget(sim_device *device, uint32_t queue, const sim_link *link)
{
    sim_queue *target = &device->queues[queue];
    uint32_t kept = target->tail;
    for (uint32_t at = target->tail; at != target->head; at++) {
        const sim_entry *entry = &target->entries[at & (target->capacity - 1)];
        if (entry->link != link)
            target->entries[kept++ & (target->capacity - 1)] = *entry;
    }
    target->head = kept;
}

void rt_sim_complete(sim_device *device, uint32_t queue, const sim_entry *entry)
{
    sim_queue *target = &device->queues[queue];
    uint32_t depth = device->base.limits.completion_depth;
    uint32_t used = target->head - target->tail;
    if (target->overrun || used >= depth || used >= target->capacity) {
        target->overrun = true; /* RDMA-RULES 23: an overrun kills the queue */
        rt_sim_happen(device, true);
        return;
    }
    target->entries[target->head++ & (target->capacity - 1)] = *entry;
    rt_sim_happen(device, queue == device->queue_count - 1);
}

int rt_sim_poll(rt_pdevice *pdevice, uint32_t queue, rt_completion *completions_out, uint32_t capacity)
{
    sim_device *device = (sim_device *)pdevice;
    assert(queue < device->queue_count);
    sim_queue *source = &device->queues[queue];
    if (source->overrun)
        return RT_E_DEVICE_LOST;
    uint32_t count = 0;
    for (; count < capacity && source->tail != source->head; count++) {
        const sim_entry *entry = &source->entries[source->tail++ & (source->capacity - 1)];
        completions_out[count] = entry->completion;
        if (entry->completion.opcode != RT_WORK_RECV)
            entry->link->released = entry->position + 1;
    }
    if (count == 0 && device->dead)
        return RT_E_DEVICE_LOST; /* after the last flush was taken */
    return (int)count;
}

int rt_sim_arm(rt_pdevice *pdevice, uint32_t queue)
{
    assert(queue < ((const sim_device *)pdevice)->queue_count);
    (void)pdevice;
    (void)queue;
    return RT_OK;
}

int rt_sim_event_fd(rt_pdevice *pdevice, uint32_t queue)
{
    (void)pdevice;
    (void)queue;
    return -1;
}

void rt_sim_event_clear(rt_pdevice *pdevice, uint32_t queue)
{
    (void)pdevice;
    (void)queue;
}
