/* test_team_parts.c: messages that go through the slots in parts, since no chunk is free. Calls that need them are in
 * test_team_pair.c; lanes are explored in every order by tests/model/lanes. */
#include "team_ends.h"

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};

/* Puts a part into a collective lane; the status of looking for it at the other end. */
static int part_sent(team_ends *ends, uint64_t size, uint32_t place)
{
    rt_lane *lane = &ends->members[0].team->peers[1].lanes[RT_LANE_COLLECTIVE];
    const rt_message part = {.kind = RT_MESSAGE_COLLECTIVE, .size = size, .place = place};
    int status;
    CHECK(rt_lane_has_slot(lane));
    CHECK_INT(rt_lane_push_slot(lane, &part), RT_OK);
    CHECK(rt_lane_peek(&ends->members[1].team->peers[0].lanes[RT_LANE_COLLECTIVE], &status) == NULL);
    return status;
}

static void parts_that_make_no_message_are_refused(void)
{
    const uint64_t sizes[] = {0, RT_TEAM_INLINE + 1, TEAM_CHUNK, UINT64_MAX};
    for (uint32_t index = 0; index < 2 * sizeof sizes / sizeof sizes[0]; index++) {
        team_ends ends;
        team_begin(&ends, 2, ordinary);
        CHECK_INT(part_sent(&ends, sizes[index / 2], index % 2 == 0 ? RT_PLACE_PART : RT_PLACE_LAST), RT_E_PROTOCOL);
        team_end(&ends);
    }
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    for (uint32_t sent = 0; sent + RT_TEAM_INLINE <= TEAM_CHUNK; sent += RT_TEAM_INLINE)
        CHECK_INT(part_sent(&ends, RT_TEAM_INLINE, RT_PLACE_PART), RT_OK);
    CHECK_INT(part_sent(&ends, RT_TEAM_INLINE, RT_PLACE_PART), RT_E_PROTOCOL); /* more than a chunk */
    team_end(&ends);
}

/* A part that could not be sent is missing at the peer, so nothing of the lane follows it. */
static void a_lane_that_failed_to_send_a_part_sends_nothing_more(void)
{
    enum { SIZE = 20000 };
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_pair *chunks = ends.members[0].pairs[1];
    rt_lane *lane = &ends.members[0].team->peers[1].lanes[RT_LANE_COLLECTIVE];
    const rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = SIZE};
    int status;
    chunks->failed_to_grow = true;
    chunks->busy[0] = UINT64_MAX; /* no chunk is free, … */
    lane->short_since_ns = 1;     /* … and was not for long */
    uint8_t *room = rt_lane_room(lane, SIZE);
    CHECK(room != NULL && rt_lane_flushes(lane) == false);
    memset(room, 1, SIZE);
    CHECK_INT(rt_lane_push(lane, &message), RT_OK);
    CHECK(rt_lane_flushes(lane));
    CHECK(rt_lane_peek(&ends.members[1].team->peers[0].lanes[RT_LANE_COLLECTIVE], &status) == NULL);
    CHECK_INT(status, RT_OK);
    CHECK(rt_lane_has_slot(lane)); /* the peer has taken the parts that came */
    rt_channel_close(ends.members[0].channels[1]);
    CHECK(rt_lane_flush(lane) < 0);
    uint64_t sent = lane->sent;
    CHECK(rt_lane_flush(lane) < 0);
    CHECK(rt_lane_room(lane, 8) == NULL);
    CHECK_INT(lane->sent, sent);
    chunks->busy[0] = 0;
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_lane_that_failed_to_send_a_part_sends_nothing_more),
    CHECK_TEST(parts_that_make_no_message_are_refused),
};

CHECK_MAIN(tests)
