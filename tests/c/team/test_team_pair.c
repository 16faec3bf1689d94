/* test_team_pair.c: what two members share for all their teams: chunks, how many there are and when they come back; how members meet
 * and leave; messages that a member keeps until they are received; and the harm that a peer without rules can do. */
#include "proto/dtype.h"
#include "team/block.h"
#include "team_ends.h"

enum { TEAMS = 12, LARGE = 60000, SMALL_SENDS = 4000, SIGN = 77, ELEMENTS = 12 * TEAM_CHUNK / 8 };

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};

/* More teams between the same two members, each with blocks of its own. */
typedef struct more_teams {
    rt_region *words, *blocks;
    rt_remote *remotes[TEAMS];
    rt_team *teams[TEAMS];
} more_teams;

static void more_begin(team_ends *ends, more_teams *more)
{
    rt_team_options options = team_options(0, 2);
    bool maps = ends->members[0].device->limits.maps_remote;
    uint64_t block = rt_team_block_size(&options, maps), words = (rt_team_words_size(&options) + 63) / 64 * 64;
    for (uint32_t rank = 0; rank < 2; rank++) {
        team_member *member = &ends->members[rank];
        options.rank = rank;
        more[rank].words = core_region(member->device, TEAMS * words, 0);
        more[rank].blocks = core_region(member->device, TEAMS * block, CORE_BOTH);
        for (uint32_t index = 0; index < TEAMS; index++)
            CHECK_INT(rt_team_create(member->device, more[rank].words, index * words, &options, &more[rank].teams[index],
                                     &member->detail),
                      RT_OK);
    }
    for (uint32_t rank = 0; rank < 2; rank++) {
        team_member *member = &ends->members[rank];
        for (uint32_t index = 0; index < TEAMS; index++) {
            more[rank].remotes[index] = team_attach(member->channels[1 - rank], more[1 - rank].blocks, index * block, block);
            const rt_team_place place = {more[rank].remotes[index], 0, block};
            CHECK_INT(rt_team_join(more[rank].teams[index], 1 - rank, member->pairs[1 - rank], more[rank].blocks, index * block,
                                   &place, &member->detail),
                      RT_OK);
        }
    }
}

static void more_end(more_teams *more)
{
    for (uint32_t rank = 0; rank < 2; rank++)
        for (uint32_t index = 0; index < TEAMS; index++)
            rt_team_leave(more[rank].teams[index]);
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t index = 0; index < TEAMS; index++) {
            CHECK_INT(rt_team_left(more[rank].teams[index]), 1);
            rt_team_drop(more[rank].teams[index]);
            rt_remote_drop(more[rank].remotes[index]);
        }
    }
}

static void more_free(more_teams *more)
{
    for (uint32_t rank = 0; rank < 2; rank++) {
        rt_region_drop(more[rank].words);
        rt_region_drop(more[rank].blocks);
    }
}

static void fill(uint8_t *bytes, uint64_t size, uint32_t seed)
{
    for (uint64_t index = 0; index < size; index++)
        bytes[index] = (uint8_t)(index * 7 + seed * 13 + index / 251);
}

static bool is(const uint8_t *bytes, uint64_t size, uint32_t seed)
{
    for (uint64_t index = 0; index < size; index++)
        if (bytes[index] != (uint8_t)(index * 7 + seed * 13 + index / 251))
            return false;
    return true;
}

static rt_lane *lane_of(rt_team *team, uint32_t peer)
{
    return &team->peers[peer].lanes[RT_LANE_COLLECTIVE];
}

/* Waits for the next message: an extent of chunks may have to be attached first. */
static const uint8_t *peek(rt_lane *lane)
{
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    int status = RT_OK;
    const uint8_t *payload = NULL;
    while (payload == NULL && status == RT_OK && rt_clock_now_ns() < end)
        payload = rt_lane_peek(lane, &status);
    CHECK_INT(status, RT_OK);
    CHECK(payload != NULL);
    return payload;
}

/* Nobody takes anything: yet each team can send as much as a collective call needs to go on, however many there are. */
static void teams_do_not_wait_for_each_other(void)
{
    team_ends ends;
    more_teams more[2];
    team_begin(&ends, 2, ordinary);
    more_begin(&ends, more);
    for (uint32_t turn = 0; turn < RT_LANE_CHUNKS_SURE; turn++) {
        for (uint32_t index = 0; index < TEAMS; index++) {
            rt_lane *lane = lane_of(more[0].teams[index], 1);
            rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = LARGE};
            uint8_t *room = rt_lane_room(lane, LARGE);
            CHECK(room != NULL);
            fill(room, LARGE, index * 16 + turn);
            CHECK_INT(rt_lane_push(lane, &message), RT_OK);
        }
    }
    CHECK(ends.members[0].pairs[1]->count >= TEAMS * RT_LANE_CHUNKS_SURE);
    for (uint32_t turn = 0; turn < RT_LANE_CHUNKS_SURE; turn++) {
        for (uint32_t index = 0; index < TEAMS; index++) {
            rt_lane *lane = lane_of(more[1].teams[index], 0);
            CHECK(is(peek(lane), LARGE, index * 16 + turn));
            rt_lane_take(lane);
        }
    }
    more_end(more);
    team_end(&ends);
    more_free(more);
}

/* One call of one member of one team, in a thread of its own. */
typedef struct one_call {
    rt_team *team;
    pthread_t thread;
    rt_detail detail;
    int status;
    int64_t numbers[ELEMENTS];
} one_call;

static void *reduce_large(void *argument)
{
    one_call *one = argument;
    const rt_team_call call = {.dtype = RT_DTYPE_INT64, .root = -1, .timeout_ns = CORE_PATIENCE_NS, .detail = &one->detail};
    one->status = rt_team_reduce(one->team, &call, one->numbers, one->numbers, ELEMENTS);
    return NULL;
}

/* More teams than there are chunks, each in a call that needs several of them. */
static void calls_of_more_teams_than_chunks_do_not_wait_for_each_other(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        more_teams more[2];
        one_call *calls = calloc(2 * TEAMS, sizeof *calls);
        CHECK(calls != NULL);
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        more_begin(&ends, more);
        for (uint32_t index = 0; index < 2 * TEAMS; index++) {
            calls[index].team = more[index % 2].teams[index / 2];
            for (uint32_t at = 0; at < ELEMENTS; at++)
                calls[index].numbers[at] = at + index;
            CHECK_INT(pthread_create(&calls[index].thread, NULL, reduce_large, &calls[index]), 0);
        }
        for (uint32_t index = 0; index < 2 * TEAMS; index++) {
            pthread_join(calls[index].thread, NULL);
            CHECK_INT(calls[index].status, RT_OK);
            for (uint32_t at = 0; at < ELEMENTS; at += 997)
                CHECK_INT(calls[index].numbers[at], 2 * at + 2 * (index / 2 * 2) + 1);
        }
        more_end(more);
        team_end(&ends);
        more_free(more);
        free(calls);
        team_provider = "shm";
    }
}

/* A chunk that one team has sent and the peer has taken serves the next one: memory does not grow with the number of teams. */
static void chunks_come_back_from_teams_that_are_idle(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        more_teams more[2];
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        more_begin(&ends, more);
        for (uint32_t index = 0; index < TEAMS; index++) {
            for (uint32_t turn = 0; turn < 3; turn++) {
                rt_lane *lane = lane_of(more[0].teams[index], 1), *there = lane_of(more[1].teams[index], 0);
                rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = LARGE};
                uint8_t *room = rt_lane_room(lane, LARGE);
                CHECK(room != NULL);
                fill(room, LARGE, index + turn);
                CHECK_INT(rt_lane_push(lane, &message), RT_OK);
                CHECK(is(peek(there), LARGE, index + turn));
                rt_lane_take(there);
                rt_lane_settle(there);
            }
        }
        CHECK_INT(ends.members[0].pairs[1]->count, TEAM_CHUNKS);
        more_end(more);
        team_end(&ends);
        more_free(more);
        team_provider = "shm";
    }
}

/* Room that was asked for and not used is given again, and costs no second chunk. */
static void room_that_was_not_used_is_given_again(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_lane *lane = lane_of(ends.members[0].team, 1);
    const uint8_t *first = rt_lane_room(lane, LARGE);
    for (uint32_t turn = 0; turn < 3 * TEAM_CHUNKS; turn++)
        CHECK(rt_lane_room(lane, LARGE) == first);
    CHECK_INT(atomic_load(&lane->held), 1);
    team_end(&ends);
}

/* ---- what nobody receives ---- */

/* Sends go on until the receiver keeps enough; the next ones wait for their receives, which find everything in order. */
static void sends_that_nobody_receives_are_bounded(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        team_member *from = &ends.members[0], *to = &ends.members[1];
        static rt_team_transfer *sends[SMALL_SENDS];
        uint32_t done = 0;
        rt_team_transfer *other = NULL; /* for which the receiver looks at what has come */
        CHECK_INT(rt_team_receive(to->team, 0, 99, RT_DTYPE_UINT8, to->bytes + 4096, 8, &other, NULL, &to->detail), RT_E_AGAIN);
        for (uint32_t index = 0; index < SMALL_SENDS; index++) {
            uint8_t *bytes = from->bytes + (uint64_t)index * 1000;
            fill(bytes, 1000, index);
            int status = rt_team_send(from->team, 1, 7, RT_DTYPE_UINT8, bytes, 1000, &sends[index], &from->detail);
            CHECK(status == RT_OK || status == RT_E_AGAIN);
            done += status == RT_OK;
            rt_team_progress(to->team, 0);
        }
        rt_team_stats kept = team_stats(&ends, 1);
        CHECK(kept.kept_bytes_max <= RT_TEAM_KEPT_MAX);
        CHECK(done < SMALL_SENDS && done >= RT_TEAM_KEPT_MAX / (1000 + RT_TEAM_KEPT_COST) - 1);
        for (uint32_t index = 0; index < SMALL_SENDS; index++) {
            rt_team_transfer *receive = NULL;
            int status = rt_team_receive(to->team, 0, 7, RT_DTYPE_UINT8, to->bytes, 1000, &receive, NULL, &to->detail);
            while (status == RT_E_AGAIN) {
                rt_team_progress(from->team, 0);
                status = rt_team_transfer_wait(receive, 0, NULL, &to->detail);
            }
            if (receive != NULL)
                rt_team_transfer_drop(receive);
            CHECK_INT(status, RT_OK);
            CHECK(is(to->bytes, 1000, index));
        }
        rt_team_progress(from->team, 0);
        CHECK_INT(team_stats(&ends, 1).kept_bytes, 0);
        CHECK(team_stats(&ends, 0).held_back > 0);
        for (uint32_t index = 0; index < SMALL_SENDS; index++) {
            if (sends[index] == NULL)
                continue;
            CHECK_INT(rt_team_transfer_wait(sends[index], 0, NULL, &from->detail), RT_OK);
            rt_team_transfer_drop(sends[index]);
        }
        rt_team_transfer_drop(other);
        team_end(&ends);
        team_provider = "shm";
    }
}

/* A tag that is wanted is found behind any number of others: the lane does not stop because much is kept. */
static void a_tag_is_found_behind_a_flood_of_others(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    team_member *from = &ends.members[0], *to = &ends.members[1];
    static rt_team_transfer *sends[SMALL_SENDS];
    rt_team_transfer *receive = NULL;
    fill(from->bytes, 1000, 5);
    for (uint32_t index = 0; index < SMALL_SENDS; index++) {
        uint64_t tag = index + 1 == SMALL_SENDS ? 9 : 7;
        rt_team_send(from->team, 1, tag, RT_DTYPE_UINT8, from->bytes, 1000, &sends[index], &from->detail);
        rt_team_progress(to->team, 0);
    }
    int status = rt_team_receive(to->team, 0, 9, RT_DTYPE_UINT8, to->bytes, 1000, &receive, NULL, &to->detail);
    for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; status == RT_E_AGAIN && rt_clock_now_ns() < end;) {
        rt_team_progress(from->team, 0);
        status = rt_team_transfer_wait(receive, 0, NULL, &to->detail);
    }
    CHECK_INT(status, RT_OK);
    CHECK(is(to->bytes, 1000, 5));
    rt_team_transfer_drop(receive);
    for (uint32_t index = 0; index < SMALL_SENDS; index++)
        if (sends[index] != NULL)
            rt_team_transfer_drop(sends[index]);
    team_end(&ends);
}

/* ---- meeting and leaving ---- */

/* Nobody is through before all have said that they have joined all. */
static void a_member_is_ready_when_all_have_met(void)
{
    team_ends ends;
    int32_t missing;
    team_begin(&ends, 3, ordinary);
    for (uint32_t rank = 0; rank < 2; rank++) {
        team_member *member = &ends.members[rank];
        CHECK_INT(rt_team_meet(member->team, SIGN, RT_NS_PER_MS, &missing, &member->detail), RT_E_AGAIN);
        CHECK_INT(missing, rank == 0 ? 1 : 2);
    }
    CHECK_INT(rt_team_meet(ends.members[0].team, SIGN, RT_NS_PER_MS, &missing, &ends.members[0].detail), RT_E_AGAIN);
    CHECK_INT(missing, 2);
    for (uint32_t rank = 3; rank-- > 0;) {
        team_member *member = &ends.members[rank];
        CHECK_INT(rt_team_meet(member->team, SIGN, RT_NS_PER_MS, &missing, &member->detail), RT_OK);
        CHECK_INT(missing, -1);
    }
    team_end(&ends);
}

/* Members that have read different cards, and so found each other in different ways, say different signs. */
static void a_member_does_not_meet_one_with_another_sign(void)
{
    team_ends ends;
    int32_t missing;
    team_begin(&ends, 2, ordinary);
    team_member *first = &ends.members[0], *second = &ends.members[1];
    CHECK_INT(rt_team_meet(first->team, 0, 0, &missing, &first->detail), RT_E_INVALID);
    CHECK_INT(rt_team_meet(first->team, SIGN, 0, &missing, &first->detail), RT_E_AGAIN);
    CHECK_INT(rt_team_meet(first->team, SIGN + 1, 0, &missing, &first->detail), RT_E_INVALID);
    CHECK_INT(rt_team_meet(second->team, SIGN + 1, RT_NS_PER_MS, &missing, &second->detail), RT_E_AGAIN);
    CHECK_INT(missing, 0);
    CHECK_INT(rt_team_meet(first->team, SIGN, RT_NS_PER_MS, &missing, &first->detail), RT_E_AGAIN);
    CHECK_INT(missing, 1);
    team_end(&ends);
}

/* A quick member that has met and left, and closed its connections, is not missed by a slow one. */
static void a_member_that_has_met_may_leave_at_once(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        int32_t missing;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, ordinary);
        team_member *quick = &ends.members[0], *slow = &ends.members[1];
        CHECK_INT(rt_team_meet(quick->team, SIGN, 0, &missing, &quick->detail), RT_E_AGAIN);
        quick->timeout_ns = 0;
        rt_team_leave(quick->team);
        rt_channel_close(quick->channels[1]);
        int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
        while (rt_channel_state(slow->channels[0]) == RT_CHANNEL_READY && rt_clock_now_ns() < end)
            rt_device_progress(slow->device);
        CHECK(rt_channel_state(slow->channels[0]) != RT_CHANNEL_READY);
        CHECK_INT(rt_team_meet(slow->team, SIGN, RT_NS_PER_MS, &missing, &slow->detail), RT_OK);
        CHECK_INT(rt_team_left(slow->team), 1);
        team_end(&ends);
        team_provider = "shm";
    }
}

static void a_member_that_gives_up_is_heard_by_those_that_meet(void)
{
    team_ends ends;
    int32_t missing;
    team_begin(&ends, 2, ordinary);
    team_member *waits = &ends.members[0];
    rt_team_abort(ends.members[1].team, "no memory for this");
    rt_team_leave(ends.members[1].team);
    CHECK_INT(rt_team_meet(waits->team, SIGN, RT_NS_PER_MS, &missing, &waits->detail), RT_E_PEER_LOST);
    CHECK(strstr(waits->detail.text, "no memory for this") != NULL);
    CHECK_INT(rt_team_left(waits->team), 1); /* … and will write nothing any more */
    team_end(&ends);
}

/* However many members a reason goes through, it names the member that it is about, and the last one that passed it on. */
static void a_reason_that_is_passed_on_names_two_members_at_most(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_team_abort(ends.members[1].team, "rank 3 was lost: its process died, as rank 2 says");
    team_member *member = &ends.members[0];
    CHECK_INT(rt_team_trouble(member->team, -1, false, &member->detail), RT_E_PEER_LOST);
    CHECK(strcmp(member->detail.text, "rank 3 was lost: its process died, as rank 1 says") == 0);
    team_end(&ends);
}

static void a_member_that_has_left_makes_no_call(void)
{
    team_ends ends;
    rt_team_transfer *transfer = NULL;
    team_begin(&ends, 2, ordinary);
    team_member *member = &ends.members[0];
    rt_team_leave(member->team);
    rt_team_call call = {.dtype = RT_DTYPE_UINT8, .root = -1, .timeout_ns = RT_NS_PER_S, .detail = &member->detail};
    CHECK_INT(rt_team_barrier(member->team, &call), RT_E_CLOSED);
    CHECK_INT(rt_team_reduce(member->team, &call, member->bytes, member->bytes, 8), RT_E_CLOSED);
    CHECK_INT(rt_team_send(member->team, 1, 0, RT_DTYPE_UINT8, member->bytes, 8, &transfer, &member->detail), RT_E_CLOSED);
    CHECK(transfer == NULL);
    CHECK_INT(rt_team_failure(member->team, &member->detail), RT_E_CLOSED);
    CHECK_INT(rt_team_failure(ends.members[1].team, NULL), RT_OK); /* the peer finds out when it needs this member */
    team_end(&ends);
}

/* ---- a peer that keeps no rule ---- */

static void poison(team_member *bad, const rt_message *message)
{
    rt_lane *lane = &bad->team->peers[1].lanes[RT_LANE_TRANSFER];
    uint64_t sent = lane->sent + 1;
    memcpy(lane->out + lane->sent % bad->team->options.slots * RT_TEAM_SLOT, message, sizeof *message);
    lane->sent++;
    memcpy((uint8_t *)(uintptr_t)bad->team->peers[1].mapped + rt_block_word_at(RT_BLOCK_ARRIVED, RT_LANE_TRANSFER), &sent,
           sizeof sent);
}

/* A chunk that is not there, a message larger than what it lies in, and more than it may send ahead. */
static void a_message_that_breaks_a_rule_ends_the_team(void)
{
    const rt_message bad[] = {
        {.kind = RT_MESSAGE_EAGER, .place = UINT32_MAX, .size = 64, .total = 64},
        {.kind = RT_MESSAGE_EAGER, .place = RT_PAIR_CHUNKS_MAX + 1, .size = 64, .total = 64},
        {.kind = RT_MESSAGE_EAGER, .place = TEAM_CHUNKS + 1, .size = 64, .total = 64}, /* of an extent that was not made */
        {.kind = RT_MESSAGE_EAGER, .place = 0, .size = RT_TEAM_INLINE + 1, .total = RT_TEAM_INLINE + 1},
        {.kind = RT_MESSAGE_EAGER, .place = 1, .size = TEAM_CHUNK + 1, .total = TEAM_CHUNK + 1},
        {.kind = RT_MESSAGE_OFFER, .place = 0, .size = 3, .total = 1 << 20},
        {.kind = 77},
    };
    for (uint32_t index = 0; index < sizeof bad / sizeof bad[0]; index++) {
        team_ends ends;
        rt_team_transfer *receive = NULL;
        team_begin(&ends, 2, ordinary);
        poison(&ends.members[0], &bad[index]);
        team_member *good = &ends.members[1];
        int status = rt_team_receive(good->team, 0, 3, RT_DTYPE_UINT8, good->bytes, 8, &receive, NULL, &good->detail);
        CHECK_INT(status, RT_E_PROTOCOL);
        CHECK_INT(rt_team_failure(good->team, NULL), RT_E_PROTOCOL);
        CHECK_INT(rt_channel_state(good->channels[0]), RT_CHANNEL_READY); /* other teams go on */
        team_end(&ends);
    }
}

static void a_flood_beyond_what_is_allowed_is_refused(void)
{
    team_ends ends;
    rt_team_transfer *receive = NULL;
    team_begin(&ends, 2, ordinary);
    team_member *good = &ends.members[1];
    const rt_message message = {.kind = RT_MESSAGE_EAGER, .tag = 5, .size = 100, .total = 100};
    int status = rt_team_receive(good->team, 0, 3, RT_DTYPE_UINT8, good->bytes, 8, &receive, NULL, &good->detail);
    CHECK_INT(status, RT_E_AGAIN);
    for (uint32_t sent = 0; sent <= RT_TEAM_KEPT_MAX / 228 && status == RT_E_AGAIN; sent++) {
        poison(&ends.members[0], &message);
        status = rt_team_transfer_wait(receive, 0, NULL, &good->detail);
    }
    CHECK_INT(status, RT_E_PROTOCOL);
    CHECK(team_stats(&ends, 1).kept_bytes_max <= RT_TEAM_KEPT_MAX);
    rt_team_transfer_drop(receive);
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(calls_of_more_teams_than_chunks_do_not_wait_for_each_other),
    CHECK_TEST(teams_do_not_wait_for_each_other),
    CHECK_TEST(chunks_come_back_from_teams_that_are_idle),
    CHECK_TEST(room_that_was_not_used_is_given_again),
    CHECK_TEST(sends_that_nobody_receives_are_bounded),
    CHECK_TEST(a_tag_is_found_behind_a_flood_of_others),
    CHECK_TEST(a_member_is_ready_when_all_have_met),
    CHECK_TEST(a_member_does_not_meet_one_with_another_sign),
    CHECK_TEST(a_member_that_has_met_may_leave_at_once),
    CHECK_TEST(a_member_that_gives_up_is_heard_by_those_that_meet),
    CHECK_TEST(a_reason_that_is_passed_on_names_two_members_at_most),
    CHECK_TEST(a_member_that_has_left_makes_no_call),
    CHECK_TEST(a_message_that_breaks_a_rule_ends_the_team),
    CHECK_TEST(a_flood_beyond_what_is_allowed_is_refused),
};

CHECK_MAIN(tests)
