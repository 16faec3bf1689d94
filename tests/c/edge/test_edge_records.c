/* test_edge_records.c: the usual cases of dynamic edges, which never wait: a tensor that is sent at once, and a record that is taken at
 * once, with its tensor where it lies. Unusual cases are left as they were, to the calls that wait.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { ROUNDS = 9, EAGER = 16384, SHORT = 1024, AT_ONCE = 8192 /* of eager bytes */, LARGE = 100003 };

static const edge_place *const shm_place = &edge_places[0];
static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};
static const uint64_t dims[] = {AT_ONCE};

static rt_edge_options dynamic_edge(void)
{
    rt_edge_options options = edge_options("records");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = EAGER;
    return options;
}

static rt_edge_options static_edge(void)
{
    rt_edge_options options = edge_options("records");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

static rt_edge_stats stats_of(rt_edge *edge)
{
    rt_edge_stats stats;
    rt_edge_get_stats(edge, &stats);
    return stats;
}

static void begin_records(edge_ends *ends, const edge_place *place, const rt_edge_options *options)
{
    rt_edge_options given = *options;
    if (place == &sim_place && given.eager_size != 0)
        given.eager_size = SHORT; /* a record is one message */
    edge_begin(ends, place, 1);
    edge_join(ends, place, &given);
    core_fill(ends->core.here, LARGE, 3);
}

static int64_t send_at_once(edge_ends *ends, const rt_edge_tensor *tensor)
{
    uint64_t released = 77;
    return rt_edge_send_tensor_at_once(ends->sender, tensor, &released);
}

/* A borrowed tensor is read through a mapping of its own. */
static const void *bytes_of(uint64_t address)
{
    return (const void *)(uintptr_t)address;
}

/* The service may have a turn for a moment after a region was announced: such a call is made again. */
static int64_t send_again(edge_ends *ends, const rt_edge_tensor *tensor)
{
    int64_t result;
    int tries = 0;
    do
        result = send_at_once(ends, tensor);
    while (result == RT_E_AGAIN && ++tries < 1000000);
    return result;
}

static int take_again(edge_ends *ends, rt_edge_arrival *arrival_out)
{
    int status, tries = 0;
    do
        status = rt_edge_receive_record_at_once(ends->receiver, 1, 1, arrival_out);
    while (status == RT_E_AGAIN && ++tries < 1000000);
    return status;
}

static int release_again(edge_ends *ends, uint64_t sequence)
{
    int status, tries = 0;
    do
        status = rt_edge_release_at_once(ends->receiver, sequence);
    while (status == RT_E_AGAIN && ++tries < 1000000);
    return status;
}

/* ---- what they do ---- */

static void an_eager_tensor_is_sent_and_taken_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = dynamic_edge();
    begin_records(&ends, shm_place, &options);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        static uint8_t outside[AT_ONCE];
        rt_edge_arrival arrival = {.sequence = 77};
        uint64_t released = 77, size = round % 3 == 0 ? AT_ONCE : round % 3 == 1 ? 0 : 100;
        core_fill(outside, AT_ONCE, round);
        rt_edge_tensor tensor = {.address = (uint64_t)(uintptr_t)outside,
                                 .dtype = RT_DTYPE_INT16,
                                 .rank = 2,
                                 .dims = {size / 2, 1}};
        CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 4, 1, &arrival), RT_E_AGAIN);
        CHECK_INT(arrival.sequence, 77);
        CHECK_INT(rt_edge_send_tensor_at_once(ends.sender, &tensor, &released), 0);
        CHECK_INT(released, round - 1);
        CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, round % 2, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, round);
        CHECK_INT(arrival.size, size);
        CHECK_INT(arrival.dtype, RT_DTYPE_INT16);
        CHECK_INT(arrival.rank, 2);
        CHECK_INT(arrival.dims[0], size / 2);
        CHECK_INT(arrival.borrowed, 0);
        CHECK_INT(arrival.remote, 0);
        CHECK_BYTES(bytes_of(arrival.address), outside, size);
        CHECK_INT(rt_edge_release_at_once(ends.receiver, round), RT_OK);
    }
    rt_edge_stats sent = stats_of(ends.sender), got = stats_of(ends.receiver);
    CHECK_INT(sent.transfers, ROUNDS);
    CHECK_INT(sent.eager, ROUNDS);
    CHECK_INT(sent.copies, 0);
    CHECK_INT(got.transfers, ROUNDS);
    CHECK_INT(got.eager, ROUNDS);
    CHECK_INT(got.bytes, sent.bytes);
    CHECK_INT(got.waits, 0);
    CHECK_INT(got.borrowed, 0);
    edge_end(&ends);
}

/* Once its region is known at both ends. */
static void a_large_tensor_is_sent_and_borrowed_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = dynamic_edge();
    begin_records(&ends, shm_place, &options);
    rt_region *region = core_region(ends.core.near, LARGE, RT_RIGHT_REMOTE_READ);
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
    rt_edge_tensor tensor = edge_bytes(bytes, LARGE);
    CHECK_INT(send_at_once(&ends, &tensor), RT_E_AGAIN); /* nobody knows the region yet */
    CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        rt_edge_arrival arrival;
        if (round > 1) {
            core_fill(bytes, LARGE, round);
            CHECK_INT(send_again(&ends, &tensor), round);
            CHECK_INT(atomic_load(&region->operations), 1); /* until the release */
        }
        CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 0, &arrival),
                  RT_E_AGAIN); /* it is neither here nor borrowed */
        CHECK_INT(stats_of(ends.receiver).transfers, round - 1);
        CHECK_INT(take_again(&ends, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, round);
        CHECK_INT(arrival.address, 0);
        CHECK_BYTES(bytes_of(arrival.borrowed), bytes, LARGE);
        rt_remote *remote = rt_edge_borrowed(ends.receiver, round);
        CHECK_INT(arrival.remote, (uint64_t)(uintptr_t)remote);
        CHECK(remote != NULL);
        rt_remote_drop(remote);
        CHECK_INT(rt_edge_wait_released(ends.sender, round, 0), RT_E_AGAIN);
        CHECK_INT(release_again(&ends, round), RT_OK);
        CHECK_INT(rt_edge_wait_released(ends.sender, round, 0), RT_OK);
        CHECK_INT(atomic_load(&region->operations), 0);
    }
    CHECK_INT(stats_of(ends.receiver).borrowed, ROUNDS);
    CHECK_INT(stats_of(ends.sender).eager, 0);
    CHECK_INT(stats_of(ends.sender).keys, 2);
    tensor = edge_bytes(bytes + rt_region_size(region) - LARGE + 1, LARGE); /* one byte is not of the region */
    CHECK_INT(send_at_once(&ends, &tensor), RT_E_AGAIN);
    tensor = edge_bytes(bytes, EAGER + 1);
    CHECK_INT(send_again(&ends, &tensor), ROUNDS + 1);
    CHECK_INT(stats_of(ends.sender).eager, 0);
    edge_end(&ends);
    rt_region_drop(region);
}

/* Where memory cannot be mapped, it is received instead, and fetched. */
static void a_tensor_is_received_borrowed_where_it_can_be(void)
{
    const edge_place *places[] = {shm_place, &sim_place};
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        rt_edge_options options = dynamic_edge();
        begin_records(&ends, places[at], &options);
        for (uint32_t round = 1; round <= ROUNDS; round++) {
            rt_edge_arrival arrival;
            const uint8_t *bytes = ends.core.here;
            uint64_t size = round % 2 == 0 ? 100 : LARGE;
            rt_edge_tensor tensor = edge_bytes(bytes, size);
            int status, tries = 0;
            CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
            do
                status = rt_edge_receive_borrowed(ends.receiver, RT_SLICE_NS, &arrival);
            while (status == RT_E_AGAIN && ++tries < 6000);
            CHECK_INT(status, RT_OK);
            CHECK_INT(arrival.sequence, round);
            CHECK_INT(arrival.size, size);
            CHECK_INT(arrival.address != 0, size == 100);
            CHECK_INT(arrival.borrowed != 0, size == LARGE && at == 0);
            CHECK_INT(arrival.remote != 0, size == LARGE && at == 0);
            if (size == 100 || at == 0) {
                CHECK_BYTES(bytes_of(arrival.address != 0 ? arrival.address : arrival.borrowed), bytes, size);
                CHECK_INT(rt_edge_release(ends.receiver, round), RT_OK);
                continue;
            }
            CHECK_INT(edge_fetch(&ends, round, ends.core.target, 0), RT_OK);
            CHECK_BYTES(ends.core.there, bytes, size);
        }
        CHECK_INT(stats_of(ends.receiver).borrowed, at == 0 ? (ROUNDS + 1) / 2 : 0);
        edge_end(&ends);
    }
}

static void a_static_tensor_is_received_as_ever_by_who_would_borrow(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = static_edge();
    begin_records(&ends, shm_place, &options);
    CHECK_INT(rt_edge_receive_borrowed(ends.receiver, 0, &arrival), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_borrowed(ends.sender, 0, &arrival), RT_E_INVALID);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, AT_ONCE);
    CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    CHECK_INT(rt_edge_receive_borrowed(ends.receiver, 0, &arrival), RT_OK);
    CHECK_BYTES(bytes_of(arrival.address), ends.core.here, AT_ONCE);
    CHECK_INT(arrival.borrowed, 0);
    CHECK_INT(stats_of(ends.receiver).borrowed, 0);
    edge_end(&ends);
}

/* A tensor that does not match its CRC is never handed out; its slot is free again. */
static void a_corrupt_tensor_is_not_borrowed(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = dynamic_edge();
    options.verify = 1;
    begin_records(&ends, shm_place, &options);
    rt_region *region = core_region(ends.core.near, LARGE, RT_RIGHT_REMOTE_READ);
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
    rt_edge_tensor tensor = edge_bytes(bytes, LARGE);
    for (uint32_t round = 1; round <= 6; round++) {
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        bytes[LARGE - 1] ^= round % 2; /* the sender breaks its promise */
        CHECK_INT(rt_edge_receive_borrowed(ends.receiver, 0, &arrival), round % 2 == 1 ? RT_E_CORRUPT : RT_OK);
        CHECK_INT(stats_of(ends.receiver).corrupt, (round + 1) / 2);
        if (round % 2 == 1) {
            CHECK_INT(rt_edge_explain(ends.receiver, RT_E_CORRUPT, &ends.detail), RT_E_CORRUPT);
            CHECK_HAS(ends.detail.text, "CRC");
        }
        CHECK_INT(rt_edge_release(ends.receiver, round), round % 2 == 1 ? RT_E_INVALID : RT_OK);
        CHECK_INT(rt_edge_wait_released(ends.sender, round, 0), RT_OK);
    }
    CHECK_INT(stats_of(ends.receiver).borrowed, 3);
    edge_end(&ends);
    rt_region_drop(region);
}

/* ---- what they leave ---- */

/* The tensor is neither sent nor counted. */
static void check_not_sent(edge_ends *ends, const rt_edge_tensor *tensor)
{
    uint64_t before = stats_of(ends->sender).transfers;
    CHECK_INT(send_at_once(ends, tensor), RT_E_AGAIN);
    CHECK_INT(stats_of(ends->sender).transfers, before);
    CHECK_INT(stats_of(ends->sender).waits, 0);
}

static void an_unusual_tensor_is_not_sent_at_once(void)
{
    edge_ends ends;
    rt_edge_options options = dynamic_edge();
    options.dtype = RT_DTYPE_UINT8;
    begin_records(&ends, shm_place, &options);
    const rt_edge_tensor usual = edge_bytes(ends.core.here, AT_ONCE);
    rt_edge_tensor tensor = usual;
    tensor.dims[0] = AT_ONCE + 1; /* eager, but too much to be copied at once */
    check_not_sent(&ends, &tensor);
    tensor = usual, tensor.dtype = RT_DTYPE_INT8;
    check_not_sent(&ends, &tensor);
    tensor = usual, tensor.strided = 1, tensor.strides[0] = 1;
    check_not_sent(&ends, &tensor);
    rt_turn *const turns[] = {&ends.sender->turn, &ends.sender->links[0]->turn};
    for (uint32_t index = 0; index < 2; index++) {
        rt_turn_take(turns[index]);
        CHECK_INT(send_at_once(&ends, &usual), RT_E_AGAIN);
        rt_turn_leave(turns[index]);
    }
    CHECK_INT(stats_of(ends.sender).transfers, 0);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(send_at_once(&ends, &usual), 0);
    check_not_sent(&ends, &usual); /* without credit */
    uint64_t released;
    CHECK_INT(rt_edge_send_tensor_at_once(ends.receiver, &usual, &released), RT_E_AGAIN);
    edge_end(&ends);

    for (uint32_t kind = 0; kind < 4; kind++) {
        options = kind == 0 ? static_edge() : dynamic_edge();
        options.verify = kind == 1;
        options.staging = kind == 2;
        begin_records(&ends, kind == 3 ? &sim_place : shm_place, &options);
        tensor = edge_bytes(ends.core.here, kind == 3 ? SHORT : AT_ONCE);
        check_not_sent(&ends, &tensor);
        CHECK_INT(edge_send(&ends, &tensor, kind == 0), RT_OK);
        edge_end(&ends);
    }
}

static void a_record_that_cannot_be_taken_at_once_stays(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = dynamic_edge();
    begin_records(&ends, shm_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, 100);
    for (uint32_t index = 0; index < 2; index++)
        CHECK_INT(send_at_once(&ends, &tensor), 0);
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 0, 1, &arrival), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_record_at_once(ends.sender, 1, 1, &arrival), RT_E_AGAIN);
    rt_turn_take(&ends.receiver->turn);
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_E_AGAIN);
    rt_turn_leave(&ends.receiver->turn);
    for (uint32_t index = 1; index <= 2; index++) {
        CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, index);
    }
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_E_AGAIN); /* all slots are held */
    CHECK_INT(stats_of(ends.receiver).transfers, 2);
    edge_end(&ends);

    for (uint32_t kind = 0; kind < 3; kind++) { /* static, verified, and large where nothing is mapped */
        options = kind == 0 ? static_edge() : dynamic_edge();
        options.verify = kind == 1;
        begin_records(&ends, kind == 2 ? &sim_place : shm_place, &options);
        tensor = edge_bytes(ends.core.here, kind == 2 ? LARGE : AT_ONCE);
        CHECK_INT(edge_send(&ends, &tensor, kind == 0), RT_OK);
        for (int tries = 0; rt_edge_ready(ends.receiver) == 0 && tries < 400; tries++)
            rt_device_progress(ends.core.near);
        CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 4, 1, &arrival), RT_E_AGAIN);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(arrival.sequence, 1);
        edge_end(&ends);
    }
}

static void an_edge_that_nobody_has_opened_has_no_record(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = dynamic_edge();
    edge_begin(&ends, shm_place, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_E_AGAIN);
    CHECK_INT(rt_edge_receive_borrowed(ends.receiver, 0, &arrival), RT_E_AGAIN);
    edge_end(&ends);
}

/* A malformed record ends the edge, whichever call takes it. */
static void a_malformed_record_that_is_taken_at_once_ends_the_edge(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = dynamic_edge();
    begin_records(&ends, shm_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, 100);
    CHECK_INT(send_at_once(&ends, &tensor), 0);
    uint8_t *record = rt_edge_slot_address(ends.receiver, 1) + rt_edge_record_offset(EAGER);
    record[0] ^= 0x40; /* its version */
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_E_VERSION);
    CHECK_INT(rt_edge_failure(ends.receiver, &ends.detail), RT_E_VERSION);
    CHECK_HAS(ends.detail.text, "a record has version");
    CHECK_INT(rt_edge_receive_record_at_once(ends.receiver, 1, 1, &arrival), RT_E_AGAIN); /* the other call tells it again */
    CHECK_INT(rt_edge_receive(ends.receiver, 0, &arrival), RT_E_VERSION);
    CHECK_INT(stats_of(ends.receiver).transfers, 0);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(an_eager_tensor_is_sent_and_taken_at_once),
    CHECK_TEST(a_large_tensor_is_sent_and_borrowed_at_once),
    CHECK_TEST(a_tensor_is_received_borrowed_where_it_can_be),
    CHECK_TEST(a_static_tensor_is_received_as_ever_by_who_would_borrow),
    CHECK_TEST(a_corrupt_tensor_is_not_borrowed),
    CHECK_TEST(an_unusual_tensor_is_not_sent_at_once),
    CHECK_TEST(a_record_that_cannot_be_taken_at_once_stays),
    CHECK_TEST(an_edge_that_nobody_has_opened_has_no_record),
    CHECK_TEST(a_malformed_record_that_is_taken_at_once_ends_the_edge),
};

CHECK_MAIN(tests)
