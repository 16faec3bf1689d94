/* test_device.c: opening and closing devices: options, set-up that fails half way, what is left behind, operations in flight,
 * statistics, dumps, and children made by fork.
 *
 * Needs the whole library. */
#include <dirent.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_ends.h"

static int count_entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;
    while (folder != NULL && readdir(folder) != NULL)
        count++;
    if (folder != NULL)
        closedir(folder);
    return count;
}

static int count_descriptors(void)
{
    return count_entries("/proc/self/fd");
}

static int count_threads(void)
{
    return count_entries("/proc/self/task");
}

/* A thread that was joined may be there a moment longer. */
static int count_threads_until(int wanted)
{
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS / 10;
    int count;
    while ((count = count_threads()) != wanted && rt_clock_now_ns() < end_ns)
        continue;
    return count;
}

/* ---- opening ---- */

#if __has_include(<infiniband/verbs.h>)
/* Opening takes an adapter tens of milliseconds. */
static void a_device_with_its_usual_queues_is_opened_once(void)
{
    rt_device_options options = {.provider = "verbs", .name = "fake0", .arguments = ""};
    rt_device *device = NULL;
    rt_detail detail;
    begin();
    /* one to see whether there is any, one to look at its ports, one to keep */
    faked.fake_fail_call("ibv_open_device", 4, EIO);
    CHECK_INT(rt_device_open(&options, &device, &detail), RT_OK);
    CHECK(!faked.fake_triggered());
    CHECK_INT(rt_device_queues(device), 4);
    rt_device_close(device);
    end();
}
#endif

static void options_out_of_range_are_refused_by_name(void)
{
    const struct {
        rt_device_options options;
        const char *says;
    } wrong[] = {
        {{.provider = "shm", .name = "", .arguments = "", .queues = 65}, "queues=65"},
        {{.provider = "shm", .name = "", .arguments = "", .qps_per_peer = 65}, "qps_per_peer=65"},
        {{.provider = "shm", .name = "", .arguments = "", .pollers = 65}, "pollers=65"},
        {{.provider = "shm", .name = "", .arguments = "", .wait_policy = 4}, "wait policy 4"},
        {{.provider = "sim", .name = "", .arguments = "", .pollers = 1}, "virtual time"},
        {{.provider = "sim", .name = "", .arguments = "nonsense=1"}, "nonsense"},
        {{.provider = "shm", .name = "", .arguments = "nonsense=1"}, "nonsense"},
        {{.provider = "nowhere", .name = "", .arguments = ""}, "no provider \"nowhere\""},
    };
    int before = count_descriptors(), threads = count_threads();
    for (uint32_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        rt_device *device = NULL;
        rt_detail detail;
        int status = rt_device_open(&wrong[index].options, &device, &detail);
        CHECK_INT(status, RT_E_INVALID);
        CHECK_INT(detail.status, status);
        CHECK_HAS(detail.text, wrong[index].says);
        CHECK(device == NULL);
    }
    CHECK_INT(count_descriptors(), before);
    CHECK_INT(count_threads_until(threads), threads);
}

static void the_largest_options_work(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_setup setup = {.provider = provider, .queues = 8, .qps = 64, .pollers = strcmp(provider, "sim") == 0 ? 0 : 64};
        core_begin(&ends, &setup);
        CHECK_INT(rt_device_queues(ends.near), 8);
        CHECK_INT(rt_device_qps_per_peer(ends.near), 64);
        CHECK_INT(rt_channel_qps(ends.channel), 64);
        CHECK_INT(core_copy(&ends, 63, RT_WRITE, 0, 0, 100), RT_OK);
        core_end(&ends);
    }
}

static void devices_open_and_close_again_and_again_without_leaving_anything(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_setup setup = {.provider = provider, .size = 4096, .pollers = strcmp(provider, "sim") == 0 ? 0 : 1};
        core_begin(&ends, &setup); /* what is made once and kept is made now */
        core_end(&ends);
        int before = count_descriptors(), threads = count_threads();
        for (uint32_t round = 0; round < 100; round++) { /* two devices each */
            core_begin(&ends, &setup);
            if (round % 10 == 0)
                CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 4096), RT_OK);
            core_end(&ends);
        }
        CHECK_INT(count_descriptors(), before);
        CHECK_INT(count_threads_until(threads), threads);
    }
}

/* ---- closing ---- */

static void closing_ends_what_is_in_flight(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider});
        int64_t numbers[20];
        for (uint32_t index = 0; index < 20; index++)
            numbers[index] = core_start(&ends, 0, RT_WRITE, 0, 0, 300000);
        CHECK(numbers[19] > 0);
        rt_device_close(ends.near);
        for (uint32_t index = 0; index < 20; index++) {
            int status = rt_op_wait(ends.channel, numbers[index], RT_SLICE_NS);
            CHECK(status == RT_E_CLOSED || status == RT_E_FLUSHED || status == RT_OK);
            status = rt_op_release(ends.channel, numbers[index], &ends.detail);
            CHECK(status != RT_E_AGAIN && status != RT_E_INVALID); /* it has ended: nothing is in quarantine */
        }
        CHECK_INT(rt_channel_quiet(ends.channel), RT_OK);
        CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_CLOSED);
        CHECK_INT(ends.here[0], 0); /* the memory is still there */
        rt_remote_drop(ends.remote);
        rt_channel_drop(ends.channel);
        rt_channel_drop(ends.accepted);
        rt_listener_close(ends.listener);
        rt_device_close(ends.far);
        rt_region_drop(ends.local);
        rt_region_drop(ends.target);
    }
}

/* ---- what a device says of itself ---- */

static void statistics_add_up(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .qps = 3, .queues = 2});
        for (uint32_t index = 0; index < 30; index++)
            CHECK_INT(core_copy(&ends, (int32_t)index % 3, index % 2 == 0 ? RT_WRITE : RT_READ, index * 8, index * 100,
                                100 + index),
                      RT_OK);
        rt_copy copies[5];
        for (uint32_t index = 0; index < 5; index++)
            copies[index] = core_entry(&ends, RT_WRITE, 0, 0, 10);
        uint64_t bad;
        CHECK_INT(core_finish(ends.channel, rt_channel_copy_many(ends.channel, 1, copies, 5, RT_SLICE_NS, &bad), NULL), RT_OK);
        rt_channel_stats stats = core_stats(ends.channel);
        CHECK_INT(stats.writes, 20);
        CHECK_INT(stats.reads, 15);
        CHECK_INT(stats.bytes_written, 15 * 100 + 14 * 15 + 50);
        CHECK_INT(stats.bytes_read, 15 * 100 + 15 * 15);
        CHECK_INT(stats.work_items, 35);
        CHECK_INT(stats.doorbells, 31);
        CHECK_INT(stats.failures + stats.deadlines, 0);
        CHECK_INT(stats.waits, strcmp(provider, "shm") == 0 ? 0 : 31);
        rt_device_stats device;
        rt_device_get_stats(ends.near, &device);
        CHECK_INT(device.channels, 1);
        CHECK_INT(device.channels_lost, 0);
        CHECK_INT(device.operations_in_flight, 0);
        CHECK(device.regions >= 1 && device.registered_bytes >= 1 << 20);
        core_end(&ends);
    }
}

static void a_dump_says_who_waits_for_what(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        char text[8192], line[64];
        core_begin(&ends, &(core_setup){.provider = provider, .qps = 2, .queues = 2});
        for (uint32_t index = 0; index < 7; index++)
            CHECK_INT(core_copy(&ends, 1, RT_WRITE, 0, 0, 64), RT_OK);
        int64_t size = rt_device_dump(ends.near, text, sizeof text);
        CHECK(size > 0 && size < (int64_t)sizeof text);
        CHECK_INT((int64_t)strlen(text), size);
        snprintf(line, sizeof line, "device %s://", provider);
        CHECK_HAS(text, line);
        CHECK_HAS(text, rt_channel_peer(ends.channel));
        CHECK_HAS(text, ": ready");
        CHECK_HAS(text, "qp 1 queue 1: posted 7, completed 7, expected 0 more");
        CHECK_INT(rt_channel_dump(ends.channel, text, sizeof text) > 0, 1);
        CHECK_HAS(text, "qp 0 queue 0: posted 0, completed 0");
        CHECK_INT(rt_device_dump(ends.near, text, 10), size); /* as snprintf */
        CHECK_INT((int64_t)strlen(text), 9);
        CHECK_INT(rt_device_dump(ends.near, NULL, 0), size);
        int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 500000);
        rt_channel_dump(ends.channel, text, sizeof text);
        CHECK(strstr(text, "expected 0 more; 0 operations not wholly posted\n    qp 1") == NULL);
        CHECK_INT(core_finish(ends.channel, number, NULL), RT_OK);
        rt_channel_close(ends.channel);
        rt_channel_dump(ends.channel, text, sizeof text);
        CHECK_HAS(text, ": closed");
        CHECK_HAS(text, "was closed on this side");
        core_end(&ends);
    }
}

static void *lock_main(void *argument)
{
    rt_device *device = argument;
    pthread_mutex_lock(&device->lock);
    atomic_store(&device->armed, 7); /* says that it has the lock */
    while (atomic_load(&device->armed) == 7)
        rt_futex_sleep(&device->armed, 7, RT_NS_PER_S, false);
    pthread_mutex_unlock(&device->lock);
    return NULL;
}

static void a_dump_comes_even_when_the_lock_is_what_hangs(void)
{
    core_ends ends;
    char text[2048];
    core_begin(&ends, &(core_setup){.provider = "shm"});
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, lock_main, ends.near), 0);
    while (atomic_load(&ends.near->armed) != 7)
        continue;
    CHECK(rt_device_dump(ends.near, text, sizeof text) > 0);
    CHECK_HAS(text, "lock has been held");
    CHECK(rt_channel_dump(ends.channel, text, sizeof text) > 0);
    CHECK_HAS(text, "ready");
    rt_turn_take(&ends.channel->links[0].turn); /* a thread that posts does not stop it either */
    atomic_store(&ends.near->armed, 0);
    rt_futex_wake(&ends.near->armed, 1, false);
    pthread_join(thread, NULL);
    CHECK(rt_device_dump(ends.near, text, sizeof text) > 0);
    CHECK_HAS(text, "a thread is posting on it now");
    rt_turn_leave(&ends.channel->links[0].turn);
    core_end(&ends);
}

static void providers_describe_themselves(void)
{
    CHECK_INT(rt_provider_count(), 3);
    CHECK(rt_provider_name_at(-1) == NULL && rt_provider_name_at(3) == NULL);
    rt_detail detail;
    rt_device_entry entries[4];
    char reply[64];
    CHECK_INT(rt_provider_viable("nowhere", &detail), RT_E_INVALID);
    CHECK_INT(rt_provider_list("nowhere", entries, 4, &detail), RT_E_INVALID);
    CHECK_INT(rt_provider_command("nowhere", "now", reply, sizeof reply, &detail), RT_E_INVALID);
    CHECK_INT(rt_provider_command("shm", "now", reply, sizeof reply, &detail), RT_E_UNSUPPORTED);
    CHECK_INT(rt_provider_viable("shm", &detail), RT_OK);
    CHECK(rt_provider_list("shm", entries, 4, &detail) >= 1);
    CHECK(entries[0].limits.message_size_max > 0 && entries[0].limits.completes_in_post == 1);
    CHECK(rt_provider_list("shm", NULL, 0, &detail) >= 1);
}

/* ---- fork ---- */

/* In the child: the number of the first call that did not refuse, or 0. Nothing may crash or wait. */
static int child_calls(core_ends *ends, rt_prepared *prepared, int64_t op)
{
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    uint64_t bad;
    char text[256];
    rt_device *device = NULL;
    rt_channel *channel = NULL;
    rt_listener *listener = NULL;
    rt_remote *remote = NULL;
    rt_prepared *another = NULL;
    rt_region *region = NULL;
    rt_device_entry entry;
    rt_copy copy = core_entry(ends, RT_WRITE, 0, 0, 8);
    rt_device_options options = {.provider = "shm", .name = "", .arguments = ""};
    const int64_t statuses[] = {
        rt_device_open(&options, &device, NULL),
        rt_region_create(ends->near, 64, 0, 0, &region, NULL),
        rt_region_adopt(ends->near, text, 64, 0, &region, NULL),
        rt_region_close(ends->local, NULL),
        rt_region_allocate(ends->local, 8, 8),
        rt_region_free(ends->local, 1),
        rt_region_handle(ends->target, 0, 8, handle, &size, NULL),
        rt_listener_open(ends->near, "127.0.0.1:0", NULL, 0, &listener, NULL),
        rt_listener_accept(ends->listener, 0, &channel, NULL),
        rt_channel_connect(ends->near, "127.0.0.1:1", NULL, 0, &channel, NULL),
        rt_channel_wait_ready(ends->channel, 0, NULL),
        rt_channel_copy(ends->channel, 0, RT_WRITE, ends->remote, 0, ends->local, 0, 8, RT_SLICE_NS),
        rt_channel_copy_briefly(ends->channel, &copy, 1),
        rt_channel_copy_many(ends->channel, 0, &copy, 1, RT_SLICE_NS, &bad),
        rt_prepared_create(ends->channel, 0, &copy, 1, &another, &bad),
        rt_prepared_run(prepared),
        rt_prepared_start(prepared),
        rt_prepared_run_briefly(prepared, 1),
        rt_prepared_finish(prepared, op),
        rt_op_wait(ends->channel, op, RT_SLICE_NS),
        rt_op_release(ends->channel, op, NULL),
        rt_channel_quiet(ends->channel),
        rt_channel_wait_word(ends->channel, ends->local, 0, 0, RT_SLICE_NS),
        rt_channel_look_for_word(ends->channel, ends->local, 0, 0, 1) == RT_E_AGAIN ? RT_E_FORKED : RT_OK,
        rt_channel_failure(ends->channel, NULL),
        rt_remote_attach(ends->channel, handle, size, 0, &remote, NULL),
        rt_device_progress(ends->near),
        rt_device_arm(ends->near),
        rt_device_event_fd(ends->near),
        rt_device_publish(ends->near, "name", ends->local, 0, 8, NULL),
        rt_device_unpublish(ends->near, "name", NULL),
        rt_lookup_start(ends->channel, "name", 0, NULL),
        rt_provider_viable("shm", NULL),
        rt_provider_list("shm", &entry, 1, NULL),
        rt_provider_command("sim", "now", text, sizeof text, NULL),
    };
    for (int index = 0; index < (int)(sizeof statuses / sizeof statuses[0]); index++)
        if (statuses[index] != RT_E_FORKED)
            return index + 1;
    rt_channel_stats channel_stats;
    rt_device_stats device_stats;
    rt_channel_get_stats(ends->channel, &channel_stats);
    rt_device_get_stats(ends->near, &device_stats);
    if (rt_device_dump(ends->near, text, sizeof text) != 0 || rt_channel_dump(ends->channel, text, sizeof text) != 0)
        return 101;
    if (device_stats.channels != 0 || channel_stats.work_items != 0 || rt_device_now_ns(ends->near) != 0)
        return 102;
    rt_prepared_drop(prepared);
    rt_remote_drop(ends->remote);
    rt_channel_close(ends->channel);
    rt_channel_drop(ends->channel);
    rt_listener_close(ends->listener);
    rt_region_drop(ends->local);
    rt_device_close(ends->near);
    return 0;
}

static void a_forked_child_is_refused_everywhere_and_the_parent_goes_on(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider});
        rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 64);
        rt_prepared *prepared = NULL;
        uint64_t bad;
        CHECK_INT(rt_prepared_create(ends.channel, 0, &copy, 1, &prepared, &bad), RT_OK);
        int64_t op = core_start(&ends, 0, RT_WRITE, 0, 0, 300000);
        CHECK(op > 0);
        rt_turn_take(&ends.channel->links[0].turn); /* as if a thread were posting: the child must not wait for it */
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            _exit(child_calls(&ends, prepared, op));
        }
        rt_turn_leave(&ends.channel->links[0].turn);
        int how = 0;
        CHECK_INT(waitpid(child, &how, 0), child);
        CHECK(WIFEXITED(how));
        CHECK_INT(WEXITSTATUS(how), 0);
        CHECK_INT(core_finish(ends.channel, op, &ends.detail), RT_OK);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 64), RT_OK);
        rt_prepared_drop(prepared);
        core_end(&ends);
    }
}

/* ---- over the fake libibverbs ---- */

#if __has_include(<infiniband/verbs.h>)

static void set_up_that_fails_anywhere_leaves_nothing(void)
{
    rt_device_options options = {.provider = "verbs", .name = "fake0", .arguments = "", .queues = 2, .pollers = 1};
    begin();
    int before = count_descriptors(), threads = count_threads(), failed = 0;
    for (uint32_t nth = 1; nth < 200; nth++) {
        rt_device *device = NULL;
        rt_detail detail;
        rt_detail_clear(&detail);
        faked.fake_reset();
        faked.fake_fail_call("*", nth, ENOMEM);
        int status = rt_device_open(&options, &device, &detail);
        if (!faked.fake_triggered()) {
            CHECK_INT(status, RT_OK);
            rt_device_close(device);
            break;
        }
        if (status == RT_OK) { /* a call it can do without */
            rt_device_close(device);
        } else {
            CHECK(device == NULL && detail.text[0] != '\0');
            CHECK_INT(detail.status, status);
            failed++;
        }
        end();
    }
    CHECK(failed >= 5);
    CHECK_INT(count_descriptors(), before);
    CHECK_INT(count_threads_until(threads), threads);
    end();
}

static void joining_that_fails_anywhere_leaves_nothing(void)
{
    core_setup setup = {.provider = "verbs", .qps = 2};
    int failed = 0;
    for (uint32_t nth = 1; nth < 100; nth++) {
        core_ends ends;
        core_begin(&ends, &setup);
        rt_channel *channel = NULL, *accepted = NULL;
        faked.fake_fail_call("*", nth, EIO);
        int status = rt_channel_connect(ends.near, rt_listener_address(ends.listener), NULL, 0, &channel, &ends.detail);
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS / 4;
        while (status == RT_OK || (status == RT_E_AGAIN && rt_clock_now_ns() < end_ns)) {
            status = rt_channel_wait_ready(channel, RT_SLICE_NS, &ends.detail);
            if (status == RT_OK)
                break;
        }
        CHECK(status != RT_E_AGAIN);
        failed += status != RT_OK;
        bool triggered = faked.fake_triggered() != 0;
        faked.fake_fail_call("*", 0, 0);
        if (rt_listener_accept(ends.listener, status == RT_OK ? RT_SLICE_NS : 0, &accepted, &ends.detail) == RT_OK)
            rt_channel_drop(accepted);
        if (channel != NULL)
            rt_channel_drop(channel);
        CHECK_INT(core_copy(&ends, 1, RT_WRITE, 0, 0, 100), RT_OK); /* the other channel notices nothing */
        core_end(&ends);
        if (!triggered)
            break;
    }
    CHECK(failed >= 4);
}

static void closing_does_not_wait_for_completions_that_never_come(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "verbs"});
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 5000);
    CHECK(number > 0);
    int64_t begin_ns = rt_clock_now_ns();
    rt_device_close(ends.near);
    CHECK(rt_clock_now_ns() - begin_ns < 5 * RT_NS_PER_S);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_CLOSED);
    rt_remote_drop(ends.remote);
    rt_channel_drop(ends.channel);
    rt_channel_drop(ends.accepted);
    rt_listener_close(ends.listener);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    rt_device_close(ends.far);
    rt_region_drop(ends.local);
    rt_region_drop(ends.target);
    end();
}

#endif

static const check_test tests[] = {
    CHECK_TEST(options_out_of_range_are_refused_by_name),
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(a_device_with_its_usual_queues_is_opened_once),
#endif
    CHECK_TEST(the_largest_options_work),
    CHECK_TEST(devices_open_and_close_again_and_again_without_leaving_anything),
    CHECK_TEST(closing_ends_what_is_in_flight),
    CHECK_TEST(statistics_add_up),
    CHECK_TEST(a_dump_says_who_waits_for_what),
    CHECK_TEST(a_dump_comes_even_when_the_lock_is_what_hangs),
    CHECK_TEST(providers_describe_themselves),
    CHECK_TEST(a_forked_child_is_refused_everywhere_and_the_parent_goes_on),
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(set_up_that_fails_anywhere_leaves_nothing),
    CHECK_TEST(joining_that_fails_anywhere_leaves_nothing),
    CHECK_TEST(closing_does_not_wait_for_completions_that_never_come),
#endif
};
CHECK_MAIN(tests)
