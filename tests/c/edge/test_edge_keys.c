/* test_edge_keys.c: tensors of a dynamic edge that come from more regions than it has numbers for;
 * regions that close meanwhile; misuse of numbers by a peer.
 *
 * Needs the whole library. */
#include "edge_ends.h"

enum { REGIONS = RT_EDGE_KEYS_MAX + 16, SIZE = 100 };

static void join_dynamic(edge_ends *ends, const edge_place *place, uint32_t slots)
{
    edge_begin(ends, place, 2);
    rt_edge_options options = edge_options("keys");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.slots = slots;
    edge_join(ends, place, &options);
}

/* Sends what a region holds, from where it lies, and fetches it. */
static void check_one(edge_ends *ends, rt_region *region, uint8_t byte)
{
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
    memset(bytes, byte, SIZE);
    rt_edge_tensor tensor = edge_bytes(bytes, SIZE);
    rt_edge_arrival arrival;
    rt_edge_stats before, after;
    rt_edge_get_stats(ends->sender, &before);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK_INT(edge_fetch(ends, arrival.sequence, ends->core.target, 0), RT_OK);
    CHECK_INT(ends->core.there[0], byte);
    CHECK_INT(ends->core.there[SIZE - 1], byte);
    rt_edge_get_stats(ends->sender, &after);
    CHECK_INT(after.copies, before.copies);
}

static void check_obstacle(edge_ends *ends, int64_t sent, const char *reason)
{
    CHECK_INT(sent, RT_E_AGAIN);
    CHECK_INT(rt_edge_explain(ends->sender, RT_E_AGAIN, &ends->detail), RT_E_AGAIN);
    CHECK(strstr(ends->detail.text, reason) != NULL);
}

static void tensors_come_from_more_regions_than_there_are_keys(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_region *regions[REGIONS];
        join_dynamic(&ends, place, 2);
        for (uint32_t index = 0; index < REGIONS; index++)
            regions[index] = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
        for (uint32_t round = 0; round < 2; round++) {
            for (uint32_t index = 0; index < REGIONS; index++)
                check_one(&ends, regions[index], (uint8_t)(index + 100 * round));
        }
        edge_end(&ends);
        for (uint32_t index = 0; index < REGIONS; index++)
            rt_region_drop(regions[index]);
    }
}

static void a_key_of_a_region_that_closed_is_used_again(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_stats stats;
        join_dynamic(&ends, place, 2);
        for (uint32_t index = 0; index < REGIONS; index++) {
            rt_region *region = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
            check_one(&ends, region, (uint8_t)index);
            int status, tries = 0; /* until the credit is here */
            do
                status = rt_edge_wait_released(ends.sender, index + 1, RT_NS_PER_MS);
            while (status == RT_E_AGAIN && ++tries < 2000);
            CHECK_INT(status, RT_OK);
            CHECK_INT(rt_region_close(region, &ends.detail), RT_OK);
            rt_region_drop(region);
        }
        rt_edge_get_stats(ends.receiver, &stats);
        CHECK_INT(stats.keys, 2); /* the edge's own and one more */
        edge_end(&ends);
    }
}

static void a_key_is_waited_for_while_all_are_named_by_tensors_that_are_not_released(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_region *regions[RT_EDGE_KEYS_MAX];
        rt_edge_arrival arrivals[RT_EDGE_KEYS_MAX];
        if (place->mode == RT_EDGE_IMMEDIATE)
            continue; /* no receive side holds so many slots */
        join_dynamic(&ends, place, RT_EDGE_SLOTS_MAX);
        for (uint32_t index = 0; index < RT_EDGE_KEYS_MAX; index++) {
            regions[index] = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
            rt_edge_tensor tensor = edge_bytes((void *)(uintptr_t)rt_region_address(regions[index]), SIZE);
            memset((void *)(uintptr_t)rt_region_address(regions[index]), (int)index, SIZE);
            if (index == RT_EDGE_KEYS_MAX - 1) { /* one number is the edge's own */
                check_obstacle(&ends, rt_edge_send_tensor(ends.sender, &tensor, RT_NS_PER_MS), "every region");
                CHECK_INT(edge_fetch(&ends, arrivals[0].sequence, ends.core.target, 0), RT_OK);
            }
            CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrivals[index]), RT_OK);
        }
        for (uint32_t index = 1; index < RT_EDGE_KEYS_MAX; index++) {
            CHECK_INT(edge_fetch(&ends, arrivals[index].sequence, ends.core.target, 0), RT_OK);
            CHECK_INT(ends.core.there[0], index);
        }
        edge_end(&ends);
        for (uint32_t index = 0; index < RT_EDGE_KEYS_MAX; index++)
            rt_region_drop(regions[index]);
    }
}

/* A tensor whose region is asked for, which the receiver refuses; its sender has gone on to something else meanwhile. */
static void refuse_region(edge_ends *ends, const rt_edge_tensor *tensor)
{
    rt_edge *sender = ends->sender;
    rt_edge_ask_state state = RT_ASK_NEW;
    memset(ends->core.there, 0, sizeof(uint64_t)); /* a word that nobody writes meanwhile */
    (pthread_mutex_lock)(&ends->core.far->lock);   /* nobody answers meanwhile */
    int64_t sent = rt_edge_send_tensor(sender, tensor, 0);
    (pthread_mutex_unlock)(&ends->core.far->lock);
    check_obstacle(ends, sent, "has not answered");
    for (int tries = 0; state != RT_ASK_DONE && tries < 4000; tries++) {
        (void)rt_channel_wait_word(ends->core.accepted, ends->core.target, 0, 1, RT_NS_PER_MS);
        (pthread_mutex_lock)(&ends->core.near->lock);
        state = sender->ask.state;
        if (state == RT_ASK_DONE) {
            sender->ask.answer.kind = RT_EDGE_EDGE_REFUSED;
            sender->ask.answer.refusal = RT_EDGE_REFUSED_MEMORY;
        }
        (pthread_mutex_unlock)(&ends->core.near->lock);
    }
    CHECK_INT(state, RT_ASK_DONE);
}

static void a_region_that_is_refused_does_not_fail_a_send_from_another_one(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_region *regions[2];
        rt_edge_tensor tensors[2];
        join_dynamic(&ends, place, 2);
        for (uint32_t index = 0; index < 2; index++) {
            regions[index] = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
            tensors[index] = edge_bytes((void *)(uintptr_t)rt_region_address(regions[index]), SIZE);
            memset((void *)(uintptr_t)rt_region_address(regions[index]), 7 + (int)index, SIZE);
        }
        refuse_region(&ends, &tensors[0]);
        CHECK_INT(edge_send(&ends, &tensors[1], false), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_OK);
        CHECK_INT(ends.core.there[0], 8);
        refuse_region(&ends, &tensors[0]);
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensors[0], CORE_PATIENCE_NS), RT_E_NO_MEMORY);
        CHECK_INT(rt_edge_explain(ends.sender, RT_E_NO_MEMORY, &ends.detail), RT_E_NO_MEMORY);
        CHECK_HAS(ends.detail.text, "the receiver did not take another region of tensors");
        CHECK_INT(edge_send(&ends, &tensors[0], false), RT_OK); /* it was asked for again */
        edge_end(&ends);
        rt_region_drop(regions[0]);
        rt_region_drop(regions[1]);
    }
}

static void a_send_that_waits_for_a_key_ends_with_its_edge(void)
{
    edge_ends ends;
    rt_region *regions[RT_EDGE_KEYS_MAX];
    rt_edge_arrival arrival;
    join_dynamic(&ends, &edge_places[2], RT_EDGE_SLOTS_MAX);
    for (uint32_t index = 0; index < RT_EDGE_KEYS_MAX; index++) {
        regions[index] = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
        rt_edge_tensor tensor = edge_bytes((void *)(uintptr_t)rt_region_address(regions[index]), SIZE);
        if (index < RT_EDGE_KEYS_MAX - 1) {
            CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            continue;
        }
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, RT_NS_PER_MS), RT_E_AGAIN);
        rt_edge_close(ends.receiver);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_E_PEER_CLOSED);
    }
    edge_end(&ends);
    for (uint32_t index = 0; index < RT_EDGE_KEYS_MAX; index++)
        rt_region_drop(regions[index]);
}

static void a_number_is_given_to_the_receiver_in_order_and_never_while_it_is_needed(void)
{
    rt_edge_keys keys;
    rt_edge_keys_begin(&keys, 3);
    CHECK(!rt_edge_keys_may_add(&keys, 0, false)); /* the edge's own */
    CHECK(!rt_edge_keys_may_add(&keys, 2, false));
    CHECK(rt_edge_keys_may_add(&keys, 1, false));
    rt_edge_keys_added(&keys, 1, 0);
    CHECK(rt_edge_keys_may_add(&keys, 1, false));
    CHECK(!rt_edge_keys_may_add(&keys, 1, true));
    rt_edge_keys_added(&keys, 2, 0);
    CHECK(!rt_edge_keys_may_add(&keys, 3, false)); /* there are three */
    CHECK_INT(keys.count, 3);
}

static void a_number_is_chosen_by_what_was_released(void)
{
    rt_edge_keys keys;
    rt_edge_sender tx;
    uint32_t key = 0;
    rt_edge_sender_begin(&tx, 4, RT_EDGE_FLOW_CREDIT, true);
    rt_edge_keys_begin(&keys, 3);
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 0, &key), RT_OK);
    CHECK_INT(key, 1);
    for (uint64_t sequence = 1; sequence <= 2; sequence++) {
        rt_edge_keys_added(&keys, (uint32_t)sequence, tx.released);
        rt_edge_keys_used(&keys, (uint32_t)sequence, sequence);
        rt_edge_sender_sent(&tx, sequence);
    }
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 0x7, &key), RT_E_AGAIN);
    CHECK_INT(rt_edge_sender_credit(&tx, 2, NULL), RT_OK);
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 0, &key), RT_OK);
    CHECK_INT(key, 1); /* used longest ago */
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 1u << 2, &key), RT_OK);
    CHECK_INT(key, 2); /* what it stood for has ended */
    rt_edge_keys_added(&keys, 1, tx.released);
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 0, &key), RT_OK);
    CHECK_INT(key, 1);
    rt_edge_keys_used(&keys, 1, 3);
    rt_edge_sender_sent(&tx, 3);
    CHECK_INT(rt_edge_keys_choose(&keys, &tx, 0, &key), RT_OK);
    CHECK_INT(key, 2);
}

/* Also while there is credit, which a static edge would not look for. */
static void a_send_lets_go_of_the_regions_of_tensors_that_were_released(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_region *regions[2];
        join_dynamic(&ends, place, 4);
        for (uint32_t index = 0; index < 2; index++) {
            regions[index] = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
            rt_edge_tensor tensor = edge_bytes((void *)(uintptr_t)rt_region_address(regions[index]), SIZE);
            CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
            CHECK_INT(atomic_load(&regions[index]->operations), 1);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_OK);
            const uint64_t *credit = (const uint64_t *)(const void *)ends.sender->credit_line.address;
            for (int tries = 0; tries < 4000 && rt_load_acquire_u64(credit) <= index; tries++)
                (void)rt_channel_wait_word(ends.core.accepted, ends.core.target, 2048, 1, RT_NS_PER_MS);
            CHECK_INT(rt_load_acquire_u64(credit), index + 1);
        }
        CHECK_INT(atomic_load(&regions[0]->operations), 0);
        CHECK_INT(atomic_load(&regions[1]->operations), 1);
        edge_end(&ends);
        rt_region_drop(regions[0]);
        rt_region_drop(regions[1]);
    }
}

static const check_test tests[] = {
    CHECK_TEST(tensors_come_from_more_regions_than_there_are_keys),
    CHECK_TEST(a_key_of_a_region_that_closed_is_used_again),
    CHECK_TEST(a_key_is_waited_for_while_all_are_named_by_tensors_that_are_not_released),
    CHECK_TEST(a_region_that_is_refused_does_not_fail_a_send_from_another_one),
    CHECK_TEST(a_send_that_waits_for_a_key_ends_with_its_edge),
    CHECK_TEST(a_send_lets_go_of_the_regions_of_tensors_that_were_released),
    CHECK_TEST(a_number_is_given_to_the_receiver_in_order_and_never_while_it_is_needed),
    CHECK_TEST(a_number_is_chosen_by_what_was_released),
};
CHECK_MAIN(tests)
