/* event_loop.c: a device in the user's event loop: one descriptor to sleep on, and progress once it
 * is readable. */
#include "channel/poll.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/queue.h"

/* The longest virtual time that one rt_device_progress lets pass. */
enum { RT_VIRTUAL_STEP_NS = 1000000 };

int rt_device_progress(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (device->limits.virtual_time)
        device->provider->clock->advance(device->pdevice, rt_device_time(device) + RT_VIRTUAL_STEP_NS);
    else
        rt_event_drain(device->loop_event_fd);
    int total = 0;
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        if (!rt_turn_try(&queue->turn))
            continue;
        device->provider->event_clear(device->pdevice, queue->index);
        int moved = rt_queue_step_held(queue);
        rt_queue_unkick(queue);
        rt_queue_leave(queue);
        total = moved < 0 || total < 0 ? (total < 0 ? total : moved) : total + moved;
    }
    /* A caller that checks after this call sees every operation that has ended so far;
     * rt_device_arm reports those that end later. */
    atomic_store(&device->news_told, atomic_load(&device->news));
    return total;
}

int rt_device_event_fd(rt_device *device)
{
    return rt_forked() ? RT_E_FORKED : device->loop_fd;
}

/* Arms a queue and polls it once more. A thread that holds its turn ends operations meanwhile, and
 * arms the queue when it leaves; a poller thread keeps polling, so it needs no arming. */
static int queue_arm(rt_queue *queue)
{
    rt_device *device = queue->device;
    if (!rt_turn_try(&queue->turn)) {
        if (device->pollers != 0)
            return 0;
        atomic_store(&queue->loop_wants, 1);
        if (!rt_turn_try(&queue->turn))
            return 0;
        atomic_store(&queue->loop_wants, 0);
    }
    int status = device->provider->arm(device->pdevice, queue->index);
    int moved = status == RT_OK ? rt_queue_step_held(queue) : status;
    rt_queue_leave(queue);
    return moved;
}

int rt_device_arm(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (device->limits.virtual_time)
        return RT_E_AGAIN;
    atomic_store(&device->armed, 1);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        int moved = queue_arm(&device->queues[index]);
        if (moved != 0)
            return moved < 0 ? moved : RT_E_AGAIN;
    }
    /* Pairs with rt_device_tell: either it saw `armed`, or its increment of `news` is seen here. */
    return atomic_load(&device->news) != atomic_load(&device->news_told) ? RT_E_AGAIN : RT_OK;
}

int rt_device_memory_fd(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    return device->limits.can_wake_receiver ? device->provider->memory_event_fd(device->pdevice) : -1;
}

int rt_device_arm_memory(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (!device->limits.can_wake_receiver)
        return RT_E_UNSUPPORTED;
    device->provider->memory_arm(device->pdevice);
    return RT_OK;
}
