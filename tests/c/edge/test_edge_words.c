/* test_edge_words.c: what an edge says of itself: its state, its numbers, and why a call ended.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { SIZE = 100 };
static const uint64_t dims[] = {SIZE};
static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};

static rt_edge_options static_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

static void check_dump(rt_edge *edge, const char *wanted)
{
    char text[400];
    CHECK_INT(rt_edge_dump(edge, text, sizeof text), strlen(wanted));
    CHECK_STR(text, wanted);
}

static void a_dump_has_both_ends_with_their_numbers(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = static_edge("layer 0");
    edge_begin(&ends, &sim_place, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    check_dump(ends.receiver,
               "edge \"layer 0\" (static, not joined), receiving, open: received 0, expects 1, released 0, credited 0");
    CHECK_INT(rt_edge_open(ends.core.channel, &options, RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(edge_wait_open(&ends), RT_OK);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(rt_edge_release(ends.receiver, 2), RT_OK);
    check_dump(ends.sender, "edge \"layer 0\" (static, chained), sending, open: sent 2, released 0");
    check_dump(ends.receiver,
               "edge \"layer 0\" (static, chained), receiving, open: received 2, expects 3, released 0, credited 0");
    CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
    int tries = 0;
    while (rt_edge_wait_released(ends.sender, 2, RT_SLICE_NS) == RT_E_AGAIN && ++tries < 400)
        continue;
    check_dump(ends.sender, "edge \"layer 0\" (static, chained), sending, open: sent 2, released 2");
    check_dump(ends.receiver,
               "edge \"layer 0\" (static, chained), receiving, open: received 2, expects 3, released 2, credited 2");
    edge_end(&ends);
}

static void the_information_says_what_was_agreed(void)
{
    edge_ends ends;
    rt_edge_info info;
    rt_edge_options options = edge_options("agreed");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.slots = 3;
    options.eager_size = 65;
    options.alignment = 4096;
    options.verify = 1;
    edge_begin(&ends, &sim_place, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    rt_edge_get_info(ends.receiver, &info);
    CHECK_INT(info.slots, 3);
    CHECK_INT(info.slots_address, 0); /* they are of the memory of the channel that opens the edge */
    CHECK_INT(info.slot_stride + info.slot_size + info.number + info.stripes + info.mode + info.verify, 0); /* not known yet */
    options.verify = 0; /* one end's option is enough */
    CHECK_INT(rt_edge_open(ends.core.channel, &options, RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(edge_wait_open(&ends), RT_OK);
    for (uint32_t turn = 0; turn < 2; turn++) {
        rt_edge_get_info(turn == 0 ? ends.sender : ends.receiver, &info);
        CHECK_INT(info.slots_address != 0, turn);
        CHECK_INT(info.slots, 3);
        CHECK_INT(info.slot_stride, 4096);
        CHECK_INT(info.slot_size, 128 + RT_EDGE_RECORD_SIZE);
        CHECK_INT(info.eager_size, 128);
        CHECK(info.number > 0);
        CHECK_INT(info.number, ends.receiver->number);
        CHECK_INT(info.stripes, 1);
        CHECK_INT(info.mode, RT_EDGE_CHAINED);
        CHECK_INT(info.verify, 1);
        CHECK_INT(info.loop_check, 0);
        CHECK_INT(info.trusting, 0);
        CHECK_HAS(info.ordering, "chained: the provider places a later WRITE");
    }
    CHECK(rt_edge_slots_region(ends.sender) == NULL); /* it has memory of its own, but no slots */
    rt_region *slots = rt_edge_slots_region(ends.receiver);
    CHECK(slots == ends.receiver->slots.region && slots != NULL);
    rt_region_drop(slots);
    edge_end(&ends);
}

static void the_end_that_did_not_ask_says_that_the_other_did(void)
{
    for (uint32_t turn = 0; turn < 2; turn++) {
        edge_ends ends;
        rt_edge_info info;
        edge_begin(&ends, &sim_place, 1);
        rt_edge_options receiver = static_edge("asked"), sender = receiver;
        (turn == 0 ? &receiver : &sender)->ordering = RT_EDGE_TAIL;
        CHECK_INT(rt_edge_create(ends.core.far, &receiver, NULL, &ends.receiver, &ends.detail), RT_OK);
        int status = rt_edge_open(ends.core.channel, &sender, 0, &ends.sender, &ends.detail);
        if (status == RT_OK)
            status = edge_wait_open(&ends);
        if (status == RT_E_UNSUPPORTED) { /* the other end cannot promise it */
            CHECK_HAS(ends.detail.text, "no ordering that both ends may use");
        } else {
            CHECK_INT(status, RT_OK);
            rt_edge_get_info(turn == 0 ? ends.sender : ends.receiver, &info);
            CHECK_STR(info.ordering, "tail: the other end asked for it");
        }
        edge_end(&ends);
    }
    edge_ends ends;
    rt_edge_info info;
    edge_begin(&ends, &sim_place, 1);
    rt_edge_options receiver = static_edge("asked"), sender = receiver;
    receiver.ordering = RT_EDGE_IMMEDIATE;
    CHECK_INT(rt_edge_create(ends.core.far, &receiver, NULL, &ends.receiver, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_open(ends.core.channel, &sender, 0, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(edge_wait_open(&ends), RT_OK);
    rt_edge_get_info(ends.sender, &info);
    CHECK_STR(info.ordering, "immediate: the other end asked for it");
    rt_edge_get_info(ends.receiver, &info);
    CHECK_HAS(info.ordering, "immediate: ");
    CHECK(strstr(info.ordering, "the other end") == NULL);
    char text[256];
    CHECK_INT(rt_channel_ordering(ends.core.channel, text, sizeof text), RT_OK);
    CHECK_HAS(text, "chained: the provider places a later WRITE");
    edge_end(&ends);
}

/* The text of a status of which nothing else is known. */
static void check_words(edge_ends *ends, rt_edge *edge, int status, const char *words)
{
    CHECK_INT(rt_edge_explain(edge, status, &ends->detail), status);
    CHECK_INT(ends->detail.status, status);
    CHECK_HAS(ends->detail.text, words);
}

static void every_status_is_explained_for_the_end_that_met_it(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("words");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_OK);
    CHECK_STR(ends.detail.text, "");
    check_words(&ends, ends.sender, RT_E_BUSY, "the edge \"words\" is not open yet: wait for it");
    check_words(&ends, ends.receiver, RT_E_BUSY, "all slots of edge \"words\" are held: release a tensor, or make the edge with");
    check_words(&ends, ends.sender, RT_E_PEER_CLOSED, "the peer closed the edge \"words\"");
    check_words(&ends, ends.sender, RT_E_INVALID, "this is not a tensor of it that is held here");
    check_words(&ends, ends.receiver, RT_E_UNSUPPORTED, "sim cannot map the peer's memory (limits.maps_remote)");
    check_words(&ends, ends.receiver, RT_E_BOUNDS, "edge \"words\": bounds");
    check_words(&ends, ends.receiver, RT_E_CLOSED, "edge \"words\": closed");
    rt_edge_close(ends.sender);
    check_words(&ends, ends.sender, RT_E_CLOSED, "the edge \"words\" was closed on this side");
    CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_CLOSED);
    rt_edge_arrival arrival;
    CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_E_PEER_CLOSED);
    CHECK_HAS(ends.detail.text, "the sender closed the edge after tensor 0");
    edge_end(&ends);
}

static void an_edge_that_is_not_open_yet_explains_itself(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("early");
    edge_begin(&ends, &sim_place, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    check_words(&ends, ends.receiver, RT_E_BUSY, "all slots of edge \"early\" are held");
    check_words(&ends, ends.receiver, RT_E_PEER_CLOSED, "the peer closed the edge \"early\"");
    check_words(&ends, ends.receiver, RT_E_CLOSED, "edge \"early\": closed");
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_OK);
    CHECK(rt_edge_slots_region(ends.receiver) == NULL);
    rt_edge_close(ends.receiver);
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_E_CLOSED);
    CHECK_HAS(ends.detail.text, "the edge \"early\" was closed on this side");
    edge_end(&ends);
}

static void a_channel_that_ended_explains_its_edges(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = static_edge("over");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    CHECK_INT(rt_edge_ready(ends.receiver), 0);
    rt_channel_close(ends.core.channel);
    for (int tries = 0; rt_edge_ready(ends.receiver) == 0 && tries < 400; tries++)
        rt_device_progress(ends.core.far);
    CHECK_INT(rt_edge_ready(ends.receiver), 1); /* the end would be told at once */
    CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
    CHECK_HAS(ends.detail.text, "the peer closed the channel: \"closed by its owner\"");
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_E_PEER_CLOSED);
    CHECK_HAS(ends.detail.text, "the peer closed the channel");
    check_words(&ends, ends.receiver, RT_E_CORRUPT, "edge \"over\": corrupt"); /* that is the tensor's, not the channel's */
    check_words(&ends, ends.receiver, RT_E_INVALID, "this is not a tensor of it");
    CHECK(rt_edge_slots_region(ends.sender) == NULL);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_dump_has_both_ends_with_their_numbers),          CHECK_TEST(the_information_says_what_was_agreed),
    CHECK_TEST(the_end_that_did_not_ask_says_that_the_other_did), CHECK_TEST(every_status_is_explained_for_the_end_that_met_it),
    CHECK_TEST(an_edge_that_is_not_open_yet_explains_itself),     CHECK_TEST(a_channel_that_ended_explains_its_edges),
};

CHECK_MAIN(tests)
