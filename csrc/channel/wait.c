/* wait.c: how a thread waits: for an operation, for a peer's WRITE, for a completion queue.
 *
 * The waiter (base/waiter.h) decides when to check again and when to sleep; this file sleeps: on a
 * completion queue, or on a peer's WRITE.
 *
 * Blocking on a completion queue: one thread, the leader, holds the queue's turn, arms the queue,
 * polls once more and sleeps on its descriptors. The others, followers, sleep on queue->epoch,
 * which is incremented whenever something was found, when a leader leaves, when a channel fails,
 * and by any thread that stops polling while there are followers; then one of them takes the turn.
 * A thread that ends a leader's sleep from outside increments the epoch and kicks the queue. A
 * sleeper, leader or follower, reads the epoch before it checks its condition and does not sleep
 * when the epoch has changed, so no wake-up is lost. */
#include <poll.h>

#include "base/waiter.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/poll.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/queue.h"
#include "device/service.h"

enum { RT_FOLLOWER_NAP_NS = 10000000 }; /* a follower tries to take the turn at least this often */

/* ---- completion queues ---- */

/* A thread that shares a queue with others stops polling it: wakes them, so that another goes
 * on. */
static void queue_hand_over(rt_queue *queue)
{
    if (atomic_load(&queue->followers) != 0)
        rt_queue_tell(queue);
}

static int leader_sleep(rt_queue *queue, uint32_t seen, int64_t timeout_ns)
{
    rt_device *device = queue->device;
    int status = device->provider->arm(device->pdevice, queue->index);
    if (status != RT_OK)
        return status;
    if (rt_queue_step_held(queue) != 0 || atomic_load(&queue->epoch) != seen)
        return RT_OK;
    struct pollfd fds[2] = {
        {.fd = device->provider->event_fd(device->pdevice, queue->index), .events = POLLIN},
        {.fd = queue->kick_fd, .events = POLLIN},
    };
    struct timespec timeout = {.tv_sec = timeout_ns / RT_NS_PER_S, .tv_nsec = timeout_ns % RT_NS_PER_S};
    int ready = ppoll(fds, 2, &timeout, NULL);
    if (ready < 0)
        return RT_E_INTERRUPTED;
    if (fds[0].revents != 0)
        device->provider->event_clear(device->pdevice, queue->index);
    if (fds[1].revents != 0)
        rt_queue_unkick(queue);
    rt_queue_step_held(queue);
    return ready == 0 ? RT_E_AGAIN : RT_OK;
}

static int queue_lead(rt_queue *queue, uint32_t seen, int64_t timeout_ns)
{
    int status = leader_sleep(queue, seen, timeout_ns);
    rt_queue_leave(queue);
    rt_queue_tell(queue);
    return status;
}

int rt_queue_sleep(rt_queue *queue, uint32_t seen, int64_t timeout_ns)
{
    rt_device *device = queue->device;
    if (device->limits.virtual_time)
        return device->provider->clock->advance(device->pdevice, rt_device_time(device) + timeout_ns);
    if (rt_turn_try(&queue->turn))
        return queue_lead(queue, seen, timeout_ns);
    atomic_fetch_add(&queue->followers, 1);
    bool leads = rt_turn_try(&queue->turn); /* if it is held, the holder leaves it after this, and then finds a follower */
    int status = RT_OK;
    if (!leads)
        status = rt_futex_sleep(&queue->epoch, seen, timeout_ns < RT_FOLLOWER_NAP_NS ? timeout_ns : RT_FOLLOWER_NAP_NS, false);
    atomic_fetch_sub(&queue->followers, 1);
    if (leads)
        return queue_lead(queue, seen, timeout_ns);
    return status == RT_E_INTERRUPTED ? status : RT_OK;
}

/* ---- operations ---- */

/* After its completions have settled, how long to wait for an operation of a failed channel: until
 * the flush of its link. */
#define RT_FLUSH_PATIENCE_NS (50 * RT_NS_PER_MS)

/* The status with which an operation ended, or will end when its flush has come, now that its
 * channel is down. */
static int op_ended_with(rt_link *link, const rt_op *op)
{
    rt_turn_take(&link->turn);
    int status = op->status;
    bool done = atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE;
    rt_turn_leave(&link->turn);
    return done || status != RT_OK ? status : rt_channel_refuse(link->channel, NULL);
}

/* The channel is down: the operation's own completion may be on its way; after it, or instead of
 * it, comes a flush. */
static int op_wait_flush(rt_link *link, const rt_op *op)
{
    rt_queue *queue = link->queue;
    const rt_device *device = queue->device;
    int64_t end_ns = rt_device_time(device) + RT_SETTLE_NS + RT_FLUSH_PATIENCE_NS;
    bool failed = rt_channel_state(link->channel) == RT_CHANNEL_FAILED && !device->limits.virtual_time;
    while (failed && rt_device_time(device) < end_ns) {
        uint32_t seen = atomic_load_explicit(&queue->epoch, memory_order_acquire);
        int moved = rt_queue_step(queue);
        if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE || moved < 0)
            break;
        if (moved == 0 && rt_queue_sleep(queue, seen, RT_NS_PER_MS) == RT_E_INTERRUPTED)
            break;
    }
    return op_ended_with(link, op);
}

static int op_wait_with(rt_waiter *waiter, rt_link *link, const rt_op *op)
{
    rt_queue *queue = link->queue;
    int64_t slice_end_ns = waiter->end_ns;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&queue->epoch, memory_order_acquire);
        if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE)
            return op->status;
        if (atomic_load_explicit(&link->channel->state, memory_order_acquire) != RT_CHANNEL_READY)
            return op_wait_flush(link, op);
        int moved = rt_queue_step(queue);
        if (moved < 0)
            return moved;
        if (moved > 0) {
            rt_waiter_moved(waiter);
            if (atomic_load(&op->state) != RT_OP_DONE && rt_device_time(queue->device) >= slice_end_ns)
                return RT_E_AGAIN;
            continue;
        }
        if (rt_wait_help(queue->device)) {
            rt_waiter_moved(waiter);
            if (rt_device_time(queue->device) >= slice_end_ns)
                return RT_E_AGAIN;
            continue;
        }
        rt_wait_step step = rt_waiter_pause(waiter);
        if (step == RT_STEP_CHECK)
            continue;
        int64_t left = slice_end_ns - rt_device_time(queue->device);
        if (step == RT_STEP_END || left <= 0)
            return RT_E_AGAIN;
        rt_waiter_sleeps(waiter);
        if (rt_queue_sleep(queue, seen, left) == RT_E_INTERRUPTED)
            return RT_E_INTERRUPTED;
    }
}

int rt_op_wait_on(rt_link *link, const rt_op *op, int64_t slice_end_ns)
{
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &link->queue->device->wait, slice_end_ns);
    int status = op_wait_with(&waiter, link, op);
    queue_hand_over(link->queue);
    rt_waiter_end(&waiter, status != RT_E_AGAIN);
    return status;
}

bool rt_op_spin_on(rt_link *link, const rt_op *op, uint32_t looks)
{
    rt_queue *queue = link->queue;
    if (queue->device->wait.spins == 0 || looks == 0)
        return false;
    bool done = false, well = true;
    do {
        well = rt_queue_step(queue) >= 0;
        done = atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE;
    } while (well && !done && rt_spin_again(&looks));
    queue_hand_over(queue);
    return done;
}

int rt_op_wait(rt_channel *channel, int64_t number, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    rt_link *link = NULL;
    const rt_op *op = rt_op_find(channel, number, &link);
    if (op == NULL)
        return RT_E_INVALID;
    if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE)
        return op->status;
    if (timeout_ns <= 0) {
        int moved = rt_queue_step(link->queue);
        queue_hand_over(link->queue);
        if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE)
            return op->status;
        int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
        bool settles = state == RT_CHANNEL_FAILED && !channel->device->limits.virtual_time; /* the service ends it */
        if (state != RT_CHANNEL_READY && !settles)
            return op_ended_with(link, op);
        return moved < 0 ? moved : RT_E_AGAIN;
    }
    return rt_op_wait_on(link, op, rt_device_slice_end(channel->device, timeout_ns));
}

/* ---- words ---- */

/* Sleeps until a peer may have written: woken by the peer where the provider can do so, in growing
 * naps elsewhere. *found_out is the result of a last check. */
static int memory_sleep_once(rt_device *device, rt_waiter *waiter, rt_look look, void *object, int64_t left_ns, int *found_out)
{
    const rt_provider *provider = device->provider;
    *found_out = RT_E_AGAIN;
    if (device->limits.virtual_time)
        rt_devices_turn();
    if (device->limits.can_wake_receiver) {
        uint32_t epoch = provider->memory_epoch(device->pdevice);
        *found_out = look(object);
        bool pending = atomic_load_explicit(&device->operations, memory_order_relaxed) != 0;
        int64_t nap = pending && left_ns > RT_NS_PER_MS ? RT_NS_PER_MS : left_ns;
        return provider->memory_sleep(device->pdevice, epoch, *found_out != RT_E_AGAIN ? 0 : nap);
    }
    if (device->limits.virtual_time)
        return provider->clock->advance(device->pdevice, rt_device_time(device) + rt_waiter_nap_ns(waiter, left_ns));
    return rt_waiter_nap(waiter, left_ns);
}

/* Operations of this device that no other thread drives must progress while their starter waits for
 * the answer to them. */
static void queues_drive(rt_device *device)
{
    if (atomic_load_explicit(&device->operations, memory_order_relaxed) == 0)
        return;
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue_step(&device->queues[index]);
        queue_hand_over(&device->queues[index]);
    }
}

bool rt_wait_help(rt_device *device)
{
    return device->provider->memory_help(device->pdevice);
}

static int memory_wait(rt_device *device, rt_waiter *waiter, rt_look look, void *object)
{
    for (;;) {
        int found = look(object);
        if (found != RT_E_AGAIN || atomic_load(&device->closed))
            return found;
        queues_drive(device);
        if (rt_wait_help(device)) {
            rt_waiter_moved(waiter);
            if (rt_device_time(device) >= waiter->end_ns)
                return look(object);
            continue;
        }
        if (waiter->checks == 0 && rt_device_time(device) >= waiter->end_ns)
            return look(object); /* a caller without time checks once, and does not spin */
        rt_wait_step step = rt_waiter_pause(waiter);
        if (step == RT_STEP_CHECK)
            continue;
        int64_t left = waiter->end_ns - rt_device_time(device);
        if (step == RT_STEP_END || left <= 0)
            return look(object);
        rt_waiter_sleeps(waiter);
        int status = memory_sleep_once(device, waiter, look, object, left, &found);
        if (found != RT_E_AGAIN)
            return found;
        if (status == RT_E_INTERRUPTED) {
            found = look(object);
            return found != RT_E_AGAIN ? found : RT_E_INTERRUPTED;
        }
    }
}

/* Pairs with rt_waiters_leave: either it finds us, or we find the device closed. */
int rt_wait_memory(rt_device *device, rt_look look, void *object, int64_t end_ns)
{
    atomic_fetch_add(&device->waiters, 1);
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &device->wait, end_ns);
    int status = memory_wait(device, &waiter, look, object);
    atomic_fetch_sub(&device->waiters, 1);
    rt_waiter_end(&waiter, status != RT_E_AGAIN);
    return status;
}

/* A waiter that is checking sees `closed`; a sleeping one is woken here, or wakes by itself within
 * a slice. */
void rt_waiters_leave(rt_device *device)
{
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &(rt_wait_mode){0}, INT64_MAX);
    while (!device->limits.virtual_time && atomic_load(&device->waiters) != 0) {
        device->provider->memory_wake(device->pdevice);
        rt_waiter_idle(&waiter); /* a signal ends only the nap */
    }
}
