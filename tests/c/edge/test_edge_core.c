/* test_edge_core.c: edges in core, over every provider and every way of carrying a flag: what is sent is what is received, in order,
 * whatever its size, place and strides. The ends of edges: test_edge_end.c. The protocol itself: tests/model.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { ROUNDS = 7 };

/* ---- static edges ---- */

static void check_static(edge_ends *ends, const edge_place *place, const rt_edge_options *options, uint8_t *bytes, uint64_t size)
{
    edge_join(ends, place, options);
    rt_edge_info info;
    rt_edge_get_info(ends->receiver, &info);
    CHECK_INT(info.mode, place->mode);
    CHECK_HAS(info.ordering, rt_edge_mode_name(place->mode));
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        rt_edge_arrival arrival;
        core_fill(bytes, size, round);
        rt_edge_tensor tensor = edge_bytes(bytes, size);
        CHECK_INT(edge_send(ends, &tensor, true), RT_OK);
        int status = edge_receive(ends, &arrival);
        CHECK_INT(status, RT_OK);
        CHECK_INT(arrival.sequence, round);
        CHECK_INT(arrival.size, size);
        CHECK_INT(arrival.address, info.slots_address + round % info.slots * info.slot_stride);
        CHECK_BYTES((const void *)(uintptr_t)arrival.address, bytes, size);
        CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
        CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_E_INVALID);
    }
    rt_edge_drop(ends->sender);
    rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
}

static void a_static_tensor_arrives_in_its_slot_for_every_size(void)
{
    static const uint64_t sizes[] = {0, 1, 7, 8, 63, 64, 65, 4095, 4096, 4097, 65536, 300001};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        for (uint32_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
            rt_edge_options options = edge_options("sizes");
            options.dtype = RT_DTYPE_UINT8;
            options.rank = 1;
            options.dims = &sizes[index];
            check_static(&ends, place, &options, ends.core.here + index, sizes[index]);
        }
        edge_end(&ends);
    }
}

static void it_arrives_verified_and_from_memory_that_is_not_registered(void)
{
    static uint8_t outside[1 << 20];
    static const uint64_t sizes[] = {0, 1, 4097, 1000003};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        for (uint32_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
            rt_edge_options options = edge_options("outside");
            options.dtype = RT_DTYPE_UINT8;
            options.rank = 1;
            options.dims = &sizes[index];
            options.verify = 1;
            check_static(&ends, place, &options, outside + 3, sizes[index]);
            options.staging = 1;
            check_static(&ends, place, &options, outside + 3, sizes[index]);
        }
        edge_end(&ends);
    }
}

static void a_large_tensor_is_striped_over_qps(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t size = 200001;
        edge_begin(&ends, place, 3);
        for (uint32_t stripes = 1; stripes <= 3; stripes++) {
            rt_edge_options options = edge_options("striped");
            options.dtype = RT_DTYPE_UINT8;
            options.rank = 1;
            options.dims = &size;
            options.stripes = stripes;
            check_static(&ends, place, &options, ends.core.here + 5, size);
        }
        edge_end(&ends);
    }
}

static void slots_of_their_own_are_relaxed_where_a_completion_ends_every_tensor(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t size = 3 << 20;
        bool relaxed = place->mode == RT_EDGE_IMMEDIATE;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("relaxed");
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &size;
        edge_join(&ends, place, &options);
        CHECK(ends.receiver->slots.own);
        CHECK_INT((ends.receiver->slots.region->rights & RT_RIGHT_RELAXED_ORDER) != 0, relaxed);
        const rt_region *lines = ends.receiver->lines.region; /* `tail` has its flags in the slots, which are strict */
        CHECK_INT(lines == NULL, place->mode == RT_EDGE_TAIL);
        CHECK(lines == NULL || (lines->rights & RT_RIGHT_RELAXED_ORDER) == 0);
        rt_edge_drop(ends.sender);
        rt_edge_drop(ends.receiver);
        ends.sender = ends.receiver = NULL;
        options.name = "whole";
        check_static(&ends, place, &options, ends.core.here + 5, size);
        edge_end(&ends);
    }
}

static void strided_tensors_arrive_contiguous_and_are_staged_only_where_they_must_be(void)
{
    enum { ROWS = 40, COLUMNS = 100, PITCH = 4 * COLUMNS + 12 };
    static const uint64_t dims[] = {ROWS, COLUMNS};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("strided");
        options.dtype = RT_DTYPE_FLOAT32;
        options.rank = 2;
        options.dims = dims;
        edge_join(&ends, place, &options);
        core_fill(ends.core.here, ROWS * PITCH, 11);
        rt_edge_tensor tensor = {.address = (uint64_t)(uintptr_t)ends.core.here,
                                 .dtype = RT_DTYPE_FLOAT32,
                                 .rank = 2,
                                 .strided = 1};
        memcpy(tensor.dims, dims, sizeof dims);
        tensor.strides[0] = PITCH;
        tensor.strides[1] = 4;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            rt_edge_arrival arrival;
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            const uint8_t *got = (const uint8_t *)(uintptr_t)arrival.address;
            for (uint32_t row = 0; row < ROWS; row++)
                CHECK_BYTES(got + row * 4 * COLUMNS, ends.core.here + row * PITCH, 4 * COLUMNS);
            CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_OK);
        }
        rt_edge_stats stats;
        rt_edge_get_stats(ends.sender, &stats);
        CHECK_INT(stats.transfers, ROUNDS);
        CHECK_INT(stats.copies, place->promises != NULL && strstr(place->promises, "orders_writes=0") != NULL ? ROUNDS : 0);
        edge_end(&ends);
    }
}

static void without_credit_a_send_waits_and_sends_nothing(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t size = 100;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("credit");
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &size;
        options.slots = 3;
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, size);
        for (uint32_t index = 0; index < 3; index++)
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 1000), RT_E_AGAIN);
        rt_edge_arrival arrival;
        for (uint32_t index = 0; index < 3; index++)
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(rt_edge_receive(ends.receiver, 1000, &arrival), RT_E_BUSY);
        CHECK_INT(rt_edge_release(ends.receiver, 2), RT_OK); /* in any order, but the credit is of all up to it */
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 1000000), RT_E_AGAIN);
        CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(rt_edge_release(ends.receiver, 3), RT_OK);
        for (uint64_t sequence = 4; sequence <= 5; sequence++) {
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(arrival.sequence, sequence);
            CHECK_INT(rt_edge_release(ends.receiver, sequence), RT_OK);
        }
        edge_end(&ends);
    }
}

static void many_sends_share_doorbells_and_arrive_each_on_its_edge(void)
{
    enum { COUNT = 24, SIZE = 64 };
    static rt_edge *receivers[COUNT], *senders[COUNT];
    static rt_edge_sending sends[2 * COUNT];
    static rt_edge_arrival arrivals[COUNT];
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t size = SIZE;
        edge_begin(&ends, place, 1);
        uint32_t edges = place->mode == RT_EDGE_IMMEDIATE ? 8 : COUNT; /* each of those keeps receives posted */
        for (uint32_t index = 0; index < edges; index++) {
            char name[16];
            snprintf(name, sizeof name, "many %u", index);
            rt_edge_options options = edge_options(name);
            options.dtype = RT_DTYPE_UINT8;
            options.rank = 1;
            options.dims = &size;
            edge_join(&ends, place, &options);
            senders[index] = ends.sender;
            receivers[index] = ends.receiver;
        }
        core_fill(ends.core.here, 2 * COUNT * SIZE, 5);
        for (uint32_t index = 0; index < 2 * edges; index++)
            sends[index] = (rt_edge_sending){.edge = (uint64_t)(uintptr_t)senders[index % edges],
                                             .address = (uint64_t)(uintptr_t)ends.core.here + index * SIZE,
                                             .size = SIZE};
        uint64_t doorbells = core_stats(ends.core.channel).doorbells;
        int32_t status = RT_OK;
        CHECK_INT(rt_edges_send_many(sends, 2 * edges, RT_SLICE_NS, &status), 2 * edges);
        CHECK_INT(status, RT_OK);
        for (uint32_t index = 0; index < 2 * edges; index++) /* its own sequence, or 0 where it is over by now */
            CHECK(sends[index].result == 0 || sends[index].result == 1 + index / edges);
        if (place->promises == NULL &&
            strcmp(place->provider, "shm") != 0) /* where posting is copying there is no bell to save */
            CHECK(core_stats(ends.core.channel).doorbells - doorbells <= 2 * edges / 8 + 1);
        CHECK_INT(rt_edges_send_many(sends, 1, 1000, &status), 0); /* no credit is left */
        CHECK_INT(status, RT_E_AGAIN);
        CHECK_INT(rt_edge_explain(senders[0], RT_E_AGAIN, &ends.detail), RT_E_AGAIN);
        CHECK(strstr(ends.detail.text, "no credit") != NULL);
        CHECK_INT(rt_edge_explain(receivers[0], RT_E_AGAIN, &ends.detail), RT_E_AGAIN);
        CHECK(strstr(ends.detail.text, "no tensor") != NULL);
        for (uint32_t round = 0; round < 2; round++) {
            uint64_t got = 0;
            for (int tries = 0; got < edges && tries < 400; tries++) {
                got += (uint64_t)rt_edges_receive_many(receivers + got, edges - got, RT_SLICE_NS, arrivals + got, &status);
                rt_device_progress(ends.core.near);
            }
            CHECK_INT(got, edges);
            for (uint32_t index = 0; index < edges; index++) {
                CHECK_INT(arrivals[index].sequence, round + 1);
                CHECK_BYTES((const void *)(uintptr_t)arrivals[index].address, ends.core.here + (round * edges + index) * SIZE,
                            SIZE);
                CHECK_INT(rt_edge_release(receivers[index], round + 1), RT_OK);
            }
        }
        for (uint32_t index = 0; index < edges; index++) {
            rt_edge_drop(senders[index]);
            rt_edge_drop(receivers[index]);
        }
        ends.sender = ends.receiver = NULL;
        edge_end(&ends);
    }
}

/* ---- dynamic edges ---- */

typedef struct dynamic_case {
    uint64_t size;
    bool registered;
} dynamic_case;

static void check_dynamic(edge_ends *ends, const dynamic_case *given, uint32_t salt)
{
    static uint8_t outside[1 << 20];
    rt_edge_arrival arrival;
    uint8_t *bytes = given->registered ? ends->core.here + 64 + salt % 13 : outside + salt % 7;
    core_fill(bytes, given->size, salt);
    rt_edge_tensor tensor = edge_bytes(bytes, given->size);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    int status = edge_receive(ends, &arrival);
    CHECK_INT(status, RT_OK);
    CHECK_INT(arrival.size, given->size);
    CHECK_INT(arrival.rank, 1);
    CHECK_INT(arrival.dims[0], given->size);
    if (arrival.address != 0) {
        CHECK_BYTES((const void *)(uintptr_t)arrival.address, bytes, given->size);
        CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
        return;
    }
    rt_edge_stats before, after;
    rt_edge_get_stats(ends->sender, &before);
    memset(ends->core.there, 0, given->size);
    CHECK_INT(edge_fetch(ends, arrival.sequence, ends->core.target, 0), RT_OK);
    CHECK_BYTES(ends->core.there, bytes, given->size);
    do
        rt_edge_get_stats(ends->sender, &after);
    while (rt_edge_wait_released(ends->sender, arrival.sequence, RT_SLICE_NS) == RT_E_AGAIN);
}

static void dynamic_tensors_arrive_eagerly_or_by_read(void)
{
    static const dynamic_case cases[] = {{0, true},       {1, true},     {64, false},    {511, true},
                                         {512, false},    {513, true},   {513, false},   {100003, true},
                                         {100003, false}, {65536, true}, {999999, false}};
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 2);
        for (uint32_t verify = 0; verify < 2; verify++) {
            rt_edge_options options = edge_options("dynamic");
            options.kind = RT_EDGE_DYNAMIC;
            options.rank = RT_EDGE_RANK_ANY;
            options.eager_size = 512;
            options.verify = verify;
            edge_join(&ends, place, &options);
            for (uint32_t index = 0; index < sizeof cases / sizeof cases[0]; index++)
                check_dynamic(&ends, &cases[index], index + 20 * verify);
            rt_edge_drop(ends.sender);
            rt_edge_drop(ends.receiver);
            ends.sender = ends.receiver = NULL;
        }
        edge_end(&ends);
    }
}

/* A slice that ends while a region is being announced leaves the announcement to the next send, which may be of another region. */
static void regions_are_announced_whoever_asked_and_large_staging_is_used_again(void)
{
    enum { ROUNDS_HERE = 12, LARGE = (4 << 20) + 64 };
    static uint8_t outside[LARGE];
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("regions");
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        edge_join(&ends, place, &options);
        rt_region *target = core_region(ends.core.far, LARGE, 0);
        for (uint32_t round = 0; round < ROUNDS_HERE; round++) {
            rt_region *region = core_region(ends.core.near, 8192, RT_RIGHT_REMOTE_READ);
            uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
            core_fill(bytes, 8192, round);
            core_fill(outside, LARGE, round + 100);
            rt_edge_tensor small = edge_bytes(bytes, 8192), large = edge_bytes(outside, LARGE);
            const rt_edge_tensor *tensor = round % 3 == 0 ? &large : &small;
            int64_t begun = rt_edge_send_tensor(ends.sender, round % 3 == 2 ? &large : &small, 0); /* asks, and may not wait */
            if (begun > 0) {
                CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
                CHECK_INT(edge_fetch(&ends, arrival.sequence, target, 0), RT_OK);
            }
            CHECK_INT(edge_send(&ends, tensor, false), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            CHECK_INT(edge_fetch(&ends, arrival.sequence, target, 0), RT_OK);
            CHECK_BYTES((const void *)(uintptr_t)rt_region_address(target), tensor == &large ? outside : bytes, arrival.size);
            rt_region_drop(region);
        }
        rt_edge_stats stats;
        rt_edge_get_stats(ends.sender, &stats);
        if (stats.registrations > 4)
            printf("%s: %llu registrations\n", place->name, (unsigned long long)stats.registrations);
        CHECK(stats.registrations <= 4); /* two slots, the one that is filled meanwhile, and a spare one */
        CHECK(stats.keys <= 1 + ROUNDS_HERE + 3);
        rt_region_drop(target);
        edge_end(&ends);
    }
}

static void a_staged_tensor_stays_as_it_is_until_its_release(void)
{
    enum { SIZE = 100003 };
    static uint8_t first[SIZE], second[SIZE];
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrivals[2];
        edge_begin(&ends, place, 1);
        rt_edge_options options = edge_options("staged");
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        edge_join(&ends, place, &options);
        core_fill(first, SIZE, 1);
        core_fill(second, SIZE, 2);
        rt_edge_tensor tensors[2] = {edge_bytes(first, SIZE), edge_bytes(second, SIZE)};
        for (uint32_t index = 0; index < 2; index++)
            CHECK_INT(edge_send(&ends, &tensors[index], false), RT_OK);
        for (uint32_t index = 0; index < 2; index++)
            CHECK_INT(edge_receive(&ends, &arrivals[index]), RT_OK);
        for (uint32_t index = 0; index < 2; index++) {
            CHECK_INT(edge_fetch(&ends, arrivals[index].sequence, ends.core.target, 0), RT_OK);
            CHECK_BYTES(ends.core.there, index == 0 ? first : second, SIZE);
        }
        edge_end(&ends);
    }
}

static void a_kept_promise_of_the_loop_needs_no_credit_and_a_broken_one_is_caught(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const uint64_t size = 1000;
        edge_begin(&ends, place, 1);
        if (place->promises != NULL && strstr(place->promises, "orders_writes=0") != NULL) {
            edge_end(&ends);
            continue; /* the check is refused there: test_edge_layout.c */
        }
        rt_edge_options options = edge_options("loop");
        options.flow = RT_EDGE_FLOW_LOOP;
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &size;
        options.loop_check = 1;
        check_static(&ends, place, &options, ends.core.here, size);
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, size);
        for (uint32_t index = 0; index < 3; index++)
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        rt_edge_arrival arrival;
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_OVERRUN);
        CHECK_INT(rt_edge_explain(ends.receiver, RT_E_OVERRUN, &ends.detail), RT_E_OVERRUN);
        CHECK_HAS(ends.detail.text, "flow=\"credit\"");
        edge_end(&ends);
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_static_tensor_arrives_in_its_slot_for_every_size),
    CHECK_TEST(it_arrives_verified_and_from_memory_that_is_not_registered),
    CHECK_TEST(a_large_tensor_is_striped_over_qps),
    CHECK_TEST(slots_of_their_own_are_relaxed_where_a_completion_ends_every_tensor),
    CHECK_TEST(strided_tensors_arrive_contiguous_and_are_staged_only_where_they_must_be),
    CHECK_TEST(without_credit_a_send_waits_and_sends_nothing),
    CHECK_TEST(many_sends_share_doorbells_and_arrive_each_on_its_edge),
    CHECK_TEST(dynamic_tensors_arrive_eagerly_or_by_read),
    CHECK_TEST(regions_are_announced_whoever_asked_and_large_staging_is_used_again),
    CHECK_TEST(a_staged_tensor_stays_as_it_is_until_its_release),
    CHECK_TEST(a_kept_promise_of_the_loop_needs_no_credit_and_a_broken_one_is_caught),
};

CHECK_MAIN(tests)
