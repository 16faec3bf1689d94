/* test_team_unordered.c: teams over a fabric that places later WRITEs before earlier ones, as one with adaptive routing does: a READ
 * stands between a message and the word that tells of it. Over the fake libibverbs, by a few seeds.
 *
 * Needs the whole library. */
#include "proto/dtype.h"
#include "transfer_ends.h"

enum { SEEDS = 3, TURNS = 6, ELEMENTS = 3 * TEAM_CHUNK / 4 };

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY};
static const uint64_t counts[] = {1, 100, TEAM_CHUNK / 4, ELEMENTS};

static int32_t element(uint32_t rank, uint64_t index, uint32_t turn)
{
    return (int32_t)(index * 2654435761u + rank * 40503u + turn);
}

/* Small messages, whole chunks and several of them, reduced and gathered. */
static void reduce_and_gather(team_member *self)
{
    int32_t *input = (int32_t *)(void *)self->bytes, *output = input + ELEMENTS;
    rt_team_call call = {.dtype = RT_DTYPE_INT32, .root = -1, .timeout_ns = self->timeout_ns, .detail = &self->detail};
    for (uint32_t turn = 0; turn < TURNS * sizeof counts / sizeof counts[0]; turn++) {
        uint64_t count = counts[turn % (sizeof counts / sizeof counts[0])];
        for (uint64_t index = 0; index < count; index++)
            input[index] = element(self->rank, index, turn);
        call.reduction = RT_TEAM_SUM;
        team_note(self, rt_team_reduce(self->team, &call, input, output, count));
        for (uint64_t index = 0; index < count; index++)
            self->wrong += (uint32_t)output[index] != (uint32_t)element(0, index, turn) + (uint32_t)element(1, index, turn);
        void *outputs[] = {output, output + count};
        call.reduction = 0;
        team_note(self, rt_team_gather_all(self->team, &call, input, outputs, count * sizeof *input));
        for (uint32_t rank = 0; rank < 2; rank++)
            for (uint64_t index = 0; index < count; index++)
                self->wrong += output[rank * count + index] != element(rank, index, turn);
    }
}

static void begin_unordered(team_ends *ends, uint32_t seed)
{
    if (!CORE_HAS_FAKE)
        CHECK_SKIP("there is no fake libibverbs");
    team_provider = "verbs";
    team_overtakes = seed;
    team_begin(ends, 2, ordinary);
    CHECK(!ends->members[0].device->limits.orders_writes);
    CHECK(ends->members[0].team->fences);
}

static void end_unordered(team_ends *ends)
{
    team_end(ends);
    team_provider = "shm";
    team_overtakes = 0;
}

static void no_message_is_told_of_before_it_is_there(void)
{
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        team_ends ends;
        begin_unordered(&ends, seed);
        team_run_alike(&ends, reduce_and_gather);
        end_unordered(&ends);
    }
}

/* Those that travel at once and are kept, and those that are offered; counts of what was received go back. */
static void sends_arrive_whole_and_in_order(void)
{
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        team_ends ends;
        begin_unordered(&ends, seed);
        uint8_t *sent = ends.members[0].bytes, *got = ends.members[1].bytes + TEAM_MEMORY / 2;
        for (uint32_t turn = 0; turn < 2 * RT_TEAM_KEPT_MAX / TEAM_CHUNK; turn++) {
            uint64_t size = turn % 8 == 0 ? TEAM_CHUNK + 64 : turn % 3 == 0 ? 64 : TEAM_CHUNK - RT_TEAM_KEPT_COST;
            core_fill(sent, size, turn);
            started send = begin_send(&ends, 0, 1, turn, size), receive = begin_receive(&ends, 1, 0, turn, size);
            CHECK_INT(finish(&receive, &send), RT_OK);
            CHECK_INT(finish(&send, &receive), RT_OK);
            CHECK_BYTES(got, sent, size);
            drop(&send), drop(&receive);
        }
        CHECK(*ends.members[0].team->peers[1].eaten >= RT_TEAM_KEPT_MAX / 4);
        end_unordered(&ends);
    }
}

/* The text of a notice comes before its word. */
static void the_reason_of_an_end_is_there_when_the_end_is_heard(void)
{
    for (uint32_t seed = 1; seed <= 3 * SEEDS; seed++) {
        team_ends ends;
        rt_detail detail;
        begin_unordered(&ends, seed);
        rt_team_abort(ends.members[0].team,
                      "the reason that was given, which is longer than what goes into a single line of a cache");
        int status, tries = 0;
        do
            status = rt_team_trouble(ends.members[1].team, -1, false, &detail);
        while (status == RT_OK && ++tries < 1000000);
        CHECK_INT(status, RT_E_PEER_LOST);
        CHECK_HAS(detail.text,
                  "rank 0 gave up: the reason that was given, which is longer than what goes into a single line of a cache");
        end_unordered(&ends);
    }
}

/* Without the right to READ, nothing would wait for WRITEs. */
static void memory_that_cannot_be_read_is_refused(void)
{
    team_ends ends;
    begin_unordered(&ends, 1);
    team_member *member = &ends.members[0];
    rt_team_options options = team_options(0, 2);
    const uint64_t part = rt_pair_size(TEAM_CHUNK, TEAM_CHUNKS, 0), block = rt_team_block_size(&options, 0);
    rt_region *written = core_region(ends.members[1].device, part + block, RT_RIGHT_REMOTE_WRITE);
    rt_remote *remote = team_attach(member->channels[1], written, 0, part + block);
    const rt_team_place place = {remote, part, block};
    rt_team *other = NULL;
    CHECK_INT(rt_team_create(member->device, member->words, 0, &options, &other, &member->detail), RT_OK);
    CHECK_INT(rt_team_join(other, 1, member->pairs[1], member->shared[1], part, &place, &member->detail), RT_E_ACCESS);
    CHECK_HAS(member->detail.text, "the memory of rank 1 cannot be READ");
    rt_team_drop(other);
    rt_remote_drop(remote);
    rt_region_drop(written);
    end_unordered(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(no_message_is_told_of_before_it_is_there),
    CHECK_TEST(sends_arrive_whole_and_in_order),
    CHECK_TEST(the_reason_of_an_end_is_there_when_the_end_is_heard),
    CHECK_TEST(memory_that_cannot_be_read_is_refused),
};

CHECK_MAIN(tests)
