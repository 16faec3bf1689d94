/* test_team_chunks.c: which chunks of a pair its lanes get, for every number of chunks: on a pair of which only the places are there. And
 * members that are ahead of the others, or behind.
 *
 * Needs the whole library. */
#include "proto/dtype.h"
#include "team_ends.h"

enum { LANES = RT_PAIR_CHUNKS_MAX / RT_LANE_CHUNKS_SURE };

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};

/* ---- places ---- */

static const uint32_t counts[] = {4, 8, 9, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193, 255, 256};
static rt_pair places;
static rt_lane lanes[LANES];
static uint64_t acked[LANES];

/* A pair that cannot grow, with so many free chunks. */
static void places_begin(uint32_t count)
{
    memset(&places, 0, sizeof places);
    memset(lanes, 0, sizeof lanes);
    memset(acked, 0, sizeof acked);
    places.first = places.count = count;
    places.extents = 1;
    rt_list_init(&places.lanes);
    for (uint32_t index = 0; index < LANES; index++) {
        lanes[index].acked = &acked[index];
        lanes[index].kind = RT_LANE_TRANSFER; /* one of collective calls leaves the last chunk */
        rt_list_append(&places.lanes, &lanes[index].in_pair);
    }
}

/* A chunk for the next message of a lane. */
static int64_t take_chunk(uint32_t lane)
{
    int64_t place = rt_pair_take(&places, &lanes[lane]);
    lanes[lane].sent += place >= 0;
    return place;
}

/* All chunks to lanes that take what they need to go on; returns how many. */
static uint32_t take_all(void)
{
    bool taken[RT_PAIR_CHUNKS_MAX] = {false};
    uint32_t count = 0;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        for (uint32_t turn = 0; turn < RT_LANE_CHUNKS_SURE; turn++) {
            int64_t place = take_chunk(lane);
            if (place < 0)
                continue;
            CHECK(place < places.count);
            CHECK(!taken[place]);
            taken[place] = true;
            count++;
        }
    }
    return count;
}

static void every_chunk_is_taken_once_and_again_when_it_came_back(void)
{
    for (size_t index = 0; index < sizeof counts / sizeof counts[0]; index++) {
        places_begin(counts[index]);
        for (uint32_t round = 0; round < 2; round++) {
            CHECK_INT(take_all(), counts[index]);
            CHECK_INT(take_chunk(LANES - 1), -1);
            for (uint32_t lane = 0; lane < LANES; lane++)
                acked[lane] = lanes[lane].sent;
        }
    }
}

static void a_lane_alone_takes_half_of_all_chunks_and_no_fewer_than_it_needs(void)
{
    for (size_t index = 0; index < sizeof counts / sizeof counts[0]; index++) {
        uint32_t half = (counts[index] + 1) / 2, wanted = half < RT_LANE_CHUNKS_SURE ? RT_LANE_CHUNKS_SURE : half, taken = 0;
        places_begin(counts[index]);
        while (taken < RT_TEAM_SLOTS_MAX && take_chunk(0) >= 0)
            taken++;
        CHECK_INT(taken, wanted < RT_TEAM_SLOTS_MAX ? wanted : RT_TEAM_SLOTS_MAX);
        CHECK_INT(atomic_load(&lanes[0].held), taken);
        CHECK(take_chunk(1) >= 0 || taken == counts[index]); /* there is one for the others */
    }
}

static void a_chunk_comes_back_with_its_own_message_alone(void)
{
    places_begin(8);
    int64_t first = take_chunk(0), second = take_chunk(0), other = take_chunk(1);
    CHECK(first >= 0 && second >= 0 && other >= 0);
    for (uint32_t lane = 2; lane < 4; lane++)
        CHECK(take_chunk(lane) >= 0);
    for (uint32_t lane = 4; lane < 7; lane++)
        CHECK(take_chunk(lane) >= 0);
    CHECK_INT(take_chunk(8), -1);
    acked[0] = 1;
    CHECK_INT(take_chunk(8), first);
    CHECK_INT(take_chunk(9), -1);
    acked[0] = 2;
    CHECK_INT(take_chunk(9), second);
    rt_pair_forget(&places, &lanes[1]);
    CHECK_INT(take_chunk(10), other);
}

/* ---- members that are ahead ---- */

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_UINT8, .root = root, .timeout_ns = self->timeout_ns, .detail = &self->detail};
}

/* Everybody sends the others pieces; the last two have none for each other where that is asked for. */
static void exchange(team_member *self, uint64_t size, bool some)
{
    rt_team_call call = call_of(self, -1);
    rt_team_piece sends[TEAM_MAX], receives[TEAM_MAX];
    memset(self->bytes, (int)(self->rank + size), 4096);
    for (uint32_t peer = 0; peer < TEAM_MAX; peer++) {
        const uint64_t each = some && peer + self->rank == 3 ? 0 : size;
        sends[peer] = (rt_team_piece){self->bytes, each};
        receives[peer] = (rt_team_piece){self->bytes + (peer + 1) * 4096ull, each};
    }
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
    for (uint32_t peer = 0; peer < TEAM_MAX; peer++)
        self->wrong += receives[peer].size != 0 && self->bytes[(peer + 1) * 4096 + size - 1] != peer + size;
}

static void exchange_twice(team_member *self)
{
    exchange(self, 64, true);
    exchange(self, 100, false);
}

static rt_team *first_team;

static bool first_slept(uint64_t more_than)
{
    return atomic_load(&first_team->sleeps) > more_than || atomic_load(&first_team->broken) != RT_OK;
}

/* Comes when the second one has begun its next call and the first one has looked at what it sent for that. */
static void exchange_late(team_member *self)
{
    const rt_lane *lane = &first_team->peers[1].lanes[RT_LANE_COLLECTIVE];
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (rt_load_acquire_u64(lane->arrived) < 2 && rt_clock_now_ns() < end_ns)
        sched_yield();
    uint64_t slept = atomic_load(&first_team->sleeps);
    while (!first_slept(slept + 1) && rt_clock_now_ns() < end_ns)
        sched_yield();
    exchange_twice(self);
}

static void a_message_of_the_next_call_is_left_for_it(void)
{
    team_ends ends;
    team_begin(&ends, 3, ordinary);
    first_team = ends.members[0].team;
    team_run(&ends, (void (*[])(team_member *)){exchange_twice, exchange_twice, exchange_late});
    for (uint32_t rank = 0; rank < 3; rank++) {
        CHECK_INT(ends.members[rank].status, RT_OK);
        CHECK_INT(ends.members[rank].wrong, 0);
    }
    team_end(&ends);
}

/* ---- messages and naps ---- */

static void a_message_over_a_connection_that_has_ended_is_refused(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        team_member *member = &ends.members[0];
        rt_lane *lane = &member->team->peers[1].lanes[RT_LANE_COLLECTIVE];
        const rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = TEAM_CHUNK};
        rt_team_call call = call_of(member, 0);
        rt_channel_close(member->channels[1]);
        CHECK(rt_lane_room(lane, TEAM_CHUNK) != NULL);
        CHECK_INT(rt_lane_push(lane, &message), RT_E_CLOSED);
        CHECK_INT(rt_team_broadcast(member->team, &call, member->bytes, 64), RT_E_CLOSED);
        team_end(&ends);
        team_provider = "shm";
    }
}

/* Where peers cannot wake a member it naps, at first for a moment: one nap of several, however slow this machine is. */
static void a_first_nap_is_shorter_than_a_slice(void)
{
    team_ends ends;
    rt_team_waiter waiter;
    team_begin(&ends, 2, ordinary);
    team_member *member = &ends.members[0];
    bool wakes = member->device->limits.can_wake_receiver;
    int64_t shortest = INT64_MAX;
    member->device->limits.can_wake_receiver = false;
    for (uint32_t turn = 0; turn < 8 && shortest >= RT_SLICE_NS; turn++) {
        rt_team_waiter_begin(&waiter, member->team, CORE_PATIENCE_NS, NULL);
        waiter.wait.mode = (rt_wait_mode){0};
        int64_t begun = rt_clock_now_ns();
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
        int64_t lasted = rt_clock_now_ns() - begun;
        shortest = lasted < shortest ? lasted : shortest;
        rt_team_waiter_end(&waiter);
    }
    member->device->limits.can_wake_receiver = wakes;
    CHECK(shortest < RT_SLICE_NS);
    team_end(&ends);
}

static void a_wait_that_spins_hears_of_trouble_every_256_looks(void)
{
    team_ends ends;
    rt_team_waiter waiter;
    team_begin(&ends, 2, ordinary);
    rt_team *team = ends.members[0].team;
    team->options.spins = 1000;
    rt_team_waiter_begin(&waiter, team, CORE_PATIENCE_NS, NULL);
    rt_team_abort(team, "for a test");
    for (uint32_t look = 1; look <= 256; look++)
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
    CHECK_INT(rt_team_waiter_idle(&waiter), rt_team_failure(team, NULL));
    CHECK_HAS(waiter.detail.text, "for a test");
    rt_team_waiter_end(&waiter);
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(every_chunk_is_taken_once_and_again_when_it_came_back),
    CHECK_TEST(a_lane_alone_takes_half_of_all_chunks_and_no_fewer_than_it_needs),
    CHECK_TEST(a_chunk_comes_back_with_its_own_message_alone),
    CHECK_TEST(a_message_of_the_next_call_is_left_for_it),
    CHECK_TEST(a_message_over_a_connection_that_has_ended_is_refused),
    CHECK_TEST(a_first_nap_is_shorter_than_a_slice),
    CHECK_TEST(a_wait_that_spins_hears_of_trouble_every_256_looks),
};

CHECK_MAIN(tests)
