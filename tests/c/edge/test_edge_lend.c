/* test_edge_lend.c: loans: a caller writes a tensor in the place that the edge lends, and it arrives as it was written, over every
 * provider and way of carrying a flag (EDGES.md section 13). Their tickets and ends: test_edge_loan.c; the protocol: tests/model/lend.c.
 *
 * Needs the whole library. */
#include "lend_ends.h"
#include "proto/dtype.h"

enum { ROUNDS = 7 };

/* ---- what arrives ---- */

/* Every third tensor is sent as it always is, from a region; the others are written in loans. */
static void check_static(edge_ends *ends, const edge_place *place, const rt_edge_options *options, uint64_t size, bool in_place)
{
    uint64_t lent = 0, from_region = 0;
    edge_join(ends, place, options);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        uint8_t *written, *bytes = ends->core.here + 64;
        core_fill(bytes, size, round);
        if (round % 3 == 0) {
            rt_edge_tensor tensor = edge_bytes(bytes, size);
            CHECK_INT(edge_send(ends, &tensor, true), RT_OK);
            from_region++;
        } else {
            int64_t ticket = lend(ends, NULL, &written);
            CHECK(ticket > 0 && written != NULL);
            CHECK(size == 0 || (uintptr_t)written % RT_EDGE_LINE_SIZE == 0);
            memcpy(written, bytes, size);
            if (in_place)
                CHECK_BYTES(slot_of(ends, round), bytes, size);
            else if (size > 0 && round <= options->slots)
                CHECK(memcmp(slot_of(ends, round), bytes, size) != 0);
            CHECK_INT(send_lent(ends, ticket), RT_OK);
            lent++;
        }
        check_taken(ends, round, bytes, size);
    }
    rt_edge_stats stats = stats_of(ends->sender);
    CHECK_INT(stats.transfers, ROUNDS);
    CHECK_INT(stats.bytes, ROUNDS * size);
    CHECK_INT(stats.lent, lent);
    CHECK_INT(stats.lent_in_place, in_place ? lent : 0);
    CHECK_INT(stats.copies, options->staging != 0 && size > 0 ? from_region : 0);
    drop_ends(ends);
}

static void a_static_loan_arrives_as_it_was_written_in_every_wiring(void)
{
    static const uint64_t sizes[] = {0, 1, 65, 4097, 200001};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        bool unordered = place->promises != NULL && strstr(place->promises, "orders_writes=0") != NULL;
        edge_begin(&ends, place, 3);
        for (uint32_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
            const uint64_t size = sizes[index];
            bool mapped = is_shm(place) && size > 0;
            rt_edge_options options = static_edge("lent", &sizes[index]);
            options.slots = 3;
            check_static(&ends, place, &options, size, mapped);
            options.verify = 1;
            options.stripes = 3;
            check_static(&ends, place, &options, size, mapped);
            options.verify = options.stripes = 0;
            options.flow = RT_EDGE_FLOW_LOOP;
            check_static(&ends, place, &options, size, mapped);
            options.loop_check = 1;
            if (!unordered)
                check_static(&ends, place, &options, size, false);
        }
        edge_end(&ends);
    }
}

/* The sender asks for staging by name, so that its tensors lie in memory of its own. */
static void staging_that_is_asked_for_lends_memory_of_the_sender(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = static_edge("staged", lend_dims);
        options.staging = 1;
        check_static(&ends, place, &options, LEND_SIZE, false);
        edge_join(&ends, place, &options);
        CHECK(rt_edge_lent_from(ends.sender) == NULL);
        edge_end(&ends);
    }
}

static void a_slot_needs_memory_for_its_loans_once(void)
{
    static const uint64_t size = LEND_OWN;
    edge_ends ends;
    edge_begin(&ends, here, 1);
    rt_edge_options options = static_edge("once", &size);
    options.staging = 1;
    edge_join(&ends, here, &options);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        uint8_t *written;
        rt_edge_arrival arrival;
        int64_t ticket = lend(&ends, NULL, &written);
        CHECK_INT(stats_of(ends.sender).registrations, round < 2 ? 1 : 2); /* one for each of two slots */
        written[0] = (uint8_t)round;
        written[size - 1] = (uint8_t)(round + 1);
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        const uint8_t *got = (const uint8_t *)(uintptr_t)arrival.address;
        CHECK_INT(got[0], round);
        CHECK_INT(got[size - 1], round + 1);
        CHECK_INT(rt_edge_release(ends.receiver, round), RT_OK);
    }
    edge_end(&ends);
}

static void a_dynamic_loan_arrives_eagerly_or_by_read(void)
{
    static const uint64_t sizes[] = {0, 1, 64, LEND_EAGER - 1, LEND_EAGER, LEND_EAGER + 1, 100003};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 2);
        for (uint32_t verify = 0; verify < 2; verify++) {
            uint64_t sequence = 0, in_place = 0, eager = 0;
            rt_edge_options options = dynamic_edge("dynamic");
            options.verify = verify;
            edge_join(&ends, place, &options);
            for (uint32_t index = 0; index < 2 * sizeof sizes / sizeof sizes[0]; index++) {
                uint64_t size = sizes[index / 2];
                uint8_t *written, *bytes = ends.core.here + 64;
                rt_edge_tensor tensor = edge_bytes(NULL, size);
                int64_t ticket = lend(&ends, &tensor, &written);
                CHECK(ticket > 0 && written != NULL);
                core_fill(bytes, size, index);
                memcpy(written, bytes, size);
                rt_region *region = rt_edge_loan_region(ends.sender);
                CHECK((region != NULL) == (size > LEND_EAGER));
                if (region != NULL) {
                    CHECK(rt_region_holds(region, (uint64_t)(uintptr_t)written, size));
                    rt_region_drop(region);
                }
                tensor.dims[0] = 77; /* the edge has its own */
                CHECK_INT(send_lent(&ends, ticket), RT_OK);
                CHECK(rt_edge_loan_region(ends.sender) == NULL);
                check_taken(&ends, ++sequence, bytes, size);
                eager += size <= LEND_EAGER;
                in_place += size <= LEND_EAGER && is_shm(place);
            }
            rt_edge_stats stats = stats_of(ends.sender);
            CHECK_INT(stats.transfers, sequence);
            CHECK_INT(stats.lent, sequence);
            CHECK_INT(stats.lent_in_place, in_place);
            CHECK_INT(stats.eager, eager);
            CHECK_INT(stats.copies, 0);
            drop_ends(&ends);
        }
        edge_end(&ends);
    }
}

static void a_dynamic_loan_has_the_dtype_and_shape_that_were_said(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    uint8_t *written;
    edge_begin(&ends, here, 1);
    rt_edge_options options = dynamic_edge("shaped");
    edge_join(&ends, here, &options);
    rt_edge_tensor tensor = {.dtype = RT_DTYPE_FLOAT32, .rank = 2, .dims = {3, 5}};
    int64_t ticket = lend(&ends, &tensor, &written);
    core_fill(written, 60, 1);
    CHECK_INT(send_lent(&ends, ticket), RT_OK);
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(arrival.dtype, RT_DTYPE_FLOAT32);
    CHECK_INT(arrival.rank, 2);
    CHECK_INT(arrival.dims[0], 3);
    CHECK_INT(arrival.dims[1], 5);
    CHECK_INT(arrival.size, 60);
    edge_end(&ends);
}

static void large_dynamic_loans_use_their_memory_again(void)
{
    edge_ends ends;
    edge_begin(&ends, here, 1);
    rt_edge_options options = dynamic_edge("again");
    edge_join(&ends, here, &options);
    rt_region *target = core_region(ends.core.far, LEND_OWN, 0);
    rt_edge_tensor tensor = edge_bytes(NULL, LEND_OWN);
    uint8_t *first = NULL;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        rt_edge_arrival arrival;
        uint8_t *written, *again;
        int64_t ticket = round == 1 ? lend(&ends, &tensor, &written) : lend_again(&ends, &tensor, &written);
        CHECK(ticket > 0);
        rt_edge_give_back(ends.sender, (uint64_t)ticket); /* … and it is lent again */
        ticket = lend_again(&ends, &tensor, &again);
        CHECK(ticket > 0 && again == written);
        first = round == 1 ? written : first;
        CHECK(written == first);
        written[0] = (uint8_t)round;
        CHECK_INT(send_lent_again(&ends, ticket), round);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(edge_fetch(&ends, round, target, 0), RT_OK);
        CHECK_INT(*(const uint8_t *)(uintptr_t)rt_region_address(target), round);
    }
    CHECK_INT(stats_of(ends.sender).registrations, 1);
    CHECK_INT(stats_of(ends.sender).keys, 2); /* that of the edge, and this one */
    rt_region_drop(target);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_static_loan_arrives_as_it_was_written_in_every_wiring),
    CHECK_TEST(staging_that_is_asked_for_lends_memory_of_the_sender),
    CHECK_TEST(a_slot_needs_memory_for_its_loans_once),
    CHECK_TEST(a_dynamic_loan_arrives_eagerly_or_by_read),
    CHECK_TEST(a_dynamic_loan_has_the_dtype_and_shape_that_were_said),
    CHECK_TEST(large_dynamic_loans_use_their_memory_again),
};

CHECK_MAIN(tests)
