/* test_edge_owed.c: what an end has under way, so that it may not go yet, and what it owes, which the service does without another call.
 * Mostly in virtual time, where nothing moves between two calls.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

static const uint64_t hundred = 100, large = 1 << 20;
static const edge_place *const shm_place = &edge_places[0], *const sim_place = &edge_places[2];

static rt_edge_options bytes_of(const uint64_t *size)
{
    rt_edge_options options = edge_options("owed");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = size;
    return options;
}

static rt_edge_options any_tensor(void)
{
    rt_edge_options options = edge_options("owed");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    return options;
}

/* ---- what is under way ---- */

/* Whether a tensor is staged or not: WRITEs of either kind that are under way keep the end from being quiet. */
static void an_end_is_not_quiet_before_its_writes_are_over(void)
{
    static uint8_t outside[1 << 20];
    edge_ends ends;
    int tries = 0;
    edge_begin(&ends, sim_place, 1);
    rt_edge_options options = edge_options("quiet");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = &large;
    edge_join(&ends, sim_place, &options);
    rt_edge_tensor staged = edge_bytes(outside, large), plain = edge_bytes(ends.core.here, large);
    CHECK(rt_edge_quiet(ends.sender));
    CHECK_INT(edge_send(&ends, &staged, true), RT_OK);
    CHECK(ends.sender->stage != NULL);
    while (!rt_edge_quiet(ends.sender) && ++tries < 6000)
        rt_device_progress(ends.core.near);
    CHECK(rt_edge_quiet(ends.sender));
    int64_t sequence = rt_edge_send_tensor(ends.sender, &plain, 0);
    CHECK_INT(sequence, 2);
    CHECK(!rt_edge_quiet(ends.sender));
    int status;
    do
        status = rt_edge_wait_sent(ends.sender, 2, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 6000);
    CHECK_INT(status, RT_OK);
    CHECK(rt_edge_quiet(ends.sender));
    edge_end(&ends);
}

static void a_receiver_is_not_quiet_before_its_reads_and_credits_are_over(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    int tries = 0;
    edge_begin(&ends, sim_place, 1);
    rt_edge_options options = any_tensor();
    edge_join(&ends, sim_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, large);
    CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK(rt_edge_quiet(ends.receiver));
    CHECK_INT(rt_edge_fetch(ends.receiver, arrival.sequence, ends.core.target, 0, 0), RT_E_AGAIN);
    CHECK(!rt_edge_quiet(ends.receiver));
    CHECK_INT(edge_fetch(&ends, arrival.sequence, ends.core.target, 0), RT_OK);
    CHECK(ends.receiver->credit_op != 0); /* it has released the tensor */
    CHECK(!rt_edge_quiet(ends.receiver));
    while (!rt_edge_quiet(ends.receiver) && ++tries < 6000)
        rt_device_progress(ends.core.far);
    CHECK(rt_edge_quiet(ends.receiver));
    edge_end(&ends);
}

static void a_receiver_is_not_quiet_while_a_tensor_is_borrowed(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    uint64_t address;
    edge_begin(&ends, shm_place, 1);
    rt_edge_options options = any_tensor();
    edge_join(&ends, shm_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, large);
    CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(rt_edge_borrow(ends.receiver, 1, &address), RT_OK);
    CHECK(!rt_edge_quiet(ends.receiver));
    CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
    CHECK(rt_edge_quiet(ends.receiver));
    edge_end(&ends);
}

/* ---- what is owed ---- */

/* A credit for which no operation was free at the release is posted by the service, which is told at once. */
static void a_credit_that_could_not_be_posted_is_posted_without_another_call(void)
{
    for (uint32_t corrupt = 0; corrupt < 2; corrupt++) {
        static rt_op *ops[RT_OPS_PER_LINK];
        edge_ends ends;
        rt_edge_arrival arrival;
        int tries = 0;
        edge_begin(&ends, sim_place, 1);
        rt_edge_options options = bytes_of(&hundred);
        options.verify = corrupt;
        edge_join(&ends, sim_place, &options);
        rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        while (rt_edge_ready(ends.receiver) == 0 && ++tries < 6000)
            rt_device_progress(ends.core.near);
        rt_link *link = ends.receiver->links[0];
        uint32_t taken = edge_take_operations(link, ops, 0);
        atomic_store(&ends.core.far->service->kicked, false);
        rt_edge_slot_address(ends.receiver, 1)[7] ^= (uint8_t)corrupt;
        CHECK_INT(rt_edge_receive(ends.receiver, 0, &arrival), corrupt ? RT_E_CORRUPT : RT_OK); /* which releases it */
        if (!corrupt)
            CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
        CHECK(ends.receiver->credit_owed);
        CHECK(atomic_load(&ends.core.far->service->kicked));
        edge_give_operations(link, ops, taken);
        int status;
        do
            status = rt_edge_wait_released(ends.sender, 1, RT_SLICE_NS);
        while (status == RT_E_AGAIN && ++tries < 12000);
        CHECK_INT(status, RT_OK);
        CHECK(!ends.receiver->credit_owed);
        edge_end(&ends);
    }
}

/* The same in real time, where a thread is the service: of tensors that are corrupt, so that their slot is free at once, and of one
 * that is released by the call that never waits. */
static void the_thread_of_the_service_posts_a_credit_that_is_owed(void)
{
    static rt_op *ops[RT_OPS_PER_LINK];
    for (uint32_t way = 0; way < 3; way++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        uint64_t address;
        edge_begin(&ends, shm_place, 1);
        rt_edge_options options = any_tensor();
        options.verify = way < 2;
        edge_join(&ends, shm_place, &options);
        rt_region *region = core_region(ends.core.near, large, RT_RIGHT_REMOTE_READ);
        uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
        rt_edge_tensor tensor = edge_bytes(bytes, large);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        bytes[7] ^= 1;
        if (way > 0)
            CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        if (way == 2)
            CHECK_INT(rt_edge_borrow(ends.receiver, 1, &address), RT_OK);
        rt_link *link = ends.receiver->links[0];
        uint32_t taken = edge_take_operations(link, ops, 0);
        if (way == 0)
            CHECK_INT(rt_edge_receive_borrowed(ends.receiver, 0, &arrival), RT_E_CORRUPT);
        else if (way == 1)
            CHECK_INT(rt_edge_borrow(ends.receiver, 1, &address), RT_E_CORRUPT);
        else
            CHECK_INT(rt_edge_release_at_once(ends.receiver, 1), RT_OK);
        CHECK(ends.receiver->credit_owed);
        CHECK_INT(rt_edge_wait_released(ends.sender, 1, 0), RT_E_AGAIN);
        edge_give_operations(link, ops, taken);
        int status, tries = 0;
        do
            status = rt_edge_wait_released(ends.sender, 1, RT_SLICE_NS);
        while (status == RT_E_AGAIN && ++tries < 100);
        CHECK_INT(status, RT_OK);
        edge_end(&ends);
        rt_region_drop(region);
    }
}

/* The rest of a tensor that is half staged waits for room: the service has nothing to do at once, and looks again later. */
static void a_half_staged_tensor_without_room_keeps_the_service_idle(void)
{
    static rt_op *ops[RT_OPS_PER_LINK];
    static uint8_t outside[1 << 20];
    edge_ends ends;
    edge_begin(&ends, sim_place, 1);
    rt_edge_options options = bytes_of(&large);
    edge_join(&ends, sim_place, &options);
    rt_edge_tensor tensor = edge_bytes(outside, large);
    CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 0), 1);
    CHECK(ends.sender->stage_owed);
    rt_link *link = ends.sender->links[0];
    uint32_t taken = edge_take_operations(link, ops, 0);
    pthread_mutex_lock(&ends.core.near->lock);
    bool moved = true;
    for (int tries = 0; moved && tries < 100; tries++) {
        moved = rt_edges_run(ends.core.channel);
        taken = edge_take_operations(link, ops, taken);
    }
    pthread_mutex_unlock(&ends.core.near->lock);
    CHECK(!moved && ends.sender->stage_owed);
    edge_give_operations(link, ops, taken);
    rt_edge_arrival arrival;
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK); /* the service sends the rest */
    edge_end(&ends);
}

/* A caller that closes an edge and then ends its process has told the peer. */
static void a_close_is_told_before_the_call_returns(void)
{
    edge_ends ends;
    edge_begin(&ends, sim_place, 1);
    rt_edge_options options = bytes_of(&hundred);
    edge_join(&ends, sim_place, &options);
    rt_edge_close(ends.sender);
    CHECK(ends.sender->close_told);
    CHECK_INT(ends.sender->ask.state, RT_ASK_SENT);
    edge_end(&ends);
}

/* A sender that waits for the release of its last tensor looks less and less often. The word of its peer is heard at once. */
static void an_end_that_waits_leaves_when_it_hears_of_its_peers_close(void)
{
    edge_ends ends;
    edge_begin(&ends, sim_place, 1);
    rt_edge_options options = bytes_of(&hundred);
    edge_join(&ends, sim_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, hundred);
    CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    rt_edge_close(ends.sender);
    int64_t end_ns = rt_device_now_ns(ends.core.near) + RT_NS_PER_S;
    while (rt_device_now_ns(ends.core.near) < end_ns) /* a second, of virtual time */
        (void)rt_channel_wait_word(ends.core.channel, ends.core.local, 0, 1, RT_NS_PER_MS);
    CHECK(!rt_list_empty(&ends.sender->node));
    rt_edge_close(ends.receiver);
    end_ns = rt_device_now_ns(ends.core.near) + RT_NS_PER_MS;
    while (!rt_list_empty(&ends.sender->node) && rt_device_now_ns(ends.core.near) < end_ns)
        (void)rt_channel_wait_word(ends.core.channel, ends.core.local, 0, 1, 10 * 1000);
    CHECK(rt_list_empty(&ends.sender->node));
    edge_end(&ends);
}

/* ---- who is woken ---- */

static void a_close_wakes_those_who_wait_for_the_edge(void)
{
    edge_ends ends;
    edge_begin(&ends, shm_place, 1);
    rt_device *far = ends.core.far;
    rt_edge_options options = bytes_of(&hundred);
    CHECK_INT(rt_edge_create(far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    uint32_t change = atomic_load(&far->change), epoch = far->provider->memory_epoch(far->pdevice);
    rt_edge_close(ends.receiver);
    CHECK(atomic_load(&far->change) != change);
    CHECK_INT(far->provider->memory_sleep(far->pdevice, epoch, 0), RT_OK);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(an_end_is_not_quiet_before_its_writes_are_over),
    CHECK_TEST(a_receiver_is_not_quiet_before_its_reads_and_credits_are_over),
    CHECK_TEST(a_receiver_is_not_quiet_while_a_tensor_is_borrowed),
    CHECK_TEST(a_credit_that_could_not_be_posted_is_posted_without_another_call),
    CHECK_TEST(the_thread_of_the_service_posts_a_credit_that_is_owed),
    CHECK_TEST(a_half_staged_tensor_without_room_keeps_the_service_idle),
    CHECK_TEST(a_close_is_told_before_the_call_returns),
    CHECK_TEST(an_end_that_waits_leaves_when_it_hears_of_its_peers_close),
    CHECK_TEST(a_close_wakes_those_who_wait_for_the_edge),
};

CHECK_MAIN(tests)
