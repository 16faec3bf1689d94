/* test_operations.c: what becomes of copies that are not finished at once: their numbers, abandoned ones, more of them than fit,
 * posts that the provider takes in part, and completions that fail. Over the simulated provider and over the fake libibverbs.
 *
 * Needs the whole library. Looks into core where a moment must be made that lasts nanoseconds. */
#include "core_ends.h"

static void failed_items_behind_finished_ones_are_told_apart(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    rt_region *other = core_region(ends.far, 4096, CORE_BOTH);
    rt_remote *gone = core_attach(ends.channel, other);
    CHECK_INT(rt_region_close(other, &ends.detail), RT_OK); /* the peer closes it: its device refuses from now on */
    rt_copy copies[4];
    core_fill(ends.here, 4096, 1);
    for (uint32_t index = 0; index < 4; index++)
        copies[index] = core_entry(&ends, RT_WRITE, index * 64, index * 64, 64);
    copies[2].remote = (uint64_t)(uintptr_t)gone;
    uint64_t bad;
    int64_t number = rt_channel_copy_many(ends.channel, 0, copies, 4, RT_SLICE_NS, &bad);
    CHECK(number > 0);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(ends.detail.text, "the peer closed the region");
    CHECK_BYTES(ends.there, ends.here, 128);
    CHECK_INT(ends.there[192], 0);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_REMOTE_ACCESS);
    rt_remote_drop(gone);
    rt_region_drop(other);
    core_end(&ends);
}

/* ---- numbers ---- */

static void a_number_that_is_not_held_is_refused(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "sim", .qps = 2});
    int64_t never[] = {0, -1, 1, INT64_MIN, INT64_MAX, 1 << 14, (1 << 14) + 255, 3 << 14};
    for (uint32_t index = 0; index < sizeof never / sizeof never[0]; index++) {
        CHECK_INT(rt_op_wait(ends.channel, never[index], 0), RT_E_INVALID);
        CHECK_INT(rt_op_release(ends.channel, never[index], &ends.detail), RT_E_INVALID);
    }
    int64_t number = core_start(&ends, 1, RT_WRITE, 0, 0, 100);
    CHECK(number > 0);
    CHECK_INT(rt_op_wait(ends.accepted, number, 0), RT_E_INVALID); /* another channel's */
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_AGAIN);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_INVALID);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_INVALID);
    CHECK_HAS(ends.detail.text, "was released");
    number = core_start(&ends, 1, RT_WRITE, 0, 0, 100);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_AGAIN); /* abandoned: not held either */
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_INVALID);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_INVALID);
    core_end(&ends);
}

static void an_operation_that_is_done_keeps_its_result_until_it_is_released(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "sim"});
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < 100; tries++)
        status = rt_op_wait(ends.channel, number, RT_SLICE_NS);
    CHECK_INT(status, RT_OK);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_OK);
    CHECK_INT(rt_op_wait(ends.channel, number, -1), RT_OK);
    CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK); /* it uses nothing any more */
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_OK);
    core_end(&ends);
}

static void a_link_that_is_shut_ends_what_waits_for_room_as_flushed(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 500000); /* large and not waited for: left to who polls */
    CHECK(number > 0);
    rt_link *link = &ends.channel->links[0];
    rt_turn_take(&link->turn);
    link->shut = true; /* as the service does, a moment before it ends the rest itself */
    rt_turn_leave(&link->turn);
    rt_queue_step(link->queue);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_FLUSHED);
    rt_turn_take(&link->turn);
    link->shut = false;
    rt_turn_leave(&link->turn);
    core_end(&ends);
}

static void a_killed_party_ends_what_runs_and_all_that_follows(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "sim"});
    char text[80], reply[80];
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    snprintf(text, sizeof text, "world=%s kill party=far", ends.world);
    if (rt_provider_command("sim", text, reply, sizeof reply, &ends.detail) != RT_OK)
        printf("%s: %s\n", text, ends.detail.text);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_PEER_LOST);
    CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_E_PEER_LOST);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_PEER_LOST);
    core_end(&ends);
}

/* ---- over the fake libibverbs ---- */

#if __has_include(<infiniband/verbs.h>)

static void fake_begin(core_ends *ends, uint32_t qps)
{
    core_begin(ends, &(core_setup){.provider = "verbs", .qps = qps, .queues = 1, .short_messages = true});
}

/* Nothing completes any more before let_go. */
static void withhold(void)
{
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
}

static void let_go(void)
{
    faked.fake_set_engine(FAKE_ENGINE_POLL);
}

static void an_abandoned_operation_posts_no_more_and_holds_its_memory(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    int64_t block = rt_region_allocate(ends.local, 1 << 20, 64);
    CHECK(block > 0);
    core_fill(ends.here, 1 << 20, 3);
    withhold();
    uint64_t size = 256 * CORE_SMALLEST_MESSAGE;
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, size);
    uint64_t posted = core_stats(ends.channel).work_items;
    CHECK(posted > 0 && posted < 256); /* the rest waits for room */
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_AGAIN);
    CHECK_INT(rt_op_wait(ends.channel, number, RT_NS_PER_MS), RT_E_AGAIN);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_AGAIN);
    CHECK_INT(rt_channel_quiet(ends.channel), RT_E_AGAIN);
    CHECK_INT(rt_region_free(ends.local, block), RT_OK);
    CHECK_INT(rt_region_allocate(ends.local, 64, 64), RT_E_NO_MEMORY);
    CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_E_BUSY);
    let_go();
    CHECK_INT(core_until_quiet(&ends), RT_OK);
    CHECK_INT(core_stats(ends.channel).work_items, posted);
    CHECK_INT(core_stats(ends.channel).deadlines, 1);
    CHECK_INT(ends.there[posted * CORE_SMALLEST_MESSAGE - 1], ends.here[posted * CORE_SMALLEST_MESSAGE - 1]);
    CHECK_INT(ends.there[posted * CORE_SMALLEST_MESSAGE], 0);
    CHECK(rt_region_allocate(ends.local, 1 << 20, 64) > 0);
    CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, size), RT_OK); /* the channel goes on */
    CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK);
    core_end(&ends);
}

static void an_operation_abandoned_after_a_partly_accepted_post_still_retires(void)
{
    for (uint32_t reads = 0; reads < 2; reads++) {
        core_ends ends;
        fake_begin(&ends, 1);
        faked.fake_accept(5, ENOMEM); /* of 16 items, of which the last asked for a completion */
        int64_t number = core_start(&ends, 0, reads ? RT_READ : RT_WRITE, 0, 0, 16 * CORE_SMALLEST_MESSAGE);
        CHECK(number > 0);
        CHECK_INT(core_stats(ends.channel).work_items, 5);
        CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_AGAIN);
        CHECK_INT(core_until_quiet(&ends), RT_OK);
        CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK);
        CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_READY);
        core_end(&ends);
    }
}

static void partly_accepted_posts_go_on_where_they_stopped(void)
{
    for (uint32_t accepted = 0; accepted < 33; accepted += 4) {
        core_ends ends;
        fake_begin(&ends, 1);
        uint64_t size = 50 * CORE_SMALLEST_MESSAGE + 99;
        core_fill(ends.here, size, accepted);
        faked.fake_accept(accepted, ENOMEM);
        int64_t number = core_start(&ends, 0, RT_WRITE, 1, 0, size);
        if (accepted == 0) { /* nothing outstanding: such a queue is not full but broken */
            CHECK_INT(core_finish(ends.channel, number, &ends.detail), rt_channel_failure(ends.channel, NULL));
            CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_FAILED);
        } else {
            CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
            CHECK_BYTES(ends.there + 1, ends.here, size);
            CHECK_INT(core_stats(ends.channel).work_items, 51);
        }
        core_end(&ends);
    }
}

static void a_full_pool_is_busy_and_recovers(void)
{
    core_ends ends;
    fake_begin(&ends, 2);
    int64_t numbers[RT_OPS_PER_LINK];
    uint64_t bad;
    rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 8);
    withhold();
    for (uint32_t index = 0; index < RT_OPS_PER_LINK; index++) {
        numbers[index] = core_start(&ends, 0, RT_WRITE, index * 8, index * 8, 8);
        CHECK(numbers[index] > 0);
    }
    CHECK_INT(core_start(&ends, 0, RT_WRITE, 0, 0, 8), RT_E_BUSY);
    CHECK_INT(rt_channel_copy(ends.channel, 0, RT_WRITE, ends.remote, 0, ends.local, 0, 8, RT_NS_PER_MS), RT_E_BUSY);
    CHECK_INT(rt_channel_copy_many(ends.channel, 0, &copy, 1, 0, &bad), RT_E_BUSY);
    int64_t other = core_start(&ends, 1, RT_WRITE, 0, 0, 8); /* another QP has a pool of its own */
    CHECK(other > 0);
    rt_device_stats stats;
    rt_device_get_stats(ends.near, &stats);
    CHECK_INT(stats.operations_in_flight, RT_OPS_PER_LINK + 1);
    let_go();
    CHECK_INT(core_finish(ends.channel, other, &ends.detail), RT_OK);
    for (uint32_t index = 0; index < RT_OPS_PER_LINK; index++)
        CHECK_INT(core_finish(ends.channel, numbers[index], &ends.detail), RT_OK);
    CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_OK);
    rt_device_get_stats(ends.near, &stats);
    CHECK_INT(stats.operations_in_flight, 0);
    core_end(&ends);
}

static void operations_that_do_not_fit_are_posted_in_order(void)
{
    enum { COUNT = 40 };
    core_ends ends;
    fake_begin(&ends, 1);
    int64_t numbers[COUNT];
    uint64_t size = 20 * CORE_SMALLEST_MESSAGE;
    withhold();
    for (uint32_t index = 0; index < COUNT; index++) { /* all to one place: the last must win */
        memset(ends.here + index * 1000, (int)index + 1, 1000);
        uint64_t wanted = index == 0 ? size : 1000; /* the first alone fills much of the queue */
        numbers[index] = core_start(&ends, 0, RT_WRITE, 0, index * 1000, index % 5 == 0 ? wanted : 1000);
        CHECK(numbers[index] > 0);
    }
    int64_t big = core_start(&ends, 0, RT_WRITE, 200000, 0, 700000); /* more items than the queue holds */
    int64_t last = core_start(&ends, 0, RT_WRITE, 500000, 0, 1000);  /* must come after it */
    CHECK(big > 0 && last > 0);
    let_go();
    CHECK_INT(core_finish(ends.channel, last, &ends.detail), RT_OK);
    CHECK_INT(rt_op_wait(ends.channel, big, 0), RT_OK); /* so was all before */
    CHECK_INT(rt_op_release(ends.channel, big, &ends.detail), RT_OK);
    for (uint32_t index = 0; index < COUNT; index++)
        CHECK_INT(rt_op_release(ends.channel, numbers[index], &ends.detail), RT_OK);
    CHECK_INT(ends.there[0], COUNT);
    CHECK_INT(ends.there[999], COUNT);
    CHECK_INT(ends.there[500000], 1);
    CHECK_INT(ends.near->queues[0].starved, 0);
    core_end(&ends);
}

/* ---- failures ---- */

static const struct {
    uint32_t wc_status;
    int status, later; /* of the operation that fails, and of calls after it */
    const char *name;
} failures[] = {
    {IBV_WC_LOC_PROT_ERR, RT_E_LOCAL_ACCESS, RT_E_FLUSHED, "IBV_WC_LOC_PROT_ERR"},
    {IBV_WC_REM_ACCESS_ERR, RT_E_REMOTE_ACCESS, RT_E_FLUSHED, "IBV_WC_REM_ACCESS_ERR"},
    {IBV_WC_WR_FLUSH_ERR, RT_E_PEER_LOST, RT_E_PEER_LOST, "IBV_WC_WR_FLUSH_ERR"}, /* of a link that nobody shut */
    {IBV_WC_RETRY_EXC_ERR, RT_E_PEER_LOST, RT_E_PEER_LOST, "IBV_WC_RETRY_EXC_ERR"},
    {IBV_WC_BAD_RESP_ERR, RT_E_PROTOCOL, RT_E_PROTOCOL, "IBV_WC_BAD_RESP_ERR"},
    {IBV_WC_FATAL_ERR, RT_E_DEVICE_LOST, RT_E_DEVICE_LOST, "IBV_WC_FATAL_ERR"},
    {IBV_WC_GENERAL_ERR, RT_E_SYSTEM, RT_E_SYSTEM, "IBV_WC_GENERAL_ERR"},
};

static void a_failed_completion_ends_its_operation_its_channel_and_nothing_else(void)
{
    for (uint32_t which = 0; which < sizeof failures / sizeof failures[0]; which++) {
        core_ends ends;
        fake_begin(&ends, 2);
        rt_channel *other, *other_end, *new, *new_end;
        core_join(&ends, &other, &other_end);
        rt_remote *other_remote = core_attach(other, ends.target);
        withhold();
        int64_t good = core_start(&ends, 1, RT_WRITE, 0, 0, 100), bad = core_start(&ends, 1, RT_WRITE, 200, 0, 5000);
        int64_t later = core_start(&ends, 1, RT_WRITE, 8000, 0, 100);
        CHECK(good > 0 && bad > 0 && later > 0);
        faked.fake_complete(2, failures[which].wc_status, 0x5a);
        let_go();
        CHECK_INT(core_finish(ends.channel, bad, &ends.detail), failures[which].status);
        if (failures[which].status != RT_E_FLUSHED) {
            CHECK_HAS(ends.detail.text, failures[which].name);
            CHECK_HAS(ends.detail.text, "a WRITE of 4096 bytes on qp 1 to ");
            CHECK_HAS(ends.detail.text, " pid ");
            CHECK_HAS(ends.detail.text, "0x5a");
        }
        CHECK_INT(core_finish(ends.channel, good, &ends.detail), RT_OK);
        int status = core_finish(ends.channel, later, &ends.detail);
        CHECK(status == RT_E_FLUSHED || status == failures[which].later);
        CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_FAILED);
        CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), failures[which].status);
        CHECK_HAS(ends.detail.text, failures[which].name);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), failures[which].later);
        CHECK_INT(ends.there[8000], 0);
        int64_t number = rt_channel_copy(other, 0, RT_WRITE, other_remote, 0, ends.local, 0, 100, RT_SLICE_NS);
        CHECK_INT(core_finish(other, number, &ends.detail), RT_OK);
        core_join(&ends, &new, &new_end);
        rt_remote *new_remote = core_attach(new, ends.target);
        number = rt_channel_copy(new, 0, RT_READ, new_remote, 0, ends.local, 0, 100, RT_SLICE_NS);
        CHECK_INT(core_finish(new, number, &ends.detail), RT_OK);
        rt_remote_drop(new_remote);
        rt_remote_drop(other_remote);
        rt_channel *all[] = {other, other_end, new, new_end};
        for (uint32_t index = 0; index < 4; index++)
            rt_channel_drop(all[index]);
        core_end(&ends);
    }
}

static void channels_that_fail_in_one_look_all_fail(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    rt_channel *other, *other_end;
    core_join(&ends, &other, &other_end);
    rt_remote *other_remote = core_attach(other, ends.target);
    withhold();
    int64_t first = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    int64_t second = rt_channel_copy(other, 0, RT_WRITE, other_remote, 0, ends.local, 0, 100, 0);
    CHECK_INT(rt_region_close(ends.target, &ends.detail), RT_OK); /* so that both are refused there */
    let_go();
    CHECK_INT(core_finish(ends.channel, first, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_INT(core_finish(other, second, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_INT(rt_channel_state(ends.channel), RT_CHANNEL_FAILED);
    CHECK_INT(rt_channel_state(other), RT_CHANNEL_FAILED);
    rt_remote_drop(other_remote);
    rt_channel_drop(other);
    rt_channel_drop(other_end);
    core_end(&ends);
}

static void an_item_that_was_never_posted_is_flushed_and_not_blamed(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    withhold();
    int64_t bad = core_start(&ends, 0, RT_WRITE, 0, 0, 256 * CORE_SMALLEST_MESSAGE),
            rest = core_start(&ends, 0, RT_READ, 0, 0, 8);
    faked.fake_complete(7, IBV_WC_REM_ACCESS_ERR, 0);
    let_go();
    CHECK_INT(core_finish(ends.channel, bad, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_INT(core_finish(ends.channel, rest, &ends.detail), RT_E_FLUSHED);
    CHECK_HAS(ends.detail.text, "IBV_WC_REM_ACCESS_ERR");
    CHECK_INT(core_until_quiet(&ends), RT_OK);
    CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_OK);
    core_end(&ends);
}

static void a_peer_that_was_not_reached_is_told_with_both_addresses(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    withhold();
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 8);
    faked.fake_complete(1, IBV_WC_RETRY_EXC_ERR, 0x81);
    let_go();
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_PEER_LOST);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_PEER_LOST);
    CHECK_HAS(ends.detail.text, "IBV_WC_RETRY_EXC_ERR");
    CHECK_HAS(ends.detail.text, "gid 3 10.0.0.1 to 10.0.1.1");
    CHECK_INT(core_until_quiet(&ends), RT_OK);
    core_end(&ends);
}

/* The send queue of the link that copies take is full, and nothing completes. */
static void a_message_does_not_wait_for_a_large_copy(void)
{
    core_ends ends;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    fake_begin(&ends, 2);
    CHECK_INT(rt_device_publish(ends.far, "here", ends.target, 0, 8, &ends.detail), RT_OK);
    withhold();
    int64_t number = core_start(&ends, -1, RT_WRITE, 0, 0, 256 * CORE_SMALLEST_MESSAGE);
    CHECK(number > 0);
    CHECK_INT(ends.channel->links[0].head - ends.channel->links[0].tail, ends.near->limits.work_depth);
    int64_t lookup = rt_lookup_start(ends.channel, "here", 0, &ends.detail), end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    CHECK(lookup > 0);
    while (atomic_load(&ends.channel->links[1].sends) == 0 && rt_clock_now_ns() < end_ns)
        rt_device_progress(ends.near);
    CHECK(atomic_load(&ends.channel->links[1].sends) != 0);
    let_go();
    int status = RT_E_AGAIN;
    while (status == RT_E_AGAIN && rt_clock_now_ns() < end_ns)
        status = rt_lookup_wait(ends.channel, lookup, RT_SLICE_NS, handle, &size, &ends.detail);
    CHECK_INT(status, RT_OK);
    rt_lookup_release(ends.channel, lookup);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    core_end(&ends);
}

static void a_post_that_fails_ends_operation_and_channel(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    faked.fake_accept(3, EIO);
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 10 * CORE_SMALLEST_MESSAGE);
    CHECK(number > 0);
    int status = core_finish(ends.channel, number, &ends.detail);
    CHECK(status < 0 && status != RT_E_AGAIN);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), status);
    CHECK_HAS(ends.detail.text, "posting on qp 0 to ");
    CHECK_INT(core_until_quiet(&ends), RT_OK);
    core_end(&ends);
}

static void operations_of_a_device_that_was_taken_away_end_as_lost(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    withhold();
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    faked.fake_sever(0);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_DEVICE_LOST);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_DEVICE_LOST);
    CHECK_HAS(ends.detail.text, "the kernel has let go of it");
    CHECK_INT(core_until_quiet(&ends), RT_OK); /* the buffers are free again */
    let_go();
    core_end(&ends);
}

static void a_queue_that_cannot_be_polled_ends_its_channels(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    withhold();
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    faked.fake_fail_polls(1);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_DEVICE_LOST);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_DEVICE_LOST);
    CHECK_HAS(ends.detail.text, "cannot be polled");
    faked.fake_fail_polls(0);
    let_go();
    core_end(&ends);
}

static void a_device_without_reads_says_so(void)
{
    core_ends ends;
    fake_begin(&ends, 1);
    uint32_t depth = ends.near->limits.read_depth;
    CHECK(depth > 0);
    ends.near->limits.read_depth = 0;
    CHECK_INT(core_copy(&ends, 0, RT_READ, 0, 0, 8), RT_E_UNSUPPORTED);
    CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, 8), RT_OK);
    ends.near->limits.read_depth = depth;
    core_end(&ends);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(failed_items_behind_finished_ones_are_told_apart),
    CHECK_TEST(a_number_that_is_not_held_is_refused),
    CHECK_TEST(an_operation_that_is_done_keeps_its_result_until_it_is_released),
    CHECK_TEST(a_link_that_is_shut_ends_what_waits_for_room_as_flushed),
    CHECK_TEST(a_killed_party_ends_what_runs_and_all_that_follows),
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(an_abandoned_operation_posts_no_more_and_holds_its_memory),
    CHECK_TEST(an_operation_abandoned_after_a_partly_accepted_post_still_retires),
    CHECK_TEST(partly_accepted_posts_go_on_where_they_stopped),
    CHECK_TEST(a_full_pool_is_busy_and_recovers),
    CHECK_TEST(operations_that_do_not_fit_are_posted_in_order),
    CHECK_TEST(a_failed_completion_ends_its_operation_its_channel_and_nothing_else),
    CHECK_TEST(channels_that_fail_in_one_look_all_fail),
    CHECK_TEST(an_item_that_was_never_posted_is_flushed_and_not_blamed),
    CHECK_TEST(a_peer_that_was_not_reached_is_told_with_both_addresses),
    CHECK_TEST(a_message_does_not_wait_for_a_large_copy),
    CHECK_TEST(a_post_that_fails_ends_operation_and_channel),
    CHECK_TEST(operations_of_a_device_that_was_taken_away_end_as_lost),
    CHECK_TEST(a_queue_that_cannot_be_polled_ends_its_channels),
    CHECK_TEST(a_device_without_reads_says_so),
#endif
};
CHECK_MAIN(tests)
