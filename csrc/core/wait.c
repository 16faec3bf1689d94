/* wait.c: how a thread waits: for an operation, for a word that a peer writes, for a completion queue.
 *
 * The policy: look; spin for a while if a core is free to spin on; give the core away between looks; then block. A blocked
 * thread costs nothing and a spinning one costs its core, which is a disaster where the core is the peer's (RDMA-RULES 26).
 * Being woken takes tens of microseconds. Two ends that answer each other and once sleep, because one of them lost its core for a
 * moment, would from then on each wait for the other's wake-up, for longer than they spin: and sleep again, for ever. So a sleep
 * that was short makes the next waits patient: where nobody takes the core that they give away, they spin on for as long as such
 * a sleep may take. One that was long, as those of who waits for nothing in particular, ends that. Where a core comes back late,
 * somebody computes on it; then to block is better than to give it away again, since who is woken is served before who was polite.
 *
 * Blocking on a completion queue: one thread, the leader, holds the queue's turn, arms the queue, looks once more and sleeps
 * on its descriptors. The others, followers, sleep on queue->epoch, which is bumped whenever something was found, when a leader
 * leaves, when a channel fails, and by whoever stops polling while there are followers; then one of them takes the turn.
 * Whoever ends a leader's sleep from outside bumps the epoch and kicks the queue. A sleeper, leader or follower, reads the
 * epoch before it looks for what it waits for and does not sleep when it has changed, so no wake-up is lost. */
#include <poll.h>
#include <sched.h>

#include "core/copy.h"

enum {
    RT_YIELDS = 32,                /* looks with the core given away in between, before an adaptive wait blocks */
    RT_CLOCK_EVERY = 64,           /* looks between two readings of the clock while spinning */
    RT_PATIENCE_NS = 100000,       /* a patient wait spins so long, … */
    RT_SHORT_NS = 200000,          /* … and a sleep that ended within this was short */
    RT_TAKEN_NS = 5000,            /* a core that is given away for this long was used by others, … */
    RT_BUSY_NS = 500000,           /* … and for this long by somebody who computes */
    RT_FOLLOWER_NAP_NS = 10000000, /* a follower looks for a free turn at least this often */
};

typedef struct rt_waiter {
    rt_device *device;
    int64_t end_ns;
    uint32_t looks;
    int64_t napped_ns;
    int64_t spun_ns;    /* when it first gave the core away, or 0 */
    int64_t blocked_ns; /* when it first blocked, or 0 */
    uint32_t yields;    /* how often it gave the core away … */
    bool taken;         /* … and whether somebody took it */
} rt_waiter;

enum rt_step { RT_STEP_LOOK, RT_STEP_BLOCK, RT_STEP_END };

/* Gives the core away; what to do after another look. */
static enum rt_step give_away(rt_waiter *waiter)
{
    int64_t before_ns = rt_device_time(waiter->device);
    sched_yield();
    int64_t after_ns = rt_device_time(waiter->device), took_ns = after_ns - before_ns;
    if (waiter->yields++ == 0)
        waiter->spun_ns = before_ns;
    waiter->taken = waiter->taken || took_ns >= RT_TAKEN_NS;
    return took_ns >= RT_BUSY_NS ? RT_STEP_BLOCK : after_ns >= waiter->end_ns ? RT_STEP_END : RT_STEP_LOOK;
}

/* After the looks between which the core is given away: whether to go on, spinning most of the time. */
static enum rt_step be_patient(rt_waiter *waiter)
{
    const rt_device *device = waiter->device;
    if (waiter->taken || waiter->blocked_ns != 0 || !atomic_load_explicit(&device->patient, memory_order_relaxed))
        return RT_STEP_BLOCK;
    if (waiter->looks % RT_CLOCK_EVERY != 0) {
        rt_pause();
        return RT_STEP_LOOK;
    }
    return rt_device_time(device) - waiter->spun_ns < RT_PATIENCE_NS ? give_away(waiter) : RT_STEP_BLOCK;
}

static void waiter_blocks(rt_waiter *waiter)
{
    if (waiter->blocked_ns == 0)
        waiter->blocked_ns = rt_device_time(waiter->device);
}

/* It found what it waited for, or gave up: what that says of the next wait. Gives the status back. */
static int waiter_ends(const rt_waiter *waiter, int status)
{
    rt_device *device = waiter->device;
    if (waiter->blocked_ns == 0)
        return status;
    int64_t begin_ns = waiter->spun_ns != 0 ? waiter->spun_ns : waiter->blocked_ns;
    bool was_short = status != RT_E_AGAIN && rt_device_time(device) - begin_ns < RT_SHORT_NS;
    if (atomic_load_explicit(&device->patient, memory_order_relaxed) != was_short)
        atomic_store_explicit(&device->patient, was_short, memory_order_relaxed);
    return status;
}

/* What to do after a look that found nothing. */
static enum rt_step waiter_step(rt_waiter *waiter)
{
    const rt_device *device = waiter->device;
    uint32_t looks = ++waiter->looks;
    switch ((enum rt_wait_policy)device->wait_policy) {
    case RT_WAIT_BLOCK: return RT_STEP_BLOCK;
    case RT_WAIT_YIELD:
        sched_yield();
        return looks % 16 == 0 && rt_device_time(device) >= waiter->end_ns ? RT_STEP_END : RT_STEP_LOOK;
    case RT_WAIT_ADAPTIVE:
        if (looks > device->spins)
            return waiter->yields < RT_YIELDS ? give_away(waiter) : be_patient(waiter);
        break;
    case RT_WAIT_SPIN: break;
    }
    rt_pause();
    return looks % RT_CLOCK_EVERY == 0 && rt_device_time(device) >= waiter->end_ns ? RT_STEP_END : RT_STEP_LOOK;
}

/* ---- completion queues ---- */

void rt_queue_kick(rt_queue *queue)
{
    if (queue->kick_fd >= 0)
        rt_event_signal(queue->kick_fd);
}

void rt_queue_leave(rt_queue *queue)
{
    rt_turn_leave(&queue->turn);
    /* Pairs with take_or_wish in poller.c: either it got the turn, or we find its wish. */
    if (atomic_load(&queue->poller_wants) != 0 && atomic_exchange(&queue->poller_wants, 0) != 0)
        rt_event_signal(queue->poller_fd);
    /* Pairs with rt_device_arm: either it found the turn free, or we find its wish. */
    while (atomic_load(&queue->loop_wants) != 0 && rt_turn_try(&queue->turn)) {
        if (atomic_exchange(&queue->loop_wants, 0) != 0 &&
            queue->device->provider->arm(queue->device->pdevice, queue->index) == RT_OK)
            rt_queue_step_held(queue);
        rt_turn_leave(&queue->turn);
    }
}

/* One of several threads that wait on a queue stops polling it: another goes on. */
static void hand_over(rt_queue *queue)
{
    if (atomic_load(&queue->followers) != 0)
        rt_queue_tell(queue);
}

void rt_queue_unkick(rt_queue *queue)
{
    if (queue->kick_fd < 0)
        return;
    rt_event_drain(queue->kick_fd);
    /* After draining: one that starves now kicks after it is counted. Elsewhere completions call for who pumps. */
    if (queue->device->limits.completes_in_post && atomic_load(&queue->starved) != 0)
        rt_queue_kick(queue);
}

static int sleep_as_leader(rt_queue *queue, uint32_t seen, int64_t timeout_ns)
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

static int lead(rt_queue *queue, uint32_t seen, int64_t timeout_ns)
{
    int status = sleep_as_leader(queue, seen, timeout_ns);
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
        return lead(queue, seen, timeout_ns);
    atomic_fetch_add(&queue->followers, 1);
    bool leads = rt_turn_try(&queue->turn); /* whoever has it now leaves it after this, and finds a follower then */
    int status = RT_OK;
    if (!leads)
        status = rt_futex_sleep(&queue->epoch, seen, timeout_ns < RT_FOLLOWER_NAP_NS ? timeout_ns : RT_FOLLOWER_NAP_NS, false);
    atomic_fetch_sub(&queue->followers, 1);
    if (leads)
        return lead(queue, seen, timeout_ns);
    return status == RT_E_INTERRUPTED ? status : RT_OK;
}

/* ---- operations ---- */

/* After its completions have settled, how long an operation of a failed channel is waited for: the flush of its link. */
#define RT_FLUSH_PATIENCE_NS (50 * RT_NS_PER_MS)

/* How an operation ended, or will end when its flush has come, now that its channel is down. */
static int ended_with(rt_link *link, const rt_op *op)
{
    rt_turn_take(&link->turn);
    int status = op->status;
    bool done = atomic_load_explicit(&op->state, memory_order_relaxed) == RT_OP_DONE;
    rt_turn_leave(&link->turn);
    return done || status != RT_OK ? status : rt_channel_refuse(link->channel, NULL);
}

/* The channel is down: the operation's own completion may be on its way, and after it, or instead of it, comes a flush. */
static int settle(rt_link *link, const rt_op *op)
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
    return ended_with(link, op);
}

static int wait_on(rt_waiter *waiter, rt_link *link, const rt_op *op)
{
    rt_queue *queue = link->queue;
    int64_t slice_end_ns = waiter->end_ns;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&queue->epoch, memory_order_acquire);
        if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE)
            return op->status;
        if (atomic_load_explicit(&link->channel->state, memory_order_acquire) != RT_CHANNEL_READY)
            return settle(link, op);
        int moved = rt_queue_step(queue);
        if (moved < 0)
            return moved;
        if (moved > 0) {
            waiter->looks = 0;
            if (atomic_load(&op->state) != RT_OP_DONE && rt_device_time(queue->device) >= slice_end_ns)
                return RT_E_AGAIN;
            continue;
        }
        enum rt_step step = queue->device->limits.virtual_time ? RT_STEP_BLOCK : waiter_step(waiter);
        int64_t left = step == RT_STEP_BLOCK ? slice_end_ns - rt_device_time(queue->device) : 1;
        if (step == RT_STEP_END || left <= 0)
            return RT_E_AGAIN;
        waiter_blocks(waiter);
        if (step == RT_STEP_BLOCK && rt_queue_sleep(queue, seen, left) == RT_E_INTERRUPTED)
            return RT_E_INTERRUPTED;
    }
}

int rt_op_wait_on(rt_link *link, const rt_op *op, int64_t slice_end_ns)
{
    rt_waiter waiter = {.device = link->queue->device, .end_ns = slice_end_ns};
    int status = wait_on(&waiter, link, op);
    hand_over(link->queue);
    return waiter_ends(&waiter, status);
}

/* Whether a thread may look a few times without giving its core away. */
static bool may_spin(const rt_device *device)
{
    if (device->limits.virtual_time)
        return false;
    return device->wait_policy == RT_WAIT_SPIN || (device->wait_policy == RT_WAIT_ADAPTIVE && device->spins != 0);
}

bool rt_op_spin_on(rt_link *link, const rt_op *op, uint32_t looks)
{
    rt_queue *queue = link->queue;
    if (!may_spin(queue->device))
        return false;
    bool done = false, well = true;
    for (uint32_t look = 0; look < looks && well && !done; look++) {
        int moved = rt_queue_step(queue);
        done = atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE;
        well = moved >= 0;
        if (moved == 0 && !done)
            rt_pause();
    }
    hand_over(queue);
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
    int64_t slice = timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS;
    if (slice <= 0) {
        int moved = rt_queue_step(link->queue);
        hand_over(link->queue);
        if (atomic_load_explicit(&op->state, memory_order_acquire) == RT_OP_DONE)
            return op->status;
        int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
        bool settles = state == RT_CHANNEL_FAILED && !channel->device->limits.virtual_time; /* the service sees to its end */
        if (state != RT_CHANNEL_READY && !settles)
            return ended_with(link, op);
        return moved < 0 ? moved : RT_E_AGAIN;
    }
    return rt_op_wait_on(link, op, rt_device_time(channel->device) + slice);
}

/* ---- words ---- */

static bool word_came(const uint64_t *word, uint64_t value)
{
    return (int64_t)(rt_load_acquire_u64(word) - value) >= 0;
}

/* Sleeps until a peer may have written: woken by it where the provider can, in growing naps elsewhere. *found_out is what a last
 * look found. */
static int sleep_for_memory(rt_waiter *waiter, rt_look look, void *object, int64_t left_ns, int *found_out)
{
    rt_device *device = waiter->device;
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
    int64_t nap = rt_nap_next_ns(&waiter->napped_ns);
    nap = nap < left_ns ? nap : left_ns;
    if (device->limits.virtual_time)
        return provider->clock->advance(device->pdevice, rt_device_time(device) + nap);
    struct timespec time = {.tv_nsec = nap};
    return nanosleep(&time, NULL) != 0 ? RT_E_INTERRUPTED : RT_OK;
}

/* Operations of this device that nobody else drives must go on while their starter waits for an answer to them. */
static void drive(rt_device *device)
{
    if (atomic_load_explicit(&device->operations, memory_order_relaxed) == 0)
        return;
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue_step(&device->queues[index]);
        hand_over(&device->queues[index]);
    }
}

static int wait_memory(rt_waiter *waiter, rt_look look, void *object)
{
    rt_device *device = waiter->device;
    for (;;) {
        int found = look(object);
        if (found != RT_E_AGAIN || atomic_load(&device->closed))
            return found;
        drive(device);
        if (waiter->looks == 0 && rt_device_time(device) >= waiter->end_ns)
            return look(object); /* who has no time asks, and does not spin */
        enum rt_step step = device->limits.virtual_time ? RT_STEP_BLOCK : waiter_step(waiter);
        if (step == RT_STEP_LOOK)
            continue;
        int64_t left = waiter->end_ns - rt_device_time(device);
        if (step == RT_STEP_END || left <= 0)
            return look(object);
        waiter_blocks(waiter);
        int status = sleep_for_memory(waiter, look, object, left, &found);
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
    rt_waiter waiter = {.device = device, .end_ns = end_ns};
    int status = wait_memory(&waiter, look, object);
    atomic_fetch_sub(&device->waiters, 1);
    return waiter_ends(&waiter, status);
}

/* Who looks finds the device closed; who sleeps is woken, or by himself after a slice at the latest. */
void rt_waiters_leave(rt_device *device)
{
    while (!device->limits.virtual_time && atomic_load(&device->waiters) != 0) {
        device->provider->memory_wake(device->pdevice);
        nanosleep(&(struct timespec){.tv_nsec = RT_NAP_MIN_NS}, NULL);
    }
}

typedef struct rt_word_wait {
    rt_channel *channel;
    const uint64_t *word;
    uint64_t value;
} rt_word_wait;

static int look_for_word(void *object)
{
    const rt_word_wait *wait = object;
    rt_channel *channel = wait->channel;
    if (word_came(wait->word, wait->value))
        return RT_OK;
    atomic_store_explicit(&channel->word_expected, wait->value, memory_order_relaxed);
    atomic_store_explicit(&channel->word_seen, rt_load_acquire_u64(wait->word), memory_order_relaxed);
    if (atomic_load_explicit(&channel->state, memory_order_acquire) == RT_CHANNEL_READY)
        return RT_E_AGAIN;
    return word_came(wait->word, wait->value) ? RT_OK : rt_channel_refuse(channel, NULL);
}

/* The word at this place of a region, or why there is none. */
static int word_of(const rt_region *region, uint64_t region_offset, const uint64_t **word_out)
{
    if (region_offset % sizeof(uint64_t) != 0)
        return RT_E_INVALID;
    if (region->size < sizeof(uint64_t) || region_offset > region->size - sizeof(uint64_t))
        return RT_E_BOUNDS;
    if (((uintptr_t)region->address + region_offset) % sizeof(uint64_t) != 0)
        return RT_E_INVALID; /* adopted memory that begins somewhere in a word */
    *word_out = (const uint64_t *)(const void *)(region->address + region_offset);
    return RT_OK;
}

int rt_channel_look_for_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, uint32_t looks)
{
    const uint64_t *word = NULL;
    if (rt_forked() || word_of(region, region_offset, &word) != RT_OK)
        return RT_E_AGAIN;
    if (looks > 1 && !may_spin(channel->device))
        looks = 1;
    for (uint32_t look = 0; look < looks; look++) {
        if (word_came(word, value))
            return RT_OK;
        rt_pause();
    }
    return RT_E_AGAIN;
}

int rt_channel_wait_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    const uint64_t *word = NULL;
    int bad = word_of(region, region_offset, &word);
    if (bad != RT_OK)
        return bad;
    if (word_came(word, value))
        return RT_OK;
    if (region->device != channel->device) /* nobody would place it, or nobody would tell */
        return region->device == NULL ? RT_E_CLOSED : RT_E_INVALID;
    int64_t slice = timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS;
    atomic_fetch_add(&channel->word_waiters, 1); /* before the state is looked at: a channel that ends waits for us */
    rt_word_wait wait = {channel, word, value};
    int status = rt_channel_state(channel) != RT_CHANNEL_READY
                     ? rt_channel_refuse(channel, NULL)
                     : rt_wait_memory(channel->device, look_for_word, &wait, rt_device_time(channel->device) + slice);
    atomic_fetch_sub(&channel->word_waiters, 1);
    return status;
}

/* ---- for event loops ---- */

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
