/* test_edge_many.c: many edges in one call, tensors that are read where they lie, and the words in which an edge speaks of itself.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { COUNT = 5, SIZE = 100, LARGE = 3 << 20 };
static const uint64_t dims[] = {SIZE};
static const edge_place *const shm_place = &edge_places[0];
static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};

static rt_edge *senders[COUNT], *receivers[COUNT];

static rt_edge_options options_of(const char *name, bool dynamic)
{
    rt_edge_options options = edge_options(name);
    options.kind = dynamic ? RT_EDGE_DYNAMIC : RT_EDGE_STATIC;
    options.dtype = dynamic ? RT_DTYPE_ANY : RT_DTYPE_UINT8;
    options.rank = dynamic ? RT_EDGE_RANK_ANY : 1;
    options.dims = dims;
    return options;
}

static void begin_many(edge_ends *ends, const edge_place *place, bool dynamic, uint32_t qps)
{
    edge_begin(ends, place, qps);
    for (uint32_t index = 0; index < COUNT; index++) {
        char name[16];
        snprintf(name, sizeof name, "many %u", index);
        rt_edge_options options = options_of(name, dynamic);
        edge_join(ends, place, &options);
        senders[index] = ends->sender;
        receivers[index] = ends->receiver;
    }
    core_fill(ends->core.here, LARGE + SIZE, 3);
}

static void end_many(edge_ends *ends)
{
    for (uint32_t index = 0; index < COUNT; index++) {
        rt_edge_drop(senders[index]);
        rt_edge_drop(receivers[index]);
    }
    ends->sender = ends->receiver = NULL;
    edge_end(ends);
}

static uint64_t address_of(const void *bytes)
{
    return (uint64_t)(uintptr_t)bytes;
}

static int send_on(edge_ends *ends, uint32_t index, const uint8_t *bytes, uint64_t size)
{
    rt_edge_tensor tensor = edge_bytes(bytes, size);
    ends->sender = senders[index];
    return edge_send(ends, &tensor, false);
}

static int receive_on(edge_ends *ends, uint32_t index, rt_edge_arrival *arrival_out)
{
    ends->receiver = receivers[index];
    return edge_receive(ends, arrival_out);
}

/* ---- one of many, and all of them ---- */

static void those_that_are_ready_are_found_up_to_the_room_there_is(void)
{
    const edge_place *places[] = {shm_place, &sim_place};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        uint32_t ready[COUNT] = {77, 77, 77, 77, 77};
        begin_many(&ends, places[at], false, 1);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 0, ready, COUNT), RT_E_AGAIN);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 1000, ready, COUNT), RT_E_AGAIN);
        CHECK_INT(rt_edges_wait_any(receivers, 0, 0, ready, COUNT), RT_E_INVALID);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 0, ready, 0), RT_E_INVALID);
        CHECK_INT(rt_edges_wait_any(senders, 1, 0, ready, COUNT), RT_E_INVALID);
        CHECK_INT(ready[0], 77);
        for (uint32_t index = 1; index < COUNT; index += 2) { /* 1 and 3 */
            CHECK_INT(send_on(&ends, index, ends.core.here, SIZE), RT_OK);
            for (int tries = 0; rt_edge_ready(receivers[index]) == 0 && tries < 400; tries++)
                rt_device_progress(ends.core.near);
            CHECK_INT(rt_edge_ready(receivers[index]), 1);
        }
        CHECK_INT(rt_edge_ready(receivers[0]), 0);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, RT_SLICE_NS, ready, COUNT), 2);
        CHECK_INT(ready[0], 1);
        CHECK_INT(ready[1], 3);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 0, ready, 1), 1);
        CHECK_INT(rt_edges_wait_any(receivers, 1, 0, ready, COUNT), RT_E_AGAIN);
        CHECK_INT(rt_edges_wait_any(receivers, 2, 0, ready, COUNT), 1);
        CHECK_INT(receive_on(&ends, 1, &arrival), RT_OK);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 0, ready, COUNT), 1);
        CHECK_INT(ready[0], 3);
        CHECK_INT(rt_edge_ready(receivers[1]), 0);
        rt_edge_close(receivers[4]);
        CHECK_INT(rt_edges_wait_any(receivers, COUNT, 0, ready, COUNT), 2); /* its end would be told at once */
        CHECK_INT(ready[1], 4);
        end_many(&ends);
    }
}

static void edges_of_two_devices_are_not_waited_for_together(void)
{
    edge_ends ends;
    uint32_t ready[2];
    rt_edge *near = NULL, *far = NULL;
    rt_edge_options options = options_of("x", false);
    edge_begin(&ends, shm_place, 1);
    CHECK_INT(rt_edge_create(ends.core.near, &options, NULL, &near, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &far, &ends.detail), RT_OK);
    CHECK_INT(rt_edges_wait_any((rt_edge *[]){near, far}, 2, 0, ready, 2), RT_E_INVALID);
    CHECK_INT(rt_edges_wait_any((rt_edge *[]){near, near}, 2, 0, ready, 2), RT_E_AGAIN);
    rt_edge_drop(near);
    rt_edge_drop(far);
    edge_end(&ends);
}

static void many_sends_and_receives_stop_at_the_first_that_cannot(void)
{
    edge_ends ends;
    int32_t status = 77;
    rt_edge_sending sends[COUNT];
    rt_edge_arrival arrivals[COUNT];
    begin_many(&ends, shm_place, false, 1);
    CHECK_INT(rt_edges_send_many(sends, 0, 0, &status), 0);
    CHECK_INT(status, RT_OK);
    CHECK_INT(rt_edges_receive_many(receivers, 0, 0, arrivals, &status), 0);
    CHECK_INT(status, RT_OK);
    for (uint32_t index = 0; index < COUNT; index++)
        sends[index] = (rt_edge_sending){.edge = address_of(senders[index]),
                                         .address = address_of(ends.core.here) + index,
                                         .size = index == 3 ? SIZE + 1 : SIZE};
    CHECK_INT(rt_edges_send_many(sends, COUNT, 0, &status), 3);
    CHECK_INT(status, RT_E_INVALID);
    CHECK_INT(rt_edges_receive_many(receivers, COUNT, 1000, arrivals, &status), 3);
    CHECK_INT(status, RT_E_AGAIN);
    for (uint32_t index = 0; index < 3; index++)
        CHECK_BYTES((const void *)(uintptr_t)arrivals[index].address, ends.core.here + index, SIZE);
    CHECK_INT(rt_edges_send_many(sends + 4, 1, 0, &status), 1);
    CHECK_INT(status, RT_OK);
    CHECK_INT(rt_edges_receive_many(receivers + 4, 1, 0, arrivals, &status), 1);
    CHECK_INT(status, RT_OK);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
    sends[0] = (rt_edge_sending){.edge = address_of(senders[0]), .tensor = address_of(&tensor)};
    CHECK_INT(rt_edges_send_many(sends, 1, 0, &status), 1);
    CHECK_INT(rt_edges_receive_many(receivers, 1, 0, arrivals, &status), 1);
    CHECK_INT(arrivals[0].sequence, 2);
    end_many(&ends);
}

/* A static tensor that is half copied must stay as it is; of a dynamic one the release is waited for anyway. */
static void many_sends_say_whether_a_static_tensor_is_still_being_copied(void)
{
    static const uint64_t large[] = {LARGE};
    static uint8_t outside[LARGE];
    for (uint32_t dynamic = 0; dynamic < 2; dynamic++) {
        edge_ends ends;
        int32_t status = 77;
        rt_edge_options options = options_of("copied", dynamic);
        options.dims = large;
        options.staging = 1;
        edge_begin(&ends, shm_place, 1);
        edge_join(&ends, shm_place, &options);
        core_fill(outside, LARGE, 5);
        rt_edge_tensor tensor = edge_bytes(outside, dynamic ? SIZE : LARGE);
        rt_edge_sending sends[] = {{.edge = address_of(ends.sender), .tensor = address_of(&tensor)}};
        int64_t done, end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        do /* of a dynamic one the region is announced first */
            done = rt_edges_send_many(sends, 1, 0, &status);
        while (done == 0 && status == RT_E_AGAIN && rt_clock_now_ns() < end_ns);
        CHECK_INT(done, 1);
        CHECK_INT(sends[0].result, 1);
        CHECK_INT(status, dynamic ? RT_OK : RT_E_AGAIN);
        edge_end(&ends);
    }
}

/* ---- fetching ---- */

static void many_reads_end_each_in_its_own_way(void)
{
    const edge_place *places[] = {shm_place, &sim_place};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_fetching fetches[COUNT + 3];
        rt_edge_arrival arrival;
        begin_many(&ends, places[at], true, 1);
        memset(ends.core.there, 0, COUNT * SIZE);
        CHECK_INT(rt_edges_fetch_many(fetches, 0, RT_SLICE_NS), 0);
        for (uint32_t index = 0; index < COUNT; index++) {
            CHECK_INT(send_on(&ends, index, ends.core.here + index, SIZE), RT_OK);
            CHECK_INT(receive_on(&ends, index, &arrival), RT_OK);
            CHECK_INT(arrival.address, 0);
            fetches[index] = (rt_edge_fetching){.edge = address_of(receivers[index]),
                                                .region = address_of(ends.core.target),
                                                .offset = index * SIZE,
                                                .sequence = arrival.sequence,
                                                .status = RT_E_AGAIN};
        }
        fetches[COUNT] = fetches[0], fetches[COUNT].sequence = 2;               /* has not come */
        fetches[COUNT + 1] = fetches[1], fetches[COUNT + 1].status = RT_E_BUSY; /* has ended before */
        fetches[COUNT + 2] = fetches[1], fetches[COUNT + 2].region = address_of(ends.core.local);
        uint64_t pending = COUNT;
        for (int tries = 0; pending != 0 && tries < 400; tries++) {
            pending = rt_edges_fetch_many(fetches, COUNT + 3, RT_SLICE_NS);
            uint64_t counted = 0;
            for (uint32_t index = 0; index < COUNT + 3; index++)
                counted += fetches[index].status == RT_E_AGAIN;
            CHECK_INT(counted, pending);
        }
        for (uint32_t index = 0; index < COUNT; index++) {
            CHECK_INT(fetches[index].status, RT_OK);
            CHECK_BYTES(ends.core.there + index * SIZE, ends.core.here + index, SIZE);
        }
        CHECK_INT(fetches[COUNT].status, RT_E_INVALID);
        CHECK_INT(fetches[COUNT + 1].status, RT_E_BUSY);
        CHECK_INT(fetches[COUNT + 2].status, RT_E_INVALID);                 /* a region of another device */
        CHECK_INT(edge_fetch(&ends, 1, ends.core.target, 0), RT_E_INVALID); /* it was released */
        end_many(&ends);
    }
}

static void a_read_goes_where_there_is_room_or_nowhere(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        begin_many(&ends, place, true, 1);
        bool anywhere = ends.core.far->limits.local_anywhere;
        static uint8_t outside[SIZE];
        rt_region *small = core_region(ends.core.far, 4096, 0), *closed = core_region(ends.core.far, 4096, 0);
        uint64_t size = rt_region_size(small);
        CHECK_INT(rt_region_close(closed, &ends.detail), RT_OK);
        CHECK_INT(send_on(&ends, 0, ends.core.here, SIZE), RT_OK);
        CHECK_INT(receive_on(&ends, 0, &arrival), RT_OK);
        CHECK_INT(edge_fetch(&ends, 0, small, 0), RT_E_INVALID);
        CHECK_INT(edge_fetch(&ends, 1, small, size - SIZE + 1), RT_E_BOUNDS);
        CHECK_INT(edge_fetch(&ends, 1, small, size + 1), RT_E_BOUNDS);
        CHECK_INT(edge_fetch(&ends, 1, small, UINT64_MAX), RT_E_BOUNDS);
        CHECK_INT(edge_fetch(&ends, 1, closed, 0), RT_E_CLOSED);
        CHECK_INT(edge_fetch(&ends, 1, small, size - SIZE), RT_OK);
        CHECK_BYTES((const uint8_t *)(uintptr_t)rt_region_address(small) + size - SIZE, ends.core.here, SIZE);
        CHECK_INT(send_on(&ends, 0, ends.core.here + 1, SIZE), RT_OK);
        CHECK_INT(receive_on(&ends, 0, &arrival), RT_OK);
        CHECK_INT(edge_fetch(&ends, 2, NULL, address_of(outside)), anywhere ? RT_OK : RT_E_UNSUPPORTED);
        if (anywhere)
            CHECK_BYTES(outside, ends.core.here + 1, SIZE);
        rt_edge_stats stats;
        rt_edge_get_stats(receivers[0], &stats);
        CHECK_INT(stats.fetched, anywhere ? 2 : 1);
        CHECK_INT(stats.eager, 0);
        CHECK_INT(stats.released, anywhere ? 2 : 1);
        end_many(&ends);
        rt_region_drop(small);
        rt_region_drop(closed);
    }
}

static void a_large_read_is_shared_by_qps_and_whole(void)
{
    const edge_place *places[] = {shm_place, &sim_place};
    static const uint64_t sizes[] = {(1 << 20) - 1, 1 << 20, (1 << 20) + 1, LARGE - 7, LARGE};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        begin_many(&ends, places[at], true, 3);
        for (uint32_t index = 0; index < COUNT; index++) {
            memset(ends.core.there, 0, LARGE + 1);
            CHECK_INT(send_on(&ends, index, ends.core.here + index, sizes[index]), RT_OK);
            CHECK_INT(receive_on(&ends, index, &arrival), RT_OK);
            CHECK_INT(edge_fetch(&ends, 1, ends.core.target, 0), RT_OK);
            CHECK_BYTES(ends.core.there, ends.core.here + index, sizes[index]);
            CHECK_INT(ends.core.there[sizes[index]], 0);
            CHECK_INT(receivers[index]->got[1].op_count, sizes[index] < 1 << 20 ? 1 : 3);
        }
        end_many(&ends);
    }
}

static void a_borrowed_tensor_is_where_the_sender_has_it(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    uint64_t address = 0;
    begin_many(&ends, shm_place, true, 1);
    rt_region *lent = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(lent);
    core_fill(bytes, 4096, 8);
    CHECK_INT(send_on(&ends, 0, bytes + 8, SIZE), RT_OK);
    CHECK_INT(receive_on(&ends, 0, &arrival), RT_OK);
    CHECK(rt_edge_borrowed(receivers[0], 1) == NULL);
    CHECK_INT(rt_edge_borrow(receivers[0], 2, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_borrow(receivers[0], 0, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_borrow(senders[0], 1, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_borrow(receivers[0], 1, &address), RT_OK);
    CHECK_BYTES((const void *)(uintptr_t)address, bytes + 8, SIZE);
    bytes[8] ^= 1;
    CHECK_BYTES((const void *)(uintptr_t)address, bytes + 8, SIZE);     /* no copy */
    CHECK_INT(rt_edge_borrow(receivers[0], 1, &address), RT_E_INVALID); /* once */
    rt_remote *remote = rt_edge_borrowed(receivers[0], 1);
    CHECK(remote == receivers[0]->remotes[1]);
    rt_remote_drop(remote);
    CHECK(rt_edge_borrowed(receivers[0], 2) == NULL);
    CHECK(rt_edge_borrowed(senders[0], 1) == NULL);
    rt_edge_stats stats;
    rt_edge_get_stats(receivers[0], &stats);
    CHECK_INT(stats.borrowed, 1);
    CHECK_INT(stats.keys, 2);
    CHECK_INT(rt_region_close(lent, &ends.detail), RT_E_BUSY);
    CHECK_INT(rt_edge_wait_released(senders[0], 1, 1000), RT_E_AGAIN);
    CHECK_INT(receivers[0]->borrowed, 1);
    CHECK_INT(rt_edge_release(receivers[0], 1), RT_OK);
    CHECK_INT(receivers[0]->borrowed, 0);
    CHECK(rt_edge_borrowed(receivers[0], 1) == NULL);
    CHECK_INT(rt_edge_wait_released(senders[0], 1, RT_SLICE_NS), RT_OK);
    CHECK_INT(rt_region_close(lent, &ends.detail), RT_OK);
    end_many(&ends);
    rt_region_drop(lent);
}

/* The sender changed it after it was sent, which it may not. */
static void damage_that_a_read_brings_is_told_and_counted(void)
{
    for (uint32_t borrow = 0; borrow < 2; borrow++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_stats stats;
        uint64_t address = 0;
        rt_edge_options options = options_of("damage", true);
        options.verify = 1;
        edge_begin(&ends, shm_place, 1);
        edge_join(&ends, shm_place, &options);
        rt_region *lent = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
        uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(lent);
        rt_edge_tensor tensor = edge_bytes(bytes, SIZE);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        bytes[SIZE - 1] ^= 1;
        CHECK_INT(borrow != 0 ? rt_edge_borrow(ends.receiver, 1, &address) : edge_fetch(&ends, 1, ends.core.target, 0),
                  RT_E_CORRUPT);
        CHECK_INT(address, 0);
        CHECK_INT(rt_edge_explain(ends.receiver, RT_E_CORRUPT, &ends.detail), RT_E_CORRUPT);
        CHECK_HAS(ends.detail.text, "tensor 1 does not fit its CRC");
        rt_edge_get_stats(ends.receiver, &stats);
        CHECK_INT(stats.corrupt, 1);
        CHECK_INT(stats.released, 1); /* the sender has it back */
        CHECK_INT(stats.borrowed, 0);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK); /* and the edge goes on */
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(edge_fetch(&ends, 2, ends.core.target, 0), RT_OK);
        edge_end(&ends);
        rt_region_drop(lent);
    }
}

static void a_tensor_that_cannot_be_borrowed_is_fetched_instead(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    uint64_t address = 77;
    begin_many(&ends, &sim_place, true, 1);
    if (!ends.core.far->limits.maps_remote) {
        CHECK_INT(send_on(&ends, 0, ends.core.here, SIZE), RT_OK);
        CHECK_INT(receive_on(&ends, 0, &arrival), RT_OK);
        CHECK_INT(rt_edge_borrow(receivers[0], 1, &address), RT_E_UNSUPPORTED);
        CHECK_INT(rt_edge_explain(receivers[0], RT_E_UNSUPPORTED, &ends.detail), RT_E_UNSUPPORTED);
        CHECK_HAS(ends.detail.text, "sim cannot map the peer's memory (limits.maps_remote): receive it instead");
        CHECK_INT(address, 77);
        CHECK_INT(edge_fetch(&ends, 1, ends.core.target, 0), RT_OK);
    }
    end_many(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(those_that_are_ready_are_found_up_to_the_room_there_is),
    CHECK_TEST(edges_of_two_devices_are_not_waited_for_together),
    CHECK_TEST(many_sends_and_receives_stop_at_the_first_that_cannot),
    CHECK_TEST(many_sends_say_whether_a_static_tensor_is_still_being_copied),
    CHECK_TEST(many_reads_end_each_in_its_own_way),
    CHECK_TEST(a_read_goes_where_there_is_room_or_nowhere),
    CHECK_TEST(a_large_read_is_shared_by_qps_and_whole),
    CHECK_TEST(a_borrowed_tensor_is_where_the_sender_has_it),
    CHECK_TEST(damage_that_a_read_brings_is_told_and_counted),
    CHECK_TEST(a_tensor_that_cannot_be_borrowed_is_fetched_instead),
};

CHECK_MAIN(tests)
