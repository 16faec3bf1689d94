/* test_edge_stage.c: static tensors that are copied through a ring of chunks, when a link has no operation for the next one; and the pure
 * part, proto/edge_chunks.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

static const uint64_t large = 1 << 20;

static void a_chunk_for_which_no_operation_is_free_is_counted_once_in_the_crc(void)
{
    uint32_t halves = 0;
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("staged");
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &large;
        options.staging = 1;
        options.verify = 1;
        edge_join(&ends, place, &options);
        for (uint64_t index = 0; index < large; index++)
            ends.core.here[index] = (uint8_t)(index * 7 + index / 4096);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, large);
        rt_edge_arrival arrival;
        rt_op *ops[RT_OPS_PER_LINK];
        pthread_mutex_lock(&ends.core.near->lock); /* the service does not go on with it */
        int64_t sequence = rt_edge_send_tensor(ends.sender, &tensor, 0);
        rt_turn_take(&ends.sender->turn);
        bool half = sequence > 0 && ends.sender->stage->chunks.sequence != 0 && ends.sender->stage->chunks.stripe == 0;
        uint32_t taken = half ? edge_take_operations(ends.sender->links[0], ops, 0) : 0;
        if (half)
            CHECK_INT(rt_edge_stage_run(ends.sender, INT64_MAX), RT_E_AGAIN);
        edge_give_operations(ends.sender->links[0], ops, taken);
        rt_turn_leave(&ends.sender->turn);
        pthread_mutex_unlock(&ends.core.near->lock);
        rt_service_kick(ends.core.near);
        halves += half;
        CHECK(sequence >= 0);
        int status = sequence == 0 ? RT_OK : RT_E_AGAIN, tries = 0;
        while (status == RT_E_AGAIN && ++tries < 2000)
            status = rt_edge_wait_sent(ends.sender, (uint64_t)sequence, RT_NS_PER_MS);
        CHECK_INT(status, RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK(memcmp((void *)(uintptr_t)arrival.address, ends.core.here, large) == 0);
        edge_end(&ends);
    }
    CHECK(halves > 0);
}

/* A stripe of 200 bytes in chunks of 64, as whatever places a ring has. */
static void chunks_cover_every_stripe_once_and_go_round_the_ring(void)
{
    rt_edge_layout layout;
    rt_edge_chunks chunks = {.sequence = 0};
    rt_edge_chunk chunk;
    rt_edge_sender tx;
    CHECK_INT(rt_edge_lay_out(1000, 2, 3, 64, false, &layout, NULL), RT_OK);
    rt_edge_sender_begin(&tx, 2, RT_EDGE_FLOW_CREDIT, true);
    rt_edge_sender_sent(&tx, 1);
    CHECK(!rt_edge_chunks_next(&chunks, &layout, 64, 4, &chunk));
    rt_edge_chunks_begin(&chunks, 1, 1000);
    uint64_t at = 0;
    uint32_t count = 0, lasts = 0;
    while (rt_edge_chunks_next(&chunks, &layout, 64, 4, &chunk)) {
        CHECK_INT(chunk.from, at);
        CHECK_INT(chunk.place, count % 4);
        CHECK(chunk.size <= 64 && chunk.first == (chunk.from == chunk.start));
        CHECK(chunk.last == (chunk.from + chunk.size == chunk.start + chunk.stripe_size));
        at += chunk.size;
        lasts += chunk.last;
        count++;
        rt_edge_chunks_posted(&chunks, &chunk);
    }
    CHECK_INT(at, 1000);
    CHECK_INT(lasts, 3);
    rt_edge_chunks_give_up(&chunks, &layout, &tx); /* too late: all of it is posted */
    CHECK_INT(chunks.given_up, 0);
    CHECK_INT(tx.sent, 1);
    CHECK_INT(chunks.sequence, 0);
}

static void a_tensor_that_is_given_up_half_way_counts_as_not_sent(void)
{
    rt_edge_layout layout;
    rt_edge_chunks chunks = {.sequence = 0};
    rt_edge_chunk chunk;
    rt_edge_sender tx;
    CHECK_INT(rt_edge_lay_out(1000, 2, 1, 64, false, &layout, NULL), RT_OK);
    rt_edge_sender_begin(&tx, 2, RT_EDGE_FLOW_CREDIT, true);
    rt_edge_sender_sent(&tx, 1);
    rt_edge_chunks_begin(&chunks, 1, 1000);
    CHECK(rt_edge_chunks_next(&chunks, &layout, 64, 4, &chunk));
    rt_edge_chunks_posted(&chunks, &chunk);
    rt_edge_chunks_give_up(&chunks, &layout, &tx);
    CHECK_INT(chunks.given_up, 1);
    CHECK_INT(tx.sent, 0);
    CHECK(!rt_edge_chunks_next(&chunks, &layout, 64, 4, &chunk));
}

static const check_test tests[] = {
    CHECK_TEST(a_chunk_for_which_no_operation_is_free_is_counted_once_in_the_crc),
    CHECK_TEST(chunks_cover_every_stripe_once_and_go_round_the_ring),
    CHECK_TEST(a_tensor_that_is_given_up_half_way_counts_as_not_sent),
};
CHECK_MAIN(tests)
