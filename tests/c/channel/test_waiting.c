/* test_waiting.c: what ends a wait for an operation or a word: the peer, a signal, a failed channel, a device that closes; and
 * event loops, which must not miss what ends while other threads take turns at the same queue. Threads never CHECK.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include <poll.h>
#include <sched.h>
#include <signal.h>

#include "core_ends.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { LOOP_ROUNDS = 300 };
#else
enum { LOOP_ROUNDS = 1500 };
#endif
enum { THREADS = 4 };

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

#define EACH_THREADED(provider)                                                                                                  \
    CORE_EACH_PROVIDER(provider)                                                                                                 \
    if (strcmp(provider, "sim") != 0) /* virtual time has one thread */

static void words_that_cannot_come_are_refused(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider});
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 4, 1, RT_SLICE_NS), RT_E_INVALID);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, rt_region_size(ends.local), 1, RT_SLICE_NS), RT_E_BOUNDS);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, UINT64_MAX - 7, 1, RT_SLICE_NS), RT_E_BOUNDS);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.target, 0, 1, RT_SLICE_NS), RT_E_INVALID);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, 0, RT_SLICE_NS), RT_OK);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, UINT64_MAX, RT_SLICE_NS), RT_OK); /* a lap behind */
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, 1, RT_NS_PER_MS), RT_E_AGAIN);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, 1, -1), RT_E_AGAIN);
        static _Alignas(8) uint8_t odd[64];
        rt_region *adopted = NULL;
        CHECK_INT(rt_region_adopt(ends.near, odd + 1, 60, 0, &adopted, &ends.detail), RT_OK);
        CHECK_INT(rt_channel_wait_word(ends.channel, adopted, 8, 0, RT_SLICE_NS), RT_E_INVALID);
        CHECK_INT(rt_region_close(adopted, &ends.detail), RT_OK);
        rt_region_drop(adopted);
        CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, 1, RT_SLICE_NS), RT_E_CLOSED);
        core_end(&ends);
    }
}

static void a_look_for_a_word_finds_it_and_leaves_all_else_to_who_waits(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider});
        uint64_t beyond = rt_region_size(ends.local);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 0, 0, 1), RT_OK);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 0, UINT64_MAX, 1000), RT_OK);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 0, 1, 1000), RT_E_AGAIN);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 0, 0, 0), RT_E_AGAIN);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 4, 0, 1), RT_E_AGAIN);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, beyond, 0, 1), RT_E_AGAIN);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, UINT64_MAX - 7, 0, 1), RT_E_AGAIN);
        rt_store_release_u64((uint64_t *)(void *)(ends.here + 8), 7);
        CHECK_INT(rt_channel_look_for_word(ends.channel, ends.local, 8, 7, 1), RT_OK);
        core_end(&ends);
    }
}

/* A wait that spins never sleeps, and only sleeps say how patient the next wait should be. */
static void a_wait_that_only_looked_leaves_the_next_one_as_patient_as_it_was(void)
{
    EACH_THREADED(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .size = 1 << 20, .rights = CORE_BOTH});
        fake_by_itself(provider);
        ends.near->wait.spins = UINT32_MAX;
        for (int round = 0; round < 200; round++) {
            CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 1 << 16), RT_OK);
            CHECK(!atomic_load(&ends.near->patient));
        }
        core_end(&ends);
    }
}

/* ---- what ends a wait ---- */

typedef struct sleeper {
    pthread_t thread;
    rt_channel *channel;
    rt_region *region; /* NULL: waits for the operation */
    int64_t op;
    _Atomic bool sleeps, awake;
    int status;
} sleeper;

static void *sleep_main(void *argument)
{
    sleeper *self = argument;
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    do {
        atomic_store(&self->sleeps, true);
        self->status = self->region != NULL ? rt_channel_wait_word(self->channel, self->region, 0, 1, RT_SLICE_NS)
                                            : rt_op_wait(self->channel, self->op, RT_SLICE_NS);
    } while (self->status == RT_E_AGAIN && rt_clock_now_ns() < end_ns);
    atomic_store(&self->awake, true);
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
}

/* Signals the thread until it has come back. */
static void sleeper_interrupt(sleeper *self)
{
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    while (!atomic_load(&self->awake)) {
        pthread_kill(self->thread, SIGUSR1);
        sched_yield();
    }
    pthread_join(self->thread, NULL);
}

/* Until the thread sleeps, and a little more: what is too early only makes the test pass for another reason. */
static void sleeper_start(sleeper *self)
{
    CHECK_INT(pthread_create(&self->thread, NULL, sleep_main, self), 0);
    while (!atomic_load(&self->sleeps))
        sched_yield();
}

static void a_signal_ends_every_wait(void)
{
    EACH_THREADED(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .wait_policy = RT_WAIT_BLOCK});
        sleeper word = {.channel = ends.channel, .region = ends.local};
        sleeper_start(&word);
        sleeper_interrupt(&word);
        CHECK_INT(word.status, RT_E_INTERRUPTED);
        core_end(&ends);
    }
}

static void waiters_for_a_word_hear_that_the_channel_ended(void)
{
    EACH_THREADED(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .wait_policy = RT_WAIT_BLOCK});
        sleeper word = {.channel = ends.channel, .region = ends.local};
        sleeper_start(&word);
        rt_channel_close(ends.accepted); /* the peer's end */
        pthread_join(word.thread, NULL);
        CHECK_INT(word.status, RT_E_PEER_CLOSED);
        core_end(&ends);
    }
}

#if __has_include(<infiniband/verbs.h>)

static void all_waiters_of_a_queue_hear_a_signal_or_a_failure(void)
{
    for (uint32_t policy = RT_WAIT_ADAPTIVE; policy <= RT_WAIT_BLOCK; policy++) {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = "verbs", .qps = THREADS, .queues = 1, .wait_policy = policy});
        faked.fake_set_engine(FAKE_ENGINE_MANUAL);
        sleeper sleepers[THREADS];
        for (uint32_t index = 0; index < THREADS; index++) {
            sleepers[index] = (sleeper){.channel = ends.channel, .op = core_start(&ends, (int32_t)index, RT_WRITE, 0, 0, 100)};
            CHECK(sleepers[index].op > 0);
            sleeper_start(&sleepers[index]);
        }
        uint32_t woken = 0;
        if (policy == RT_WAIT_BLOCK) { /* spinning looks for signals only between slices, which the caller does */
            sleeper_interrupt(&sleepers[0]);
            CHECK_INT(sleepers[woken++].status, RT_E_INTERRUPTED);
        }
        rt_channel_close(ends.channel);
        for (; woken < THREADS; woken++) {
            pthread_join(sleepers[woken].thread, NULL);
            CHECK_INT(sleepers[woken].status, RT_E_CLOSED);
        }
        faked.fake_set_engine(FAKE_ENGINE_POLL);
        core_end(&ends);
    }
}

static void an_event_loop_hears_of_a_queue_that_another_thread_was_at_when_it_armed(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "verbs", .queues = 1, .qps = 1});
    rt_queue *queue = &ends.near->queues[0];
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    CHECK(number > 0);
    CHECK_INT(rt_device_progress(ends.near), 0);
    CHECK(rt_turn_try(&queue->turn)); /* as a thread that looks at the queue, finds nothing and goes away */
    CHECK_INT(rt_device_arm(ends.near), RT_OK);
    rt_queue_leave(queue);
    struct pollfd readable = {.fd = rt_device_event_fd(ends.near), .events = POLLIN};
    CHECK_INT(poll(&readable, 1, 0), 0);
    CHECK(faked.fake_step() > 0);
    CHECK_INT(poll(&readable, 1, 5000), 1);
    CHECK(rt_device_progress(ends.near) > 0);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_OK);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    core_end(&ends);
}

static void a_device_closes_under_its_waiters(void)
{
    for (uint32_t round = 0; round < 10; round++) {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = "verbs", .qps = THREADS, .queues = 2, .wait_policy = round % 4});
        faked.fake_set_engine(FAKE_ENGINE_MANUAL);
        sleeper sleepers[THREADS], word = {.channel = ends.channel, .region = ends.local};
        sleeper_start(&word);
        for (uint32_t index = 0; index < THREADS; index++) {
            sleepers[index] = (sleeper){.channel = ends.channel, .op = core_start(&ends, (int32_t)index, RT_WRITE, 0, 0, 100)};
            sleeper_start(&sleepers[index]);
        }
        faked.fake_set_engine(FAKE_ENGINE_POLL);
        rt_device_close(ends.near);
        pthread_join(word.thread, NULL);
        CHECK(word.status == RT_E_CLOSED || word.status == RT_E_INVALID); /* when it came back, the region was closed too */
        for (uint32_t index = 0; index < THREADS; index++) {
            pthread_join(sleepers[index].thread, NULL);
            CHECK(sleepers[index].status == RT_E_CLOSED || sleepers[index].status == RT_E_FLUSHED ||
                  sleepers[index].status == RT_OK);
        }
        rt_remote_drop(ends.remote);
        rt_channel_drop(ends.channel);
        rt_channel_drop(ends.accepted);
        rt_listener_close(ends.listener);
        rt_device_close(ends.far);
        rt_region_drop(ends.local);
        rt_region_drop(ends.target);
        end();
    }
}

static void waiters_for_different_operations_of_a_queue_are_all_served(void)
{
    for (uint32_t round = 0; round < 20; round++) {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = "verbs", .qps = THREADS, .queues = 1, .wait_policy = RT_WAIT_BLOCK});
        faked.fake_set_engine(FAKE_ENGINE_MANUAL);
        sleeper sleepers[THREADS];
        for (uint32_t index = 0; index < THREADS; index++) {
            sleepers[index] = (sleeper){.channel = ends.channel, .op = core_start(&ends, (int32_t)index, RT_WRITE, 0, 0, 100)};
            sleeper_start(&sleepers[index]);
        }
        faked.fake_step(); /* all complete at once; one thread finds them */
        int64_t begin_ns = rt_clock_now_ns();
        for (uint32_t index = 0; index < THREADS; index++)
            pthread_join(sleepers[index].thread, NULL);
        for (uint32_t index = 0; index < THREADS; index++)
            CHECK_INT(sleepers[index].status, RT_OK);
        CHECK(rt_clock_now_ns() - begin_ns < CORE_PATIENCE_NS);
        faked.fake_set_engine(FAKE_ENGINE_POLL);
        core_end(&ends);
    }
}

#endif

/* ---- event loops ---- */

typedef struct meddler {
    pthread_t thread;
    rt_device *device;
    _Atomic bool stop;
} meddler;

/* Takes the queue's turn again and again, as threads do that wait for something else. */
static void *meddle_main(void *argument)
{
    meddler *self = argument;
    for (uint32_t looks = 0; !atomic_load(&self->stop); looks++) {
        rt_queue_step(&self->device->queues[0]);
        if (looks % 16 == 0) {
            uint32_t seen = atomic_load(&self->device->queues[0].epoch);
            rt_queue_sleep(&self->device->queues[0], seen, RT_NS_PER_MS / 4);
        }
    }
    return NULL;
}

/* One operation as an event loop drives it. Gives how often the loop slept in vain. */
static int loop_once(core_ends *ends, uint64_t size, int *status_out)
{
    int64_t number = core_start(ends, 0, RT_WRITE, 0, 0, size);
    *status_out = (int)(number < 0 ? number : RT_OK);
    while (number > 0) {
        rt_device_progress(ends->near);
        *status_out = rt_op_wait(ends->channel, number, 0);
        if (*status_out != RT_E_AGAIN)
            break;
        if (rt_device_arm(ends->near) != RT_OK)
            continue;
        struct pollfd readable = {.fd = rt_device_event_fd(ends->near), .events = POLLIN};
        if (poll(&readable, 1, 3000) == 0)
            return 1;
    }
    if (number > 0)
        rt_op_release(ends->channel, number, NULL);
    return 0;
}

static void loop_beside(const core_setup *setup, bool meddled, uint64_t size)
{
    core_ends ends;
    core_begin(&ends, setup);
    fake_by_itself(setup->provider);
    meddler other = {.device = ends.near};
    if (meddled)
        CHECK_INT(pthread_create(&other.thread, NULL, meddle_main, &other), 0);
    int status = RT_OK, lost = 0;
    for (uint32_t round = 0; round < LOOP_ROUNDS && lost == 0 && status == RT_OK; round++)
        lost = loop_once(&ends, size, &status);
    atomic_store(&other.stop, true);
    if (meddled)
        pthread_join(other.thread, NULL);
    CHECK_INT(lost, 0);
    CHECK_INT(status, RT_OK);
    core_end(&ends);
}

static void an_event_loop_misses_no_completion(void)
{
    EACH_THREADED(provider)
    {
        uint64_t size = strcmp(provider, "shm") == 0 ? 100000 : 64; /* shm leaves only large ones to the loop */
        for (uint32_t pollers = 0; pollers <= 1; pollers++) {
            core_setup setup = {.provider = provider, .queues = 1, .qps = 1, .pollers = pollers};
            loop_beside(&setup, false, size);
            loop_beside(&setup, true, size);
        }
    }
}

static void an_event_loop_hears_that_a_channel_ended(void)
{
    EACH_THREADED(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider});
        while (rt_device_arm(ends.near) != RT_OK)
            CHECK(rt_device_progress(ends.near) >= 0);
        struct pollfd readable = {.fd = rt_device_event_fd(ends.near), .events = POLLIN};
        CHECK_INT(poll(&readable, 1, 0), 0);
        rt_channel_close(ends.accepted); /* the peer's end */
        CHECK_INT(poll(&readable, 1, 10000), 1);
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        while (rt_channel_state(ends.channel) == RT_CHANNEL_READY && rt_clock_now_ns() < end_ns)
            sched_yield();
        CHECK_INT(rt_channel_failure(ends.channel, NULL), RT_E_PEER_CLOSED);
        core_end(&ends);
    }
}

static void an_operation_that_ends_between_look_and_arming_is_news(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm", .queues = 1});
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100000);
    CHECK(number > 0);
    CHECK_INT(rt_device_progress(ends.near) >= 0, 1);
    while (rt_op_wait(ends.channel, number, 0) == RT_E_AGAIN) /* somebody else ends it after the loop's progress … */
        continue;
    rt_queue_step(&ends.near->queues[0]);
    int64_t other = core_start(&ends, 0, RT_WRITE, 0, 0, 100000);
    rt_device_progress(ends.near);
    CHECK_INT(rt_op_wait(ends.channel, other, 0), RT_OK);
    CHECK_INT(rt_device_arm(ends.near), RT_OK); /* … which knew of this one */
    int64_t late = core_start(&ends, 0, RT_WRITE, 0, 0, 100000);
    while (rt_queue_step(&ends.near->queues[0]) != 0)
        continue;
    CHECK_INT(rt_device_arm(ends.near), RT_E_AGAIN);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    CHECK_INT(core_finish(ends.channel, other, &ends.detail), RT_OK);
    CHECK_INT(core_finish(ends.channel, late, &ends.detail), RT_OK);
    core_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(words_that_cannot_come_are_refused),
    CHECK_TEST(a_look_for_a_word_finds_it_and_leaves_all_else_to_who_waits),
    CHECK_TEST(a_signal_ends_every_wait),
    CHECK_TEST(waiters_for_a_word_hear_that_the_channel_ended),
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(all_waiters_of_a_queue_hear_a_signal_or_a_failure),
    CHECK_TEST(an_event_loop_hears_of_a_queue_that_another_thread_was_at_when_it_armed),
    CHECK_TEST(a_device_closes_under_its_waiters),
    CHECK_TEST(a_wait_that_only_looked_leaves_the_next_one_as_patient_as_it_was),
    CHECK_TEST(waiters_for_different_operations_of_a_queue_are_all_served),
#endif
    CHECK_TEST(an_event_loop_misses_no_completion),
    CHECK_TEST(an_event_loop_hears_that_a_channel_ended),
    CHECK_TEST(an_operation_that_ends_between_look_and_arming_is_news),
};
CHECK_MAIN(tests)
