/* test_prepared.c: copies that are bound once and run many times, over every provider: waited for, started, and run briefly.
 *
 * Needs the whole library. */
#include "core_ends.h"

#include "channel/channel.h"
#include "channel/link.h"

static void begin_with(core_ends *ends, const char *provider)
{
    core_begin(ends, &(core_setup){.provider = provider, .short_messages = true});
}

/* Ends with one copy of 64 bytes bound. */
static rt_prepared *begin_with_one(core_ends *ends, const char *provider, uint32_t direction)
{
    rt_prepared *prepared = NULL;
    uint64_t bad;
    begin_with(ends, provider);
    rt_copy copy = core_entry(ends, direction, 0, 0, 64);
    CHECK_INT(rt_prepared_create(ends->channel, 0, &copy, 1, &prepared, &bad), RT_OK);
    return prepared;
}

/* As who has run them briefly goes on: slice by slice. */
static int64_t finish_prepared(rt_prepared *prepared, int64_t number)
{
    for (int tries = 0; number > 0 && tries < 1000; tries++)
        number = rt_prepared_finish(prepared, number);
    return number;
}

/* A thread of the device may look after the QP just now: RT_E_BUSY, and tried again. */
static int64_t run_briefly(rt_prepared *prepared, uint32_t looks)
{
    int64_t number;
    do {
        number = rt_prepared_run_briefly(prepared, looks);
    } while (number == RT_E_BUSY);
    return number;
}

static void prepared_copies_run_again_and_again(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copies[3] = {core_entry(&ends, RT_WRITE, 0, 0, 64), core_entry(&ends, RT_WRITE, 64, 500, 5000),
                             core_entry(&ends, RT_READ, 64, 60000, 5000)};
        rt_prepared *prepared = NULL;
        uint64_t bad;
        CHECK_INT(rt_prepared_create(ends.channel, 0, copies, 3, &prepared, &bad), RT_OK);
        memset(copies, 0xff, sizeof copies); /* they were taken over */
        for (uint32_t round = 0; round < 30; round++) {
            core_fill(ends.here, 6000, round);
            int64_t number = round % 3 == 0   ? rt_prepared_run(prepared)
                             : round % 3 == 1 ? rt_prepared_start(prepared)
                                              : run_briefly(prepared, round);
            CHECK(number >= 0);
            if (round % 3 != 2)
                CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
            else if (number > 0)
                CHECK_INT(finish_prepared(prepared, number), RT_OK);
            CHECK_BYTES(ends.there, ends.here, 64);
            CHECK_BYTES(ends.there + 64, ends.here + 500, 5000);
        }
        CHECK_INT(rt_region_close(ends.local, &ends.detail), RT_E_BUSY);
        rt_prepared_drop(prepared);
        core_end(&ends);
    }
}

#if __has_include(<infiniband/verbs.h>)

static void a_brief_run_finds_what_is_done_soon_and_leaves_the_rest_to_who_waits(void)
{
    core_ends ends;
    rt_prepared *prepared = begin_with_one(&ends, "verbs", RT_READ);
    core_fill(ends.there, 64, 3);
    CHECK_INT(run_briefly(prepared, 1), RT_OK); /* the engine carries it out when it is polled */
    CHECK_BYTES(ends.here, ends.there, 64);
    core_fill(ends.there, 64, 4);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    int64_t number = run_briefly(prepared, 1000);
    CHECK(number > 0);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_AGAIN);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    CHECK_INT(finish_prepared(prepared, number), RT_OK);
    CHECK_BYTES(ends.here, ends.there, 64);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_INVALID); /* the number is void */
    rt_prepared_drop(prepared);
    core_end(&ends);
}

#endif

static void a_brief_run_does_not_look_where_time_stands_still_meanwhile(void)
{
    core_ends ends;
    rt_prepared *prepared = begin_with_one(&ends, "sim", RT_WRITE);
    core_fill(ends.here, 64, 3);
    int64_t number = run_briefly(prepared, UINT32_MAX);
    CHECK(number > 0);
    CHECK_INT(finish_prepared(prepared, number), RT_OK);
    CHECK_BYTES(ends.there, ends.here, 64);
    rt_prepared_drop(prepared);
    core_end(&ends);
}

static void brief_copies_go_both_ways_and_are_checked(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        for (uint32_t round = 0; round < 30; round++) {
            uint32_t direction = round % 2 == 0 ? RT_WRITE : RT_READ;
            rt_copy copy = core_entry(&ends, direction, 64, 500, 100 * round);
            core_fill(ends.here, 6000, round);
            core_fill(ends.there, 6000, 100 + round);
            int64_t number = rt_channel_copy_briefly(ends.channel, &copy, round);
            if (number == RT_E_BUSY) /* a thread of the device looks after the QP just now */
                number = rt_channel_copy(ends.channel, 0, direction, ends.remote, 64, ends.local, 500, copy.size, RT_SLICE_NS);
            CHECK(number >= 0);
            CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
            CHECK_BYTES(ends.there + 64, ends.here + 500, copy.size);
        }
        rt_copy outside = core_entry(&ends, RT_WRITE, 64, 500, UINT64_MAX / 2), neither = core_entry(&ends, RT_WRITE, 0, 0, 8);
        neither.direction = 77;
        CHECK_INT(rt_channel_copy_briefly(ends.channel, &outside, 1), RT_E_BOUNDS);
        CHECK_INT(rt_channel_copy_briefly(ends.channel, &neither, 1), RT_E_INVALID);
        core_end(&ends);
    }
}

static void who_copies_briefly_does_not_wait_for_another_thread_on_the_qp(void)
{
    core_ends ends;
    rt_prepared *prepared = begin_with_one(&ends, "shm", RT_WRITE);
    rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 64);
    core_fill(ends.here, 64, 5);
    rt_turn_take(&ends.channel->links[0].turn); /* as a thread that copies much has it */
    CHECK_INT(rt_prepared_run_briefly(prepared, 1), RT_E_BUSY);
    CHECK_INT(rt_channel_copy_briefly(ends.channel, &copy, 1), RT_E_BUSY);
    rt_turn_leave(&ends.channel->links[0].turn);
    CHECK_INT(rt_channel_copy_briefly(ends.channel, &copy, 1), RT_OK);
    CHECK_BYTES(ends.there, ends.here, 64);
    rt_prepared_drop(prepared);
    core_end(&ends);
}

static void a_brief_run_to_a_killed_party_ends_as_every_copy_does(void)
{
    core_ends ends;
    rt_prepared *prepared = begin_with_one(&ends, "sim", RT_WRITE);
    char text[80], reply[80];
    int64_t number = run_briefly(prepared, 1000);
    CHECK(number > 0);
    snprintf(text, sizeof text, "world=%s kill party=far", ends.world);
    CHECK_INT(rt_provider_command("sim", text, reply, sizeof reply, &ends.detail), RT_OK);
    CHECK_INT(finish_prepared(prepared, number), number); /* it failed, and is there to be asked why */
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_PEER_LOST);
    CHECK_INT(run_briefly(prepared, 1000), RT_E_PEER_LOST);
    rt_prepared_drop(prepared);
    core_end(&ends);
}

static void prepared_copies_may_be_dropped_while_they_run(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copies[2] = {core_entry(&ends, RT_WRITE, 0, 0, 200000), core_entry(&ends, RT_WRITE, 300000, 1, 100)};
        rt_prepared *prepared = NULL;
        uint64_t bad;
        core_fill(ends.here, 200000, 8);
        CHECK_INT(rt_prepared_create(ends.channel, 0, copies, 2, &prepared, &bad), RT_OK);
        int64_t number = rt_prepared_start(prepared);
        CHECK(number > 0);
        rt_prepared_drop(prepared);
        CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
        CHECK_BYTES(ends.there, ends.here, 200000);
        CHECK_BYTES(ends.there + 300000, ends.here + 1, 100);
        core_end(&ends);
    }
}

static void prepared_copies_outlive_device_and_regions(void)
{
    CORE_EACH_PROVIDER(provider)
    {
        core_ends ends;
        begin_with(&ends, provider);
        rt_copy copy = core_entry(&ends, RT_WRITE, 0, 0, 64);
        rt_prepared *prepared = NULL;
        uint64_t bad;
        CHECK_INT(rt_prepared_create(ends.channel, 0, &copy, 1, &prepared, &bad), RT_OK);
        rt_device_close(ends.near);
        rt_region_drop(ends.local);
        CHECK_INT(rt_prepared_run(prepared), RT_E_CLOSED);
        rt_prepared_drop(prepared);
        rt_remote_drop(ends.remote);
        rt_channel_drop(ends.channel);
        rt_channel_drop(ends.accepted);
        rt_listener_close(ends.listener);
        rt_device_close(ends.far);
        rt_region_drop(ends.target);
    }
}

static const check_test tests[] = {
    CHECK_TEST(prepared_copies_run_again_and_again),
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(a_brief_run_finds_what_is_done_soon_and_leaves_the_rest_to_who_waits),
#endif
    CHECK_TEST(a_brief_run_does_not_look_where_time_stands_still_meanwhile),
    CHECK_TEST(brief_copies_go_both_ways_and_are_checked),
    CHECK_TEST(who_copies_briefly_does_not_wait_for_another_thread_on_the_qp),
    CHECK_TEST(a_brief_run_to_a_killed_party_ends_as_every_copy_does),
    CHECK_TEST(prepared_copies_may_be_dropped_while_they_run),
    CHECK_TEST(prepared_copies_outlive_device_and_regions),
};
CHECK_MAIN(tests)
