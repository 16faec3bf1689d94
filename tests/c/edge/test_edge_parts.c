/* test_edge_parts.c: the memory that edges share, and the operations that their tensors take.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};
static const edge_place *const shm_place = &edge_places[0];

/* ---- memory ---- */

static rt_pool_block take_memory(edge_ends *ends, rt_pool_use use, uint64_t size, uint64_t alignment, bool *registered_out)
{
    static const uint32_t rights[] =
        {[RT_POOL_LOCAL] = 0, [RT_POOL_WRITTEN] = RT_RIGHT_REMOTE_WRITE, [RT_POOL_READ] = RT_RIGHT_REMOTE_READ};
    rt_pool_block memory = {.size = 0};
    rt_detail detail;
    *registered_out = false;
    CHECK_INT(rt_pool_take(ends->core.near, &ends->core.channel->pools, use, size, alignment, &memory, registered_out, &detail),
              RT_OK);
    CHECK(memory.region != NULL && memory.size == size && !memory.bound);
    CHECK_INT(memory.region->rights, rights[use]);
    CHECK(memory.pooled == (memory.own ? NULL : ends->core.near));
    CHECK_INT((uint64_t)(uintptr_t)memory.address % alignment, 0);
    CHECK(memory.address == memory.region->address + memory.offset && memory.offset + size <= memory.region->size);
    for (uint64_t at = 0; at < size; at++)
        CHECK_INT(memory.address[at], 0);
    memset(memory.address, 0xee, size);
    return memory;
}

static void small_blocks_share_a_region_for_each_use(void)
{
    edge_ends ends;
    bool registered;
    edge_begin(&ends, shm_place, 1);
    rt_pool_block first = take_memory(&ends, RT_POOL_WRITTEN, 100, 64, &registered);
    CHECK(registered && !first.own);
    CHECK_INT(first.region->size, 64 << 10);
    rt_pool_block second = take_memory(&ends, RT_POOL_WRITTEN, 5000, 4096, &registered);
    CHECK(!registered && second.region == first.region && !second.own);
    CHECK(second.offset >= first.offset + 100 || first.offset >= second.offset + 5000);
    rt_pool_block read = take_memory(&ends, RT_POOL_READ, 100, 64, &registered);
    CHECK(registered && read.region != first.region);
    rt_pool_block local = take_memory(&ends, RT_POOL_LOCAL, 100, 64, &registered);
    CHECK(registered && local.region != first.region && local.region != read.region);
    CHECK_INT(local.region->size, 256 << 10);
    uint64_t offset = second.offset;
    rt_pool_give(&second);
    CHECK(second.region == NULL);
    rt_pool_give(&second);                                                 /* there is none: nothing */
    second = take_memory(&ends, RT_POOL_WRITTEN, 5000, 4096, &registered); /* zeroed again */
    CHECK(!registered && second.region == first.region);
    CHECK_INT(second.offset, offset);
    rt_pool_block third = take_memory(&ends, RT_POOL_WRITTEN, 64 << 10, 64, &registered); /* the next is twice as large */
    CHECK(registered && !third.own && third.region != first.region);
    CHECK_INT(third.region->size, 128 << 10);
    rt_pool_block large = take_memory(&ends, RT_POOL_WRITTEN, 1 << 20, 64, &registered); /* … or as large as it must be */
    CHECK(registered && !large.own && large.region != third.region);
    CHECK(large.region->size >= (1 << 20) + 64 && large.region->size < 2 << 20);
    rt_pool_give(&first);
    rt_pool_give(&second);
    rt_pool_give(&read);
    rt_pool_give(&local);
    rt_pool_give(&third);
    rt_pool_give(&large);
    edge_end(&ends);
}

static void a_large_block_has_a_region_of_its_own_that_ends_with_it(void)
{
    edge_ends ends;
    bool registered;
    edge_begin(&ends, shm_place, 1);
    for (uint64_t size = (4 << 20) - 4096; size <= 4 << 20; size += 4096) {
        for (uint64_t alignment = 64; alignment <= 2 << 20; alignment *= alignment == 4096 ? 512 : 64) {
            rt_pool_block memory = take_memory(&ends, RT_POOL_READ, size, alignment, &registered);
            CHECK_INT(memory.own, size >= 4 << 20);
            CHECK_INT(memory.region->size, memory.own ? size + (alignment > 4096 ? alignment : 0) : memory.region->size);
            CHECK(registered || !memory.own);
            rt_region *region = memory.region;
            rt_region_reference(region);
            rt_pool_give(&memory);
            CHECK_INT(region->device == NULL, size >= 4 << 20);
            rt_region_unreference(region);
        }
    }
    edge_end(&ends);
}

static void a_region_of_the_callers_gives_what_it_has_and_stays_open(void)
{
    edge_ends ends;
    rt_pool_block memory = {.size = 0}, more = {.size = 0};
    edge_begin(&ends, shm_place, 1);
    rt_region *region = core_region(ends.core.near, 16384, RT_RIGHT_REMOTE_WRITE);
    memset((void *)(uintptr_t)rt_region_address(region), 0xee, 16384);
    CHECK_INT(rt_pool_take_from(region, 8192, 64, &memory, &ends.detail), RT_OK);
    CHECK(memory.bound && !memory.own && memory.region == region);
    CHECK_INT(memory.address[8191], 0);
    CHECK_INT(rt_pool_take_from(region, 16384, 64, &more, &ends.detail), RT_E_NO_MEMORY);
    CHECK_HAS(ends.detail.text, "no room for slots of 16384 bytes in the region given: its largest free range has 8192");
    CHECK(more.region == NULL);
    CHECK_INT(atomic_load(&region->bound), 1);
    CHECK_INT(rt_region_close(region, &ends.detail), RT_E_BUSY);
    rt_pool_give(&memory);
    CHECK_INT(atomic_load(&region->bound), 0);
    CHECK_INT(rt_region_close(region, &ends.detail), RT_OK);
    CHECK_INT(rt_pool_take_from(region, 64, 64, &memory, &ends.detail), RT_E_CLOSED);
    CHECK_INT(atomic_load(&region->bound), 0);
    rt_region_drop(region);
    edge_end(&ends);
}

/* ---- operations ---- */

static uint32_t free_operations(rt_link *link)
{
    uint32_t count = 0;
    rt_turn_take(&link->turn);
    for (rt_list *node = link->free_ops.next; node != &link->free_ops; node = node->next)
        count++;
    rt_turn_leave(&link->turn);
    return count;
}

static void operations_are_taken_on_all_links_or_on_none(void)
{
    enum { MOST = 4096 };
    static rt_op *taken[MOST];
    edge_ends ends;
    rt_op *ops[3];
    edge_begin(&ends, &sim_place, 3);
    rt_link *links[3] = {&ends.core.channel->links[0], &ends.core.channel->links[1], &ends.core.channel->links[2]};
    uint32_t count = 0, before[3];
    for (uint32_t index = 0; index < 3; index++)
        before[index] = free_operations(links[index]);
    CHECK_INT(rt_edge_reserve(links, 3, ops), RT_OK);
    CHECK(rt_edge_may_post(links, 3));
    for (uint32_t index = 0; index < 3; index++) {
        CHECK(ops[index] != NULL && ops[index]->unwatched);
        CHECK(free_operations(links[index]) == before[index] - 1 || before[index] == 0);
        rt_turn_take(&links[index]->turn);
        rt_op_give(links[index], ops[index]);
        rt_turn_leave(&links[index]->turn);
        before[index] = free_operations(links[index]);
    }
    rt_turn_take(&links[2]->turn);
    while (count < MOST && (taken[count] = rt_op_take(links[2])) != NULL)
        count++;
    rt_turn_leave(&links[2]->turn);
    CHECK(count > 0 && count < MOST);
    CHECK(!rt_edge_may_post(links, 3));
    CHECK(rt_edge_may_post(links, 2));
    CHECK_INT(rt_edge_reserve(links, 3, ops), RT_E_BUSY);
    CHECK_INT(rt_edge_reserve(links + 2, 1, ops), RT_E_BUSY);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(free_operations(links[index]), before[index]); /* nothing was kept */
    rt_turn_take(&links[2]->turn);
    while (count > 0)
        rt_op_give(links[2], taken[--count]);
    rt_turn_leave(&links[2]->turn);
    CHECK_INT(rt_edge_reserve(links, 3, ops), RT_OK);
    for (uint32_t index = 0; index < 3; index++) {
        rt_turn_take(&links[index]->turn);
        rt_op_give(links[index], ops[index]);
        rt_turn_leave(&links[index]->turn);
    }
    edge_end(&ends);
}

static void an_operation_that_a_shut_link_refuses_is_given_back(void)
{
    edge_ends ends;
    rt_op *op;
    int64_t number = 0;
    edge_begin(&ends, &sim_place, 1);
    rt_link *link = &ends.core.channel->links[0];
    rt_piece piece = core_piece(&ends.core, RT_WRITE, 0, 0, 8);
    rt_channel_close(ends.core.channel);
    uint32_t before = free_operations(link);
    CHECK_INT(rt_edge_reserve(&link, 1, &op), RT_OK);
    CHECK_INT(free_operations(link), before - 1);
    CHECK_INT(rt_edge_post_reserved(link, op, &piece, 1, INT64_MAX, &number), RT_E_CLOSED);
    CHECK_INT(free_operations(link), before);
    CHECK_INT(rt_edge_post(link, &piece, 1, INT64_MAX, &number), RT_E_CLOSED);
    CHECK_INT(free_operations(link), before);
    CHECK_INT(number, 0);
    edge_end(&ends);
}

static void copies_held_for_one_doorbell_all_go_with_it(void)
{
    enum { COUNT = 10, SIZE = 64 };
    edge_ends ends;
    rt_edge_together together = {.count = 0};
    int64_t numbers[COUNT];
    rt_piece pieces[COUNT];
    edge_begin(&ends, &sim_place, 2);
    core_fill(ends.core.here, COUNT * SIZE, 4);
    for (uint32_t index = 0; index < COUNT; index++) {
        pieces[index] = core_piece(&ends.core, RT_WRITE, index * SIZE, index * SIZE, SIZE);
        rt_link *link = &ends.core.channel->links[index < COUNT / 2 ? 0 : 1];
        CHECK_INT(rt_edge_together_add(&together, link, &pieces[index], 1, &numbers[index]), RT_OK);
        CHECK_INT(together.count, index % (COUNT / 2) + 1); /* another link's go before */
        CHECK_INT(together.copies, together.count);
        CHECK(together.link == link && numbers[index] > 0);
    }
    rt_edge_together_flush(&together);
    CHECK_INT(together.count + together.copies, 0);
    rt_edge_together_flush(&together); /* nothing */
    CHECK_INT(core_until_quiet(&ends.core), RT_OK);
    CHECK_BYTES(ends.core.there, ends.core.here, COUNT * SIZE);
    CHECK_INT(rt_edge_collect(ends.core.channel, numbers, COUNT), RT_OK);
    for (uint32_t index = 0; index < COUNT; index++)
        CHECK_INT(numbers[index], 0);
    CHECK(!rt_edge_pending(ends.core.channel, numbers, COUNT));
    edge_end(&ends);
}

static void more_than_a_batch_is_posted_in_between(void)
{
    enum { SIZE = 8 };
    edge_ends ends;
    rt_edge_together together = {.count = 0};
    static rt_piece pieces[2 * RT_POST_BATCH];
    int64_t numbers[3] = {0};
    edge_begin(&ends, shm_place, 1);
    rt_link *link = &ends.core.channel->links[0];
    core_fill(ends.core.here, sizeof pieces / sizeof pieces[0] * SIZE, 4);
    for (uint32_t index = 0; index < 2 * RT_POST_BATCH; index++)
        pieces[index] = core_piece(&ends.core, RT_WRITE, index * SIZE, index * SIZE, SIZE);
    CHECK_INT(rt_edge_together_add(&together, link, pieces, RT_POST_BATCH - 1, &numbers[0]), RT_OK);
    CHECK_INT(rt_edge_together_add(&together, link, pieces + RT_POST_BATCH - 1, 1, &numbers[1]), RT_OK);
    CHECK_INT(together.copies, RT_POST_BATCH); /* as many as a batch has */
    CHECK_INT(together.count, 2);
    CHECK_INT(rt_edge_together_add(&together, link, pieces + RT_POST_BATCH, 1, &numbers[2]), RT_OK);
    CHECK_INT(together.copies, 1);
    CHECK_INT(together.count, 1);
    rt_edge_together_flush(&together);
    CHECK_INT(core_until_quiet(&ends.core), RT_OK);
    CHECK_BYTES(ends.core.there, ends.core.here, (RT_POST_BATCH + 1) * SIZE);
    CHECK_INT(rt_edge_collect(ends.core.channel, numbers, 3), RT_OK);
    edge_end(&ends);
}

static void a_question_to_a_sender_ends_as_its_tensor_did(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    const uint64_t size = 100;
    rt_edge_options options = edge_options("asked");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = &size;
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, size);
    CHECK_INT(rt_edge_wait_sent(ends.sender, 0, 0), RT_OK); /* of no tensor: at once */
    CHECK_INT(rt_edge_wait_released(ends.sender, 0, 0), RT_OK);
    CHECK_INT(rt_edge_wait_sent(ends.receiver, 1, 0), RT_E_INVALID);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    CHECK_INT(rt_edge_wait_sent(ends.sender, 1, 0), RT_OK);
    CHECK_INT(rt_edge_wait_sent(ends.sender, 2, 0), RT_OK);
    CHECK_INT(rt_edge_wait_released(ends.sender, 1, 1000), RT_E_AGAIN);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
    int status, tries = 0;
    do
        status = rt_edge_wait_released(ends.sender, 1, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_OK);
    CHECK_INT(rt_edge_wait_released(ends.sender, 2, 1000), RT_E_AGAIN);
    rt_edge_close(ends.receiver);
    do
        status = rt_edge_wait_released(ends.sender, 2, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_E_PEER_CLOSED);
    CHECK_INT(rt_edge_wait_sent(ends.sender, 2, 0), RT_OK); /* it was written, all the same */
    CHECK_INT(rt_edge_wait_released(ends.sender, 1, 0), RT_OK);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(small_blocks_share_a_region_for_each_use),
    CHECK_TEST(a_large_block_has_a_region_of_its_own_that_ends_with_it),
    CHECK_TEST(a_region_of_the_callers_gives_what_it_has_and_stays_open),
    CHECK_TEST(operations_are_taken_on_all_links_or_on_none),
    CHECK_TEST(an_operation_that_a_shut_link_refuses_is_given_back),
    CHECK_TEST(copies_held_for_one_doorbell_all_go_with_it),
    CHECK_TEST(more_than_a_batch_is_posted_in_between),
    CHECK_TEST(a_question_to_a_sender_ends_as_its_tensor_did),
};

CHECK_MAIN(tests)
