/* test_sim_faults.c: the simulated fabric's fault plan, how its time passes, and many parties at once.
 *
 * Needs csrc/provider/sim/ (all files), csrc/provider/absent.c, csrc/base/status.c and threads. */
#include <pthread.h>

#include "sim_ends.h"

enum { RETRY_NS = 10000000 };

#define RETRY_ARGUMENT "retry_ns=10000000"
#define BOUND_NS (RETRY_NS + MS) /* the retry time, and what was under way */

/* ---- killing ---- */

/* a has ten items of all kinds under way to b, which dies when so many events have happened. False: it outlived them. */
static bool survive(unsigned event)
{
    static const uint8_t opcodes[] = {RT_WORK_WRITE, RT_WORK_READ, RT_WORK_SEND, RT_WORK_WRITE_IMM};
    sim_pair pair;
    sim_streams open;
    char command[64];
    uint8_t bytes[64];
    sim_pair_open(&pair, event, RETRY_ARGUMENT);
    sim_streams_open(&pair, &open);
    for (uint64_t token = 0; token < 8; token++)
        CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 64, token), 1);
    for (uint64_t token = 0; token < 10; token++)
        CHECK_INT(sim_post(&pair.a, opcodes[token % 4], RT_WORK_SIGNALED, 64, 128, 40, token), 1);
    CHECK_INT(SIM->streams->write(open.accepted, "x", 1), 1);
    snprintf(command, sizeof command, "kill party=b event=%u", event);
    CHECK_STR(sim_tell(pair.world, command), "ok");
    bool flushing = false;
    for (uint64_t token = 0; token < 10; token++) {
        rt_completion done;
        CHECK_INT(sim_take(&pair.a, &done, 1, BOUND_NS), 1);
        CHECK_INT(done.token, token);
        CHECK_INT(done.status, flushing ? RT_E_FLUSHED : done.status == RT_OK ? RT_OK : RT_E_PEER_LOST);
        flushing = done.status != RT_OK;
    }
    sim_tell(pair.world, "kill party=b");
    CHECK(sim_now(&pair.a) < 2 * BOUND_NS);
    int64_t got = sim_read(&pair.a, open.dialled, bytes, BOUND_NS);
    if (got == 1)
        got = sim_read(&pair.a, open.dialled, bytes, BOUND_NS);
    CHECK_INT(got, RT_E_PEER_LOST);
    sim_streams_close(&open);
    sim_pair_close(&pair);
    return flushing;
}

static void a_kill_at_any_event_ends_every_item_within_the_retry_time(void)
{
    unsigned event = 0;
    while (survive(event) || event < 20)
        event++;
    CHECK(event > 40); /* it was a scenario of some length, and the last kill came after it */
}

static void a_killed_party_is_told_and_its_own_calls_fail(void)
{
    sim_pair pair;
    sim_streams open;
    rt_event event;
    rt_detail detail;
    rt_completion done;
    rt_pmemory *memory = NULL;
    uint8_t byte = 0;
    sim_pair_open(&pair, 1, "");
    sim_streams_open(&pair, &open);
    CHECK_INT(sim_post(&pair.b, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 64, 5), 1);
    CHECK_STR(sim_tell(pair.world, "kill party=b"), "ok");
    CHECK_INT(sim_advance(&pair.b, MS), RT_OK);
    SIM->service(pair.b.device, &event);
    CHECK_INT(event.kind, RT_EVENT_DEVICE_LOST);
    CHECK_HAS(event.detail.text, "'b' was killed");
    SIM->service(pair.b.device, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE);
    CHECK_INT(SIM->poll(pair.b.device, 0, &done, 1), 1);
    CHECK(done.token == 5 && done.status == RT_E_DEVICE_LOST);
    CHECK_INT(SIM->poll(pair.b.device, 0, &done, 1), RT_E_DEVICE_LOST);
    CHECK_INT(sim_post(&pair.b, RT_WORK_WRITE, 0, 0, 0, 64, 6), RT_E_DEVICE_LOST);
    const rt_memory wanted = {.address = pair.b.bytes, .size = 64, .descriptor = -1, .access = EVERYTHING};
    CHECK_INT(SIM->memory_register(pair.b.device, &wanted, &memory, &detail), RT_E_DEVICE_LOST);
    CHECK_INT(SIM->streams->read(open.accepted, &byte, 1), RT_E_DEVICE_LOST);
    CHECK_INT(SIM->streams->write(open.accepted, &byte, 1), RT_E_DEVICE_LOST);
    CHECK_INT(SIM->streams->connect(pair.a.device, "b:40000", &open.listener, &detail), RT_E_REFUSED);
    sim_end next = {.device = NULL};
    char arguments[64];
    snprintf(arguments, sizeof arguments, "world=%s", pair.world);
    CHECK_INT(sim_open("b", arguments, &next, &detail), RT_OK); /* its successor may have its name */
    SIM->close(next.device);
    sim_streams_close(&open);
    sim_pair_close(&pair);
}

/* ---- pausing, cutting, dropping ---- */

static void a_paused_party_is_not_served_but_its_memory_is_reached(void)
{
    sim_pair pair;
    sim_streams open;
    rt_completion done;
    sim_pair_open(&pair, 1, "");
    sim_streams_open(&pair, &open);
    sim_advance(&pair.a, 30 * MS);
    CHECK_STR(sim_tell(pair.world, "pause party=b"), "ok");
    unsigned served = pair.b.served;
    CHECK_INT(SIM->streams->write(open.dialled, "hello", 5) > 0, 1);
    pair.a.bytes[0] = 77;
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 100 * MS), 1);
    CHECK(done.status == RT_OK && pair.b.bytes[0] == 77);
    sim_advance(&pair.a, 100 * MS);
    CHECK_INT(pair.b.served, served);
    CHECK_STR(sim_tell(pair.world, "resume party=b"), "ok");
    CHECK_INT(sim_advance(&pair.b, MS), RT_OK);
    CHECK(pair.b.served > served);
    sim_streams_close(&open);
    sim_pair_close(&pair);
}

static void a_cut_loses_the_peer_after_the_retry_time_unless_it_heals(void)
{
    sim_pair pair;
    rt_completion done;
    uint8_t bytes[64];
    sim_streams open;
    sim_pair_open(&pair, 1, RETRY_ARGUMENT);
    sim_streams_open(&pair, &open);
    CHECK_STR(sim_tell(pair.world, "cut party=a with=b"), "ok");
    CHECK_STR(sim_tell(pair.world, "heal party=a with=b in=5000000"), "ok");
    CHECK_INT(SIM->streams->write(open.dialled, "x", 1), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 4 * MS), 0);
    CHECK_INT(SIM->streams->read(open.accepted, bytes, 64), RT_E_AGAIN);
    CHECK_INT(sim_take(&pair.a, &done, 1, BOUND_NS), 1);
    CHECK_INT(done.status, RT_OK);
    CHECK_INT(sim_read(&pair.b, open.accepted, bytes, BOUND_NS), 1);
    CHECK_STR(sim_tell(pair.world, "cut party=b with=a"), "ok");
    int64_t start_ns = sim_now(&pair.a);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, 2), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, BOUND_NS), 1);
    CHECK(done.token == 2 && done.status == RT_E_PEER_LOST && sim_now(&pair.a) - start_ns >= RETRY_NS);
    CHECK_STR(SIM->completion_name(done.foreign_status), "SIM_RETRY_EXCEEDED");
    sim_streams_close(&open);
    sim_pair_close(&pair);
}

static void the_peers_operations_fail_through_a_link_that_was_shut(void)
{
    sim_pair pair;
    rt_completion done;
    sim_pair_open(&pair, 1, RETRY_ARGUMENT);
    SIM->link_shut(pair.b.link);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, BOUND_NS), 1);
    CHECK_INT(done.status, RT_E_PEER_LOST);
    sim_pair_close(&pair);
}

static int64_t time_of_a_write(uint64_t seed, const char *command)
{
    sim_pair pair;
    rt_completion done;
    sim_pair_open(&pair, seed, "");
    if (command != NULL)
        CHECK_STR(sim_tell(pair.world, command), "ok");
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 512, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 1000 * MS), 1);
    CHECK_INT(done.status, RT_OK);
    int64_t now_ns = sim_now(&pair.a);
    sim_pair_close(&pair);
    return now_ns;
}

static void loss_and_delay_cost_time_only(void)
{
    int64_t quick_ns = 0, lossy_ns = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        quick_ns += time_of_a_write(seed, NULL);
        lossy_ns += time_of_a_write(seed, "drop p=0.5");
        CHECK(time_of_a_write(seed, "delay min=3000000 max=4000000") >= 6 * MS);
    }
    CHECK(lossy_ns > 2 * quick_ns);
    CHECK(quick_ns / 200 < MS / 10);
}

/* ---- refusals ---- */

static void the_nth_call_of_a_named_function_is_refused(void)
{
    sim_pair pair;
    rt_detail detail;
    rt_pmemory *memory[2];
    rt_premote *remote = NULL;
    rt_plink *link = NULL;
    void *object = NULL;
    char bound[64], text[64];
    sim_end end = {.device = NULL};
    sim_pair_open(&pair, 1, "");
    const rt_memory wanted = {.address = pair.a.bytes, .size = 64, .descriptor = -1, .access = EVERYTHING};
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=memory_register nth=2 status=memlock"), "ok");
    CHECK_INT(SIM->memory_register(pair.a.device, &wanted, &memory[0], &detail), RT_OK);
    CHECK_INT(SIM->memory_register(pair.a.device, &wanted, &memory[1], &detail), RT_E_MEMLOCK);
    CHECK_HAS(detail.text, "refused by the fault plan");
    CHECK_INT(SIM->memory_register(pair.a.device, &wanted, &memory[1], &detail), RT_OK);
    SIM->memory_release(pair.a.device, memory[0]);
    SIM->memory_release(pair.a.device, memory[1]);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=link_create nth=1 status=no-memory"), "ok");
    CHECK_INT(SIM->link_create(pair.a.device, 0, 0, &link, end.address, &end.address_size, &detail), RT_E_NO_MEMORY);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=remote_attach nth=1 status=system"), "ok");
    CHECK_INT(SIM->remote_attach(pair.a.link, pair.b.key, pair.b.key_size, 64, EVERYTHING, &remote, &detail), RT_E_SYSTEM);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=listen nth=1 status=exists"), "ok");
    CHECK_INT(SIM->streams->listen(pair.a.device, "a:0", &object, bound, sizeof bound, &detail), RT_E_EXISTS);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=connect nth=1 status=system"), "ok");
    CHECK_INT(SIM->streams->connect(pair.a.device, "a:1", &object, &detail), RT_E_SYSTEM);
    CHECK_STR(sim_tell(pair.world, "refuse call=open nth=1 status=unavailable"), "ok");
    snprintf(text, sizeof text, "world=%s", pair.world);
    CHECK_INT(sim_open("c", text, &end, &detail), RT_E_UNAVAILABLE);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=post nth=1 status=again"), "ok");
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), 0);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), 1);
    CHECK_STR(sim_tell(pair.world, "refuse party=a call=post nth=1 status=system"), "ok");
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), RT_E_SYSTEM);
    sim_pair_close(&pair);
}

static void a_call_that_hesitates_succeeds_after_the_progress_it_announced(void)
{
    unsigned hesitated = 0;
    for (unsigned seed = 0; seed < 100; seed++) {
        char text[64];
        rt_detail detail;
        rt_event event;
        sim_end end[2] = {{.device = NULL}, {.device = NULL}};
        snprintf(text, sizeof text, "world=h%u&seed=%u", seed, seed);
        for (int side = 0; side < 2; side++) {
            CHECK_INT(sim_open(side == 0 ? "a" : "b", text, &end[side], &detail), RT_OK);
            sim_end_prepare(&end[side], EVERYTHING);
        }
        int status = SIM->link_connect(end[0].link, end[1].address, end[1].address_size, &detail);
        if (status == RT_E_AGAIN) {
            hesitated++;
            CHECK_INT(sim_advance(&end[0], MS), RT_OK);
            SIM->service(end[0].device, &event);
            CHECK_INT(event.kind, RT_EVENT_PROGRESS);
            CHECK(end[0].served > 0);
            status = SIM->link_connect(end[0].link, end[1].address, end[1].address_size, &detail);
        }
        CHECK_INT(status, RT_OK);
        sim_end_close(&end[0]);
        sim_end_close(&end[1]);
    }
    CHECK(hesitated > 5 && hesitated < 95);
}

/* ---- advancing ---- */

static void nested(void *owner)
{
    sim_end *end = owner;
    end->served++;
    SIM->clock->advance(end->device, sim_now(end) + MS);
}

static void an_advance_from_within_a_service_is_harmless(void)
{
    rt_detail detail;
    sim_end end = {.device = NULL};
    const rt_open_options options = {.name = "n",
                                     .arguments = "world=nested",
                                     .data_queues = 1,
                                     .upcalls = {.owner = &end, .service = nested}};
    CHECK_INT(SIM->open(&options, &end.device, &detail), RT_OK);
    CHECK_INT(sim_advance(&end, 100 * MS), RT_E_AGAIN);
    CHECK(end.served >= 9 && end.served <= 11); /* every 10 ms, for the deadlines of a control plane */
    CHECK(sim_now(&end) >= 100 * MS);
    SIM->close(end.device);
}

static void *advance_elsewhere(void *argument)
{
    sim_end *end = argument;
    static int status;
    status = SIM->clock->advance(end->device, 1);
    return &status;
}

static void another_thread_is_refused(void)
{
    sim_pair pair;
    pthread_t thread;
    void *result = NULL;
    sim_pair_open(&pair, 1, "");
    CHECK_INT(pthread_create(&thread, NULL, advance_elsewhere, &pair.a), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK_INT(*(int *)result, RT_E_INVALID);
    sim_pair_close(&pair);
}

/* ---- sleeping and waking ---- */

static void a_write_ends_the_sleep_of_its_target_where_that_is_promised(void)
{
    sim_pair pair;
    sim_pair_open(&pair, 1, "");
    CHECK_INT(SIM->memory_sleep(pair.b.device, SIM->memory_epoch(pair.b.device), 7 * MS), RT_E_AGAIN);
    CHECK_INT(sim_now(&pair.b), 7 * MS);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), 1);
    CHECK_INT(SIM->memory_sleep(pair.b.device, SIM->memory_epoch(pair.b.device), 7 * MS), RT_OK);
    CHECK(sim_now(&pair.b) < 8 * MS);
    uint32_t epoch = SIM->memory_epoch(pair.b.device);
    CHECK_INT(SIM->memory_sleep(pair.b.device, epoch, 0), RT_E_AGAIN);
    SIM->memory_wake(pair.b.device);
    CHECK_INT(SIM->memory_sleep(pair.b.device, epoch, MS), RT_OK);
    sim_pair_close(&pair);
    sim_pair_open(&pair, 1, "wakes=0");
    CHECK(!pair.b.device->limits.can_wake_receiver);
    CHECK_INT(SIM->memory_sleep(pair.b.device, SIM->memory_epoch(pair.b.device), MS), RT_E_UNSUPPORTED);
    sim_pair_close(&pair);
}

/* ---- the cost model ---- */

static void bytes_take_the_time_that_the_nic_needs_for_them(void)
{
    sim_pair pair;
    rt_completion done[2];
    sim_pair_open(&pair, 1, "latency_ns=1000&jitter_ns=0&bytes_per_us=1");
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 1000, 1), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 1000, 2), 1);
    CHECK_INT(sim_take(&pair.a, done, 1, 500 * MS), 1);
    CHECK_INT(sim_now(&pair.a), 1000000 + 2 * 1000);
    CHECK_INT(sim_take(&pair.a, done, 1, 500 * MS), 1);
    CHECK_INT(sim_now(&pair.a), 2000000 + 2 * 1000);
    sim_pair_close(&pair);
}

/* ---- many ---- */

static void a_thousand_parties_write_around_a_ring(void)
{
    enum { PARTIES = 1000 };
    sim_end *ends = calloc(2 * PARTIES, sizeof *ends);
    rt_detail detail;
    rt_completion done;
    CHECK(ends != NULL);
    for (size_t index = 0; index < PARTIES; index++) { /* 2i sends to 2(i+1)+1, which is another link of the next party */
        CHECK_INT(sim_open("", "world=ring&seed=1&hesitates=0&work_depth=4&receive_depth=4", &ends[2 * index], &detail), RT_OK);
        ends[2 * index + 1].device = ends[2 * index].device;
        sim_end_prepare(&ends[2 * index], EVERYTHING);
        sim_end_prepare(&ends[2 * index + 1], EVERYTHING);
    }
    for (size_t index = 0; index < PARTIES; index++) {
        sim_end *from = &ends[2 * index], *to = &ends[2 * ((index + 1) % PARTIES) + 1];
        sim_end_join(from, to, MEMORY_SIZE);
        sim_end_join(to, from, MEMORY_SIZE);
        memset(from->bytes, (int)(1 + index % 250), 2048);
        CHECK_INT(sim_post(from, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 2048, index), 1);
    }
    for (size_t index = 0; index < PARTIES; index++) {
        CHECK_INT(sim_take(&ends[2 * index], &done, 1, 100 * MS), 1);
        CHECK(done.status == RT_OK && done.token == index);
        CHECK_BYTES(ends[2 * ((index + 1) % PARTIES) + 1].bytes, ends[2 * index].bytes, 2048);
    }
    for (size_t index = 0; index < 2 * PARTIES; index++) {
        SIM->link_shut(ends[index].link);
        SIM->remote_detach(ends[index].link, ends[index].remote);
        SIM->link_destroy(ends[index].link);
        SIM->memory_release(ends[index].device, ends[index].memory);
        free(ends[index].bytes);
    }
    for (size_t index = 0; index < PARTIES; index++)
        SIM->close(ends[2 * index].device);
    free(ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_kill_at_any_event_ends_every_item_within_the_retry_time),
    CHECK_TEST(a_killed_party_is_told_and_its_own_calls_fail),
    CHECK_TEST(a_paused_party_is_not_served_but_its_memory_is_reached),
    CHECK_TEST(a_cut_loses_the_peer_after_the_retry_time_unless_it_heals),
    CHECK_TEST(the_peers_operations_fail_through_a_link_that_was_shut),
    CHECK_TEST(loss_and_delay_cost_time_only),
    CHECK_TEST(the_nth_call_of_a_named_function_is_refused),
    CHECK_TEST(a_call_that_hesitates_succeeds_after_the_progress_it_announced),
    CHECK_TEST(an_advance_from_within_a_service_is_harmless),
    CHECK_TEST(another_thread_is_refused),
    CHECK_TEST(a_write_ends_the_sleep_of_its_target_where_that_is_promised),
    CHECK_TEST(bytes_take_the_time_that_the_nic_needs_for_them),
    CHECK_TEST(a_thousand_parties_write_around_a_ring),
};

CHECK_MAIN(tests)
