/* test_copy_threads.c: threads that copy and wait at once: on QPs of their own and on one, with every policy, with and without
 * poller threads; and a flag word behind its data. The ends of waits: test_waiting.c. Threads never CHECK: they report by values.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include <sched.h>

#include "core_ends.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { WORD_ROUNDS = 4000, COPIES = 300 };
#else
enum { WORD_ROUNDS = 100000, COPIES = 2000 };
#endif
enum { THREADS = 4, SPAN = 1 << 16 };

#if __has_include(<infiniband/verbs.h>)
static void fake_by_itself(const char *provider)
{
    if (strcmp(provider, "verbs") == 0)
        faked.fake_set_engine(FAKE_ENGINE_THREAD);
}
#else
static void fake_by_itself(const char *provider)
{
    (void)provider;
}
#endif

/* ---- copies ---- */

typedef struct copier {
    pthread_t thread;
    core_ends *ends;
    int32_t qp;
    uint32_t index, count;
    int status;     /* the first that was not RT_OK */
    uint32_t wrong; /* bytes that did not come back */
} copier;

/* Writes patterns into a part of its own and reads them back. */
static void *copy_main(void *argument)
{
    copier *self = argument;
    core_ends *ends = self->ends;
    uint64_t base = (uint64_t)self->index * SPAN;
    rt_detail detail;
    for (uint32_t round = 0; round < self->count && self->status == RT_OK; round++) {
        uint64_t size = 1 + (round * 37 + self->index) % (round % 50 == 0 ? SPAN / 2 : 300);
        uint8_t *bytes = ends->here + base;
        memset(bytes, (int)(round + self->index) & 0xff, size);
        int64_t number = rt_channel_copy(ends->channel, self->qp, RT_WRITE, ends->remote, base, ends->local, base, size,
                                         round % 3 == 0 ? 0 : RT_SLICE_NS);
        self->status = core_finish(ends->channel, number, &detail);
        if (self->status != RT_OK)
            break;
        number = rt_channel_copy(ends->channel, self->qp, RT_READ, ends->remote, base, ends->local, base + SPAN / 2, size,
                                 RT_SLICE_NS);
        self->status = core_finish(ends->channel, number, &detail);
        self->wrong += memcmp(bytes, bytes + SPAN / 2, size) != 0;
    }
    return NULL;
}

static void copy_with_threads(const core_setup *setup, bool one_qp)
{
    core_ends ends;
    copier copiers[THREADS];
    core_begin(&ends, setup);
    fake_by_itself(setup->provider);
    for (uint32_t index = 0; index < THREADS; index++) {
        copiers[index] = (copier){.ends = &ends, .qp = one_qp ? 0 : (int32_t)index, .index = index, .count = COPIES / THREADS};
        CHECK_INT(pthread_create(&copiers[index].thread, NULL, copy_main, &copiers[index]), 0);
    }
    for (uint32_t index = 0; index < THREADS; index++)
        pthread_join(copiers[index].thread, NULL);
    for (uint32_t index = 0; index < THREADS; index++) {
        CHECK_INT(copiers[index].status, RT_OK);
        CHECK_INT(copiers[index].wrong, 0);
    }
    rt_channel_stats stats = core_stats(ends.channel);
    CHECK_INT(stats.writes, COPIES / THREADS * THREADS);
    CHECK_INT(stats.reads, stats.writes);
    CHECK_INT(stats.bytes_written, stats.bytes_read);
    rt_device_stats device_stats;
    rt_device_get_stats(ends.near, &device_stats);
    CHECK_INT(device_stats.operations_in_flight, 0);
    core_end(&ends);
}

#define EACH_THREADED(provider)                                                                                                  \
    CORE_EACH_PROVIDER(provider)                                                                                                 \
    if (strcmp(provider, "sim") != 0) /* virtual time has one thread */

static void threads_on_qps_of_their_own_do_not_disturb_each_other(void)
{
    EACH_THREADED(provider)
    {
        copy_with_threads(&(core_setup){.provider = provider, .qps = THREADS, .queues = THREADS}, false);
        copy_with_threads(&(core_setup){.provider = provider, .qps = THREADS, .queues = 1}, false);
    }
}

static void threads_on_one_qp_take_turns(void)
{
    EACH_THREADED(provider)
    copy_with_threads(&(core_setup){.provider = provider, .qps = 1}, true);
}

static void every_waiting_policy_ends_every_operation(void)
{
    EACH_THREADED(provider)
    {
        for (uint32_t policy = RT_WAIT_ADAPTIVE; policy <= RT_WAIT_BLOCK; policy++)
            copy_with_threads(&(core_setup){.provider = provider, .qps = THREADS, .queues = 2, .wait_policy = policy}, false);
    }
}

static void poller_threads_serve_any_number_of_queues(void)
{
    EACH_THREADED(provider)
    {
        for (uint32_t pollers = 1; pollers <= 3; pollers++)
            for (uint32_t queues = 1; queues <= 4; queues += pollers)
                copy_with_threads(&(core_setup){.provider = provider,
                                                .qps = THREADS,
                                                .queues = queues,
                                                .pollers = pollers,
                                                .wait_policy = RT_WAIT_BLOCK},
                                  false);
    }
}

/* ---- words ---- */

typedef struct receiver {
    pthread_t thread;
    rt_channel *channel;
    rt_region *region;
    uint64_t rounds;
    _Atomic uint64_t consumed; /* rounds */
    _Atomic int status;
    uint64_t wrong;
} receiver;

enum { FLAG_AT = 4096 };

static void *receive_main(void *argument)
{
    receiver *self = argument;
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)rt_region_address(self->region);
    int64_t end_ns = rt_clock_now_ns() + 5 * CORE_PATIENCE_NS;
    for (uint64_t round = 1; round <= self->rounds; round++) {
        int status;
        do
            status = rt_channel_wait_word(self->channel, self->region, FLAG_AT, round, RT_SLICE_NS);
        while (status == RT_E_AGAIN && rt_clock_now_ns() < end_ns);
        atomic_store(&self->status, status);
        if (status != RT_OK)
            break;
        uint64_t size = 1 + round % 700;
        self->wrong += bytes[0] != (uint8_t)round || bytes[size - 1] != (uint8_t)round;
        atomic_store(&self->consumed, round);
    }
    return NULL;
}

static void a_flag_word_comes_after_its_data(void)
{
    EACH_THREADED(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .qps = 1});
        fake_by_itself(provider);
        bool naps = !ends.near->limits.can_wake_receiver; /* a receiver that must be napped for is slow */
        receiver peer = {.channel = ends.accepted, .region = ends.target, .rounds = naps ? WORD_ROUNDS / 50 : WORD_ROUNDS};
        CHECK_INT(pthread_create(&peer.thread, NULL, receive_main, &peer), 0);
        int64_t end_ns = rt_clock_now_ns() + 4 * CORE_PATIENCE_NS;
        int status = RT_OK;
        for (uint64_t round = 1; round <= peer.rounds && status == RT_OK; round++) {
            memset(ends.here, (int)(round & 0xff), 700);
            *(uint64_t *)(void *)(ends.here + FLAG_AT) = round;
            rt_copy copies[2] = {core_entry(&ends, RT_WRITE, 0, 0, 1 + round % 700),
                                 core_entry(&ends, RT_WRITE, FLAG_AT, FLAG_AT, 8)};
            uint64_t bad;
            status = core_finish(ends.channel, rt_channel_copy_many(ends.channel, 0, copies, 2, RT_SLICE_NS, &bad), &ends.detail);
            while (status == RT_OK && atomic_load(&peer.consumed) != round) {
                sched_yield();
                if (atomic_load(&peer.status) != RT_OK || rt_clock_now_ns() > end_ns)
                    status = RT_E_DEADLINE;
            }
        }
        pthread_join(peer.thread, NULL);
        CHECK_INT(status, RT_OK);
        CHECK_INT(peer.status, RT_OK);
        CHECK_INT(peer.consumed, peer.rounds);
        CHECK_INT(peer.wrong, 0);
        core_end(&ends);
    }
}

/* ---- what a copy that runs holds ---- */

typedef struct repeater {
    pthread_t thread;
    core_ends *ends;
    _Atomic bool stop;
    int64_t status;
} repeater;

static void *repeat_main(void *argument)
{
    repeater *self = argument;
    core_ends *ends = self->ends;
    while (!atomic_load(&self->stop) && self->status == RT_OK)
        self->status = rt_channel_copy(ends->channel, -1, RT_WRITE, ends->remote, 0, ends->local, 0, SPAN, RT_SLICE_NS);
    return NULL;
}

/* Closing and freeing go by this count: a copy that ends in the call that began it is in it too, as long as it runs. */
static void a_small_copy_that_runs_is_counted_in_its_region(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    repeater peer = {.ends = &ends};
    CHECK_INT(pthread_create(&peer.thread, NULL, repeat_main, &peer), 0);
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    bool seen = false;
    while (!seen && rt_clock_now_ns() < end)
        seen = atomic_load(&ends.local->operations) != 0;
    atomic_store(&peer.stop, true);
    pthread_join(peer.thread, NULL);
    CHECK(seen);
    CHECK_INT(peer.status, RT_OK);
    CHECK_INT(atomic_load(&ends.local->operations), 0);
    core_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_small_copy_that_runs_is_counted_in_its_region),
    CHECK_TEST(threads_on_qps_of_their_own_do_not_disturb_each_other),
    CHECK_TEST(threads_on_one_qp_take_turns),
    CHECK_TEST(every_waiting_policy_ends_every_operation),
    CHECK_TEST(poller_threads_serve_any_number_of_queues),
    CHECK_TEST(a_flag_word_comes_after_its_data),
};
CHECK_MAIN(tests)
