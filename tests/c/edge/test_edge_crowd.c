/* test_edge_crowd.c: what many edges of one channel cost each other: nothing that grows with their number. The service counts the edges that
 * it looks at (rt_rpc.edge_looks), so no clock is asked.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { CROWD = 300, SIZE = 64, EACH_MAX = 4 }; /* EACH_MAX: looks at an edge that is opened, and at one that ends */
static const uint64_t dims[] = {SIZE};
static const edge_place places[] = {{"sim", "sim", NULL, 0, RT_EDGE_CHAINED},
                                    {"sim, immediate", "sim", "&receive_depth=4096", RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE}};

static rt_edge *senders[CROWD + 1], *receivers[CROWD + 1];

static rt_edge_options options_of(const edge_place *place, char name[16], uint32_t index)
{
    snprintf(name, 16, "crowd %u", index);
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    options.slots = 1;
    options.ordering = place->ordering;
    return options;
}

static uint64_t looks(const edge_ends *ends)
{
    const rt_rpc *near = ends->core.channel->rpc, *far = ends->core.accepted->rpc;
    return (near != NULL ? near->edges->looks : 0) + (far != NULL ? far->edges->looks : 0);
}

static void create(edge_ends *ends, uint32_t index)
{
    char name[16];
    rt_edge_options options = options_of(ends->place, name, index);
    CHECK_INT(rt_edge_create(ends->core.far, &options, NULL, &receivers[index], &ends->detail), RT_OK);
}

static void ask(edge_ends *ends, uint32_t index)
{
    char name[16];
    rt_edge_options options = options_of(ends->place, name, index);
    CHECK_INT(rt_edge_open(ends->core.channel, &options, RT_NS_PER_S, &senders[index], &ends->detail), RT_OK);
}

static void join(edge_ends *ends, uint32_t index)
{
    ends->sender = senders[index];
    ends->receiver = receivers[index];
    CHECK_INT(edge_wait_open(ends), RT_OK);
}

static void begin_crowd(edge_ends *ends, const edge_place *place, uint32_t count)
{
    edge_begin(ends, place, 1);
    for (uint32_t index = 0; index < count; index++) {
        create(ends, index);
        ask(ends, index);
        join(ends, index);
    }
    core_fill(ends->core.here, SIZE, 3);
}

static void end_crowd(edge_ends *ends)
{
    for (uint32_t index = 0; index <= CROWD; index++) {
        if (senders[index] != NULL)
            rt_edge_drop(senders[index]);
        if (receivers[index] != NULL)
            rt_edge_drop(receivers[index]);
        senders[index] = receivers[index] = NULL;
    }
    ends->sender = ends->receiver = NULL;
    edge_end(ends);
}

static void run_rounds(const edge_ends *ends, uint32_t count)
{
    for (uint32_t round = 0; round < count; round++) {
        rt_service_run(ends->core.near);
        rt_service_run(ends->core.far);
    }
}

/* Sends a tensor over an edge and takes it. */
static void use(edge_ends *ends, uint32_t index)
{
    rt_edge_tensor tensor = edge_bytes(ends->core.here, SIZE);
    rt_edge_arrival arrival;
    join(ends, index);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK(memcmp((const void *)(uintptr_t)arrival.address, ends->core.here, SIZE) == 0);
    CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
}

static void open_edges_that_are_idle_cost_a_round_nothing(void)
{
    edge_ends ends;
    begin_crowd(&ends, &places[0], CROWD);
    run_rounds(&ends, 3);
    uint64_t before = looks(&ends);
    run_rounds(&ends, 100);
    CHECK_INT(looks(&ends) - before, 0);
    end_crowd(&ends);
}

static void one_edge_works_among_idle_ones_as_if_it_were_alone(void)
{
    for (uint32_t at = 0; at < 2; at++) {
        edge_ends ends;
        uint64_t cost[2];
        for (uint32_t crowded = 0; crowded < 2; crowded++) {
            begin_crowd(&ends, &places[at], crowded ? CROWD : 1);
            uint64_t before = looks(&ends);
            for (uint32_t count = 0; count < 20; count++)
                use(&ends, 0);
            cost[crowded] = looks(&ends) - before;
            end_crowd(&ends);
        }
        printf("%s: %" PRIu64 " looks alone, %" PRIu64 " among %d\n", places[at].name, cost[0], cost[1], CROWD);
        CHECK(cost[1] <= cost[0] + 20); /* an immediate may meet another number in its chain */
    }
}

static void an_edge_opens_and_closes_beside_many_as_beside_none(void)
{
    edge_ends ends;
    begin_crowd(&ends, &places[0], CROWD);
    uint64_t before = looks(&ends);
    CHECK(before <= (uint64_t)CROWD * EACH_MAX);
    create(&ends, CROWD);
    ask(&ends, CROWD);
    join(&ends, CROWD);
    use(&ends, CROWD);
    rt_edge_drop(senders[CROWD]);
    rt_edge_drop(receivers[CROWD]);
    senders[CROWD] = receivers[CROWD] = NULL;
    run_rounds(&ends, 10);
    printf("%" PRIu64 " looks for %d openings, %" PRIu64 " for one more and its end\n", before, CROWD, looks(&ends) - before);
    CHECK(looks(&ends) - before <= 2 * EACH_MAX);
    end_crowd(&ends);
}

static void requests_that_wait_to_be_sent_are_not_looked_at_for_each_answer(void)
{
    edge_ends ends;
    edge_begin(&ends, &places[0], 1);
    for (uint32_t index = 0; index < CROWD; index++)
        create(&ends, index);
    for (uint32_t index = 0; index < CROWD; index++)
        ask(&ends, index);
    for (uint32_t index = 0; index < CROWD; index++)
        join(&ends, index);
    printf("%" PRIu64 " looks\n", looks(&ends));
    CHECK(looks(&ends) <= (uint64_t)CROWD * EACH_MAX);
    end_crowd(&ends);
}

static void edges_that_wait_to_close_are_looked_at_by_time_and_not_by_round(void)
{
    edge_ends ends;
    begin_crowd(&ends, &places[0], CROWD);
    for (uint32_t index = 0; index < CROWD; index++) {
        rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
        join(&ends, index);
        CHECK_INT(edge_send(&ends, &tensor, false), RT_OK);
        rt_edge_close(senders[index]); /* its receiver does not take the tensor, so it waits for the release */
    }
    for (int64_t end_ns = rt_device_now_ns(ends.core.near) + RT_NS_PER_S; rt_device_now_ns(ends.core.near) < end_ns;)
        rt_device_nap(ends.core.near, RT_NS_PER_S / 10);
    uint64_t before = looks(&ends);
    run_rounds(&ends, 100); /* no virtual time passes */
    printf("%" PRIu64 " looks in 100 rounds\n", looks(&ends) - before);
    CHECK(looks(&ends) - before <= 2 * CROWD);
    end_crowd(&ends);
}

static void edges_of_a_lost_channel_are_dropped_one_by_one_without_a_look_at_the_others(void)
{
    edge_ends ends;
    rt_detail why;
    begin_crowd(&ends, &places[0], CROWD);
    rt_fail(&why, RT_E_PEER_LOST, 0, "the test says so");
    rt_channel_fail(ends.core.channel, &why);
    run_rounds(&ends, 3);
    for (int tries = 0; !atomic_load(&ends.core.channel->links_shut) && tries < 100; tries++)
        rt_device_nap(ends.core.near, RT_NS_PER_S / 10);
    CHECK(atomic_load(&ends.core.channel->links_shut));
    rt_device_nap(ends.core.near, RT_NS_PER_S / 10);
    CHECK(ends.core.channel->rpc != NULL); /* the senders' remotes hold it */
    uint64_t before = rt_edges_of(ends.core.channel)->looks;
    for (uint32_t index = 0; index + 1 < CROWD; index++) {
        rt_edge_drop(senders[index]);
        senders[index] = NULL;
        rt_service_run(ends.core.near);
    }
    CHECK(ends.core.channel->rpc != NULL);
    printf("%" PRIu64 " looks\n", rt_edges_of(ends.core.channel)->looks - before);
    CHECK(rt_edges_of(ends.core.channel)->looks - before <= (uint64_t)CROWD * 2);
    end_crowd(&ends);
}

static const check_test tests[] = {CHECK_TEST(open_edges_that_are_idle_cost_a_round_nothing),
                                   CHECK_TEST(one_edge_works_among_idle_ones_as_if_it_were_alone),
                                   CHECK_TEST(an_edge_opens_and_closes_beside_many_as_beside_none),
                                   CHECK_TEST(requests_that_wait_to_be_sent_are_not_looked_at_for_each_answer),
                                   CHECK_TEST(edges_that_wait_to_close_are_looked_at_by_time_and_not_by_round),
                                   CHECK_TEST(edges_of_a_lost_channel_are_dropped_one_by_one_without_a_look_at_the_others)};
CHECK_MAIN(tests)
