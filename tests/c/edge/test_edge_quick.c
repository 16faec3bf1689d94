/* test_edge_quick.c: the usual cases of sends, receives and releases, which never wait; and the calls that do what those leave.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { ROUNDS = 9, SIZE = 1000 };
static const uint64_t dims[] = {SIZE};

static rt_edge_options static_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

/* shm, where posting is copying and any memory can be sent. */
static const edge_place *const here = &edge_places[0];

static rt_edge_stats stats_of(rt_edge *edge)
{
    rt_edge_stats stats;
    rt_edge_get_stats(edge, &stats);
    return stats;
}

static uint64_t address_of(const uint8_t *bytes)
{
    return (uint64_t)(uintptr_t)bytes;
}

static const void *slot_of(edge_ends *ends, int64_t sequence)
{
    rt_edge_info info;
    rt_edge_get_info(ends->receiver, &info);
    return (const void *)(uintptr_t)(info.slots_address + (uint64_t)sequence % info.slots * info.slot_stride);
}

static void begin_quick(edge_ends *ends, const rt_edge_options *options)
{
    edge_begin(ends, here, 1);
    edge_join(ends, here, options);
    core_fill(ends->core.here, 2 * SIZE, 3);
}

/* ---- what they do ---- */

static void the_usual_tensor_is_sent_received_and_released_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("quick");
    options.slots = 3;
    begin_quick(&ends, &options);
    for (int64_t round = 1; round <= ROUNDS; round++) {
        uint8_t *bytes = ends.core.here + (round % 3 == 0 ? 64 : 0); /* the same tensor again, and another */
        core_fill(bytes, SIZE, (uint32_t)round);
        CHECK_INT(rt_edge_receive_at_once(ends.receiver, 4), RT_E_AGAIN);
        CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(bytes), SIZE), 0);
        CHECK_INT(rt_edge_receive_at_once(ends.receiver, 4), round);
        CHECK_BYTES(slot_of(&ends, round), bytes, SIZE);
        CHECK_INT(stats_of(ends.receiver).transfers, round);
        CHECK_INT(stats_of(ends.receiver).credits, round - 1);
        CHECK_INT(rt_edge_release_at_once(ends.receiver, (uint64_t)round), RT_OK);
        CHECK_INT(rt_edge_release_at_once(ends.receiver, (uint64_t)round), RT_E_AGAIN);
        CHECK_INT(stats_of(ends.receiver).credits, round);
        CHECK_INT(rt_edge_wait_released(ends.sender, (uint64_t)round, 0), RT_OK); /* the credit is there */
    }
    CHECK_INT(stats_of(ends.sender).transfers, ROUNDS);
    CHECK_INT(stats_of(ends.sender).bytes, ROUNDS * SIZE);
    CHECK_INT(stats_of(ends.sender).waits, 0);
    CHECK_INT(stats_of(ends.receiver).bytes, ROUNDS * SIZE);
    CHECK_INT(stats_of(ends.receiver).waits, 0);
    edge_end(&ends);
}

/* Each of the three ways a call can be made works after each of the others. */
static void quick_calls_and_the_others_follow_each_other(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_options options = static_edge("mixed");
        edge_begin(&ends, place, 1);
        edge_join(&ends, place, &options);
        for (uint32_t round = 1; round <= 4 * ROUNDS; round++) {
            uint8_t *bytes = ends.core.here + round % 3 * 64;
            int64_t sent = RT_E_AGAIN, got = RT_E_AGAIN;
            int released = RT_E_AGAIN, tries = 0;
            core_fill(bytes, SIZE, round);
            if (round % 2 == 0)
                sent = rt_edge_send_at_once(ends.sender, address_of(bytes), SIZE);
            while (sent == RT_E_AGAIN && ++tries < 400)
                sent = rt_edge_send(ends.sender, address_of(bytes), SIZE, RT_SLICE_NS);
            CHECK(sent == 0 || sent == round);
            if (round % 3 == 0)
                got = rt_edge_receive_at_once(ends.receiver, 4);
            while (got == RT_E_AGAIN && ++tries < 400) {
                rt_device_progress(ends.core.near); /* the sender posts the rest where a queue was full */
                got = rt_edge_receive_static(ends.receiver, RT_SLICE_NS);
            }
            CHECK_INT(got, round);
            CHECK_BYTES(slot_of(&ends, got), bytes, SIZE);
            if (round % 5 < 3)
                released = rt_edge_release_at_once(ends.receiver, round);
            CHECK_INT(released == RT_OK ? RT_OK : rt_edge_release(ends.receiver, round), RT_OK);
            CHECK_INT(rt_edge_release(ends.receiver, round), RT_E_INVALID);
        }
        CHECK_INT(stats_of(ends.sender).transfers, 4 * ROUNDS);
        CHECK_INT(stats_of(ends.receiver).transfers, 4 * ROUNDS);
        CHECK_INT(stats_of(ends.receiver).sequence, 4 * ROUNDS);
        CHECK_INT(stats_of(ends.receiver).released, 4 * ROUNDS);
        edge_end(&ends);
    }
}

static void a_quick_receive_looks_as_often_as_it_was_told(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("looks");
    begin_quick(&ends, &options);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), 0);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 0), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), 1);
    edge_end(&ends);
}

/* ---- what they leave to the others ---- */

static void without_credit_nothing_is_sent_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("credit");
    begin_quick(&ends, &options);
    for (uint32_t round = 0; round < 2; round++)
        CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), 0);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), RT_E_AGAIN);
    CHECK_INT(rt_edge_send(ends.sender, address_of(ends.core.here), SIZE, 0), RT_E_AGAIN);
    CHECK_INT(stats_of(ends.sender).waits, 1);
    CHECK_INT(stats_of(ends.sender).transfers, 2);
    for (int64_t sequence = 1; sequence <= 2; sequence++)
        CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), sequence);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_static(ends.receiver, 0), RT_E_BUSY); /* every slot is held */
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 3), RT_E_AGAIN);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 2), RT_OK); /* the credit is of all up to the first that is held */
    CHECK_INT(stats_of(ends.receiver).credits, 0);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), RT_E_AGAIN);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK);
    CHECK_INT(stats_of(ends.receiver).credits, 1);
    for (uint32_t round = 0; round < 2; round++)
        CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), 0);
    edge_end(&ends);
}

/* Nothing was sent, received or released by calls that said so. */
static void check_untouched(edge_ends *ends, const rt_edge_options *options, bool sends, bool receives)
{
    edge_begin(ends, here, 1);
    edge_join(ends, here, options);
    CHECK_INT(rt_edge_send_at_once(ends->sender, address_of(ends->core.here), SIZE), sends ? 0 : RT_E_AGAIN);
    CHECK_INT(stats_of(ends->sender).transfers, sends);
    rt_edge_tensor tensor = edge_bytes(ends->core.here, SIZE);
    if (!sends)
        CHECK_INT(edge_send(ends, &tensor, options->kind == RT_EDGE_STATIC), RT_OK);
    CHECK_INT(rt_edge_receive_at_once(ends->receiver, 4), receives ? 1 : RT_E_AGAIN);
    CHECK_INT(stats_of(ends->receiver).transfers, receives);
    rt_edge_arrival arrival;
    if (!receives)
        CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    bool releases = options->loop_check == 0;
    CHECK_INT(rt_edge_release_at_once(ends->receiver, 1), releases ? RT_OK : RT_E_AGAIN);
    CHECK_INT(rt_edge_release(ends->receiver, 1), releases ? RT_E_INVALID : RT_OK);
    edge_end(ends);
}

static void an_unusual_case_is_left_to_the_calls_that_wait(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("plain");
    check_untouched(&ends, &options, true, true);
    options.verify = 1;
    check_untouched(&ends, &options, false, false);
    options = static_edge("staged");
    options.staging = 1;
    check_untouched(&ends, &options, false, true);
    options = static_edge("checked");
    options.flow = RT_EDGE_FLOW_LOOP;
    options.loop_check = 1;
    check_untouched(&ends, &options, false, false);
    options = static_edge("loop");
    options.flow = RT_EDGE_FLOW_LOOP;
    check_untouched(&ends, &options, true, true);
    options = edge_options("dynamic");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = 2 * SIZE;
    check_untouched(&ends, &options, false, false);
}

static void the_wrong_size_or_end_is_refused(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("wrong");
    begin_quick(&ends, &options);
    const uint64_t address = address_of(ends.core.here);
    for (uint64_t size = SIZE - 1; size <= SIZE + 1; size += 2) {
        CHECK_INT(rt_edge_send_at_once(ends.sender, address, size), RT_E_AGAIN);
        CHECK_INT(rt_edge_send(ends.sender, address, size, 0), RT_E_INVALID);
    }
    CHECK_INT(rt_edge_send_at_once(ends.receiver, address, SIZE), RT_E_AGAIN);
    CHECK_INT(rt_edge_send(ends.receiver, address, SIZE, 0), RT_E_INVALID);
    CHECK_INT(rt_edge_receive_at_once(ends.sender, 1), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_static(ends.sender, 0), RT_E_INVALID);
    CHECK_INT(rt_edge_release_at_once(ends.sender, 1), RT_E_AGAIN);
    CHECK_INT(rt_edge_release(ends.sender, 1), RT_E_INVALID);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 0), RT_E_AGAIN);
    CHECK_INT(rt_edge_release(ends.receiver, 0), RT_E_INVALID);
    CHECK_INT(rt_edge_ready(ends.sender), 0);
    CHECK_INT(stats_of(ends.sender).transfers, 0);
    edge_end(&ends);
}

static void an_edge_that_nobody_has_opened_has_nothing(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("alone");
    edge_begin(&ends, here, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), RT_E_AGAIN);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_static(ends.receiver, 0), RT_E_AGAIN);
    CHECK_INT(rt_edge_release(ends.receiver, 1), RT_E_INVALID);
    CHECK_INT(rt_edge_ready(ends.receiver), 0);
    rt_edge_close(ends.receiver);
    CHECK_INT(rt_edge_receive_static(ends.receiver, 0), RT_E_CLOSED);
    CHECK_INT(rt_edge_ready(ends.receiver), 1); /* a receive would return at once */
    edge_end(&ends);
}

/* A turn that somebody else has is not waited for. */
static void no_turn_is_waited_for(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("turns");
    begin_quick(&ends, &options);
    const uint64_t address = address_of(ends.core.here);
    rt_turn *const turns[] = {&ends.sender->turn, &ends.sender->links[0]->turn};
    for (uint32_t index = 0; index < 2; index++) {
        rt_turn_take(turns[index]);
        CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), RT_E_AGAIN);
        rt_turn_leave(turns[index]);
    }
    CHECK_INT(stats_of(ends.sender).transfers, 0);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), 0);
    rt_turn_take(&ends.receiver->turn);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), RT_E_AGAIN);
    rt_turn_leave(&ends.receiver->turn);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), 1);
    rt_turn *const others[] = {&ends.receiver->turn, &ends.receiver->links[0]->turn};
    for (uint32_t index = 0; index < 2; index++) {
        rt_turn_take(others[index]);
        CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_E_AGAIN);
        rt_turn_leave(others[index]);
    }
    CHECK_INT(stats_of(ends.receiver).credits, 0);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK);
    edge_end(&ends);
}

/* The WRITEs of the slot's last tensor may still be under way: only calls that wait ask for them. Those of other slots do not matter. */
static void a_slot_whose_last_tensor_is_under_way_is_not_used_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("under way");
    begin_quick(&ends, &options);
    const uint64_t address = address_of(ends.core.here);
    rt_edge_sent *sent = ends.sender->sent;
    sent[0].ops[0] = 77; /* the next tensor is the first, in slot 1 */
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), 0);
    sent[0].ops[0] = 0;
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), 1);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK);
    sent[0].ops[0] = 77;
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), RT_E_AGAIN);
    sent[0].ops[0] = 0;
    CHECK_INT(stats_of(ends.sender).transfers, 1);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), 0);
    edge_end(&ends);
}

static void after_the_close_quick_calls_do_nothing(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("closed");
    begin_quick(&ends, &options);
    const uint64_t address = address_of(ends.core.here);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), 0);
    rt_edge_close(ends.sender);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address, SIZE), RT_E_AGAIN);
    CHECK_INT(rt_edge_send(ends.sender, address, SIZE, 0), RT_E_CLOSED);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), 1); /* it was sent before */
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), RT_E_AGAIN);
    rt_edge_arrival arrival;
    CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
    edge_end(&ends);
}

static void a_channel_that_is_closed_sends_nothing_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("failed");
    begin_quick(&ends, &options);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), 0);
    rt_channel_close(ends.core.channel);
    CHECK_INT(rt_edge_send_at_once(ends.sender, address_of(ends.core.here), SIZE), RT_E_AGAIN);
    CHECK_INT(stats_of(ends.sender).transfers, 1);
    CHECK_INT(rt_edge_receive_at_once(ends.receiver, 1), 1);
    int64_t status;
    int tries = 0;
    do
        status = rt_edge_send(ends.sender, address_of(ends.core.here), SIZE, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_E_CLOSED);
    rt_edge_arrival arrival;
    CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
    CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK); /* the slot is free, and nobody wants to know */
    CHECK_INT(stats_of(ends.receiver).credits, 0);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(the_usual_tensor_is_sent_received_and_released_at_once),
    CHECK_TEST(quick_calls_and_the_others_follow_each_other),
    CHECK_TEST(a_quick_receive_looks_as_often_as_it_was_told),
    CHECK_TEST(without_credit_nothing_is_sent_at_once),
    CHECK_TEST(an_unusual_case_is_left_to_the_calls_that_wait),
    CHECK_TEST(the_wrong_size_or_end_is_refused),
    CHECK_TEST(an_edge_that_nobody_has_opened_has_nothing),
    CHECK_TEST(no_turn_is_waited_for),
    CHECK_TEST(a_slot_whose_last_tensor_is_under_way_is_not_used_at_once),
    CHECK_TEST(after_the_close_quick_calls_do_nothing),
    CHECK_TEST(a_channel_that_is_closed_sends_nothing_at_once),
};

CHECK_MAIN(tests)
