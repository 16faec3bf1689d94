/* test_team_lane.c: lanes, pairs and waits in numbers: when a member says that it took messages, how many chunks a lane gets and when
 * they come back, and how long a wait spins, yields and sleeps.
 *
 * Needs the whole library. */
#include "team/block.h"
#include "team_ends.h"

enum { LARGE = RT_TEAM_INLINE + 1, SLOTS = 8 };

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};

static rt_lane *lane_of(team_ends *ends, uint32_t rank)
{
    return &ends->members[rank].team->peers[1 - rank].lanes[RT_LANE_COLLECTIVE];
}

static void push(rt_lane *lane, uint64_t size, uint8_t value)
{
    rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = size};
    uint8_t *room = rt_lane_room(lane, size);
    CHECK(room != NULL);
    memset(room, value, size);
    CHECK_INT(rt_lane_push(lane, &message), RT_OK);
}

static void pull(rt_lane *lane, uint64_t size, uint8_t value)
{
    int status;
    const uint8_t *payload = rt_lane_peek(lane, &status);
    CHECK_INT(status, RT_OK);
    CHECK(payload != NULL);
    CHECK_INT(lane->message.size, size);
    for (uint64_t index = 0; index < size; index++)
        CHECK_INT(payload[index], value);
    rt_lane_take(lane);
}

/* ---- lanes ---- */

/* Posting a WRITE is copying here, so the word is there at once. */
static void taking_is_told_every_half_lane_and_every_two_chunks(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_lane *from = lane_of(&ends, 0), *to = lane_of(&ends, 1);
    for (uint32_t turn = 0; turn < 3; turn++) {
        const uint64_t before = *from->acked;
        for (uint32_t taken = 1; taken <= SLOTS / 2; taken++) {
            push(from, 8, 1);
            pull(to, 8, 1);
            if (taken < SLOTS / 2)
                rt_lane_settle(to); /* no chunk was taken: nothing to tell */
            CHECK_INT(*from->acked, taken < SLOTS / 2 ? before : before + SLOTS / 2);
        }
        for (uint32_t each = 0; each < 2; each++) {
            push(from, LARGE, 2);
            pull(to, LARGE, 2);
            CHECK_INT(*from->acked, before + SLOTS / 2 + 2 * each);
        }
        push(from, LARGE, 3);
        pull(to, LARGE, 3);
        CHECK_INT(*from->acked, before + SLOTS / 2 + 2); /* the count began anew */
        rt_lane_settle(to);
        CHECK_INT(*from->acked, before + SLOTS / 2 + 3);
        CHECK_INT(to->told, to->taken);
    }
    team_end(&ends);
}

static void a_lane_has_room_for_as_many_messages_as_slots(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_lane *from = lane_of(&ends, 0), *to = lane_of(&ends, 1);
    int status = -1;
    CHECK(rt_lane_peek(to, &status) == NULL);
    CHECK_INT(status, RT_OK);
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t index = 0; index < SLOTS; index++)
            push(from, index % 2 == 0 ? RT_TEAM_INLINE : LARGE, (uint8_t)(turn * SLOTS + index));
        CHECK(rt_lane_room(from, 0) == NULL);
        CHECK(rt_lane_room(from, TEAM_CHUNK) == NULL);
        for (uint32_t index = 0; index < SLOTS; index++)
            pull(to, index % 2 == 0 ? RT_TEAM_INLINE : LARGE, (uint8_t)(turn * SLOTS + index));
        CHECK_INT(*from->acked, (turn + 1) * SLOTS);
    }
    *(uint64_t *)(uintptr_t)from->acked = from->sent + 1; /* nonsense of the peer: no room any more */
    CHECK(rt_lane_room(from, 0) == NULL);
    team_end(&ends);
}

static void only_what_fits_behind_its_header_takes_no_chunk(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        rt_lane *from = lane_of(&ends, 0);
        const uint8_t *slot = rt_lane_room(from, RT_TEAM_INLINE);
        CHECK(slot == from->out + RT_TEAM_LINE);
        CHECK_INT(from->room_place, 0);
        CHECK_INT(atomic_load(&from->held), 0);
        const uint8_t *chunk = rt_lane_room(from, LARGE);
        CHECK_INT(from->room_place, 1);
        CHECK(chunk == rt_pair_outgoing(ends.members[0].pairs[1], 0));
        CHECK_INT(atomic_load(&from->held), 1);
        CHECK(rt_lane_room(from, 0) == slot); /* a smaller message after all: it lies in the slot */
        CHECK_INT(from->room_place, 0);
        team_end(&ends);
        team_provider = "shm";
    }
}

/* ---- chunks of a pair ---- */

/* A lane of no team: as much of one as a pair looks at. */
typedef struct bare_lane {
    rt_lane lane;
    uint64_t acked;
} bare_lane;

static void bare_begin(rt_pair *shared, bare_lane *bare)
{
    memset(bare, 0, sizeof *bare);
    bare->lane.acked = &bare->acked;
    bare->lane.sent = bare->acked = 2 * RT_TEAM_SLOTS_MAX; /* of a lane that is in use for long */
    rt_list_append(&shared->lanes, &bare->lane.in_pair);
}

/* Takes a chunk and sends a message in it. */
static int64_t take_chunk(rt_pair *shared, bare_lane *bare)
{
    int64_t place = rt_pair_take(shared, &bare->lane);
    bare->lane.sent += place >= 0;
    return place;
}

static void a_chunk_comes_back_when_its_message_was_taken_and_not_before(void)
{
    team_ends ends;
    bare_lane one, two;
    team_begin(&ends, 2, ordinary);
    rt_pair *shared = ends.members[0].pairs[1];
    bare_begin(shared, &one);
    bare_begin(shared, &two);
    for (uint32_t index = 0; index < TEAM_CHUNKS; index++) {
        CHECK_INT(rt_pair_take(shared, &one.lane), index);
        CHECK_INT(take_chunk(shared, &one), index); /* room that was asked for, and not used before */
        CHECK_INT(atomic_load(&one.lane.held), index + 1);
    }
    CHECK_INT(take_chunk(shared, &one), -1); /* it has more than it needs to go on: the pair does not grow for it */
    CHECK_INT(shared->count, TEAM_CHUNKS);
    one.acked += 3;
    for (uint32_t index = 0; index < 3; index++) /* another lane's call sees what the first one's peer has taken */
        CHECK_INT(take_chunk(shared, &two), index);
    CHECK_INT(atomic_load(&one.lane.held), TEAM_CHUNKS - 3);
    CHECK_INT(shared->count, TEAM_CHUNKS);
    CHECK_INT(take_chunk(shared, &two), TEAM_CHUNKS); /* none is free, and it has three: now it grows */
    CHECK_INT(shared->count, 2 * TEAM_CHUNKS);
    CHECK_INT(shared->extents, 2);
    for (uint32_t index = 5; index <= 12; index++)
        CHECK_INT(take_chunk(shared, &two), index + TEAM_CHUNKS - 4 < 16 ? (int64_t)index + TEAM_CHUNKS - 4 : -1);
    rt_pair_forget(shared, &one.lane);
    CHECK_INT(atomic_load(&one.lane.held), 0);
    for (int64_t index = 3; index < TEAM_CHUNKS; index++) /* what the forgotten lane held */
        CHECK_INT(take_chunk(shared, &two), index);
    CHECK_INT(take_chunk(shared, &two), -1);
    rt_pair_forget(shared, &two.lane);
    CHECK_INT(shared->busy[0], 0);
    team_end(&ends);
}

enum { BARE = 40 };

static void a_pair_grows_to_its_last_extent_and_the_peer_finds_every_chunk(void)
{
    static bare_lane lanes[BARE];
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_pair *shared = ends.members[0].pairs[1], *there = ends.members[1].pairs[0];
    uint32_t taken = 0;
    const uint8_t *bytes;
    CHECK_INT(rt_pair_incoming(there, TEAM_CHUNKS, &bytes), RT_E_PROTOCOL); /* of an extent that is not there yet */
    for (uint32_t index = 0; index < BARE; index++) {
        bare_begin(shared, &lanes[index]);
        for (uint32_t turn = 0; turn < SLOTS; turn++) {
            CHECK(taken != RT_PAIR_CHUNKS_MAX - 1 || take_chunk(shared, &lanes[index]) == -1); /* it is kept for transfers */
            lanes[index].lane.kind = taken == RT_PAIR_CHUNKS_MAX - 1;
            int64_t place = take_chunk(shared, &lanes[index]);
            CHECK_INT(place, taken < RT_PAIR_CHUNKS_MAX ? (int64_t)taken : -1);
            taken += place >= 0;
            if (place >= 0)
                memset(rt_pair_outgoing(shared, (uint32_t)place), (int)place, TEAM_CHUNK);
        }
    }
    CHECK_INT(shared->count, RT_PAIR_CHUNKS_MAX);
    CHECK_INT(shared->extents, RT_PAIR_EXTENTS_MAX);
    for (uint32_t place = 0; place < RT_PAIR_CHUNKS_MAX; place++) {
        int status = RT_E_AGAIN;
        for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; status == RT_E_AGAIN && rt_clock_now_ns() < end;)
            status = rt_pair_incoming(there, place, &bytes);
        CHECK_INT(status, RT_OK);
        CHECK_INT(bytes[0], (uint8_t)place);
        CHECK_INT(bytes[TEAM_CHUNK - 1], (uint8_t)place);
    }
    CHECK_INT(rt_pair_incoming(there, RT_PAIR_CHUNKS_MAX, &bytes), RT_E_PROTOCOL);
    CHECK_INT(rt_pair_incoming(there, UINT32_MAX, &bytes), RT_E_PROTOCOL);
    for (uint32_t index = 0; index < BARE; index++)
        rt_pair_forget(shared, &lanes[index].lane);
    for (uint32_t word = 0; word < RT_PAIR_CHUNKS_MAX / 64; word++)
        CHECK_INT(shared->busy[word], 0);
    team_end(&ends);
}

static uint32_t count_regions(const rt_device *device)
{
    uint32_t count = 0;
    RT_LIST_EACH(node, &device->regions)
        count++;
    return count;
}

static void the_extents_of_a_pair_go_with_it_at_both_ends(void)
{
    enum { CHUNKS = RT_LANE_CHUNKS_SURE, LANES = 4 };
    team_ends ends;
    rt_region *regions[2];
    rt_remote *remotes[2];
    rt_pair *shared[2];
    bare_lane lanes[LANES];
    const uint8_t *bytes;
    const uint64_t size = rt_pair_size(512, CHUNKS, 1);
    team_begin(&ends, 2, ordinary);
    for (uint32_t rank = 0; rank < 2; rank++)
        regions[rank] = core_region(ends.members[rank].device, size, CORE_BOTH);
    for (uint32_t rank = 0; rank < 2; rank++) {
        rt_channel *channel = ends.members[rank].channels[1 - rank];
        remotes[rank] = team_attach(channel, regions[1 - rank], 0, size);
        CHECK_INT(rt_pair_create(channel, regions[rank], 0, remotes[rank], 512, CHUNKS, &shared[rank],
                                 &ends.members[rank].detail),
                  RT_OK);
    }
    const uint32_t before = count_regions(ends.members[0].device);
    for (uint32_t index = 0; index < LANES; index++) { /* 4, 4 and 8 chunks */
        bare_begin(shared[0], &lanes[index]);
        for (uint32_t turn = 0; turn < CHUNKS; turn++)
            CHECK_INT(take_chunk(shared[0], &lanes[index]), index * CHUNKS + turn);
    }
    CHECK_INT(count_regions(ends.members[0].device), before + 2);
    rt_channel *channel = ends.members[1].channels[0];
    const uint32_t references = atomic_load(&channel->references);
    for (uint32_t turn = 0; turn < 2; turn++) { /* each is attached once */
        for (uint32_t place = 0; place < LANES * CHUNKS; place++) {
            int status = RT_E_AGAIN;
            for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; status == RT_E_AGAIN && rt_clock_now_ns() < end;)
                status = rt_pair_incoming(shared[1], place, &bytes);
            CHECK_INT(status, RT_OK);
        }
    }
    CHECK_INT(atomic_load(&channel->references), references + 2);
    for (uint32_t index = 0; index < LANES; index++)
        rt_pair_forget(shared[0], &lanes[index].lane);
    rt_pair_drop(shared[0]);
    rt_pair_drop(shared[1]);
    CHECK_INT(count_regions(ends.members[0].device), before);
    CHECK_INT(atomic_load(&channel->references), references - 1); /* the pair's own */
    for (uint32_t rank = 0; rank < 2; rank++)
        rt_remote_drop(remotes[rank]);
    team_end(&ends);
    for (uint32_t rank = 0; rank < 2; rank++)
        rt_region_drop(regions[rank]);
}

static void a_lane_leaves_half_to_the_others_where_a_pair_cannot_grow(void)
{
    if (!CORE_HAS_FAKE)
        CHECK_SKIP("there is no fake libibverbs");
    enum { CHUNKS = 70 };
    team_ends ends;
    bare_lane lanes[4];
    team_provider = "verbs";
    team_begin(&ends, 2, ordinary);
    const uint64_t size = rt_pair_size(512, CHUNKS, 0);
    CHECK_INT(size - rt_pair_size(512, CHUNKS, 1), 512 * CHUNKS);
    rt_region *near = core_region(ends.members[0].device, size, CORE_BOTH),
              *far = core_region(ends.members[1].device, size, CORE_BOTH);
    rt_remote *remote = team_attach(ends.members[0].channels[1], far, 0, size);
    rt_pair *shared;
    CHECK_INT(rt_pair_create(ends.members[0].channels[1], near, 0, remote, 512, CHUNKS, &shared, &ends.members[0].detail), RT_OK);
    for (uint32_t index = 0; index < 4; index++)
        bare_begin(shared, &lanes[index]);
    uint32_t taken = 0;
    for (uint32_t index = 0; index < 4; index++) { /* a lane keeps 16 messages in mind: so many and no more are under way */
        const uint32_t most = index < 2 ? RT_TEAM_SLOTS_MAX : index == 2 ? CHUNKS / 2 - 2 * RT_TEAM_SLOTS_MAX : 0;
        for (uint32_t turn = 0; turn < RT_TEAM_SLOTS_MAX; turn++) {
            bool gets = turn < most || turn < RT_LANE_CHUNKS_SURE;
            CHECK_INT(take_chunk(shared, &lanes[index]), gets ? (int64_t)taken : -1);
            taken += gets;
        }
    }
    CHECK_INT(taken, CHUNKS / 2 + 1 + RT_LANE_CHUNKS_SURE);
    CHECK_INT(shared->count, CHUNKS);
    for (uint32_t index = 0; index < 4; index++)
        rt_pair_forget(shared, &lanes[index].lane);
    const uint8_t *bytes;
    CHECK_INT(rt_pair_incoming(shared, CHUNKS - 1, &bytes), RT_OK); /* copies lie behind the own chunks */
    CHECK(bytes == near->address + rt_pair_in_at(shared, CHUNKS - 1));
    CHECK(bytes + 512 == near->address + size);
    CHECK(rt_pair_outgoing(shared, CHUNKS - 1) == near->address + rt_pair_out_at(shared, CHUNKS - 1));
    CHECK_INT(rt_pair_in_at(shared, 0) - rt_pair_out_at(shared, CHUNKS - 1), 512);
    CHECK_INT(rt_pair_incoming(shared, CHUNKS, &bytes), RT_E_PROTOCOL);
    rt_pair_drop(shared);
    rt_remote_drop(remote);
    team_end(&ends);
    rt_region_drop(near);
    rt_region_drop(far);
    team_provider = "shm";
}

/* ---- waits ---- */

static int questions;

static int ask_and_stop(void)
{
    return ++questions == 2;
}

static void a_wait_that_spins_reads_the_clock_every_64_looks(void)
{
    team_ends ends;
    rt_team_waiter waiter;
    team_begin(&ends, 2, ordinary);
    rt_team *team = ends.members[0].team;
    team->options.spins = 1000;
    rt_team_waiter_begin(&waiter, team, -1, NULL);
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t look = 1; look <= 64; look++)
            CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_E_DEADLINE);
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_E_DEADLINE);
        CHECK_HAS(waiter.detail.text, "the deadline passed");
        rt_team_waiter_moved(&waiter); /* something came after all: the wait begins again */
    }
    rt_team_waiter_end(&waiter);
    CHECK_INT(team_stats(&ends, 0).sleeps, 0);
    team_end(&ends);
}

static void a_wait_yields_24_looks_then_sleeps(void)
{
    team_ends ends;
    rt_team_waiter waiter;
    team_begin(&ends, 2, ordinary);
    rt_team *team = ends.members[0].team;
    rt_team_waiter_begin(&waiter, team, CORE_PATIENCE_NS, NULL);
    for (uint32_t look = 1; look <= 24; look++) {
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
        CHECK(!waiter.announced && waiter.status == RT_OK);
    }
    waiter.wait.end_ns = 0;
    CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
    CHECK(waiter.announced); /* one more look before it sleeps */
    CHECK_INT(waiter.status, RT_E_DEADLINE);
    CHECK_INT(rt_team_waiter_idle(&waiter), RT_E_DEADLINE);
    rt_team_waiter_end(&waiter);
    CHECK(!waiter.announced);
    rt_team_waiter_begin(&waiter, team, 0, NULL);
    for (uint32_t look = 1; look <= 16; look++)
        CHECK_INT(rt_team_waiter_idle(&waiter), RT_OK);
    CHECK_INT(rt_team_waiter_idle(&waiter), RT_E_DEADLINE); /* without a look that is announced, and without a sleep */
    rt_team_waiter_end(&waiter);
    CHECK_INT(team_stats(&ends, 0).sleeps, 0);
    /* On a busy machine a wait may be over before it has slept. */
    for (uint32_t wait = 0; wait < 1000 && team_stats(&ends, 0).sleeps == 0; wait++) {
        int64_t begun = rt_clock_now_ns();
        int status;
        rt_team_waiter_begin(&waiter, team, 3 * RT_NS_PER_MS, NULL);
        while ((status = rt_team_waiter_idle(&waiter)) == RT_OK)
            ;
        CHECK_INT(status, RT_E_DEADLINE);
        CHECK(rt_clock_now_ns() - begun >= 3 * RT_NS_PER_MS);
        rt_team_waiter_end(&waiter);
    }
    CHECK(team_stats(&ends, 0).sleeps >= 1);
    rt_team_waiter_begin(&waiter, team, INT64_MAX / 2, NULL);
    CHECK(waiter.wait.end_ns == INT64_MAX);
    rt_team_waiter_begin(&waiter, team, INT64_MAX / 2 - 1, NULL);
    CHECK(waiter.wait.end_ns < INT64_MAX);
    team_end(&ends);
}

/* It is asked between sleeps, whether or not the deadline is far. */
static void a_wait_is_given_up_when_that_is_asked_for(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        rt_team_waiter waiter;
        int status;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        questions = 0;
        rt_team_waiter_begin(&waiter, ends.members[0].team, CORE_PATIENCE_NS, ask_and_stop);
        while ((status = rt_team_waiter_idle(&waiter)) == RT_OK)
            ;
        CHECK_INT(status, RT_E_INTERRUPTED);
        CHECK_HAS(waiter.detail.text, "a signal ended the wait");
        CHECK_INT(questions, 2);
        rt_team_waiter_end(&waiter);
        team_end(&ends);
        team_provider = "shm";
    }
}

/* ---- words of a member that gives up ---- */

static void the_reason_of_a_member_that_gave_up_is_cut_to_its_place(void)
{
    enum { KEPT = RT_TEAM_NOTICE_SIZE - 17 };
    char why[400], wanted[RT_TEAM_NOTICE_SIZE + 40];
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    for (size_t index = 0; index < sizeof why - 1; index++)
        why[index] = (char)('a' + index % 26);
    why[sizeof why - 1] = 0;
    rt_team_abort(ends.members[1].team, why);
    team_member *member = &ends.members[0];
    CHECK_INT(rt_team_left(member->team), 0);                                  /* it gave up, and may still write */
    CHECK_INT(rt_team_trouble(member->team, 1, true, &member->detail), RT_OK); /* sends and receives go on */
    CHECK_INT(rt_team_trouble(member->team, -1, false, &member->detail), RT_E_PEER_LOST);
    snprintf(wanted, sizeof wanted, "rank 1 gave up: %.*s", KEPT, why);
    CHECK(strncmp(member->detail.text, wanted, strlen(wanted) < 250 ? strlen(wanted) : 250) == 0);
    const char *notice = (const char *)member->team->peers[1].notice - KEPT - 9;
    CHECK(memcmp(notice, why, KEPT) == 0);
    CHECK_INT(notice[KEPT], 0);
    team_end(&ends);
}

static void a_member_whose_connection_has_ended_writes_nothing_any_more(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    team_member *member = &ends.members[0];
    CHECK_INT(rt_team_left(member->team), 0);
    rt_channel_close(ends.members[1].channels[0]);
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (rt_channel_state(member->channels[1]) == RT_CHANNEL_READY && rt_clock_now_ns() < end)
        rt_device_progress(member->device);
    CHECK_INT(rt_team_left(member->team), 1);
    CHECK_INT(rt_team_trouble(member->team, -1, false, &member->detail), RT_OK); /* nobody needs it */
    CHECK_INT(rt_team_trouble(member->team, 1, false, &member->detail), RT_E_PEER_CLOSED);
    CHECK_HAS(member->detail.text, "rank 1 has ended its connection");
    team_end(&ends);
}

static void a_lost_member_ends_every_wait_and_is_named(void)
{
    static const struct {
        int status;
        bool always; /* also where nobody waits for it */
        const char *words;
    } cases[] = {{RT_E_PEER_LOST, true, "rank 1 was lost: the cable was cut"},
                 {RT_E_PROTOCOL, true, "rank 1 was lost: the cable was cut"},
                 {RT_E_PEER_CLOSED, false, "rank 1 has ended its connection: the cable was cut"},
                 {RT_E_CLOSED, false, "rank 1 has ended its connection: the cable was cut"}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        team_ends ends;
        rt_detail why;
        team_begin(&ends, 2, ordinary);
        team_member *member = &ends.members[0];
        rt_fail(&why, cases[index].status, 0, "the cable was cut");
        rt_channel_fail(member->channels[1], &why);
        for (int transfers = 0; transfers < 2; transfers++) {
            int others = rt_team_trouble(member->team, -1, transfers, &member->detail);
            CHECK_INT(others, cases[index].always ? cases[index].status : RT_OK);
            CHECK_INT(rt_team_trouble(member->team, 1, transfers, &member->detail), cases[index].status);
            CHECK_HAS(member->detail.text, cases[index].words);
        }
        CHECK_INT(rt_team_left(member->team), 1);
        team_end(&ends);
    }
}

static const check_test tests[] = {
    CHECK_TEST(taking_is_told_every_half_lane_and_every_two_chunks),
    CHECK_TEST(a_lane_has_room_for_as_many_messages_as_slots),
    CHECK_TEST(only_what_fits_behind_its_header_takes_no_chunk),
    CHECK_TEST(a_chunk_comes_back_when_its_message_was_taken_and_not_before),
    CHECK_TEST(a_pair_grows_to_its_last_extent_and_the_peer_finds_every_chunk),
    CHECK_TEST(the_extents_of_a_pair_go_with_it_at_both_ends),
    CHECK_TEST(a_lane_leaves_half_to_the_others_where_a_pair_cannot_grow),
    CHECK_TEST(a_wait_that_spins_reads_the_clock_every_64_looks),
    CHECK_TEST(a_wait_yields_24_looks_then_sleeps),
    CHECK_TEST(a_wait_is_given_up_when_that_is_asked_for),
    CHECK_TEST(the_reason_of_a_member_that_gave_up_is_cut_to_its_place),
    CHECK_TEST(a_member_whose_connection_has_ended_writes_nothing_any_more),
    CHECK_TEST(a_lost_member_ends_every_wait_and_is_named),
};

CHECK_MAIN(tests)
