/* test_way.c: which way a collective call goes, on both sides of every bound in the table. Needs csrc/team/way.c. */
#include "check.h"
#include "team/message.h"
#include "team/way.h"

enum { CHUNK = 64 << 10, LARGE = 32 << 10, ALL = RT_TEAM_SIZE_MAX };

static const uint64_t most = UINT64_MAX;

/* A call of `from` bytes, and one of `to`, go this way with this reach; memory is mapped unless nothing is in reach. */
static void goes(enum rt_way_call call, uint32_t members, uint64_t from, uint64_t to, enum rt_reach reach, enum rt_way wanted)
{
    rt_way_terms terms = rt_way_terms_of(members, CHUNK, reach != RT_REACH_NONE);
    CHECK_INT(rt_way_choose(&terms, call, from, reach), wanted);
    CHECK_INT(rt_way_choose(&terms, call, to, reach), wanted);
}

static void one_member_copies_what_it_reduces(void)
{
    for (enum rt_way_call call = RT_CALL_REDUCE_TO_ALL; call <= RT_CALL_REDUCE_SCATTER; call++)
        for (uint32_t reach = RT_REACH_NONE; reach <= RT_REACH_UNKNOWN; reach++)
            goes(call, 1, 0, most, (enum rt_reach)reach, RT_WAY_COPY);
}

/* ---- reductions; the share of 2 members is 32 KiB, that of 3 is 16 KiB, that of 1024 is 32 bytes ---- */

static void a_reduction_of_nothing_sends_nothing(void)
{
    for (enum rt_way_call call = RT_CALL_REDUCE_TO_ALL; call <= RT_CALL_REDUCE_TO_ROOT; call++) {
        goes(call, 2, 0, 0, RT_REACH_UNKNOWN, RT_WAY_NOTHING);
        goes(call, ALL, 0, 0, RT_REACH_NONE, RT_WAY_NOTHING);
    }
}

static void a_small_reduction_goes_whole_whatever_is_in_reach(void)
{
    static const struct {
        uint32_t members;
        uint64_t share;
    } cases[] = {{2, 32768}, {3, 16384}, {4, 10922}, {9, 4096}, {ALL, 32}};
    for (enum rt_way_call call = RT_CALL_REDUCE_TO_ALL; call <= RT_CALL_REDUCE_TO_ROOT; call++)
        for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
            uint32_t members = cases[index].members;
            uint64_t share = cases[index].share;
            goes(call, members, 1, share, RT_REACH_NONE, RT_WAY_WHOLE);
            goes(call, members, 1, share, RT_REACH_WRITE, RT_WAY_WHOLE);
            goes(call, members, 1, share, RT_REACH_UNKNOWN, RT_WAY_WHOLE);
            goes(call, members, share + 1, most, RT_REACH_NONE, RT_WAY_STEPS);
        }
    rt_way_terms narrow = rt_way_terms_of(2, 4096, true); /* a message is at most a chunk */
    CHECK_INT(rt_way_choose(&narrow, RT_CALL_REDUCE_TO_ALL, 4096, RT_REACH_UNKNOWN), RT_WAY_WHOLE);
    CHECK_INT(rt_way_choose(&narrow, RT_CALL_REDUCE_TO_ALL, 4097, RT_REACH_UNKNOWN), RT_WAY_STEPS);
    CHECK_INT(rt_way_choose(&narrow, RT_CALL_REDUCE_TO_ALL, LARGE, RT_REACH_UNKNOWN), RT_WAY_ASK);
}

static void a_large_reduction_asks_and_goes_by_what_is_in_reach(void)
{
    static const struct {
        enum rt_way_call call;
        enum rt_way write, read;
    } cases[] = {{RT_CALL_REDUCE_TO_ALL, RT_WAY_SPREAD, RT_WAY_PIECES}, {RT_CALL_REDUCE_TO_ROOT, RT_WAY_DELIVER, RT_WAY_COLLECT}};
    for (size_t index = 0; index < 2; index++) {
        enum rt_way_call call = cases[index].call;
        goes(call, 3, 16385, LARGE - 1, RT_REACH_UNKNOWN, RT_WAY_STEPS);
        goes(call, 3, 16385, LARGE - 1, RT_REACH_WRITE, RT_WAY_STEPS);
        for (uint32_t members = 2; members <= ALL; members *= 2) {
            goes(call, members, LARGE + 1, most, RT_REACH_UNKNOWN, RT_WAY_ASK);
            goes(call, members, LARGE + 1, most, RT_REACH_WRITE, cases[index].write);
            goes(call, members, LARGE + 1, most, RT_REACH_READ, cases[index].read);
        }
        goes(call, 3, LARGE, LARGE, RT_REACH_UNKNOWN, RT_WAY_ASK); /* of 2 members it goes whole */
        goes(call, 3, LARGE, LARGE, RT_REACH_WRITE, cases[index].write);
        goes(call, 3, LARGE, LARGE, RT_REACH_READ, cases[index].read);
    }
}

/* ---- the others ---- */

static void others_read_from_32_kib_on_where_they_can(void)
{
    static const struct {
        enum rt_way_call call;
        enum rt_way read, small;
    } cases[] = {{RT_CALL_REDUCE_SCATTER, RT_WAY_OWN, RT_WAY_PARTS},
                 {RT_CALL_GATHER_ALL, RT_WAY_READ, RT_WAY_CHUNKS},
                 {RT_CALL_BROADCAST, RT_WAY_READ, RT_WAY_STAR},
                 {RT_CALL_EXCHANGE, RT_WAY_READ, RT_WAY_CHUNKS}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        for (uint32_t members = 2; members <= ALL; members *= 2) {
            goes(cases[index].call, members, LARGE, most, RT_REACH_UNKNOWN, RT_WAY_ASK);
            goes(cases[index].call, members, LARGE, most, RT_REACH_READ, cases[index].read);
            goes(cases[index].call, members, LARGE, most, RT_REACH_WRITE, cases[index].read);
            goes(cases[index].call, members, 1, LARGE - 1, RT_REACH_UNKNOWN, cases[index].small);
            goes(cases[index].call, members, 1, CHUNK, RT_REACH_NONE, cases[index].small);
        }
    }
}

static void memory_that_cannot_be_read_goes_in_chunks(void)
{
    for (uint32_t members = 2; members <= ALL; members *= 2) {
        goes(RT_CALL_REDUCE_SCATTER, members, 0, most, RT_REACH_NONE, RT_WAY_PARTS);
        goes(RT_CALL_GATHER_ALL, members, 0, most, RT_REACH_NONE, RT_WAY_CHUNKS);
        goes(RT_CALL_BROADCAST, members, 0, CHUNK, RT_REACH_NONE, RT_WAY_STAR);
        goes(RT_CALL_BROADCAST, members, CHUNK + 1, most, RT_REACH_NONE, RT_WAY_CHAIN);
        goes(RT_CALL_EXCHANGE, members, 0, 0, RT_REACH_UNKNOWN, RT_WAY_NOTHING);
        goes(RT_CALL_EXCHANGE, members, 1, most, RT_REACH_NONE, RT_WAY_CHUNKS);
    }
    goes(RT_CALL_GATHER_ALL, 1, 0, most, RT_REACH_UNKNOWN, RT_WAY_CHUNKS); /* there is nobody to ask */
    goes(RT_CALL_BROADCAST, 1, 0, CHUNK, RT_REACH_UNKNOWN, RT_WAY_STAR);
    goes(RT_CALL_BROADCAST, 1, CHUNK + 1, most, RT_REACH_UNKNOWN, RT_WAY_CHAIN);
}

/* ---- all of it ---- */

/* A member that has asked does not ask again; one whose provider maps nothing does not ask. */
static void a_choice_ends_the_asking(void)
{
    static const uint64_t sizes[] = {0, 1, 32, 33, 4096, LARGE - 1, LARGE, LARGE + 1, CHUNK, CHUNK + 1, UINT64_MAX};
    for (uint32_t each = 0; each < RT_CALL_COUNT * 11 * 2 * 5; each++) {
        enum rt_way_call call = (enum rt_way_call)(each % RT_CALL_COUNT);
        uint64_t bytes = sizes[each / RT_CALL_COUNT % 11];
        bool maps = each / RT_CALL_COUNT / 11 % 2 == 1;
        uint32_t members = 1 + each / RT_CALL_COUNT / 22;
        rt_way_terms terms = rt_way_terms_of(members, CHUNK, maps);
        enum rt_way none = rt_way_choose(&terms, call, bytes, RT_REACH_NONE);
        enum rt_way unknown = rt_way_choose(&terms, call, bytes, RT_REACH_UNKNOWN);
        CHECK(none != RT_WAY_ASK && rt_way_choose(&terms, call, bytes, RT_REACH_READ) != RT_WAY_ASK);
        CHECK(rt_way_choose(&terms, call, bytes, RT_REACH_WRITE) != RT_WAY_ASK);
        CHECK(unknown == none || (unknown == RT_WAY_ASK && maps));
        if (!maps)
            CHECK_INT(rt_way_choose(&terms, call, bytes, RT_REACH_WRITE), none);
    }
}

static const check_test tests[] = {
    CHECK_TEST(one_member_copies_what_it_reduces),
    CHECK_TEST(a_reduction_of_nothing_sends_nothing),
    CHECK_TEST(a_small_reduction_goes_whole_whatever_is_in_reach),
    CHECK_TEST(a_large_reduction_asks_and_goes_by_what_is_in_reach),
    CHECK_TEST(others_read_from_32_kib_on_where_they_can),
    CHECK_TEST(memory_that_cannot_be_read_goes_in_chunks),
    CHECK_TEST(a_choice_ends_the_asking),
};

CHECK_MAIN(tests)
