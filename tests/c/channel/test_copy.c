/* test_copy.c: copies over every provider: sizes, directions, many at once, their order, and what is refused before anything is
 * posted. Prepared ones: test_prepared.c. Copies that are not finished at once: test_operations.c; threads: test_copy_threads.c.
 *
 * Needs the whole library. */
#include "core_ends.h"

static void begin_with(core_ends *ends, const char *provider)
{
    core_begin(ends, &(core_setup){.provider = provider, .short_messages = true});
}

/* ---- bytes ---- */

/* Copies `size` bytes and checks them and the bytes on either side. */
static void check_size(core_ends *ends, uint32_t direction, uint64_t size, uint32_t salt)
{
    bool writes = direction == RT_WRITE;
    uint8_t *from = writes ? ends->here : ends->there, *to = writes ? ends->there : ends->here;
    uint64_t from_offset = 17, to_offset = 64;
    core_fill(from + from_offset, size, salt);
    memset(to, 0xee, size + 128);
    int status = writes ? core_copy(ends, -1, direction, to_offset, from_offset, size)
                        : core_copy(ends, -1, direction, from_offset, to_offset, size);
    if (status != RT_OK)
        printf("%" PRIu64 " bytes: %s\n", size, ends->detail.text);
    CHECK_INT(status, RT_OK);
    CHECK_BYTES(to + to_offset, from + from_offset, size);
    CHECK(to[to_offset - 1] == 0xee && to[to_offset + size] == 0xee);
}

static void bytes_arrive_exactly_for_every_size_in_both_directions(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        bool large = strcmp(provider, "shm") == 0;
        core_begin(&ends, &(core_setup){.provider = provider, .short_messages = true, .size = large ? 72 << 20 : 1 << 20});
        uint64_t most = ends.message_size_max;
        CHECK_INT(most, large ? 32 << 20 : CORE_SMALLEST_MESSAGE);
        uint64_t sizes[] = {0, 1, 3, 7, 8, 9, 64, 255, 4097, 65536, most - 1, most, most + 1, 2 * most, 2 * most + 12345};
        for (uint32_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
            check_size(&ends, RT_WRITE, sizes[index], index);
            check_size(&ends, RT_READ, sizes[index], index + 100);
        }
        rt_channel_stats stats = core_stats(ends.channel);
        CHECK_INT(stats.writes, sizeof sizes / sizeof sizes[0]);
        CHECK_INT(stats.reads, stats.writes);
        CHECK_INT(stats.bytes_written, stats.bytes_read);
        CHECK_INT(stats.failures, 0);
        core_end(&ends);
    }
}

static void a_copy_of_many_messages_is_exact(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        if (strcmp(provider, "shm") == 0)
            continue; /* its messages are 32 MiB */
        begin_with(&ends, provider);
        uint64_t size = (1 << 20) - 1000;
        core_fill(ends.here, size, 5);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 1000, 0, size), RT_OK);
        CHECK_BYTES(ends.there + 1000, ends.here, size);
        memset(ends.here, 0, size);
        CHECK_INT(core_copy(&ends, 0, RT_READ, 1000, 0, size), RT_OK);
        CHECK_BYTES(ends.here, ends.there + 1000, size);
        core_end(&ends);
    }
}

static void ranges_that_touch_the_end_are_inside(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        uint64_t size = rt_region_size(ends.local);
        core_fill(ends.here, size, 9);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, size - 1, 0, 1), RT_OK);
        CHECK_INT(ends.there[size - 1], ends.here[0]);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, size - 3, 3), RT_OK);
        CHECK_BYTES(ends.there, ends.here + size - 3, 3);
        CHECK_INT(core_copy(&ends, 0, RT_READ, size, size, 0), RT_OK);
        core_end(&ends);
    }
}

/* ---- many ---- */

static void many_copies_of_mixed_sizes_are_one_operation(void)
{
    enum { COUNT = 10000 };
    static rt_copy copies[COUNT];
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        uint64_t at = 0;
        for (uint32_t index = 0; index < COUNT; index++) { /* 0 to 13 bytes, every 1000th longer than a message */
            uint64_t size = index % 1000 == 999 ? CORE_SMALLEST_MESSAGE + 77 : index % 14;
            copies[index] = core_entry(&ends, RT_WRITE, at, at, size);
            at += size + index % 3;
        }
        core_fill(ends.here, at, 3);
        uint64_t bad = 77;
        int64_t number = rt_channel_copy_many(ends.channel, -1, copies, COUNT, RT_SLICE_NS, &bad);
        CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
        CHECK_INT(bad, 77);
        for (uint32_t index = 0; index < COUNT; index++) {
            const rt_copy *copy = &copies[index];
            CHECK_BYTES(ends.there + copy->remote_offset, ends.here + copy->region_offset, copy->size);
        }
        CHECK_INT(ends.there[copies[1].remote_offset + 1], 0); /* gaps stay */
        CHECK_INT(core_stats(ends.channel).writes, COUNT);
        CHECK_INT(rt_channel_copy_many(ends.channel, -1, NULL, 0, RT_SLICE_NS, &bad), RT_OK);
        core_end(&ends);
    }
}

static void many_copies_are_the_callers_again_when_the_call_returns(void)
{
    enum { COUNT = 8, SIZE = 64 << 10 }; /* more than is copied at once where posting is copying */
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copies[COUNT];
        core_fill(ends.here, COUNT * SIZE, 5);
        for (uint32_t index = 0; index < COUNT; index++)
            copies[index] = core_entry(&ends, RT_WRITE, index * SIZE, index * SIZE, SIZE);
        uint64_t bad;
        int64_t number = rt_channel_copy_many(ends.channel, 0, copies, COUNT, 0, &bad);
        memset(copies, 0xa5, sizeof copies);
        CHECK(number > 0);
        CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
        CHECK_BYTES(ends.there, ends.here, COUNT * SIZE);
        CHECK_INT(core_stats(ends.channel).writes, COUNT);
        CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK); /* nothing is held */
        core_end(&ends);
    }
}

static void empty_copies_alone_are_done_at_once(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copies[100];
        for (uint32_t index = 0; index < 100; index++)
            copies[index] = core_entry(&ends, index % 2 == 0 ? RT_WRITE : RT_READ, index, index, 0);
        uint64_t bad;
        CHECK_INT(rt_channel_copy_many(ends.channel, 0, copies, 100, 0, &bad), RT_OK);
        CHECK_INT(core_stats(ends.channel).work_items, 0);
        CHECK_INT(core_stats(ends.channel).writes, 50);
        core_end(&ends);
    }
}

/* ---- order and QPs ---- */

static void later_writes_of_a_qp_win(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        CHECK(ends.near->limits.orders_writes);
        int64_t numbers[100], started = 0;
        for (uint32_t round = 0; round < 100; round++) {
            memset(ends.here + round * 5000, (int)round + 1, 5000);
            int64_t number = core_start(&ends, 0, RT_WRITE, 0, round * 5000, 5000);
            CHECK(number >= 0);
            if (number > 0)
                numbers[started++] = number;
        }
        for (int64_t index = 0; index < started; index++)
            CHECK_INT(core_finish(ends.channel, numbers[index], &ends.detail), RT_OK);
        for (uint32_t index = 0; index < 5000; index++)
            CHECK_INT(ends.there[index], 100);
        core_end(&ends);
    }
}

static void qps_go_to_queues_round_robin_and_each_of_them_copies(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .queues = 3, .qps = 7});
        CHECK_INT(rt_channel_qps(ends.channel), 7);
        CHECK_INT(rt_device_queues(ends.near), 3);
        for (uint32_t qp = 0; qp < 7; qp++) {
            CHECK_INT(rt_channel_queue_of(ends.channel, qp), qp % 3);
            core_fill(ends.here, 100, qp);
            CHECK_INT(core_copy(&ends, (int32_t)qp, RT_WRITE, qp * 1000, 0, 100), RT_OK);
            CHECK_BYTES(ends.there + qp * 1000, ends.here, 100);
        }
        CHECK_INT(rt_channel_queue_of(ends.channel, 7), UINT32_MAX);
        rt_channel *second, *accepted;
        core_join(&ends, &second, &accepted);
        CHECK_INT(rt_channel_queue_of(second, 0), 7 % 3); /* the next channel goes on where the last one ended */
        rt_channel_drop(second);
        rt_channel_drop(accepted);
        core_end(&ends);
    }
}

/* ---- refused before anything is posted ---- */

static int64_t refused(core_ends *ends, int32_t qp, rt_copy copy)
{
    return rt_channel_copy(ends->channel, qp, (uint32_t)copy.direction, (rt_remote *)(uintptr_t)copy.remote, copy.remote_offset,
                           (rt_region *)(uintptr_t)copy.region, copy.region_offset, copy.size, RT_SLICE_NS);
}

static void a_range_that_cannot_be_copied_is_refused_and_nothing_is_posted(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        uint64_t size = rt_region_size(ends.local);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_WRITE, 0, 1, size)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_WRITE, 1, 0, size)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_READ, 0, 0, UINT64_MAX)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_READ, UINT64_MAX, 0, 1)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_READ, 0, UINT64_MAX - 7, 16)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, RT_WRITE, size + 1, 0, 0)), RT_E_BOUNDS);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, 0, 0, 0, 8)), RT_E_INVALID);
        CHECK_INT(refused(&ends, 0, core_entry(&ends, 3, 0, 0, 8)), RT_E_INVALID);
        CHECK_INT(refused(&ends, 1 << 20, core_entry(&ends, RT_WRITE, 0, 0, 8)), RT_E_INVALID);
        CHECK_INT(refused(&ends, (int32_t)rt_channel_qps(ends.channel), core_entry(&ends, RT_WRITE, 0, 0, 8)), RT_E_INVALID);
        rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 8);
        copy.region = (uint64_t)(uintptr_t)ends.target; /* of another device */
        CHECK_INT(refused(&ends, 0, copy), RT_E_INVALID);
        copy.region = 0;
        CHECK_INT(refused(&ends, 0, copy), RT_E_INVALID);
        copy = core_entry(&ends, RT_WRITE, 0, 0, 8);
        copy.remote = 0;
        CHECK_INT(refused(&ends, 0, copy), RT_E_INVALID);
        rt_channel *second, *accepted;
        core_join(&ends, &second, &accepted);
        rt_remote *foreign = core_attach(second, ends.target); /* of another channel */
        copy.remote = (uint64_t)(uintptr_t)foreign;
        CHECK_INT(refused(&ends, 0, copy), RT_E_INVALID);
        rt_region *closed = core_region(ends.near, 4096, 0);
        CHECK_INT(rt_region_close(closed, &ends.detail), RT_OK);
        copy = core_entry(&ends, RT_WRITE, 0, 0, 8);
        copy.region = (uint64_t)(uintptr_t)closed;
        CHECK_INT(refused(&ends, 0, copy), RT_E_CLOSED);
        CHECK_INT(core_stats(ends.channel).work_items, 0);
        CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_READY);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_OK);
        rt_region_drop(closed);
        rt_remote_drop(foreign);
        rt_channel_drop(second);
        rt_channel_drop(accepted);
        core_end(&ends);
    }
}

static void a_right_that_was_not_given_is_refused_here(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        core_begin(&ends, &(core_setup){.provider = provider, .rights = RT_RIGHT_REMOTE_READ});
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_E_ACCESS);
        CHECK_INT(core_copy(&ends, 0, RT_READ, 0, 0, 8), RT_OK);
        core_end(&ends);
        core_begin(&ends, &(core_setup){.provider = provider, .rights = RT_RIGHT_REMOTE_WRITE});
        CHECK_INT(core_copy(&ends, 0, RT_READ, 0, 0, 8), RT_E_ACCESS);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_OK);
        core_end(&ends);
    }
}

static void ends_that_share_bytes_are_refused(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_region *alias = NULL; /* the far region's memory, registered at the near device too */
        CHECK_INT(rt_region_adopt(ends.near, ends.there, rt_region_size(ends.target), 0, &alias, &ends.detail), RT_OK);
        rt_copy copy = core_entry(&ends, RT_WRITE, 100, 100, 50);
        copy.region = (uint64_t)(uintptr_t)alias;
        CHECK_INT(refused(&ends, 0, copy), RT_E_OVERLAP);
        copy.region_offset = 51;
        CHECK_INT(refused(&ends, 0, copy), RT_E_OVERLAP);
        copy.region_offset = 149;
        copy.direction = RT_READ;
        CHECK_INT(refused(&ends, 0, copy), RT_E_OVERLAP);
        CHECK_INT(core_stats(ends.channel).work_items, 0);
        copy.region_offset = 150;
        CHECK_INT(core_finish(ends.channel, refused(&ends, 0, copy), &ends.detail), RT_OK);
        copy.region_offset = 50;
        CHECK_INT(core_finish(ends.channel, refused(&ends, 0, copy), &ends.detail), RT_OK);
        CHECK_INT(rt_region_close(alias, &ends.detail), RT_OK);
        rt_region_drop(alias);
        core_end(&ends);
    }
}

static void a_device_may_be_its_own_peer(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends = {.near = NULL};
#if __has_include(<infiniband/verbs.h>)
        begin();
#endif
        ends.near = core_device(&(core_setup){.provider = provider}, "self", true);
        CHECK_INT(rt_listener_open(ends.near, "127.0.0.1:0", NULL, 0, &ends.listener, &ends.detail), RT_OK);
        core_join(&ends, &ends.channel, &ends.accepted);
        ends.local = core_region(ends.near, 1 << 20, CORE_BOTH);
        ends.here = (uint8_t *)(uintptr_t)rt_region_address(ends.local);
        ends.remote = core_attach(ends.channel, ends.local); /* its own handle comes back */
        core_fill(ends.here, 1000, 3);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 999, 0, 1000), RT_E_OVERLAP);
        CHECK_INT(core_copy(&ends, 0, RT_READ, 0, 999, 1000), RT_E_OVERLAP);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 1000, 0, 1000), RT_OK);
        CHECK_BYTES(ends.here + 1000, ends.here, 1000);
        CHECK_INT(core_copy(&ends, 0, RT_READ, 1000, 9000, 1000), RT_OK);
        CHECK_BYTES(ends.here + 9000, ends.here, 1000);
        rt_remote_drop(ends.remote);
        rt_channel_drop(ends.channel);
        rt_channel_drop(ends.accepted);
        rt_listener_close(ends.listener);
        rt_device_close(ends.near);
        rt_region_drop(ends.local);
    }
}

static void one_bad_entry_is_named_and_none_is_posted(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copies[100];
        core_fill(ends.here, 8000, 1);
        for (uint32_t index = 0; index < 100; index++)
            copies[index] = core_entry(&ends, RT_WRITE, index * 8, index * 8, 8);
        copies[73].region_offset = rt_region_size(ends.local) - 7;
        copies[90].direction = 9;
        uint64_t bad = 0;
        rt_prepared *prepared = NULL;
        CHECK_INT(rt_channel_copy_many(ends.channel, 0, copies, 100, RT_SLICE_NS, &bad), RT_E_BOUNDS);
        CHECK_INT(bad, 73);
        CHECK_INT(rt_prepared_create(ends.channel, 0, copies, 100, &prepared, &bad), RT_E_BOUNDS);
        CHECK(prepared == NULL);
        copies[73].region_offset = 0;
        CHECK_INT(rt_channel_copy_many(ends.channel, 0, copies, 100, RT_SLICE_NS, &bad), RT_E_INVALID);
        CHECK_INT(bad, 90);
        CHECK_INT(core_stats(ends.channel).work_items, 0);
        for (uint32_t index = 0; index < 800; index++)
            CHECK_INT(ends.there[index], 0);
        CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK); /* nothing is held */
        core_end(&ends);
    }
}

static void a_closed_channel_refuses_every_way_of_copying(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 8);
        rt_prepared *prepared = NULL, *another = NULL;
        uint64_t bad;
        CHECK_INT(rt_prepared_create(ends.channel, 0, &copy, 1, &prepared, &bad), RT_OK);
        rt_channel_close(ends.channel);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_E_CLOSED);
        CHECK_INT(rt_channel_copy_many(ends.channel, 0, &copy, 1, 0, &bad), RT_E_CLOSED);
        CHECK_INT(rt_prepared_create(ends.channel, 0, &copy, 1, &another, &bad), RT_E_CLOSED);
        CHECK_INT(rt_prepared_run(prepared), RT_E_CLOSED);
        CHECK_INT(rt_channel_wait_word(ends.channel, ends.local, 0, 1, RT_SLICE_NS), RT_E_CLOSED);
        rt_prepared_drop(prepared);
        core_end(&ends);
    }
}

static const check_test tests[] = {
    CHECK_TEST(bytes_arrive_exactly_for_every_size_in_both_directions),
    CHECK_TEST(a_copy_of_many_messages_is_exact),
    CHECK_TEST(ranges_that_touch_the_end_are_inside),
    CHECK_TEST(many_copies_of_mixed_sizes_are_one_operation),
    CHECK_TEST(many_copies_are_the_callers_again_when_the_call_returns),
    CHECK_TEST(empty_copies_alone_are_done_at_once),
    CHECK_TEST(later_writes_of_a_qp_win),
    CHECK_TEST(qps_go_to_queues_round_robin_and_each_of_them_copies),
    CHECK_TEST(a_range_that_cannot_be_copied_is_refused_and_nothing_is_posted),
    CHECK_TEST(a_right_that_was_not_given_is_refused_here),
    CHECK_TEST(ends_that_share_bytes_are_refused),
    CHECK_TEST(a_device_may_be_its_own_peer),
    CHECK_TEST(one_bad_entry_is_named_and_none_is_posted),
    CHECK_TEST(a_closed_channel_refuses_every_way_of_copying),
};
CHECK_MAIN(tests)
