/* test_sim.c: the promises of the simulated fabric, over many seeds, and a witness for each promise that is withdrawn.
 *
 * Needs csrc/provider/sim/ (all files), csrc/provider/absent.c and csrc/base/status.c. Faults are in
 * test_sim_faults.c, streams and bad input in test_sim_streams.c. A failing seed is printed. */
#include "sim_ends.h"

enum { SEEDS = 2000 };

#define CHECK_SEED(seed, condition)                                                                                              \
    do {                                                                                                                         \
        bool check_holds = (condition);                                                                                          \
        if (!check_holds)                                                                                                        \
            printf("seed %llu: %s: ", (unsigned long long)(seed), #condition);                                                   \
        CHECK(check_holds);                                                                                                      \
    } while (0)

/* ---- determinism ---- */

static void a_scenario(uint64_t seed, char *trace_out)
{
    sim_pair pair;
    sim_pair_open(&pair, seed, "orders_writes=0");
    CHECK_STR(sim_tell(pair.world, "drop p=0.1"), "ok");
    for (uint64_t round = 0; round < 20; round++) {
        sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 64, round);
        sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 64 * round, 0, 100 + round, round);
        sim_post(&pair.b, RT_WORK_READ, RT_WORK_SIGNALED, 512, 1024, 300, round);
        sim_post(&pair.a, round % 2 == 0 ? RT_WORK_SEND : RT_WORK_WRITE_IMM, RT_WORK_SIGNALED, 0, 0, 40, round);
        rt_completion completions[8];
        CHECK_INT(sim_take(&pair.a, completions, 2, 1000 * MS), 2);
        CHECK_INT(sim_take(&pair.b, completions, 2, 1000 * MS), 2);
    }
    strcpy(trace_out, sim_tell(pair.world, "trace"));
    sim_pair_close(&pair);
}

static void the_same_seed_and_calls_give_the_same_trace_and_another_seed_another(void)
{
    char first[128], second[128], before[128] = "";
    for (uint64_t seed = 0; seed < 20; seed++) {
        a_scenario(seed, first);
        a_scenario(seed, second);
        CHECK_STR(first, second);
        CHECK(strcmp(first, before) != 0);
        strcpy(before, first);
    }
}

/* ---- what is seen while WRITEs are under way ---- */

typedef struct sight {
    bool flag_before_data, torn_word, descending;
} sight;

static bool all_are(const uint8_t *bytes, size_t size, uint8_t value)
{
    for (size_t index = 0; index < size; index++) {
        if (bytes[index] != value)
            return false;
    }
    return true;
}

static void look(const uint8_t *bytes, size_t flag_size, sight *seen)
{
    bool flag = bytes[512] == 0xff, data = all_are(bytes, 256, 0xff);
    size_t prefix = 0;
    while (prefix < 256 && bytes[prefix] == 0xff)
        prefix++;
    seen->flag_before_data |= flag && !data;
    seen->torn_word |= !all_are(bytes + 512, flag_size, 0) && !all_are(bytes + 512, flag_size, 0xff);
    seen->descending |= !all_are(bytes + prefix, 256 - prefix, 0);
}

/* 256 bytes of data and then a flag, looked at by b after every event that concerns it. */
static sight watch(uint64_t seed, const char *arguments, uint32_t access, size_t flag_size, const char *command)
{
    sim_pair pair;
    sight seen = {false, false, false};
    sim_pair_open_as(&pair, seed, arguments, access, MEMORY_SIZE);
    if (command != NULL)
        CHECK_STR(sim_tell(pair.world, command), "ok");
    memset(pair.a.bytes, 0xff, 1024);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 256, 1), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 512, 512, flag_size, 2), 1);
    do
        look(pair.b.bytes, flag_size, &seen);
    while (sim_advance(&pair.b, 100 * MS) == RT_OK);
    rt_completion done;
    CHECK_SEED(seed, sim_take(&pair.a, &done, 1, 1000 * MS) == 1 && done.status == RT_OK && done.token == 2);
    CHECK_SEED(seed, all_are(pair.b.bytes, 256, 0xff) && all_are(pair.b.bytes + 512, flag_size, 0xff));
    sim_pair_close(&pair);
    return seen;
}

static bool any_seed_shows(size_t which, const char *arguments, uint32_t access, size_t flag_size)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        sight seen = watch(seed, arguments, access, flag_size, NULL);
        if (which == 0 ? seen.flag_before_data : which == 1 ? seen.torn_word : seen.descending)
            return true;
    }
    return false;
}

static void no_flag_overtakes_its_data_where_writes_are_ordered(void)
{
    CHECK(!any_seed_shows(0, "", EVERYTHING, 4));
    CHECK(!any_seed_shows(0, "places_words_whole=0", EVERYTHING, 24));
}

static void some_flag_overtakes_its_data_where_writes_are_not_ordered(void)
{
    CHECK(any_seed_shows(0, "orders_writes=0", EVERYTHING, 4));
}

static void a_cut_and_a_lossy_path_keep_writes_in_order(void)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        sight seen = watch(seed, "", EVERYTHING, 4, "drop p=0.4");
        CHECK_SEED(seed, !seen.flag_before_data);
        char heal[64];
        sim_pair pair;
        sim_pair_open(&pair, seed, "retry_ns=50000000");
        snprintf(heal, sizeof heal, "heal party=a with=b at=%llu", 1000 * (unsigned long long)(seed % 9000));
        CHECK_STR(sim_tell(pair.world, "cut party=b with=a"), "ok");
        CHECK_STR(sim_tell(pair.world, heal), "ok");
        sight cut = {false, false, false};
        memset(pair.a.bytes, 0xff, 1024);
        sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 256, 1);
        sim_advance(&pair.a, seed % 3 == 0 ? 4 * MS : 0); /* the flag may come when the data is being sent again */
        look(pair.b.bytes, 4, &cut);
        sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 512, 512, 4, 2);
        while (sim_advance(&pair.b, 60 * MS) == RT_OK)
            look(pair.b.bytes, 4, &cut);
        CHECK_SEED(seed, !cut.flag_before_data && all_are(pair.b.bytes + 512, 4, 0xff));
        sim_pair_close(&pair);
    }
}

static void an_aligned_word_is_whole_and_behind_all_earlier_writes_where_promised(void)
{
    CHECK(!any_seed_shows(1, "", EVERYTHING, 8));
    CHECK(!any_seed_shows(0, "orders_writes=0", EVERYTHING, 8));
    CHECK(!any_seed_shows(1, "orders_writes=0", EVERYTHING, 8));
}

static void some_word_is_torn_where_that_is_not_promised(void)
{
    CHECK(any_seed_shows(1, "places_words_whole=0", EVERYTHING, 8));
}

static void bytes_come_in_ascending_order_only_where_promised(void)
{
    CHECK(!any_seed_shows(2, "orders_bytes=1", EVERYTHING, 4));
    CHECK(any_seed_shows(2, "orders_bytes=0", EVERYTHING, 4));
}

static void memory_with_relaxed_order_gives_up_the_order_of_writes(void)
{
    CHECK(any_seed_shows(0, "", EVERYTHING | RT_ACCESS_RELAXED_ORDER, 4));
}

static void tear_off_places_every_write_in_one_piece(void)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        sight seen = watch(seed, "places_words_whole=0", EVERYTHING, 24, "tear off");
        CHECK_SEED(seed, !seen.torn_word && !seen.descending);
    }
}

/* ---- completions ---- */

static void completions_come_in_posting_order_and_after_all_bytes(void)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        sim_pair pair;
        sim_pair_open(&pair, seed, seed % 2 == 0 ? "orders_writes=0&places_words_whole=0" : "");
        CHECK_STR(sim_tell(pair.world, "drop p=0.05"), "ok");
        for (size_t index = 0; index < 1024; index++) {
            pair.a.bytes[index] = (uint8_t)(index * 7 + seed);
            pair.b.bytes[3072 + index] = (uint8_t)(index * 5 + seed);
        }
        for (uint64_t token = 0; token < 12; token++) {
            if (token % 3 == 2)
                CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 3072 + 80 * token, 2048 + 80 * token, 80, token), 1);
            else
                CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 80 * token, 80 * token, 80, token), 1);
        }
        for (uint64_t token = 0; token < 12; token++) {
            rt_completion done;
            CHECK_SEED(seed, sim_take(&pair.a, &done, 1, 1000 * MS) == 1);
            CHECK_SEED(seed, done.status == RT_OK && done.token == token && done.opcode == 0);
            if (token % 3 == 2)
                CHECK_BYTES(pair.a.bytes + 2048 + 80 * token, pair.b.bytes + 3072 + 80 * token, 80);
            else
                CHECK_BYTES(pair.b.bytes + 80 * token, pair.a.bytes + 80 * token, 80);
        }
        sim_pair_close(&pair);
    }
}

/* A READ, and a WRITE of the same bytes behind it. True when the READ got bytes of the WRITE. */
static bool read_is_overtaken(uint64_t seed, uint8_t flags)
{
    sim_pair pair;
    rt_completion done[2];
    sim_pair_open(&pair, seed, "");
    memset(pair.a.bytes, 0xff, 256);
    CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 0, 1024, 256, 1), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, (uint8_t)(RT_WORK_SIGNALED | flags), 0, 0, 256, 2), 1);
    CHECK_INT(sim_take(&pair.a, done, 2, 1000 * MS), 2);
    CHECK(done[0].token == 1 && done[1].token == 2);
    bool overtaken = !all_are(pair.a.bytes + 1024, 256, 0);
    sim_pair_close(&pair);
    return overtaken;
}

static void a_read_may_be_overtaken_by_a_later_write_but_not_by_a_fenced_one(void)
{
    unsigned overtaken = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        overtaken += read_is_overtaken(seed, 0);
        CHECK_SEED(seed, !read_is_overtaken(seed, RT_WORK_FENCE));
    }
    CHECK(overtaken > 0);
}

static void a_read_sees_the_writes_before_it(void)
{
    for (uint64_t seed = 0; seed < 500; seed++) {
        sim_pair pair;
        rt_completion done;
        sim_pair_open(&pair, seed, "");
        memset(pair.a.bytes, 0xff, 256);
        CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 256, 1), 1);
        CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 0, 1024, 256, 2), 1);
        CHECK_INT(sim_take(&pair.a, &done, 1, 1000 * MS), 1);
        CHECK_SEED(seed, all_are(pair.a.bytes + 1024, 256, 0xff));
        sim_pair_close(&pair);
    }
}

static void reads_beyond_the_read_depth_wait_and_still_complete(void)
{
    sim_pair pair;
    rt_completion done[20];
    sim_pair_open(&pair, 3, "read_depth=2");
    for (uint64_t token = 0; token < 20; token++)
        CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 0, 0, 64, token), 1);
    CHECK_INT(sim_take(&pair.a, done, 20, 1000 * MS), 20);
    for (uint64_t token = 0; token < 20; token++)
        CHECK(done[token].token == token && done[token].status == RT_OK);
    sim_pair_close(&pair);
}

static void a_full_queue_takes_a_prefix_and_unsignaled_slots_come_back_with_a_later_completion(void)
{
    sim_pair pair;
    rt_completion done[4];
    sim_pair_open(&pair, 1, "work_depth=3");
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 1), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, 0, 0, 0, 8, 2), 1);
    CHECK_INT(sim_take(&pair.a, done, 1, 50 * MS), 0);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, 3), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, 4), 0);
    CHECK_INT(sim_take(&pair.a, done, 1, 50 * MS), 1);
    CHECK_INT(done[0].token, 3);
    for (uint64_t token = 5; token < 8; token++)
        CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 0, 0, 8, token), 1);
    CHECK_INT(sim_take(&pair.a, done, 3, 50 * MS), 3);
    sim_pair_close(&pair);
}

static void inline_bytes_are_taken_at_post(void)
{
    sim_pair pair;
    rt_completion done;
    sim_pair_open(&pair, 1, "");
    memset(pair.a.bytes, 0x55, 64);
    CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED | RT_WORK_INLINE, 0, 0, 64, 1), 1);
    memset(pair.a.bytes, 0, 64);
    CHECK_INT(sim_take(&pair.a, &done, 1, 50 * MS), 1);
    CHECK(all_are(pair.b.bytes, 64, 0x55));
    sim_pair_close(&pair);
}

/* ---- SEND, RECV, WRITE_IMM ---- */

static void a_send_meets_the_oldest_receive_and_an_immediate_comes_behind_its_bytes(void)
{
    for (uint64_t seed = 0; seed < 500; seed++) {
        sim_pair pair;
        rt_completion got;
        sim_pair_open(&pair, seed, "orders_writes=0");
        memset(pair.a.bytes, 0xff, 512);
        CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 64, 11), 1);
        CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2112, 64, 12), 1);
        CHECK_INT(sim_post(&pair.a, RT_WORK_SEND, 0, 0, 0, 48, 1), 1);
        CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE_IMM, 0, 0, 0, 512, 2), 1);
        CHECK_INT(sim_take(&pair.b, &got, 1, 50 * MS), 1);
        CHECK_SEED(seed, got.token == 11 && got.size == 48 && got.opcode == RT_WORK_RECV && !got.has_immediate);
        CHECK_SEED(seed, all_are(pair.b.bytes + 2048, 48, 0xff) && all_are(pair.b.bytes + 2096, 80, 0));
        CHECK_INT(sim_take(&pair.b, &got, 1, 50 * MS), 1);
        CHECK_SEED(seed, got.token == 12 && got.has_immediate && got.immediate == 9);
        CHECK_SEED(seed, all_are(pair.b.bytes, 512, 0xff));
        sim_pair_close(&pair);
    }
}

static void a_send_without_a_receive_waits_for_one_and_then_fails(void)
{
    sim_pair pair;
    rt_completion done;
    sim_pair_open(&pair, 1, "");
    CHECK_INT(sim_post(&pair.a, RT_WORK_SEND, RT_WORK_SIGNALED, 0, 0, 48, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 10 * MS), 0);
    CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 64, 11), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 500 * MS), 1);
    CHECK_INT(done.status, RT_OK);
    CHECK_INT(sim_post(&pair.a, RT_WORK_SEND, RT_WORK_SIGNALED, 0, 0, 48, 2), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 500 * MS), 1);
    CHECK_INT(done.status, RT_E_PEER_LOST);
    CHECK_STR(SIM->completion_name(done.foreign_status), "SIM_RECEIVER_NOT_READY");
    sim_pair_close(&pair);
}

static void a_send_larger_than_its_receive_fails_at_both_ends(void)
{
    sim_pair pair;
    rt_completion done;
    sim_pair_open(&pair, 1, "");
    CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 16, 11), 1);
    CHECK_INT(sim_post(&pair.a, RT_WORK_SEND, 0, 0, 0, 48, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 500 * MS), 1);
    CHECK_INT(done.status, RT_E_REMOTE_ACCESS);
    CHECK_INT(sim_take(&pair.b, &done, 1, 500 * MS), 1);
    CHECK_INT(done.status, RT_E_LOCAL_ACCESS);
    CHECK(all_are(pair.b.bytes, MEMORY_SIZE, 0));
    sim_pair_close(&pair);
}

/* ---- refusals of the target ---- */

/* A WRITE that the target refuses, between two that are good. */
static void refused(sim_pair *pair, uint8_t opcode, uint64_t offset)
{
    rt_completion done[4];
    rt_event event;
    memset(pair->a.bytes, 0xff, 256);
    CHECK_INT(sim_post(&pair->b, RT_WORK_RECV, 0, 0, 2048, 16, 11), 1);
    CHECK_INT(sim_post(&pair->a, opcode, 0, offset, 256, 64, 2), 1);
    CHECK_INT(sim_post(&pair->a, RT_WORK_WRITE, 0, 0, 0, 64, 3), 1);
    CHECK_INT(sim_take(&pair->a, done, 2, 500 * MS), 2);
    CHECK(done[0].token == 2 && done[0].status == RT_E_REMOTE_ACCESS);
    CHECK(done[1].token == 3 && done[1].status == RT_E_FLUSHED);
    CHECK_INT(sim_post(&pair->a, RT_WORK_WRITE, 0, 0, 0, 64, 4), 1);
    CHECK_INT(sim_take(&pair->a, done, 1, 500 * MS), 1);
    CHECK(done[0].token == 4 && done[0].status == RT_E_FLUSHED);
    if (opcode == RT_WORK_WRITE) /* a READ may have been overtaken by the WRITE behind it */
        CHECK(all_are(pair->b.bytes, MEMORY_SIZE, 0));
    CHECK(all_are(pair->a.bytes + 256, 64, 0));
    CHECK_INT(sim_take(&pair->b, done, 1, 500 * MS), 1);
    CHECK(done[0].token == 11 && done[0].status == RT_E_FLUSHED);
    SIM->service(pair->b.device, &event);
    CHECK(event.kind == RT_EVENT_LINK_LOST && event.link == pair->b.link);
    SIM->service(pair->b.device, &event);
    CHECK(event.kind == RT_EVENT_NONE);
}

static void the_target_checks_bounds_rights_and_keys_and_the_rest_is_flushed(void)
{
    for (uint64_t seed = 0; seed < 300; seed++) {
        sim_pair pair;
        sim_pair_open_as(&pair, seed, "", EVERYTHING, 2 * MEMORY_SIZE); /* b claims more than it has */
        refused(&pair, RT_WORK_WRITE, MEMORY_SIZE - 63);
        sim_pair_close(&pair);
        sim_pair_open_as(&pair, seed, "", RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_READ, MEMORY_SIZE);
        refused(&pair, RT_WORK_WRITE, 0);
        sim_pair_close(&pair);
        sim_pair_open_as(&pair, seed, "", RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE, MEMORY_SIZE);
        refused(&pair, RT_WORK_READ, 0);
        sim_pair_close(&pair);
    }
}

static void a_key_of_released_memory_reaches_nothing_even_when_its_slot_is_used_again(void)
{
    sim_pair pair;
    rt_completion done;
    rt_detail detail;
    sim_pair_open(&pair, 1, "");
    SIM->memory_release(pair.b.device, pair.b.memory);
    const rt_memory again = {.address = pair.b.bytes, .size = MEMORY_SIZE, .descriptor = -1, .access = EVERYTHING};
    CHECK_INT(SIM->memory_register(pair.b.device, &again, &pair.b.memory, &detail), RT_OK);
    CHECK_INT(sim_post(&pair.a, RT_WORK_READ, 0, 0, 0, 64, 1), 1);
    CHECK_INT(sim_take(&pair.a, &done, 1, 500 * MS), 1);
    CHECK_INT(done.status, RT_E_REMOTE_ACCESS);
    sim_pair_close(&pair);
}

static void after_the_flush_of_a_shut_link_no_byte_is_touched(void)
{
    unsigned late = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        sim_pair pair;
        rt_completion done;
        uint8_t copy[256];
        sim_pair_open(&pair, seed, "");
        memset(pair.b.bytes, 0xff, 256);
        CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 0, 0, 256, 1), 1);
        sim_advance(&pair.a, 5000);
        SIM->link_shut(pair.a.link);
        memcpy(copy, pair.a.bytes, 256);
        if (sim_take(&pair.a, &done, 1, 500 * MS) == 1)
            CHECK_SEED(seed, done.status == RT_E_FLUSHED || done.status == RT_OK);
        late += memcmp(copy, pair.a.bytes, 256) != 0;
        memcpy(copy, pair.a.bytes, 256);
        sim_advance(&pair.a, 500 * MS);
        CHECK_SEED(seed, memcmp(copy, pair.a.bytes, 256) == 0);
        sim_pair_close(&pair);
    }
    CHECK(late > 0); /* before the flush some were: that is what quarantine is for */
}

static void destroying_a_link_stops_what_is_under_way_and_forgets_its_completions(void)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        sim_pair pair;
        rt_completion done;
        sim_pair_open(&pair, seed, "");
        CHECK_INT(sim_post(&pair.b, RT_WORK_RECV, 0, 0, 2048, 16, 11), 1);
        memset(pair.b.bytes, 0xff, 256);
        CHECK_INT(sim_post(&pair.a, RT_WORK_WRITE, RT_WORK_SIGNALED, 512, 0, 16, 1), 1);
        sim_advance(&pair.a, 50000);
        CHECK_INT(sim_post(&pair.a, RT_WORK_READ, RT_WORK_SIGNALED, 0, 0, 256, 2), 1);
        SIM->link_shut(pair.a.link);
        SIM->remote_detach(pair.a.link, pair.a.remote);
        SIM->link_destroy(pair.a.link);
        pair.a.link = NULL;
        CHECK_INT(sim_take(&pair.a, &done, 1, 100 * MS), 0);
        CHECK_SEED(seed, all_are(pair.a.bytes, 256, 0));
        sim_pair_close(&pair);
    }
}

static const check_test tests[] = {
    CHECK_TEST(the_same_seed_and_calls_give_the_same_trace_and_another_seed_another),
    CHECK_TEST(no_flag_overtakes_its_data_where_writes_are_ordered),
    CHECK_TEST(some_flag_overtakes_its_data_where_writes_are_not_ordered),
    CHECK_TEST(a_cut_and_a_lossy_path_keep_writes_in_order),
    CHECK_TEST(an_aligned_word_is_whole_and_behind_all_earlier_writes_where_promised),
    CHECK_TEST(some_word_is_torn_where_that_is_not_promised),
    CHECK_TEST(bytes_come_in_ascending_order_only_where_promised),
    CHECK_TEST(memory_with_relaxed_order_gives_up_the_order_of_writes),
    CHECK_TEST(tear_off_places_every_write_in_one_piece),
    CHECK_TEST(completions_come_in_posting_order_and_after_all_bytes),
    CHECK_TEST(a_read_may_be_overtaken_by_a_later_write_but_not_by_a_fenced_one),
    CHECK_TEST(a_read_sees_the_writes_before_it),
    CHECK_TEST(reads_beyond_the_read_depth_wait_and_still_complete),
    CHECK_TEST(a_full_queue_takes_a_prefix_and_unsignaled_slots_come_back_with_a_later_completion),
    CHECK_TEST(inline_bytes_are_taken_at_post),
    CHECK_TEST(a_send_meets_the_oldest_receive_and_an_immediate_comes_behind_its_bytes),
    CHECK_TEST(a_send_without_a_receive_waits_for_one_and_then_fails),
    CHECK_TEST(a_send_larger_than_its_receive_fails_at_both_ends),
    CHECK_TEST(the_target_checks_bounds_rights_and_keys_and_the_rest_is_flushed),
    CHECK_TEST(a_key_of_released_memory_reaches_nothing_even_when_its_slot_is_used_again),
    CHECK_TEST(after_the_flush_of_a_shut_link_no_byte_is_touched),
    CHECK_TEST(destroying_a_link_stops_what_is_under_way_and_forgets_its_completions),
};

CHECK_MAIN(tests)
