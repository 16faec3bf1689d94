/* test_lock.c: calls on a device whose lock somebody holds and does not give back: those that have a deadline keep it, and those that
 * have none end with a reason. */
#include <pthread.h>

#include "base/futex.h"
#include "control_ends.h"
#include "device/device.h"

/* Holds the lock of a device on a thread of its own, since the lock is its owner's to take again. */
typedef struct holder {
    rt_device *device;
    pthread_t thread;
    _Atomic uint32_t held, released;
} holder;

static void wait_until(_Atomic uint32_t *word)
{
    while (atomic_load(word) == 0)
        rt_futex_sleep(word, 0, RT_NS_PER_S, false);
}

static void set(_Atomic uint32_t *word)
{
    atomic_store(word, 1);
    rt_futex_wake(word, INT_MAX, false);
}

static void *holder_main(void *argument)
{
    holder *self = argument;
    pthread_mutex_lock(&self->device->lock);
    set(&self->held);
    wait_until(&self->released);
    pthread_mutex_unlock(&self->device->lock);
    return NULL;
}

static void hold(holder *self, rt_device *device)
{
    self->device = device;
    atomic_init(&self->held, 0);
    atomic_init(&self->released, 0);
    CHECK_INT(pthread_create(&self->thread, NULL, holder_main, self), 0);
    wait_until(&self->held);
}

static void let_go(holder *self)
{
    set(&self->released);
    pthread_join(self->thread, NULL);
}

static void calls_with_a_deadline_keep_it_though_the_lock_is_held(void)
{
    two_ends ends;
    holder other;
    rt_detail detail;
    rt_channel *channel = NULL;
    rt_listener *listener = NULL;
    rt_remote *remote = NULL;
    rt_region *region;
    uint8_t handle[160];
    size_t size;
    ends_open(&ends, "shm", "");
    ends_connect(&ends, "");
    CHECK_INT(rt_region_create(ends.there, 4096, RT_RIGHT_REMOTE_READ, RT_HUGE_OFF, &region, &detail), RT_OK);
    CHECK_INT(rt_region_handle(region, 0, 4096, handle, &size, &detail), RT_OK);
    int64_t lookup = rt_lookup_start(ends.accepted, "nothing", RT_SLICE_NS, &detail);
    CHECK(lookup > 0);
    hold(&other, ends.here);
    CHECK_INT(rt_listener_accept(ends.listener, RT_NS_PER_MS, &channel, &detail), RT_E_AGAIN);
    CHECK_INT(rt_channel_connect(ends.here, rt_listener_address(ends.listener), NULL, 0, &channel, &detail), RT_E_AGAIN);
    CHECK_INT(rt_listener_open(ends.here, "127.0.0.1:0", NULL, 0, &listener, &detail), RT_E_AGAIN);
    CHECK_INT(rt_lookup_start(ends.accepted, "something", RT_SLICE_NS, &detail), RT_E_AGAIN);
    CHECK_HAS(detail.text, "holds the lock");
    uint8_t found[160];
    size_t found_size;
    CHECK_INT(rt_lookup_wait(ends.accepted, lookup, RT_NS_PER_MS, found, &found_size, &detail), RT_E_AGAIN);
    CHECK_INT(rt_remote_attach(ends.accepted, handle, size, RT_NS_PER_MS, &remote, &detail), RT_E_AGAIN);
    let_go(&other);
    rt_lookup_release(ends.accepted, lookup);
    rt_region_drop(region);
    ends_close(&ends);
}

static void calls_without_a_deadline_end_with_a_reason(void)
{
    two_ends ends;
    holder other;
    rt_detail detail;
    rt_region *region = NULL;
    ends_open(&ends, "shm", "");
    hold(&other, ends.here);
    CHECK_INT(rt_region_create(ends.here, 4096, 0, RT_HUGE_OFF, &region, &detail), RT_E_DEADLINE);
    CHECK_HAS(detail.text, "dump()");
    let_go(&other);
    CHECK_INT(rt_region_create(ends.here, 4096, 0, RT_HUGE_OFF, &region, &detail), RT_OK);
    rt_region_drop(region);
    ends_close(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(calls_with_a_deadline_keep_it_though_the_lock_is_held),
    CHECK_TEST(calls_without_a_deadline_end_with_a_reason),
};

CHECK_MAIN(tests)
