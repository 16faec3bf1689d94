/* poller.c: threads that poll data queues, so that operations end without anyone waiting for them. Thread i serves the queues
 * i, i + n, i + 2n … of n threads; it looks for a while after the last completion and then sleeps on one queue at a time. */
#include <sched.h>
#include <signal.h>

#include "core/copy.h"

enum { RT_POLLER_LOOKS = 2000, RT_POLLER_NAP_MS = 100 };

static bool serve_once(rt_device *device, uint32_t first)
{
    bool moved = false;
    for (uint32_t index = first; index < device->queue_count; index += device->pollers)
        moved |= rt_queue_step(&device->queues[index]) > 0;
    return moved;
}

static void *poller_main(void *argument)
{
    rt_queue *first = argument;
    rt_device *device = first->device;
    bool alone = first->index + device->pollers >= device->queue_count;
    uint32_t idle = 0;
    while (!atomic_load_explicit(&device->stopping, memory_order_acquire)) {
        uint32_t seen = atomic_load_explicit(&first->epoch, memory_order_acquire);
        if (serve_once(device, first->index)) {
            idle = 0;
            continue;
        }
        idle++;
        if (idle <= device->spins)
            rt_pause();
        else if (idle <= RT_POLLER_LOOKS)
            sched_yield();
        else if (rt_queue_sleep(first, seen, (alone ? RT_POLLER_NAP_MS : 1) * RT_NS_PER_MS) < RT_E_INTERRUPTED)
            /* One of several queues is slept on briefly, the only one for long; one that cannot be slept on is lost. */
            rt_futex_sleep(&first->epoch, atomic_load(&first->epoch), RT_NS_PER_MS, false);
    }
    return NULL;
}

int rt_pollers_start(rt_device *device, rt_detail *detail)
{
    uint32_t count = device->pollers < device->queue_count ? device->pollers : device->queue_count;
    device->pollers = count;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the caller's threads */
    int error = 0;
    for (uint32_t index = 0; error == 0 && index < count; index++) {
        rt_queue *queue = &device->queues[index];
        error = pthread_create(&queue->poller, NULL, poller_main, queue);
        queue->has_poller = error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        return RT_OK;
    rt_pollers_stop(device);
    return rt_fail(detail, RT_E_SYSTEM, error, "cannot start %u poller threads", count);
}

void rt_pollers_stop(rt_device *device)
{
    atomic_store(&device->stopping, true);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        if (!queue->has_poller)
            continue;
        rt_queue_kick(queue);
        pthread_join(queue->poller, NULL);
        queue->has_poller = false;
    }
}
