/* test_edge_late.c: edges that are closed, or lose their peer, between the steps of opening; and what is let go of when an edge closes
 * after its channel; and a record that its link has no room for at first.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { SIZE = 100 };
static const uint64_t dims[] = {SIZE};

static rt_edge_options options_of(const edge_place *place, bool dynamic)
{
    rt_edge_options options = edge_options("late");
    options.ordering = place->ordering;
    options.kind = dynamic ? RT_EDGE_DYNAMIC : RT_EDGE_STATIC;
    options.dtype = RT_DTYPE_UINT8;
    options.rank = dynamic ? RT_EDGE_RANK_ANY : 1;
    options.dims = dynamic ? NULL : dims;
    return options;
}

static void go_on(edge_ends *ends)
{
    rt_device_progress(ends->core.near);
    rt_device_progress(ends->core.far);
}

/* Opens the edge as far as the answer goes. */
static void open_to_the_answer(edge_ends *ends, const rt_edge_options *options)
{
    CHECK_INT(rt_edge_create(ends->core.far, options, NULL, &ends->receiver, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_open(ends->core.channel, options, RT_NS_PER_S, &ends->sender, &ends->detail), RT_OK);
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (atomic_load(&ends->sender->phase) == RT_EDGE_PHASE_NEW && rt_clock_now_ns() < end_ns)
        go_on(ends);
    CHECK_INT(atomic_load(&ends->sender->phase), RT_EDGE_PHASE_ANSWERED);
}

static bool peer_knows(const rt_edge *edge)
{
    pthread_mutex_lock(&edge->device->lock);
    bool knows = edge->peer_knows;
    pthread_mutex_unlock(&edge->device->lock);
    return knows;
}

static void an_edge_that_its_receiver_closed_before_it_was_wired_says_so(void)
{
    EDGE_EACH_PLACE(place)
    {
        for (uint32_t dynamic = 0; dynamic < 2; dynamic++) {
            edge_ends ends;
            const rt_edge_options options = options_of(place, dynamic);
            edge_begin(&ends, place, 1);
            open_to_the_answer(&ends, &options);
            rt_edge_close(ends.receiver);
            int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
            while (!peer_knows(ends.sender) && rt_clock_now_ns() < end_ns)
                go_on(&ends);
            CHECK(peer_knows(ends.sender));
            CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_OK);
            int status = edge_wait_open(&ends);
            if (status == RT_OK) {
                rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
                CHECK_INT(edge_send(&ends, &tensor, false), RT_E_PEER_CLOSED);
                CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_PEER_CLOSED);
            } else { /* its memory is gone already */
                CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), status);
            }
            edge_end(&ends);
        }
    }
}

static void an_edge_that_was_closed_before_it_was_wired_sends_nothing(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_stats stats;
        const rt_edge_options options = options_of(place, false);
        edge_begin(&ends, place, 1);
        open_to_the_answer(&ends, &options);
        rt_edge_close(ends.sender);
        CHECK_INT(edge_wait_open(&ends), RT_E_CLOSED);
        CHECK_HAS(ends.detail.text, "the edge \"late\" was closed on this side");
        rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
        CHECK(rt_edge_send_tensor(ends.sender, &tensor, 0) < 0);
        rt_edge_get_stats(ends.sender, &stats);
        CHECK_INT(stats.sequence, 0);
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        while (!ends.sender->peer_knows && rt_clock_now_ns() < end_ns)
            go_on(&ends);
        CHECK_INT(rt_channel_state(ends.core.channel), RT_CHANNEL_READY); /* the answer to the close was expected */
        edge_end(&ends);
    }
}

static void a_wiring_of_many_slices_attaches_everything_once(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        rt_edge_stats near, far;
        rt_edge_arrival arrival;
        const rt_edge_options options = options_of(place, false);
        edge_begin(&ends, place, 1);
        open_to_the_answer(&ends, &options);
        int status;
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        do {
            status = rt_edge_wait_open(ends.sender, 0, &ends.detail);
            go_on(&ends);
        } while (status == RT_E_AGAIN && rt_clock_now_ns() < end_ns);
        CHECK_INT(status, RT_OK);
        CHECK_INT(atomic_load(&ends.sender->slots_remote->references), 1);
        CHECK_INT(rt_edge_wait_open(ends.sender, 0, &ends.detail), RT_OK);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
        for (uint32_t turn = 1; turn <= 3; turn++) {
            CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
            rt_edge_get_stats(ends.sender, &near);
            rt_edge_get_stats(ends.receiver, &far);
            CHECK_INT(near.sequence, turn);
            CHECK_INT(far.sequence, turn);
            CHECK_INT(far.released, turn - 1);
            CHECK_INT(rt_edge_release(ends.receiver, turn), RT_OK);
            while ((status = rt_edge_wait_released(ends.sender, turn, RT_SLICE_NS)) == RT_E_AGAIN && rt_clock_now_ns() < end_ns)
                continue;
            CHECK_INT(status, RT_OK);
            rt_edge_get_stats(ends.sender, &near);
            CHECK_INT(near.released, turn);
            CHECK_INT(near.transfers, turn);
            CHECK_INT(near.bytes, turn * SIZE);
        }
        edge_end(&ends);
    }
}

static void an_edge_that_closes_after_its_channel_lets_go_of_the_peers_memory(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        const rt_edge_options options = options_of(place, true);
        edge_begin(&ends, place, 1);
        edge_join(&ends, place, &options);
        CHECK(ends.receiver->remotes[0] != NULL);
        rt_channel_close(ends.core.channel);
        rt_channel_close(ends.core.accepted);
        int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
        while (!(ends.receiver->peer_knows && ends.sender->peer_knows) && rt_clock_now_ns() < end_ns)
            go_on(&ends);
        CHECK(ends.receiver->remotes[0] != NULL); /* until somebody says that nothing of it is wanted */
        CHECK(ends.sender->slots_remote != NULL);
        rt_edge_close(ends.receiver);
        rt_edge_close(ends.sender);
        while (!(rt_list_empty(&ends.receiver->node) && rt_list_empty(&ends.sender->node)) && rt_clock_now_ns() < end_ns)
            go_on(&ends);
        for (uint32_t end = 0; end < 2; end++) { /* a service that has just taken an edge off its list still holds the lock */
            rt_device *device = end == 0 ? ends.receiver->device : ends.sender->device;
            pthread_mutex_lock(&device->lock);
            pthread_mutex_unlock(&device->lock);
        }
        CHECK(ends.receiver->remotes[0] == NULL && ends.receiver->credit_remote == NULL);
        CHECK(ends.sender->slots_remote == NULL && ends.sender->lines_remote == NULL);
        CHECK_INT(ends.receiver->key_numbers.count, 0);
        edge_end(&ends);
    }
}

/* The link is full of another copy, and the sender does nothing more. */
static void a_record_that_finds_no_room_is_posted_without_its_sender(void)
{
    static const edge_place narrow_place = {"sim, one segment", "sim", "&segments_max=1&work_depth=2", 0, RT_EDGE_CHAINED};
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = edge_options("record");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = 256;
    edge_begin(&ends, &narrow_place, 1);
    edge_join(&ends, &narrow_place, &options);
    int64_t number = core_start(&ends.core, 0, RT_WRITE, 0, 0, 64 * CORE_SMALLEST_MESSAGE);
    CHECK(number > 0);
    memset(ends.core.here, 0x5a, 100);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, 100);
    CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 0), 1);
    CHECK(ends.sender->record_owed);
    rt_device_progress(ends.core.far); /* time passes, and the service looks at it */
    CHECK_INT(ends.sender->record_owed, !rt_edge_record_posted(ends.sender, 1));
    int status = RT_E_AGAIN;
    for (int tries = 0; tries < 2000 && status == RT_E_AGAIN; tries++)
        status = rt_edge_receive(ends.receiver, RT_NS_PER_MS, &arrival);
    CHECK_INT(status, RT_OK);
    CHECK_INT(((const uint8_t *)(uintptr_t)arrival.address)[99], 0x5a);
    CHECK(!ends.sender->record_owed);
    CHECK_INT(core_finish(ends.core.channel, number, &ends.detail), RT_OK);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(an_edge_that_its_receiver_closed_before_it_was_wired_says_so),
    CHECK_TEST(an_edge_that_was_closed_before_it_was_wired_sends_nothing),
    CHECK_TEST(a_wiring_of_many_slices_attaches_everything_once),
    CHECK_TEST(an_edge_that_closes_after_its_channel_lets_go_of_the_peers_memory),
    CHECK_TEST(a_record_that_finds_no_room_is_posted_without_its_sender),
};

CHECK_MAIN(tests)
