/* test_doubt.c: an operation that the peer's end refused, and what its peer then does: dies, says a word, says nothing. Over the
 * fake libibverbs, which refuses on request; looks into core to cut a control connection as the kernel does for a dead process. */
#include <sys/socket.h>

#include "channel/doubt.h"
#include "control/connection.h"
#include "core_ends.h"

#if __has_include(<infiniband/verbs.h>)

/* Two operations, the first of them refused, whose completions are in the queue, where nobody has looked yet. */
static void refuse_first_of_two(core_ends *ends, int64_t *first_out, int64_t *second_out)
{
    core_begin(ends, &(core_setup){.provider = "verbs", .qps = 1, .queues = 1});
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    *first_out = core_start(ends, 0, RT_WRITE, 0, 0, 100);
    *second_out = core_start(ends, 0, RT_WRITE, 200, 0, 100);
    CHECK(*first_out > 0 && *second_out > 0);
    faked.fake_complete(1, IBV_WC_REM_ACCESS_ERR, 0x5a);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
}

static bool is_doubted(rt_link *link)
{
    rt_turn_take(&link->turn);
    bool doubted = link->doubted;
    rt_turn_leave(&link->turn);
    return doubted;
}

/* Polls until both completions were taken: neither operation is over, since nobody knows yet what the refusal means. */
static void look(core_ends *ends, int64_t first, int64_t second)
{
    while (!is_doubted(&ends->channel->links[0]))
        CHECK(rt_queue_step(&ends->near->queues[0]) >= 0);
    CHECK_INT(rt_channel_state(ends->channel), RT_CHANNEL_READY);
    CHECK_INT(rt_op_wait(ends->channel, first, 0), RT_E_AGAIN);
    CHECK_INT(rt_op_wait(ends->channel, second, 0), RT_E_AGAIN);
}

/* Acts as the kernel does for a killed process: the stream ends without a BYE. */
static void die(core_ends *ends)
{
    (pthread_mutex_lock)(&ends->far->lock);
    CHECK_INT(shutdown(rt_socket_descriptor(ends->accepted->control->stream), SHUT_RDWR), 0);
    (pthread_mutex_unlock)(&ends->far->lock);
}

/* Until the service has heard of it; nobody polls meanwhile. */
static void until_down(core_ends *ends)
{
    int64_t end_ns = rt_device_now_ns(ends->near) + CORE_PATIENCE_NS;
    for (;;) {
        uint32_t seen = atomic_load(&ends->near->change);
        if (rt_channel_state(ends->channel) != RT_CHANNEL_READY)
            return;
        CHECK_INT(rt_device_wait_change(ends->near, seen, end_ns), RT_OK);
    }
}

static void is_a_lost_peer(core_ends *ends, int64_t first, int64_t second)
{
    CHECK_INT(core_finish(ends->channel, first, &ends->detail), RT_E_PEER_LOST);
    CHECK_HAS(ends->detail.text, "died or was killed");
    CHECK_INT(core_finish(ends->channel, second, &ends->detail), RT_E_PEER_LOST);
    CHECK_INT(rt_channel_failure(ends->channel, &ends->detail), RT_E_PEER_LOST);
    CHECK_INT(core_until_quiet(ends), RT_OK);
    core_end(ends);
}

static void is_refused_by_name(core_ends *ends, int64_t first, int64_t second)
{
    CHECK_INT(core_finish(ends->channel, first, &ends->detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(ends->detail.text, "a WRITE of 100 bytes on qp 0 to ");
    CHECK_HAS(ends->detail.text, "IBV_WC_REM_ACCESS_ERR (vendor error 0x5a)");
    CHECK_INT(core_finish(ends->channel, second, &ends->detail), RT_E_FLUSHED);
    CHECK_HAS(ends->detail.text, "IBV_WC_REM_ACCESS_ERR");
    CHECK_INT(rt_channel_failure(ends->channel, &ends->detail), RT_E_REMOTE_ACCESS);
    CHECK_INT(core_until_quiet(ends), RT_OK);
    core_end(ends);
}

static void a_peer_that_dies_after_it_refused_is_lost(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    look(&ends, first, second);
    die(&ends);
    is_a_lost_peer(&ends, first, second);
}

static void a_peer_whose_death_is_known_before_its_refusal_is_lost(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    die(&ends);
    until_down(&ends);
    is_a_lost_peer(&ends, first, second);
}

static void a_refusal_stands_when_the_peer_says_goodbye(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    look(&ends, first, second);
    rt_channel_close(ends.accepted);
    is_refused_by_name(&ends, first, second);
}

static void a_refusal_keeps_its_name_when_the_goodbye_comes_first(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    rt_channel_close(ends.accepted);
    until_down(&ends);
    CHECK_INT(core_finish(ends.channel, first, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(ends.detail.text, "a WRITE of 100 bytes on qp 0 to ");
    CHECK_HAS(ends.detail.text, "IBV_WC_REM_ACCESS_ERR (vendor error 0x5a)");
    CHECK_INT(core_finish(ends.channel, second, &ends.detail), RT_E_PEER_CLOSED);
    core_end(&ends);
}

static void a_refusal_on_its_way_is_not_flushed_because_of_the_goodbye(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "verbs", .qps = 1, .queues = 1});
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    int64_t number = core_start(&ends, 0, RT_WRITE, 0, 0, 100);
    (pthread_mutex_lock)(&ends.near->lock); /* its service looks when we say so */
    rt_channel_close(ends.accepted);
    while (rt_channel_state(ends.channel) == RT_CHANNEL_READY)
        rt_service_run(ends.near);
    rt_service_run(ends.near);
    faked.fake_complete(1, IBV_WC_REM_ACCESS_ERR, 0x5a);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    while (rt_op_wait(ends.channel, number, 0) == RT_E_AGAIN)
        CHECK(rt_queue_step(&ends.near->queues[0]) >= 0);
    (pthread_mutex_unlock)(&ends.near->lock);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(ends.detail.text, "IBV_WC_REM_ACCESS_ERR (vendor error 0x5a)");
    core_end(&ends);
}

static void a_refusal_by_a_peer_that_says_nothing_stands_within_a_second(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    look(&ends, first, second);
    CHECK(ends.channel->doubt_end_ns - rt_device_now_ns(ends.near) < RT_NS_PER_S);
    is_refused_by_name(&ends, first, second);
}

static void an_operation_in_doubt_can_be_abandoned_and_its_channel_closed(void)
{
    core_ends ends;
    int64_t first, second;
    refuse_first_of_two(&ends, &first, &second);
    look(&ends, first, second);
    CHECK_INT(rt_op_release(ends.channel, first, &ends.detail), RT_E_AGAIN);
    rt_channel_close(ends.channel);
    CHECK_INT(core_finish(ends.channel, second, &ends.detail), RT_E_CLOSED);
    CHECK_INT(core_until_quiet(&ends), RT_OK);
    core_end(&ends);
}
#endif

static const check_test tests[] = {
#if __has_include(<infiniband/verbs.h>)
    CHECK_TEST(a_peer_that_dies_after_it_refused_is_lost),
    CHECK_TEST(a_peer_whose_death_is_known_before_its_refusal_is_lost),
    CHECK_TEST(a_refusal_stands_when_the_peer_says_goodbye),
    CHECK_TEST(a_refusal_keeps_its_name_when_the_goodbye_comes_first),
    CHECK_TEST(a_refusal_on_its_way_is_not_flushed_because_of_the_goodbye),
    CHECK_TEST(a_refusal_by_a_peer_that_says_nothing_stands_within_a_second),
    CHECK_TEST(an_operation_in_doubt_can_be_abandoned_and_its_channel_closed),
#endif
};
CHECK_MAIN(tests)
