/* test_edge_close.c: edges that end while something of them is still under way, held, or asked for: both ends learn it, and nothing is
 * touched that the other end may have given away. Over every provider and way of carrying a flag.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

static const uint64_t hundred = 100, large = 1 << 20;

static rt_edge_options bytes_of(const char *name, const uint64_t *size)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = size;
    return options;
}

static rt_edge_options any_tensor(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    return options;
}

/* Whether the receiver has told that it closes. */
static bool told(edge_ends *ends)
{
    pthread_mutex_lock(&ends->core.far->lock);
    bool was_told = ends->receiver->close_told;
    pthread_mutex_unlock(&ends->core.far->lock);
    return was_told;
}

/* Lets a millisecond pass at the far end only: nobody polls for the near one's completions. */
static void far_time(edge_ends *ends)
{
    (void)rt_channel_wait_word(ends->core.accepted, ends->core.target, 0, 1, RT_NS_PER_MS);
}

/* Whether no edge has anything to do with a channel any more. */
static bool left(rt_device *device, const rt_channel *channel)
{
    (pthread_mutex_lock)(&device->lock);
    bool empty = channel->rpc == NULL || rt_list_empty(&rt_edges_of(channel)->list);
    (pthread_mutex_unlock)(&device->lock);
    return empty;
}

static bool far_leaves(edge_ends *ends)
{
    for (int tries = 0; tries < 2000 && !left(ends->core.far, ends->core.accepted); tries++)
        far_time(ends);
    return left(ends->core.far, ends->core.accepted);
}

static bool near_leaves(edge_ends *ends)
{
    for (int tries = 0; tries < 2000 && !left(ends->core.near, ends->core.channel); tries++)
        far_time(ends);
    return left(ends->core.near, ends->core.channel);
}

static bool far_knows(edge_ends *ends)
{
    for (int tries = 0; tries < 2000; tries++) {
        (pthread_mutex_lock)(&ends->core.far->lock);
        bool knows = ends->receiver->peer_knows;
        (pthread_mutex_unlock)(&ends->core.far->lock);
        if (knows)
            return true;
        far_time(ends);
    }
    return false;
}

/* One tensor, which is not received. */
static void leave_one(const edge_place *place, const rt_edge_options *options)
{
    edge_ends ends;
    edge_begin(&ends, place, 1);
    edge_join(&ends, place, options);
    rt_region *region = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
    rt_edge_tensor tensor = edge_bytes((void *)(uintptr_t)rt_region_address(region), hundred);
    CHECK_INT(edge_send(&ends, &tensor, options->kind == RT_EDGE_STATIC), RT_OK);
    rt_edge_close(ends.sender);
    CHECK(far_knows(&ends));
    rt_edge_close(ends.receiver);
    int status, tries = 0;
    do
        status = rt_edge_wait_released(ends.sender, 1, RT_NS_PER_MS);
    while (status == RT_E_AGAIN && ++tries < 2000);
    CHECK_INT(status, RT_E_PEER_CLOSED);
    CHECK(near_leaves(&ends));
    CHECK(far_leaves(&ends));
    CHECK_INT(rt_region_close(region, &ends.detail), RT_OK);
    rt_region_drop(region);
    edge_end(&ends);
}

static void a_receiver_that_leaves_tensors_of_a_closed_sender_tells_it(void)
{
    EDGE_EACH_PLACE(place)
    {
        rt_edge_options fixed = bytes_of("left", &hundred), dynamic = any_tensor("left");
        leave_one(place, &fixed);
        leave_one(place, &dynamic);
    }
}

static void a_tensor_is_released_after_both_ends_have_closed(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("held", &hundred);
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        rt_edge_arrival arrival, none;
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        rt_edge_close(ends.sender);
        CHECK_INT(edge_receive(&ends, &none), RT_E_PEER_CLOSED);
        rt_edge_close(ends.receiver);
        CHECK(far_leaves(&ends));
        CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_OK);
        CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_E_INVALID);
        edge_end(&ends);
    }
}

/* A dynamic edge, of which one tensor has come that still lies at the sender. */
static void begin_unfetched(edge_ends *ends, const edge_place *place, uint64_t size, rt_edge_arrival *arrival_out)
{
    edge_begin(ends, place, 1);
    rt_edge_options options = any_tensor("unfetched");
    edge_join(ends, place, &options);
    memset(ends->core.here, 0x5a, size);
    rt_edge_tensor tensor = edge_bytes(ends->core.here, size);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(ends, arrival_out), RT_OK);
    CHECK_INT(arrival_out->address, 0);
}

static void a_tensor_is_not_fetched_after_the_close(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        uint64_t address = 0;
        begin_unfetched(&ends, place, hundred, &arrival);
        rt_edge_close(ends.receiver);
        CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_E_CLOSED);
        CHECK(far_leaves(&ends));
        CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_E_CLOSED);
        CHECK_INT(rt_edge_borrow(ends.receiver, arrival.sequence, &address), RT_E_CLOSED);
        edge_end(&ends);
    }
}

static void an_end_is_not_ready_before_the_last_read_is_over(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival, none;
        begin_unfetched(&ends, place, large, &arrival);
        int fetched = rt_edge_fetch(ends.receiver, arrival.sequence, ends.core.target, 0, 0), status = RT_E_AGAIN;
        rt_edge_close(ends.sender);
        for (int look = 0; look < 200 && status == RT_E_AGAIN; look++) {
            bool ready = rt_edge_ready(ends.receiver);
            status = rt_edge_receive(ends.receiver, RT_SLICE_NS / 100, &none);
            CHECK(!ready || status != RT_E_AGAIN);
        }
        if (fetched == RT_E_AGAIN) {
            CHECK_INT(status, RT_E_AGAIN);
            CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_OK);
        }
        CHECK_INT(edge_receive(&ends, &none), RT_E_PEER_CLOSED);
        edge_end(&ends);
    }
}

static void a_read_that_failed_does_not_end_well_when_it_is_asked_for_again(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        begin_unfetched(&ends, place, large, &arrival);
        int status = rt_edge_fetch(ends.receiver, arrival.sequence, ends.core.target, 0, 0);
        rt_channel_close(ends.core.channel);
        if (status == RT_E_AGAIN) {
            int first = edge_fetch(&ends, arrival.sequence, ends.core.target, 0);
            int again = edge_fetch(&ends, arrival.sequence, ends.core.target, 0);
            CHECK(first != RT_E_AGAIN);
            CHECK(first != RT_OK || memcmp(ends.core.there, ends.core.here, large) == 0); /* was over before the close */
            CHECK(again < 0 && again != RT_E_AGAIN);
        }
        edge_end(&ends);
    }
}

static void a_key_that_is_asked_for_does_not_hold_up_the_close(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = any_tensor("asked");
        edge_join(&ends, place, &options);
        rt_region *region = core_region(ends.core.near, 4096, RT_RIGHT_REMOTE_READ);
        rt_edge_tensor tensor = edge_bytes((void *)(uintptr_t)rt_region_address(region), hundred);
        rt_edge_arrival arrival;
        (pthread_mutex_lock)(&ends.core.far->lock); /* nobody answers meanwhile */
        int64_t sent = rt_edge_send_tensor(ends.sender, &tensor, 0);
        (pthread_mutex_unlock)(&ends.core.far->lock);
        CHECK_INT(sent, RT_E_AGAIN);
        rt_edge_close(ends.sender);
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
        CHECK(near_leaves(&ends));
        CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 0), RT_E_CLOSED);
        edge_end(&ends);
        rt_region_drop(region);
    }
}

static void a_tensor_that_was_half_staged_is_given_up_by_the_close(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("half", &large);
        options.staging = 1;
        edge_join(&ends, place, &options);
        memset(ends.core.here, 0xab, large);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, large);
        rt_edge_arrival arrival;
        rt_edge_info info;
        int64_t sequence = rt_edge_send_tensor(ends.sender, &tensor, 0);
        (pthread_mutex_lock)(&ends.core.near->lock); /* the service does not go on with it */
        bool half = sequence > 0 && ends.sender->stage->chunks.sequence != 0 && ends.sender->stage->chunks.stripe == 0;
        rt_edge_close(ends.sender);
        (pthread_mutex_unlock)(&ends.core.near->lock);
        int status = RT_E_AGAIN, tries = 0;
        while (half && status == RT_E_AGAIN && ++tries < 2000)
            status = rt_edge_wait_sent(ends.sender, (uint64_t)sequence, RT_NS_PER_MS);
        if (half) {
            CHECK_INT(status, RT_E_CLOSED);
            CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
            rt_edge_get_info(ends.receiver, &info);
            uint8_t *slot = (uint8_t *)(uintptr_t)info.slots_address + info.slot_stride * ((uint64_t)sequence % 2);
            CHECK_INT(slot[large - 1], 0);
        }
        edge_end(&ends);
    }
}

static void a_sender_that_does_nothing_lets_its_receiver_close(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("idle", &hundred);
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        rt_edge_close(ends.receiver);
        CHECK(far_leaves(&ends));
        edge_end(&ends);
    }
}

/* The sender answers a close by giving its memory back, so a credit that is under way then would be written into somebody else's. */
static void a_receiver_asks_to_close_after_its_last_credit_was_placed(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 2);
        rt_edge_options options = bytes_of("credit", &hundred);
        options.qp = place->mode == RT_EDGE_IMMEDIATE ? -1 : 1; /* not that of the messages */
        edge_join(&ends, place, &options);
        const uint64_t *credit = (const uint64_t *)(const void *)ends.sender->credit_line.address;
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        rt_edge_arrival arrival;
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_OK);
        rt_edge_close(ends.receiver);
        for (int tries = 0; tries < 2000 && !told(&ends); tries++)
            far_time(&ends);
        CHECK(told(&ends));
        CHECK_INT((int)rt_load_acquire_u64(credit), 1);
        CHECK(far_leaves(&ends));
        edge_end(&ends);
    }
}

static void a_release_after_the_close_was_told_writes_no_credit(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = bytes_of("late", &hundred);
        edge_join(&ends, place, &options);
        const uint64_t *credit = (const uint64_t *)(const void *)ends.sender->credit_line.address;
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        rt_edge_arrival arrival, none;
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        rt_edge_close(ends.sender);
        CHECK_INT(edge_receive(&ends, &none), RT_E_PEER_CLOSED);
        rt_edge_close(ends.receiver);
        for (int tries = 0; tries < 2000 && !told(&ends); tries++)
            far_time(&ends);
        CHECK(told(&ends));
        CHECK_INT(rt_edge_release(ends.receiver, arrival.sequence), RT_OK);
        CHECK(far_leaves(&ends));
        for (int millisecond = 0; millisecond < 10; millisecond++)
            far_time(&ends);
        CHECK_INT((int)rt_load_acquire_u64(credit), 0);
        edge_end(&ends);
    }
}

static void a_tensor_of_another_dtype_is_refused_where_every_rank_fits(void)
{
    edge_ends ends;
    edge_begin(&ends, &edge_places[0], 1);
    rt_edge_options options = any_tensor("typed");
    options.dtype = RT_DTYPE_FLOAT32;
    edge_join(&ends, &edge_places[0], &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
    CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 0), RT_E_INVALID);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_receiver_that_leaves_tensors_of_a_closed_sender_tells_it),
    CHECK_TEST(a_tensor_is_released_after_both_ends_have_closed),
    CHECK_TEST(a_tensor_is_not_fetched_after_the_close),
    CHECK_TEST(an_end_is_not_ready_before_the_last_read_is_over),
    CHECK_TEST(a_read_that_failed_does_not_end_well_when_it_is_asked_for_again),
    CHECK_TEST(a_key_that_is_asked_for_does_not_hold_up_the_close),
    CHECK_TEST(a_tensor_that_was_half_staged_is_given_up_by_the_close),
    CHECK_TEST(a_sender_that_does_nothing_lets_its_receiver_close),
    CHECK_TEST(a_receiver_asks_to_close_after_its_last_credit_was_placed),
    CHECK_TEST(a_release_after_the_close_was_told_writes_no_credit),
    CHECK_TEST(a_tensor_of_another_dtype_is_refused_where_every_rank_fits),
};
CHECK_MAIN(tests)
