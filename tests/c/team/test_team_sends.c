/* test_team_sends.c: sends and receives, message by message, in one thread: what is sent at once, kept, offered, refused, given up and
 * counted.
 *
 * Needs the whole library. */
#include "proto/dtype.h"
#include "transfer_ends.h"

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};
static const enum team_memory readable[] = {TEAM_READABLE, TEAM_READABLE, TEAM_READABLE};

static uint32_t pending(team_ends *ends, uint32_t rank)
{
    return atomic_load(&ends->members[rank].team->pending);
}

/* ---- what travels at once ---- */

static void a_send_of_a_chunk_travels_at_once_and_a_larger_one_is_offered(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started whole = begin_send(&ends, 0, 1, 1, TEAM_CHUNK), larger = begin_send(&ends, 0, 1, 2, TEAM_CHUNK + 1);
    CHECK_INT(whole.status, RT_OK);
    CHECK_INT(larger.status, RT_E_AGAIN);
    rt_team_stats stats = team_stats(&ends, 0);
    CHECK_INT(stats.sends, 2);
    CHECK_INT(stats.bytes_sent, TEAM_CHUNK); /* an offer has no bytes yet */
    CHECK_INT(stats.held_back, 0);
    CHECK_INT(pending(&ends, 0), 1);
    started other = begin_receive(&ends, 1, 0, 9, 8); /* for which the receiver looks */
    stats = team_stats(&ends, 1);
    CHECK_INT(stats.unexpected, 2);
    CHECK_INT(stats.unexpected_bytes, TEAM_CHUNK);
    CHECK_INT(stats.kept_bytes, TEAM_CHUNK + RT_TEAM_KEPT_COST);
    CHECK_INT(ends.members[1].team->peers[0].kept_offers, 1);
    CHECK_INT(stats.bytes_received, 0);
    started first = begin_receive(&ends, 1, 0, 1, TEAM_CHUNK), second = begin_receive(&ends, 1, 0, 2, TEAM_CHUNK + 1);
    CHECK_INT(first.status, RT_OK);
    CHECK_INT(first.source, 0);
    CHECK_INT(second.status, RT_E_AGAIN);
    CHECK_INT(ends.members[1].team->peers[0].kept_offers, 0);
    CHECK_INT(finish(&second, &larger), RT_OK);
    CHECK_INT(second.source, 0);
    CHECK_INT(finish(&larger, NULL), RT_OK);
    stats = team_stats(&ends, 1);
    CHECK_INT(stats.receives, 3);
    CHECK_INT(stats.bytes_received, 2 * TEAM_CHUNK + 1);
    CHECK_INT(stats.direct_received_bytes, 0);
    CHECK_INT(stats.kept_bytes, 0);
    CHECK_INT(stats.kept_bytes_max, TEAM_CHUNK + RT_TEAM_KEPT_COST);
    CHECK_INT(team_stats(&ends, 0).bytes_sent, 2 * TEAM_CHUNK + 1);
    CHECK_INT(pending(&ends, 0), 0);
    CHECK_INT(rt_team_progress(ends.members[1].team, 0), 1);
    drop(&second), drop(&larger), drop(&other);
    CHECK_INT(pending(&ends, 1), 0);
    CHECK_INT(rt_team_progress(ends.members[1].team, 0), 0);
    team_end(&ends);
}

/* Sizes that go into the bound without a rest: each costs a kibibyte. */
static void sends_ahead_fill_their_bound_to_the_last_byte(void)
{
    enum { SIZE = 1024 - RT_TEAM_KEPT_COST, FIT = RT_TEAM_KEPT_MAX / 1024, MORE = TEAM_CHUNK - RT_TEAM_KEPT_COST };
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started other = begin_receive(&ends, 1, 0, 9, 8);
    for (uint32_t index = 0; index < FIT; index++) {
        CHECK_INT(begin_send(&ends, 0, 1, 7, SIZE).status, RT_OK);
        CHECK_INT(ask(&other), RT_E_AGAIN);
    }
    CHECK_INT(team_stats(&ends, 1).kept_bytes, RT_TEAM_KEPT_MAX);
    started held = begin_send(&ends, 0, 1, 7, SIZE);
    CHECK_INT(held.status, RT_E_AGAIN);
    CHECK_INT(team_stats(&ends, 0).held_back, 1);
    const uint64_t *eaten = ends.members[0].team->peers[1].eaten;
    for (uint32_t index = 1; index <= FIT / 4; index++) { /* the sender is told in quarters */
        CHECK_INT(begin_receive(&ends, 1, 0, 7, SIZE).status, RT_OK);
        CHECK_INT(*eaten, index < FIT / 4 ? 0 : RT_TEAM_KEPT_MAX / 4);
    }
    CHECK_INT(begin_send(&ends, 0, 1, 8, MORE).status, RT_OK); /* so much more */
    CHECK_INT(team_stats(&ends, 0).held_back, 1);
    CHECK_INT(begin_receive(&ends, 1, 0, 8, MORE).status, RT_OK);
    for (uint32_t index = FIT / 4; index < FIT; index++)
        CHECK_INT(begin_receive(&ends, 1, 0, 7, SIZE).status, RT_OK);
    started last = begin_receive(&ends, 1, 0, 7, SIZE); /* of the one that was held back */
    CHECK_INT(last.status, RT_E_AGAIN);
    CHECK_INT(finish(&last, &held), RT_OK);
    CHECK_INT(finish(&held, NULL), RT_OK);
    CHECK_INT(team_stats(&ends, 1).kept_bytes, 0);
    CHECK_INT(team_stats(&ends, 1).kept_bytes_max, RT_TEAM_KEPT_MAX);
    drop(&other), drop(&held), drop(&last);
    team_end(&ends);
}

/* Each time that the sender is told takes an operation of the channel, which the next time gives back. */
static void a_sender_is_told_of_what_was_received_however_often(void)
{
    enum { SIZE = TEAM_CHUNK - RT_TEAM_KEPT_COST, EACH = RT_TEAM_KEPT_MAX / 4 / TEAM_CHUNK, OFTEN = RT_OPS_PER_LINK + 16 };
    if (!CORE_HAS_FAKE)
        CHECK_SKIP("there is no fake libibverbs");
    team_ends ends;
    team_provider = "verbs";
    team_begin(&ends, 2, ordinary);
    for (uint32_t index = 0; index < OFTEN * EACH; index++) {
        started receive = begin_receive(&ends, 1, 0, 7, SIZE), send = begin_send(&ends, 0, 1, 7, SIZE);
        CHECK_INT(finish(&send, &receive), RT_OK);
        CHECK_INT(finish(&receive, NULL), RT_OK);
        drop(&send), drop(&receive);
    }
    CHECK_INT(team_stats(&ends, 0).held_back, 0);
    CHECK_INT(ends.members[1].team->peers[0].received, (uint64_t)OFTEN * EACH * TEAM_CHUNK);
    team_end(&ends);
    team_provider = "shm";
}

static void as_many_offers_as_may_stand_are_made_and_kept(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    rt_peer *to = &ends.members[0].team->peers[1], *from = &ends.members[1].team->peers[0];
    to->offers = RT_TEAM_OFFERS_MAX - 1;
    started one = begin_send(&ends, 0, 1, 1, TEAM_CHUNK + 1), two = begin_send(&ends, 0, 1, 2, TEAM_CHUNK + 1);
    CHECK(!rt_list_empty(&to->queue));
    CHECK_INT(to->offers, RT_TEAM_OFFERS_MAX);
    from->kept_offers = RT_TEAM_OFFERS_MAX - 1;
    started other = begin_receive(&ends, 1, 0, 9, 8);
    CHECK_INT(other.status, RT_E_AGAIN);
    CHECK_INT(from->kept_offers, RT_TEAM_OFFERS_MAX);
    to->offers--; /* a sender that does not count breaks a rule */
    CHECK_INT(ask(&two), RT_E_AGAIN);
    CHECK(rt_list_empty(&to->queue));
    CHECK_INT(ask(&other), RT_E_PROTOCOL);
    CHECK_HAS(ends.members[1].detail.text, "what rank 0 sent could not be taken");
    drop(&one), drop(&two), drop(&other);
    team_end(&ends);
}

/* ---- matching ---- */

static void a_receive_from_anybody_says_who_it_was(void)
{
    team_ends ends;
    team_begin(&ends, 3, ordinary);
    started any = begin_receive(&ends, 0, -1, 4, 8), second = begin_receive(&ends, 0, 2, 4, 8);
    CHECK_INT(begin_send(&ends, 2, 0, 4, 8).status, RT_OK);
    CHECK_INT(ask(&second), RT_E_AGAIN); /* the first receive that fits has it */
    CHECK_INT(ask(&any), RT_OK);
    CHECK_INT(any.source, 2);
    CHECK_INT(begin_send(&ends, 1, 0, 4, 8).status, RT_OK);
    CHECK_INT(ask(&second), RT_E_AGAIN); /* from another member, so it is kept */
    CHECK_INT(begin_send(&ends, 2, 0, 4, 8).status, RT_OK);
    CHECK_INT(ask(&second), RT_OK);
    CHECK_INT(second.source, 2);
    started wrong = begin_receive(&ends, 0, 2, 4, 8), late = begin_receive(&ends, 0, -1, 4, 8);
    CHECK_INT(wrong.status, RT_E_AGAIN);
    CHECK_INT(late.status, RT_OK);
    CHECK_INT(late.source, 1);
    drop(&any), drop(&second), drop(&wrong), drop(&late);
    team_end(&ends);
}

static void only_other_members_are_sent_to_and_received_from(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    for (uint32_t rank = 0; rank < 4; rank++) {
        if (rank == 1)
            continue;
        CHECK_INT(begin_send(&ends, 0, rank == 3 ? UINT32_MAX : rank, 1, 8).status, RT_E_INVALID);
        CHECK_HAS(ends.members[0].detail.text, "is not another member of this group of 2");
        if (rank != 3)
            CHECK_INT(begin_receive(&ends, 0, (int32_t)rank, 1, 8).status, RT_E_INVALID);
    }
    CHECK_INT(team_stats(&ends, 0).sends + team_stats(&ends, 0).receives, 0);
    CHECK_INT(pending(&ends, 0), 0);
    team_end(&ends);
}

/* ---- what does not fit ---- */

static void a_misfit_of_what_has_travelled_is_told_to_the_next_send_once(void)
{
    for (uint32_t by_dtype = 0; by_dtype < 2; by_dtype++) {
        team_ends ends;
        team_begin(&ends, 2, ordinary);
        team_member *to = &ends.members[1];
        rt_team_transfer *receive = NULL;
        CHECK_INT(begin_send(&ends, 0, 1, 3, 64).status, RT_OK);
        int status = rt_team_receive(to->team, -1, 3, by_dtype ? RT_DTYPE_INT8 : RT_DTYPE_UINT8, to->bytes, by_dtype ? 64 : 63,
                                     &receive, NULL, &to->detail);
        if (status == RT_E_AGAIN)
            status = rt_team_transfer_wait(receive, 0, NULL, &to->detail);
        CHECK_INT(status, RT_E_INVALID);
        CHECK_HAS(to->detail.text, "rank 0 sent 64 bytes of uint8 with tag 3, and rank 1 receives ");
        CHECK_HAS(to->detail.text, by_dtype ? "64 bytes of int8: shapes and dtypes must agree" : "63 bytes of uint8: ");
        if (receive != NULL)
            rt_team_transfer_drop(receive);
        started other = begin_receive(&ends, 0, 1, 9, 8); /* the sender looks for this one, and hears it */
        CHECK_INT(begin_send(&ends, 0, 1, 4, 8).status, RT_E_INVALID);
        CHECK_HAS(ends.members[0].detail.text, "rank 0 sent 64 bytes of uint8 with tag 3, and rank 1 receives ");
        CHECK_HAS(ends.members[0].detail.text, by_dtype ? " 64 bytes or another dtype" : " 63 bytes or another dtype");
        CHECK_INT(begin_send(&ends, 0, 1, 4, 8).status, RT_OK);
        CHECK_INT(team_stats(&ends, 1).kept_bytes, 0);
        CHECK_INT(ends.members[1].team->peers[0].received, 64 + RT_TEAM_KEPT_COST); /* it is gone, so more may come */
        drop(&other);
        team_end(&ends);
    }
}

static void a_misfit_of_an_offer_ends_that_send_alone(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started send = begin_send(&ends, 0, 1, 3, TEAM_CHUNK + 8), good = begin_send(&ends, 0, 1, 4, TEAM_CHUNK + 8);
    started receive = begin_receive(&ends, 1, 0, 3, TEAM_CHUNK + 9), fits = begin_receive(&ends, 1, 0, 4, TEAM_CHUNK + 8);
    CHECK_INT(finish(&receive, &send), RT_E_INVALID);
    CHECK_INT(receive.source, 0);
    CHECK_INT(finish(&send, NULL), RT_E_INVALID);
    CHECK_HAS(ends.members[0].detail.text, "rank 0 sent 65544 bytes of uint8 with tag 3, and rank 1 receives 65545 bytes");
    CHECK_INT(finish(&fits, &good), RT_OK);
    CHECK_INT(finish(&good, NULL), RT_OK);
    CHECK_INT(begin_send(&ends, 0, 1, 5, 8).status, RT_OK); /* the send has said so already */
    CHECK_INT(ends.members[0].team->peers[1].offers, 0);
    drop(&send), drop(&good), drop(&receive), drop(&fits);
    team_end(&ends);
}

/* ---- given up ---- */

static void a_send_that_was_not_announced_leaves_nothing_behind(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    for (uint32_t index = 0; index < 8; index++)
        CHECK_INT(begin_send(&ends, 0, 1, 1, 8).status, RT_OK);
    started ninth = begin_send(&ends, 0, 1, 2, 8); /* no slot is free */
    CHECK_INT(ninth.status, RT_E_AGAIN);
    drop(&ninth);
    CHECK_INT(pending(&ends, 0), 0);
    started other = begin_receive(&ends, 1, 0, 9, 8);
    CHECK_INT(begin_send(&ends, 0, 1, 3, 8).status, RT_OK);
    CHECK_INT(ask(&other), RT_E_AGAIN);
    CHECK_INT(team_stats(&ends, 1).unexpected, 9); /* eight, and the last one */
    CHECK_INT(begin_receive(&ends, 1, 0, 3, 8).status, RT_OK);
    drop(&other);
    team_end(&ends);
}

static void an_offer_that_is_given_up_is_withdrawn_and_the_next_one_taken(void)
{
    team_ends ends;
    team_begin(&ends, 3, ordinary);
    started bystander = begin_send(&ends, 2, 1, 1, TEAM_CHUNK + 1);
    started send = begin_send(&ends, 0, 1, 1, TEAM_CHUNK + 1), kept = begin_send(&ends, 0, 1, 7, TEAM_CHUNK + 1);
    started other = begin_receive(&ends, 1, 0, 9, 8);
    CHECK_INT(ends.members[1].team->peers[0].kept_offers, 2);
    drop(&send);
    CHECK_INT(pending(&ends, 0), 1);
    CHECK_INT(ends.members[0].team->peers[1].offers, 1);
    CHECK_INT(ask(&kept), RT_E_AGAIN); /* drives the sender */
    CHECK_INT(ask(&other), RT_E_AGAIN);
    CHECK_INT(ends.members[1].team->peers[0].kept_offers, 1);
    CHECK_INT(ends.members[1].team->peers[2].kept_offers, 1); /* whose send has the same number */
    started again = begin_receive(&ends, 1, 0, 1, TEAM_CHUNK + 1);
    send = begin_send(&ends, 0, 1, 1, TEAM_CHUNK + 1);
    CHECK_INT(finish(&again, &send), RT_OK);
    CHECK_INT(finish(&send, NULL), RT_OK);
    drop(&send), drop(&kept), drop(&other), drop(&again), drop(&bystander);
    team_end(&ends);
}

static void a_send_that_is_given_up_while_it_flows_fails_its_receive_alone(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started send = begin_send(&ends, 0, 1, 1, 20 * TEAM_CHUNK), good = begin_send(&ends, 0, 1, 2, 20 * TEAM_CHUNK);
    started receive = begin_receive(&ends, 1, 0, 1, 20 * TEAM_CHUNK), fits = begin_receive(&ends, 1, 0, 2, 20 * TEAM_CHUNK);
    CHECK_INT(ask(&send), RT_E_AGAIN);
    CHECK_INT(ask(&receive), RT_E_AGAIN);
    CHECK(team_stats(&ends, 1).bytes_received > 0);
    drop(&send);
    CHECK_INT(pending(&ends, 0), 1);
    CHECK_INT(finish(&receive, &good), RT_E_PEER_CLOSED);
    CHECK_HAS(ends.members[1].detail.text, "rank 0 gave its send up");
    CHECK_INT(finish(&fits, &good), RT_OK);
    CHECK_INT(finish(&good, NULL), RT_OK);
    CHECK(memcmp(ends.members[0].bytes, ends.members[1].bytes + TEAM_MEMORY / 2, 20 * TEAM_CHUNK) == 0);
    drop(&good), drop(&receive), drop(&fits);
    team_end(&ends);
}

static void a_receive_that_is_given_up_while_bytes_come_lets_the_send_end(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started send = begin_send(&ends, 0, 1, 1, 20 * TEAM_CHUNK), receive = begin_receive(&ends, 1, 0, 1, 20 * TEAM_CHUNK);
    uint8_t *place = ends.members[1].bytes + TEAM_MEMORY / 2;
    memset(ends.members[0].bytes, 5, 20 * TEAM_CHUNK);
    ask(&send), ask(&receive);
    drop(&receive);
    memset(place, 77, 20 * TEAM_CHUNK);
    CHECK_INT(pending(&ends, 1), 1); /* what comes is thrown away, and must be taken */
    for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; ask(&send) == RT_E_AGAIN && rt_clock_now_ns() < end;)
        rt_team_progress(ends.members[1].team, 0);
    CHECK_INT(send.status, RT_OK);
    CHECK_INT(rt_team_progress(ends.members[1].team, 0), 0);
    for (uint64_t index = 0; index < 20 * TEAM_CHUNK; index++)
        CHECK_INT(place[index], 77);
    drop(&send);
    team_end(&ends);
}

static void a_receive_that_was_not_met_leaves_its_message_to_the_next(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    started receive = begin_receive(&ends, 1, 0, 1, 8);
    drop(&receive);
    CHECK_INT(pending(&ends, 1), 0);
    CHECK_INT(begin_send(&ends, 0, 1, 1, 8).status, RT_OK);
    receive = begin_receive(&ends, 1, 0, 1, 8);
    CHECK_INT(finish(&receive, NULL), RT_OK);
    drop(&receive);
    team_end(&ends);
}

/* ---- peers that leave ---- */

static void a_member_that_leaves_ends_what_concerns_it_alone(void)
{
    team_ends ends;
    team_begin(&ends, 3, ordinary);
    started gone = begin_receive(&ends, 0, 1, 1, 8), stays = begin_receive(&ends, 0, 2, 1, 8),
            any = begin_receive(&ends, 0, -1, 2, 8);
    started offer = begin_send(&ends, 0, 1, 3, TEAM_CHUNK + 1), other = begin_send(&ends, 0, 2, 3, TEAM_CHUNK + 1);
    rt_team_leave(ends.members[1].team);
    CHECK_INT(finish(&gone, NULL), RT_E_PEER_CLOSED);
    CHECK_HAS(ends.members[0].detail.text, "rank 1 has left the group");
    CHECK_INT(ask(&offer), RT_E_PEER_CLOSED);
    CHECK_INT(ask(&stays), RT_E_AGAIN);
    CHECK_INT(ask(&any), RT_E_AGAIN);
    CHECK_INT(ask(&other), RT_E_AGAIN);
    CHECK_INT(begin_send(&ends, 0, 1, 1, 8).status, RT_E_PEER_CLOSED);
    CHECK_INT(begin_send(&ends, 2, 0, 1, 8).status, RT_OK);
    CHECK_INT(finish(&stays, NULL), RT_OK);
    CHECK_INT(rt_team_failure(ends.members[0].team, NULL), RT_OK);
    drop(&gone), drop(&stays), drop(&any), drop(&offer), drop(&other);
    CHECK_INT(pending(&ends, 0), 0);
    team_end(&ends);
}

/* ---- read in place ---- */

static void a_send_that_is_read_in_place_is_counted_there_and_ends_with_an_empty_part(void)
{
    enum { SIZE = 5 << 20 }; /* more than is read at one look */
    team_ends ends;
    team_begin(&ends, 2, readable);
    started send = begin_send(&ends, 0, 1, 1, SIZE), receive = begin_receive(&ends, 1, 0, 1, SIZE);
    drop(&receive); /* given up before anything was read: the sender is let go all the same */
    for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; ask(&send) == RT_E_AGAIN && rt_clock_now_ns() < end;)
        rt_team_progress(ends.members[1].team, 0);
    CHECK_INT(send.status, RT_OK);
    CHECK_INT(rt_team_progress(ends.members[1].team, 0), 0);
    CHECK_INT(atomic_load(&ends.members[1].team->attaching), 0);
    CHECK_INT(team_stats(&ends, 1).direct_received_bytes, 0); /* nobody got it */
    drop(&send);
    const uint64_t before = team_stats(&ends, 1).bytes_received;
    send = begin_send(&ends, 0, 1, 1, SIZE);
    receive = begin_receive(&ends, 1, 0, 1, SIZE);
    CHECK_INT(finish(&receive, &send), RT_OK);
    CHECK_INT(finish(&send, NULL), RT_OK);
    rt_team_stats from = team_stats(&ends, 0), to = team_stats(&ends, 1);
    CHECK_INT(from.bytes_sent, 0);
    CHECK_INT(from.staged_bytes, 0);
    CHECK_INT(to.bytes_received - before, SIZE);
    CHECK_INT(to.direct_received_bytes, SIZE);
    CHECK_INT(to.direct_bytes, 0);
    CHECK_INT(to.kept_bytes_max, 0);
    CHECK_INT(atomic_load(&ends.members[1].team->attaching), 0);
    CHECK(memcmp(ends.members[0].bytes, ends.members[1].bytes + TEAM_MEMORY / 2, SIZE) == 0);
    drop(&send), drop(&receive);
    for (uint32_t rank = 0; rank < 2; rank++)
        CHECK_INT(rt_region_close(ends.members[rank].tensors, &ends.members[rank].detail), RT_OK);
    team_end(&ends);
}

/* A look reads on as long as there is something to read, and tells its caller when there is not. */
static void what_is_read_in_place_is_read_by_one_call_that_does_not_wait(void)
{
    enum { SIZE = 10 << 20 }; /* in three steps */
    team_ends ends;
    team_begin(&ends, 2, readable);
    started send = begin_send(&ends, 0, 1, 1, SIZE), receive = begin_receive(&ends, 1, 0, 1, SIZE);
    for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; receive.transfer->done == 0 && rt_clock_now_ns() < end;)
        CHECK_INT(ask(&receive), RT_E_AGAIN); /* until the region is attached */
    CHECK_INT(receive.transfer->done, SIZE);
    CHECK_INT(team_stats(&ends, 1).direct_received_bytes, SIZE);
    CHECK_INT(finish(&receive, &send), RT_OK);
    drop(&send), drop(&receive);
    team_end(&ends);
}

static void a_read_that_is_under_way_holds_up_nobody(void)
{
    enum { SIZE = 1 << 20 };
    if (!CORE_HAS_FAKE)
        CHECK_SKIP("there is no fake libibverbs");
    if (getenv("FAKE_IBVERBS_OVERTAKE") != NULL)
        CHECK_SKIP("a thread of the fake moves what devices that overtake have posted: no READ can be held");
#if __has_include(<infiniband/verbs.h>)
    team_ends ends;
    team_provider = "verbs";
    team_begin(&ends, 2, readable);
    started send = begin_send(&ends, 0, 1, 1, SIZE), receive = begin_receive(&ends, 1, 0, 1, SIZE);
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (receive.transfer->partner == 0 && rt_clock_now_ns() < end)
        ask(&receive);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL); /* nothing moves from here on */
    for (uint32_t round = 0; round < 100; round++) {
        CHECK_INT(ask(&receive), RT_E_AGAIN);
        CHECK_INT(receive.transfer->done, 0);
    }
    CHECK_INT(team_stats(&ends, 1).direct_received_bytes, 0);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    CHECK_INT(finish(&receive, &send), RT_OK);
    CHECK_INT(finish(&send, &receive), RT_OK);
    CHECK_INT(team_stats(&ends, 1).direct_received_bytes, SIZE);
    drop(&send), drop(&receive);
    team_end(&ends);
    team_provider = "shm";
#endif
}

static const check_test tests[] = {
    CHECK_TEST(a_send_of_a_chunk_travels_at_once_and_a_larger_one_is_offered),
    CHECK_TEST(sends_ahead_fill_their_bound_to_the_last_byte),
    CHECK_TEST(a_sender_is_told_of_what_was_received_however_often),
    CHECK_TEST(as_many_offers_as_may_stand_are_made_and_kept),
    CHECK_TEST(a_receive_from_anybody_says_who_it_was),
    CHECK_TEST(only_other_members_are_sent_to_and_received_from),
    CHECK_TEST(a_misfit_of_what_has_travelled_is_told_to_the_next_send_once),
    CHECK_TEST(a_misfit_of_an_offer_ends_that_send_alone),
    CHECK_TEST(a_send_that_was_not_announced_leaves_nothing_behind),
    CHECK_TEST(an_offer_that_is_given_up_is_withdrawn_and_the_next_one_taken),
    CHECK_TEST(a_send_that_is_given_up_while_it_flows_fails_its_receive_alone),
    CHECK_TEST(a_receive_that_is_given_up_while_bytes_come_lets_the_send_end),
    CHECK_TEST(a_receive_that_was_not_met_leaves_its_message_to_the_next),
    CHECK_TEST(a_member_that_leaves_ends_what_concerns_it_alone),
    CHECK_TEST(a_send_that_is_read_in_place_is_counted_there_and_ends_with_an_empty_part),
    CHECK_TEST(what_is_read_in_place_is_read_by_one_call_that_does_not_wait),
    CHECK_TEST(a_read_that_is_under_way_holds_up_nobody),
};

CHECK_MAIN(tests)
