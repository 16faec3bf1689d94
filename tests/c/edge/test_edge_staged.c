/* test_edge_staged.c: tensors that are copied before they are sent: through which chunks and buffers, and how that is counted.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { LARGE = 5 << 20 };

static uint8_t outside[LARGE];

static rt_edge_stats stats_of(rt_edge *edge)
{
    rt_edge_stats stats;
    rt_edge_get_stats(edge, &stats);
    return stats;
}

static void drop_both(edge_ends *ends)
{
    rt_edge_drop(ends->sender);
    rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
}

/* ---- static edges: a ring of chunks ---- */

static const edge_place whole_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};
static const edge_place tail_place = {"sim, tail", "sim", "&orders_bytes=1", RT_EDGE_TAIL, RT_EDGE_TAIL};
static const edge_place loose_place = {"sim, unordered", "sim", "&orders_writes=0&receive_depth=4096", 0, RT_EDGE_IMMEDIATE};

static void chunks_are_whole_pieces_and_no_larger_than_the_tensor(void)
{
    static const struct {
        const edge_place *place;
        uint64_t size, chunk; /* pieces are of 4096 bytes */
    } cases[] = {
        {&whole_place, 100, 100},       {&whole_place, 262143, 262143}, {&whole_place, 262144, 262144},
        {&whole_place, 262145, 262144}, {&tail_place, 600001, 262144},  {&loose_place, 600001, 262144},
        {&loose_place, 5000, 5000},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_options options = edge_options("chunks");
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &cases[index].size;
        edge_begin(&ends, cases[index].place, 1);
        edge_join(&ends, cases[index].place, &options);
        CHECK(ends.sender->stage == NULL);
        core_fill(outside, cases[index].size, 3);
        rt_edge_tensor tensor = edge_bytes(outside, cases[index].size);
        for (uint64_t turn = 1; turn <= 2; turn++) {
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            memset(outside, 0, cases[index].size); /* it is the caller's again */
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            core_fill(outside, cases[index].size, 3);
            CHECK_BYTES((const void *)(uintptr_t)arrival.address, outside, cases[index].size);
            CHECK_INT(ends.sender->stage->chunk_size, cases[index].chunk);
            CHECK_INT(ends.sender->stage->chunks.count, (cases[index].size + cases[index].chunk - 1) / cases[index].chunk);
            CHECK_INT(stats_of(ends.sender).copies, turn);
            CHECK_INT(stats_of(ends.sender).copied_bytes, turn * cases[index].size);
            CHECK_INT(stats_of(ends.sender).registrations <= 1, 1);
        }
        edge_end(&ends);
    }
}

/* ---- dynamic edges: buffers that are used again ---- */

static void round_trip(edge_ends *ends, uint64_t size)
{
    rt_edge_arrival arrival;
    rt_edge_tensor tensor = edge_bytes(outside, size);
    core_fill(outside, size, (uint32_t)size % 100);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK_INT(edge_fetch(ends, arrival.sequence, ends->core.target, 0), RT_OK);
    CHECK_BYTES(ends->core.there, outside, size);
    int status, tries = 0;
    do
        status = rt_edge_wait_released(ends->sender, arrival.sequence, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_OK);
}

static uint32_t buffers_kept(const rt_edge *edge)
{
    uint32_t count = edge->spare.region != NULL;
    for (uint32_t slot = 0; slot < edge->tx.slots; slot++)
        count += edge->sent[slot].staging.region != NULL;
    return count;
}

static void a_buffer_of_a_released_tensor_takes_the_next_that_fits_well(void)
{
    const edge_place *places[] = {&edge_places[0], &whole_place};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_options options = edge_options("buffers");
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        options.slots = 2;
        edge_begin(&ends, places[at], 1);
        edge_join(&ends, places[at], &options);
        round_trip(&ends, 100000);
        CHECK_INT(buffers_kept(ends.sender), 1);
        uint8_t *first = ends.sender->sent[1].staging.address;
        round_trip(&ends, 100000);
        CHECK_INT(buffers_kept(ends.sender), 1);
        CHECK(ends.sender->sent[0].staging.address == first); /* the same, with the next sequence */
        round_trip(&ends, 25000);                             /* a quarter: it still fits */
        CHECK_INT(buffers_kept(ends.sender), 1);
        CHECK(ends.sender->sent[1].staging.address == first);
        round_trip(&ends, 24999); /* less: a smaller one is taken */
        CHECK_INT(buffers_kept(ends.sender), 2);
        CHECK(ends.sender->sent[0].staging.address != first);
        round_trip(&ends, 100001);
        CHECK(stats_of(ends.sender).copies >= 5);
        CHECK(stats_of(ends.sender).copied_bytes >= 100000 + 100000 + 25000 + 24999 + 100001);
        drop_both(&ends);
        edge_end(&ends);
    }
}

static void a_large_buffer_is_kept_for_the_next_large_tensor(void)
{
    edge_ends ends;
    rt_edge_options options = edge_options("large");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.slots = 1;
    edge_begin(&ends, &edge_places[0], 1);
    rt_region_drop(ends.core.target);
    ends.core.target = core_region(ends.core.far, LARGE, 0);
    ends.core.there = (uint8_t *)(uintptr_t)rt_region_address(ends.core.target);
    edge_join(&ends, &edge_places[0], &options);
    for (uint32_t turn = 0; turn < 4; turn++) {
        round_trip(&ends, LARGE - turn);
        CHECK_INT(stats_of(ends.sender).registrations, 1);
        CHECK_INT(stats_of(ends.sender).keys, 2);
    }
    round_trip(&ends, 100); /* does not take the large one's place for ever */
    round_trip(&ends, LARGE);
    CHECK(stats_of(ends.sender).copies >= 6); /* one whose slice ended while its region was announced is copied again */
    CHECK(stats_of(ends.sender).registrations <= 2);
    drop_both(&ends);
    edge_end(&ends);
}

/* Memory that peers may read is announced instead, once for each region, and keeps its region until the release. */
static void a_tensor_that_peers_may_read_is_not_copied(void)
{
    edge_ends ends;
    rt_edge_options options = edge_options("read");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = 512;
    edge_begin(&ends, &edge_places[0], 1);
    edge_join(&ends, &edge_places[0], &options);
    static const struct {
        uint32_t rights;
        uint64_t size;
        bool copied, announced;
    } cases[] = {{RT_RIGHT_REMOTE_READ, 513, false, true},
                 {RT_RIGHT_REMOTE_READ, 512, false, false},
                 {CORE_BOTH, 8192, false, true},
                 {RT_RIGHT_REMOTE_WRITE, 513, true, false},
                 {0, 513, true, false},
                 {RT_RIGHT_REMOTE_WRITE, 512, false, false}};
    rt_region *regions[6];
    for (size_t index = 0; index < 6; index++) {
        rt_edge_stats before = stats_of(ends.sender);
        uint32_t keys = ends.sender->key_numbers.count;
        regions[index] = core_region(ends.core.near, 8192, cases[index].rights);
        const uint8_t *bytes = (const uint8_t *)(uintptr_t)rt_region_address(regions[index]);
        for (uint32_t turn = 0; turn < 2; turn++) {
            rt_edge_arrival arrival;
            rt_edge_tensor tensor = edge_bytes(bytes, cases[index].size);
            CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(arrival.address != 0, cases[index].size <= 512);
            int closes = rt_region_close(regions[index], &ends.detail);
            CHECK_INT(closes == RT_E_BUSY, cases[index].announced);
            CHECK_INT(arrival.address != 0 ? rt_edge_release(ends.receiver, arrival.sequence)
                                           : edge_fetch(&ends, arrival.sequence, ends.core.target, 0),
                      RT_OK);
            if (closes == RT_OK)
                break; /* it was not needed any more */
        }
        rt_edge_stats after = stats_of(ends.sender);
        CHECK_INT(after.copies > before.copies, cases[index].copied);
        CHECK_INT(ends.sender->key_numbers.count - keys,
                  cases[index].announced); /* copies lie in a region that is known already */
        CHECK_INT(after.eager > before.eager, cases[index].size <= 512);
    }
    drop_both(&ends);
    for (size_t index = 0; index < 6; index++)
        rt_region_drop(regions[index]);
    edge_end(&ends);
}

static void nothing_is_copied_before_there_is_a_slot_for_it(void)
{
    edge_ends ends;
    rt_edge_options options = edge_options("slot");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.slots = 1;
    edge_begin(&ends, &edge_places[0], 1);
    edge_join(&ends, &edge_places[0], &options);
    rt_edge_tensor tensor = edge_bytes(outside, 100000);
    CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
    uint64_t copies = stats_of(ends.sender).copies;
    for (uint32_t turn = 0; turn < 3; turn++)
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 1000), RT_E_AGAIN);
    CHECK_INT(stats_of(ends.sender).copies, copies);
    CHECK_INT(stats_of(ends.sender).waits, 3);
    drop_both(&ends);
    edge_end(&ends);
}

static void a_tensor_that_finds_no_memory_to_be_copied_to_is_not_sent(void)
{
    const edge_place *places[] = {&edge_places[0], &whole_place};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_options options = edge_options("memory");
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        edge_begin(&ends, places[at], 1);
        edge_join(&ends, places[at], &options);
        rt_edge_tensor tensor = edge_bytes(outside, 1ull << 47); /* all that a process can address */
        int status = (int)rt_edge_send_tensor(ends.sender, &tensor, RT_SLICE_NS);
        CHECK(status == RT_E_NO_MEMORY || status == RT_E_MEMLOCK || status == RT_E_INVALID); /* or beyond the largest region */
        CHECK_INT(stats_of(ends.sender).copies, 0);
        CHECK_INT(stats_of(ends.sender).sequence, 0);
        tensor = edge_bytes(outside, 100); /* the edge goes on */
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, 1);
        drop_both(&ends);
        edge_end(&ends);
    }
}

/* The peer reads none of them any more. */
static void a_channel_that_ends_gives_every_tensor_back(void)
{
    enum { SENT = 3 };
    edge_ends ends;
    rt_region *regions[SENT];
    rt_edge_options options = edge_options("back");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.slots = SENT;
    edge_begin(&ends, &edge_places[0], 1);
    edge_join(&ends, &edge_places[0], &options);
    for (uint32_t index = 0; index < SENT; index++) {
        regions[index] = core_region(ends.core.near, 8192, RT_RIGHT_REMOTE_READ);
        rt_edge_tensor tensor = edge_bytes((const void *)(uintptr_t)rt_region_address(regions[index]), 8192);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        CHECK_INT(rt_region_close(regions[index], &ends.detail), RT_E_BUSY);
    }
    rt_channel_close(ends.core.accepted);
    int status, tries = 0;
    do
        status = rt_edge_wait_released(ends.sender, SENT, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_E_PEER_CLOSED);
    for (uint32_t index = 0; index < SENT; index++)
        CHECK_INT(rt_region_close(regions[index], &ends.detail), RT_OK);
    drop_both(&ends);
    for (uint32_t index = 0; index < SENT; index++)
        rt_region_drop(regions[index]);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(chunks_are_whole_pieces_and_no_larger_than_the_tensor),
    CHECK_TEST(a_buffer_of_a_released_tensor_takes_the_next_that_fits_well),
    CHECK_TEST(a_large_buffer_is_kept_for_the_next_large_tensor),
    CHECK_TEST(a_tensor_that_peers_may_read_is_not_copied),
    CHECK_TEST(nothing_is_copied_before_there_is_a_slot_for_it),
    CHECK_TEST(a_tensor_that_finds_no_memory_to_be_copied_to_is_not_sent),
    CHECK_TEST(a_channel_that_ends_gives_every_tensor_back),
};

CHECK_MAIN(tests)
