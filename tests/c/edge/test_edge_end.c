/* test_edge_end.c: how edges are refused, and how they end: EDGES.md section 11, over every provider and way of carrying a flag.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

static const uint64_t hundred = 100;

static rt_edge_options bytes_of(const char *name, const uint64_t *size)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = size;
    return options;
}

static int open_as(edge_ends *ends, const rt_edge_options *options, int64_t wait_ns, rt_edge **edge_out)
{
    int status = rt_edge_open(ends->core.channel, options, wait_ns, edge_out, &ends->detail);
    if (status != RT_OK)
        return status;
    int tries = 0;
    do
        status = rt_edge_wait_open(*edge_out, RT_SLICE_NS, &ends->detail);
    while (status == RT_E_AGAIN && ++tries < 6000);
    return status;
}

/* The sender's words are refused; both sides' words are in the detail. */
static void check_refused(edge_ends *ends, const rt_edge_options *options, int wanted, const char *words)
{
    rt_edge *edge = NULL;
    CHECK_INT(open_as(ends, options, 0, &edge), wanted);
    CHECK_HAS(ends->detail.text, words);
    rt_edge_drop(edge);
}

static void ends_that_disagree_are_refused_and_the_edge_stays_free(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t other = 101;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("x", &hundred), wrong = options;
        options.ordering = wrong.ordering = place->ordering;
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
        wrong.dims = &other;
        check_refused(&ends, &wrong, RT_E_REFUSED, "static uint8 [100] and the sender's static uint8 [101]");
        wrong = options, wrong.ordering = place->ordering, wrong.dtype = RT_DTYPE_INT8;
        check_refused(&ends, &wrong, RT_E_REFUSED, "int8");
        wrong = options, wrong.flow = RT_EDGE_FLOW_LOOP;
        check_refused(&ends, &wrong, RT_E_REFUSED, "flow=\"credit\"");
        wrong = options, wrong.kind = RT_EDGE_DYNAMIC;
        check_refused(&ends, &wrong, RT_E_REFUSED, "dynamic");
        wrong = options, wrong.name = "y";
        check_refused(&ends, &wrong, RT_E_NOT_FOUND, "no edge of that name");
        CHECK_INT(open_as(&ends, &options, 0, &ends.sender), RT_OK);
        check_refused(&ends, &options, RT_E_EXISTS, "has a sender already");
        rt_edge *again = NULL;
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &again, &ends.detail), RT_E_EXISTS);
        edge_end(&ends);
    }
}

static void an_edge_that_is_made_later_is_found_by_who_waits(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("later", &hundred);
        options.ordering = place->ordering;
        CHECK_INT(rt_edge_open(ends.core.channel, &options, 10 * RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
        CHECK_INT(rt_edge_wait_open(ends.sender, 1000, &ends.detail), RT_E_AGAIN);
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
        CHECK_INT(edge_wait_open(&ends), RT_OK);
        edge_end(&ends);
    }
}

static void tensors_sent_before_the_close_are_received_and_then_the_end(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("x", &hundred);
        options.slots = 4;
        for (int round = 0; round < 3; round++) {
            edge_join(&ends, place, &options);
            rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            rt_edge_close(ends.sender);
            CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 1000), RT_E_CLOSED);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
            rt_edge_drop(ends.receiver);
            rt_edge_drop(ends.sender);
        }
        ends.sender = ends.receiver = NULL;
        edge_end(&ends);
    }
}

static void a_receiver_that_closes_ends_the_sender(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("x", &hundred);
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        rt_edge_close(ends.receiver);
        int64_t status;
        int tries = 0; /* until it has heard of it; tensors sent meanwhile reach nobody */
        do
            status = rt_edge_send_tensor(ends.sender, &tensor, RT_SLICE_NS);
        while (status != RT_E_PEER_CLOSED && ++tries < 6000);
        CHECK_INT(status, RT_E_PEER_CLOSED);
        CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_PEER_CLOSED);
        rt_edge_drop(ends.receiver); /* its name is free again */
        rt_edge_drop(ends.sender);
        ends.sender = ends.receiver = NULL;
        edge_join(&ends, place, &options);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        edge_end(&ends);
    }
}

static void a_channel_that_ends_ends_its_edges_but_not_what_has_arrived(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("x", &hundred);
        edge_join(&ends, place, &options);
        core_fill(ends.core.here, hundred, 3);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        rt_channel_close(ends.core.channel);
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, RT_SLICE_NS), RT_E_CLOSED);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_BYTES((const void *)(uintptr_t)arrival.address, ends.core.here, hundred);
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
        edge_end(&ends);
    }
}

/* The peer hears of a close and shuts its end before ours is shut: what is posted between finds a link that looks lost. */
static void a_transfer_whose_link_the_peer_shut_first_ends_as_its_channel_did(void)
{
    const edge_place place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};
    edge_ends ends;
    const uint64_t large = 1 << 20;
    edge_begin(&ends, &place, 1);
    rt_edge_options options = bytes_of("x", &large);
    edge_join(&ends, &place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, large);
    int64_t sequence = rt_edge_send_tensor(ends.sender, &tensor, 0);
    CHECK_INT(sequence, 1);
    rt_link *link = NULL;
    rt_op *op = rt_op_find(ends.core.channel, ends.sender->sent[1 % options.slots].ops[0], &link);
    CHECK(op != NULL);
    rt_turn_take(&link->turn);
    CHECK_INT(atomic_load(&op->state), RT_OP_RUNNING);
    op->status = RT_E_PEER_LOST; /* of its first piece; a later flush does not change it */
    rt_turn_leave(&link->turn);
    rt_channel_close(ends.core.channel);
    int status;
    int tries = 0;
    do
        status = rt_edge_wait_sent(ends.sender, 1, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 6000);
    CHECK_INT(status, RT_E_CLOSED);
    edge_end(&ends);
}

static void damage_raises_and_the_edge_goes_on(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_info info;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("x", &hundred);
        options.verify = 1;
        edge_join(&ends, place, &options);
        rt_edge_get_info(ends.receiver, &info);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(rt_edge_ready(ends.receiver) || rt_device_progress(ends.core.far) >= 0, 1);
        uint64_t at = info.slots_address + 1 % info.slots * info.slot_stride;
        int tries = 0;
        while (!rt_edge_ready(ends.receiver) && ++tries < 1000)
            rt_device_progress(ends.core.far);
        ((uint8_t *)(uintptr_t)at)[17] ^= 1;
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_CORRUPT);
        CHECK_HAS(ends.detail.text, "does not fit its CRC");
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, 2);
        edge_end(&ends);
    }
}

/* A CRC goes with each stripe: damage in any of them is seen. */
static void damage_in_any_stripe_is_seen(void)
{
    static const uint64_t size = 300;
    for (uint32_t at = 0; at < 300; at += 59) {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_info info;
        edge_begin(&ends, &edge_places[0], 3);
        rt_edge_options options = bytes_of("x", &size);
        options.verify = 1;
        options.stripes = 3;
        edge_join(&ends, &edge_places[0], &options);
        rt_edge_get_info(ends.receiver, &info);
        CHECK_INT(info.stripes, 3);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, size);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        ((uint8_t *)(uintptr_t)(info.slots_address + 1 % info.slots * info.slot_stride))[at] ^= 1;
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_CORRUPT);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        edge_end(&ends);
    }
}

static void a_dynamic_tensor_keeps_its_region_until_the_release(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("x");
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        edge_join(&ends, place, &options);
        rt_region *region = core_region(ends.core.near, 1 << 16, RT_RIGHT_REMOTE_READ);
        uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
        core_fill(bytes, 5000, 1);
        rt_edge_tensor tensor = edge_bytes(bytes, 5000);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        CHECK_INT(rt_region_close(region, &ends.detail), RT_E_BUSY);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        uint64_t borrowed = 0;
        int status = rt_edge_borrow(ends.receiver, arrival.sequence, &borrowed);
        if (status == RT_OK) {
            CHECK_BYTES((const void *)(uintptr_t)borrowed, bytes, 5000);
            CHECK_INT(rt_edge_wait_released(ends.sender, 1, 1000), RT_E_AGAIN);
            CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_OK);
        } else {
            CHECK_INT(status, RT_E_UNSUPPORTED);
            CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 100), RT_OK);
            CHECK_BYTES(ends.core.there + 100, bytes, 5000);
        }
        int tries = 0;
        while (rt_edge_wait_released(ends.sender, 1, RT_SLICE_NS) == RT_E_AGAIN && ++tries < 6000)
            continue;
        CHECK_INT(rt_region_close(region, &ends.detail), RT_OK);
        rt_region_drop(region);
        rt_edge_stats stats;
        rt_edge_get_stats(ends.sender, &stats);
        CHECK_INT(stats.copies, 0);
        CHECK_INT(stats.keys, 2);
        edge_end(&ends);
    }
}

static void one_of_many_is_found_and_memory_comes_back(void)
{
    enum { COUNT = 50 };
    static rt_edge *receivers[COUNT], *senders[COUNT];
    static char names[COUNT][16];
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        uint64_t before = 0;
        edge_begin(&ends, place, 1);
        if (place->mode == RT_EDGE_IMMEDIATE) {
            edge_end(&ends);
            continue; /* so many need more receives than some have: the refusal is tested below */
        }
        for (int round = 0; round < 3; round++) {
            for (int index = 0; index < COUNT; index++) {
                snprintf(names[index], sizeof names[index], "e%d", index);
                rt_edge_options options = bytes_of(names[index], &hundred);
                edge_join(&ends, place, &options);
                receivers[index] = ends.receiver;
                senders[index] = ends.sender;
            }
            uint32_t ready[COUNT];
            CHECK_INT(rt_edges_wait_any(receivers, COUNT, 1000, ready, COUNT), RT_E_AGAIN);
            rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
            ends.sender = senders[17];
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            ends.sender = senders[31];
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            int64_t found = rt_edges_wait_any(receivers, COUNT, RT_SLICE_NS, ready, COUNT);
            CHECK(found >= 1 && ready[0] == 17);
            rt_device_stats stats;
            for (int index = 0; index < COUNT; index++) {
                rt_edge_drop(receivers[index]);
                rt_edge_drop(senders[index]);
            }
            ends.sender = ends.receiver = NULL;
            rt_device_get_stats(ends.core.far, &stats);
            CHECK(round == 0 || stats.region_bytes == before);
            before = stats.region_bytes;
        }
        edge_end(&ends);
    }
}

static void more_receives_than_a_qp_holds_are_refused_with_words(void)
{
    edge_ends ends;
    const edge_place place = {"sim", "sim", "&receive_depth=24", RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE};
    edge_begin(&ends, &place, 1);
    rt_edge_options options = bytes_of("x", &hundred);
    options.ordering = RT_EDGE_IMMEDIATE;
    options.slots = 9;
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    check_refused(&ends, &options, RT_E_BUSY, "take fewer slots");
    edge_end(&ends);
}

/* The sender of an edge, and a receiver that is told by words, have no receives: they give none back. */
static void an_edge_that_ends_gives_back_the_receives_that_it_had_and_no_others(void)
{
    edge_ends ends;
    const edge_place place = {"sim", "sim", "&receive_depth=40", RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE};
    edge_begin(&ends, &place, 1);
    rt_edge_options kept = bytes_of("kept", &hundred), gone = bytes_of("gone", &hundred), many = bytes_of("many", &hundred);
    kept.ordering = gone.ordering = many.ordering = RT_EDGE_IMMEDIATE;
    kept.slots = 9;
    edge_join(&ends, &place, &kept);
    rt_edge *sender = ends.sender, *receiver = ends.receiver;
    for (uint32_t turn = 0; turn < 3; turn++) {
        gone.slots = turn + 1;
        gone.ordering = turn == 1 ? 0 : RT_EDGE_IMMEDIATE;
        rt_device *to = turn == 2 ? ends.core.near : ends.core.far; /* the last goes the other way */
        rt_channel *through = turn == 2 ? ends.core.accepted : ends.core.channel;
        CHECK_INT(rt_edge_create(to, &gone, NULL, &ends.receiver, &ends.detail), RT_OK);
        CHECK_INT(rt_edge_open(through, &gone, RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
        CHECK_INT(edge_wait_open(&ends), RT_OK);
        CHECK_INT(ends.sender->wiring.mode, turn == 1 ? RT_EDGE_CHAINED : RT_EDGE_IMMEDIATE);
        rt_edge_close(ends.sender);
        rt_edge_close(ends.receiver);
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        while (!(rt_list_empty(&ends.sender->node) && rt_list_empty(&ends.receiver->node)) && rt_clock_now_ns() < end_ns) {
            rt_device_progress(ends.core.near);
            rt_device_progress(ends.core.far);
        }
        rt_edge_drop(ends.sender);
        rt_edge_drop(ends.receiver);
        ends.sender = ends.receiver = NULL;
    }
    many.slots = 40;
    CHECK_INT(rt_edge_create(ends.core.far, &many, NULL, &ends.receiver, &ends.detail), RT_OK);
    check_refused(&ends, &many, RT_E_BUSY, "need 49 receives");
    rt_edge_drop(sender);
    rt_edge_drop(receiver);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(ends_that_disagree_are_refused_and_the_edge_stays_free),
    CHECK_TEST(an_edge_that_is_made_later_is_found_by_who_waits),
    CHECK_TEST(tensors_sent_before_the_close_are_received_and_then_the_end),
    CHECK_TEST(a_receiver_that_closes_ends_the_sender),
    CHECK_TEST(a_channel_that_ends_ends_its_edges_but_not_what_has_arrived),
    CHECK_TEST(a_transfer_whose_link_the_peer_shut_first_ends_as_its_channel_did),
    CHECK_TEST(damage_raises_and_the_edge_goes_on),
    CHECK_TEST(damage_in_any_stripe_is_seen),
    CHECK_TEST(a_dynamic_tensor_keeps_its_region_until_the_release),
    CHECK_TEST(one_of_many_is_found_and_memory_comes_back),
    CHECK_TEST(more_receives_than_a_qp_holds_are_refused_with_words),
    CHECK_TEST(an_edge_that_ends_gives_back_the_receives_that_it_had_and_no_others),
};

CHECK_MAIN(tests)
