/* poller.c: threads that poll data queues, so that operations end without anyone waiting for them.
 * Thread i serves the queues i, i + n, i + 2n … of n threads; it polls for a while after the last
 * completion and then sleeps on all its queues at once.
 *
 * A sleeping poller holds the turns of its queues, as any leader does. Where another thread has
 * one, the poller sets poller_wants: the thread that leaves that turn wakes it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/waiter.h"
#include "channel/poll.h"
#include "channel/poller.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/queue.h"

/* A poller checks so often before it sleeps, whatever the policy of its device is, and sleeps so long at most. */
enum { RT_POLLER_LOOKS = 2000, RT_POLLER_NAP_MS = 100 };

/* The descriptors that a poller of several queues sleeps on: its own event, then an event and a
 * kick descriptor for each queue. */
typedef struct rt_poller {
    uint32_t count;
    struct pollfd fds[];
} rt_poller;

static bool queues_serve_once(rt_device *device, uint32_t first)
{
    bool moved = false;
    for (uint32_t index = first; index < device->queue_count; index += device->pollers)
        moved |= rt_queue_step(&device->queues[index]) > 0;
    return moved;
}

/* Takes the queue's turn or, if it is held, asks the holder to wake us when it leaves. Exactly one
 * of the two happens. Pairs with rt_queue_leave. */
static bool turn_take_or_wish(rt_queue *queue)
{
    if (rt_turn_try(&queue->turn))
        return true;
    atomic_store(&queue->poller_wants, 1);
    if (!rt_turn_try(&queue->turn))
        return false;
    atomic_store(&queue->poller_wants, 0);
    return true;
}

/* Arms the queue; whether a poll after that found something. Queue turn held. */
static bool queue_arm_fds(rt_queue *queue, struct pollfd *fds)
{
    rt_device *device = queue->device;
    int status = device->provider->arm(device->pdevice, queue->index);
    fds[0] = (struct pollfd){.fd = device->provider->event_fd(device->pdevice, queue->index), .events = POLLIN};
    fds[1] = (struct pollfd){.fd = queue->kick_fd, .events = POLLIN};
    return status == RT_OK && rt_queue_step_held(queue) > 0;
}

static void queue_serve_woken(rt_queue *queue, const struct pollfd *fds)
{
    if (fds[0].revents != 0)
        queue->device->provider->event_clear(queue->device->pdevice, queue->index);
    if (fds[1].revents != 0)
        rt_queue_unkick(queue);
    rt_queue_step_held(queue);
    rt_queue_leave(queue);
    rt_queue_tell(queue);
}

static void queues_sleep(rt_device *device, uint32_t first, rt_poller *self)
{
    bool moved = false;
    struct pollfd *fds = self->fds + 1;
    for (uint32_t index = first; index < device->queue_count; index += device->pollers, fds += 2) {
        fds[0].fd = fds[1].fd = -1;
        if (turn_take_or_wish(&device->queues[index]))
            moved |= queue_arm_fds(&device->queues[index], fds);
    }
    bool stays = moved || atomic_load(&device->stopping);
    poll(self->fds, self->count, stays ? 0 : RT_POLLER_NAP_MS);
    if (self->fds[0].revents != 0)
        rt_event_drain(self->fds[0].fd);
    fds = self->fds + 1;
    for (uint32_t index = first; index < device->queue_count; index += device->pollers, fds += 2)
        if (fds[1].fd >= 0) /* negative: another thread had the turn */
            queue_serve_woken(&device->queues[index], fds);
}

static void queue_sleep(rt_queue *queue, uint32_t seen, int64_t nap_ns)
{
    if (rt_queue_sleep(queue, seen, nap_ns) < RT_E_INTERRUPTED) /* a queue that cannot be slept on is lost */
        rt_futex_sleep(&queue->epoch, atomic_load(&queue->epoch), RT_NS_PER_MS, false);
}

static void *poller_main(void *argument)
{
    rt_queue *first = argument;
    rt_device *device = first->device;
    rt_poller *several = first->several;
    bool alone = first->index + device->pollers >= device->queue_count;
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &(rt_wait_mode){.spins = device->spins, .yields = RT_POLLER_LOOKS - device->spins}, INT64_MAX);
    while (!atomic_load_explicit(&device->stopping, memory_order_acquire)) {
        uint32_t seen = atomic_load_explicit(&first->epoch, memory_order_acquire);
        if (queues_serve_once(device, first->index)) {
            rt_waiter_moved(&waiter);
            continue;
        }
        if (rt_waiter_pause(&waiter) != RT_STEP_SLEEP)
            continue;
        if (several != NULL)
            queues_sleep(device, first->index, several);
        else
            queue_sleep(first, seen, (alone ? RT_POLLER_NAP_MS : 1) * RT_NS_PER_MS); /* several, virtual time: briefly */
    }
    return NULL;
}

/* Makes the descriptor set of a poller of several queues. Returns 0 or an errno; rt_pollers_stop
 * frees all of it but the event. */
static int poller_prepare(rt_device *device, rt_queue *first)
{
    uint32_t queues = (device->queue_count - first->index + device->pollers - 1) / device->pollers;
    if (queues == 1 || device->limits.virtual_time)
        return 0;
    first->poller_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (first->poller_event < 0)
        return errno;
    rt_poller *made = calloc(1, sizeof *made + (1 + 2 * (size_t)queues) * sizeof made->fds[0]);
    if (made == NULL)
        return ENOMEM;
    made->count = 1 + 2 * queues;
    made->fds[0] = (struct pollfd){.fd = first->poller_event, .events = POLLIN};
    first->several = made;
    for (uint32_t index = first->index; index < device->queue_count; index += device->pollers)
        device->queues[index].poller_fd = first->poller_event;
    return 0;
}

int rt_pollers_start(rt_device *device, rt_detail *detail)
{
    uint32_t count = device->pollers < device->queue_count ? device->pollers : device->queue_count;
    device->pollers = count;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are left to the caller's threads */
    int error = 0;
    for (uint32_t index = 0; error == 0 && index < count; index++) {
        rt_queue *queue = &device->queues[index];
        error = poller_prepare(device, queue);
        if (error == 0)
            error = pthread_create(&queue->poller, NULL, poller_main, queue);
        queue->has_poller = error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        return RT_OK;
    rt_pollers_stop(device);
    return rt_fail(detail, RT_E_SYSTEM, error, "cannot start %u poller threads (raise ulimit -u, or lower pollers=)", count);
}

void rt_pollers_stop(rt_device *device)
{
    atomic_store(&device->stopping, true);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        if (queue->has_poller) {
            rt_queue_kick(queue);
            if (queue->several != NULL)
                rt_event_signal(queue->poller_event);
            pthread_join(queue->poller, NULL);
            queue->has_poller = false;
        }
        free(queue->several);
        queue->several = NULL;
    }
}
