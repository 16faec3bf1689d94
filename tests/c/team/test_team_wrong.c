/* test_team_wrong.c: members that exchange pieces which do not fit, and one that sends what no member would: every message of it is checked
 * before anything is done, and the call ends in words.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include "proto/dtype.h"
#include "team/block.h"
#include "team/run.h"
#include "transfer_ends.h"

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY};

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_UINT8, .root = root, .timeout_ns = self->timeout_ns, .detail = &self->detail};
}

/* ---- pieces of different sizes ---- */

static uint64_t sizes[2][2]; /* by rank: what it sends, what it expects */

static void exchange(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    rt_team_piece sends[2] = {{NULL, 0}, {NULL, 0}}, receives[2] = {{NULL, 0}, {NULL, 0}};
    sends[1 - self->rank] = (rt_team_piece){self->bytes, sizes[self->rank][0]};
    receives[1 - self->rank] = (rt_team_piece){self->bytes + (4 << 20), sizes[self->rank][1]};
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
}

static void pieces_that_do_not_fit_are_told_of(void)
{
    static const struct {
        uint64_t sent, expected;
    } cases[] = {{100, 50}, {50, 100}, {TEAM_CHUNK + 8, TEAM_CHUNK + 16}, {1 << 20, 1 << 19}, {1 << 19, 1 << 20}, {1 << 20, 100}};
    for (enum team_memory memory = TEAM_ORDINARY; memory <= TEAM_READABLE; memory++) {
        for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
            team_ends ends;
            team_begin(&ends, 2, (enum team_memory[]){memory, memory});
            sizes[0][0] = cases[index].sent;
            sizes[1][1] = cases[index].expected;
            sizes[0][1] = sizes[1][0] = 0;
            team_run(&ends, (void (*[])(team_member *)){exchange, exchange});
            CHECK_INT(ends.members[1].status, RT_E_PROTOCOL);
            CHECK_HAS(ends.members[1].detail.text, "the members do not agree: rank 0 called call 1, all_to_all of ");
            if (memory == TEAM_READABLE)
                for (uint32_t rank = 0; rank < 2; rank++) /* nothing is lent any more */
                    CHECK_INT(rt_region_close(ends.members[rank].tensors, &ends.members[rank].detail), RT_OK);
            team_end(&ends);
        }
    }
}

/* ---- messages that no member would send ---- */

typedef struct lie {
    uint64_t kind, total, size;
    uint32_t what; /* 0: exchange */
    const char *words;
} lie;

/* Lies that an exchange of a piece of 100 bytes, from rank 1 to rank 0, may be told. The kinds are exchange.c's. */
static const lie lies[] = {
    {0, 100, 99, 0, "rank 1 sent pieces of another size"},  /* a chunk that is too short */
    {0, 100, 101, 0, "rank 1 sent pieces of another size"}, /* … or too long */
    {0, 101, 100, 0, "the members do not agree"},
    {1, 100, sizeof(rt_announcement), 0, "rank 1 sent pieces of another size"}, /* too small to be announced */
    {2, 0, 0, 0, "rank 1 sent pieces of another size"},                         /* an answer to nothing */
    {3, 0, 0, 0, "rank 1 sent pieces of another size"},
    {4, 100, 100, 0, "rank 1 sent pieces of another size"}, /* no kind at all */
    {0, 100, 100, RT_WHAT_BARRIER, "the members do not agree: rank 1 called call 1, barrier of 100 bytes"},
    {0, 100, 100, 77, "rank 1 called call 1, something unknown of 100 bytes"},
};
static const lie *told;

static void tell_lie(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    rt_run run;
    uint64_t total = told->kind == 2 || told->kind == 3 ? sizes[0][0] : told->total; /* an answer is about what rank 0 sends */
    team_note(self,
              rt_run_begin(&run, self->team, &call, told->what != 0 ? (enum rt_team_what)told->what : RT_WHAT_EXCHANGE, total));
    run.kind = told->kind;
    team_note(self, rt_run_send(&run, 0, self->bytes, told->size));
    rt_team_waiter_end(&run.waiter);
}

static void messages_that_no_member_sends_end_the_call_in_words(void)
{
    for (told = lies; told < lies + sizeof lies / sizeof lies[0]; told++) {
        for (uint64_t sent = 0; sent <= 100; sent += 100) { /* the first time nothing else moves */
            team_ends ends;
            team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
            sizes[0][0] = sent;
            sizes[0][1] = 100;
            tell_lie(&ends.members[1]); /* so it is there from the beginning */
            exchange(&ends.members[0]);
            CHECK_INT(ends.members[1].status, RT_OK);
            CHECK_INT(ends.members[0].status, RT_E_PROTOCOL);
            CHECK_HAS(ends.members[0].detail.text, told->words);
            team_end(&ends);
        }
    }
}

/* Only a reason that names a rank is passed on as that member's. */
static void a_reason_that_begins_like_one_of_a_member_is_the_peers_own(void)
{
    static const struct {
        const char *said, *heard;
    } cases[] = {{"ranks differ", "rank 0 gave up: ranks differ"},
                 {"rank", "rank 0 gave up: rank"},
                 {"rank 7 was lost", "rank 7 was lost, as rank 0 says"},
                 {"rank 7 was lost, as rank 5 says", "rank 7 was lost, as rank 0 says"}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        team_ends ends;
        rt_detail detail;
        team_begin(&ends, 2, ordinary);
        rt_team_abort(ends.members[0].team, cases[index].said);
        CHECK_INT(rt_team_trouble(ends.members[1].team, -1, false, &detail), RT_E_PEER_LOST);
        CHECK_STR(detail.text, cases[index].heard);
        team_end(&ends);
    }
}

/* ---- a reduction that fails on the way ---- */

enum { HALVES = 4 * TEAM_CHUNK }; /* of two bytes: four steps of two members */
static uint32_t fails_at;         /* the call of `sum_until` that fails, from 1 */
static _Thread_local uint32_t made;

static int sum_until(uint32_t dtype, uint32_t reduction, void *target, const void *left, const void *right, uint64_t count)
{
    (void)dtype, (void)reduction;
    if (++made == fails_at)
        return -1;
    for (uint64_t index = 0; index < count; index++)
        ((uint16_t *)target)[index] = (uint16_t)(((const uint16_t *)left)[index] + ((const uint16_t *)right)[index]);
    return 0;
}

static void reduce_halves(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    call.dtype = RT_DTYPE_FLOAT16;
    call.reduce = sum_until;
    made = 0;
    memset(self->bytes, (int)self->rank + 1, 2 * HALVES);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, HALVES));
    for (uint64_t index = 0; index < 2 * HALVES && self->status == RT_OK; index++)
        self->wrong += self->bytes[index] != 3;
}

/* So many that a member reads its peers' in two pieces, where it may read them. */
static void reduce_two_pieces(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    call.dtype = RT_DTYPE_FLOAT16;
    call.reduce = sum_until;
    made = 0;
    memset(self->bytes, (int)self->rank + 1, 4 * HALVES);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, 2 * HALVES));
    for (uint64_t index = 0; index < 4 * HALVES && self->status == RT_OK; index++)
        self->wrong += self->bytes[index] != 3;
}

static void a_reduction_that_fails_in_the_first_piece_of_several_fails_the_call(void)
{
    for (fails_at = 0; fails_at < 4; fails_at++) {
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
        team_run(&ends, (void (*[])(team_member *)){reduce_two_pieces, reduce_two_pieces});
        bool fails = fails_at == 1 || fails_at == 2;
        for (uint32_t rank = 0; rank < 2; rank++) {
            CHECK_INT(ends.members[rank].wrong, 0);
            CHECK_INT(ends.members[rank].status != RT_OK, fails);
        }
        CHECK(!fails || ends.members[0].status == RT_E_UNSUPPORTED || ends.members[1].status == RT_E_UNSUPPORTED);
        team_end(&ends);
    }
}

static void scatter_halves(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    const void *inputs[2] = {self->bytes, self->bytes + 2 * HALVES};
    call.dtype = RT_DTYPE_FLOAT16;
    call.reduce = sum_until;
    made = 0;
    memset(self->bytes, (int)self->rank + 1, 4 * HALVES);
    team_note(self, rt_team_reduce_scatter(self->team, &call, inputs, self->bytes + 4 * HALVES, HALVES));
}

static void a_reduction_that_fails_on_the_way_fails_the_call(void)
{
    static void (*const programs[])(team_member *) = {reduce_halves, scatter_halves};
    for (uint32_t which = 0; which < 2; which++) {
        for (enum team_memory memory = TEAM_ORDINARY; memory <= TEAM_WRITABLE; memory++) {
            for (fails_at = 0; fails_at < 5; fails_at++) { /* 0: never */
                team_ends ends;
                team_begin(&ends, 2, (enum team_memory[]){memory, memory});
                team_run(&ends, (void (*[])(team_member *)){programs[which], programs[which]});
                bool at_once = memory == TEAM_READABLE || (which == 1 && memory == TEAM_WRITABLE);
                bool fails = fails_at == 1 || (fails_at != 0 && !at_once);
                for (uint32_t rank = 0; rank < 2; rank++) {
                    const team_member *member = &ends.members[rank];
                    CHECK_INT(member->wrong, 0);
                    CHECK(fails ? member->status == RT_E_UNSUPPORTED || member->status == RT_E_PEER_LOST
                                : member->status == RT_OK);
                }
                CHECK(!fails || ends.members[0].status == RT_E_UNSUPPORTED || ends.members[1].status == RT_E_UNSUPPORTED);
                team_end(&ends);
            }
        }
    }
}

/* ---- words of a lane that are nonsense ---- */

/* Writes into the words that a peer may write: that messages have come, of which none has. */
static void too_many_messages_make_no_sense(void)
{
    static const uint64_t words[] = {9, 10, 1000, UINT64_MAX};
    for (size_t index = 0; index < sizeof words / sizeof words[0]; index++) {
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
        team_member *self = &ends.members[0];
        rt_team_call call = call_of(self, 1);
        const rt_peer *peer = &self->team->peers[1];
        uint8_t *block = peer->region->address + peer->block;
        rt_store_release_u64((uint64_t *)(void *)(block + rt_block_word_at(RT_BLOCK_ARRIVED, RT_LANE_COLLECTIVE)), words[index]);
        CHECK_INT(rt_team_broadcast(self->team, &call, self->bytes, 64), RT_E_PROTOCOL); /* a lane has 8 slots */
        CHECK_HAS(self->detail.text, "what rank 1 sent makes no sense");
        team_end(&ends);
    }
}

/* A message whose header says more than a slot or a chunk holds. */
static void a_message_larger_than_where_it_lies_makes_no_sense(void)
{
    static const uint64_t most[] = {RT_TEAM_INLINE, TEAM_CHUNK};
    for (uint64_t each = 0; each < 4; each++) {
        const uint64_t size = most[each / 2], more = each % 2;
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
        team_member *self = &ends.members[0], *other = &ends.members[1];
        rt_team_call call = call_of(other, 1), own = call_of(self, 1);
        rt_run run;
        uint8_t *room;
        CHECK_INT(rt_run_begin(&run, other->team, &call, RT_WHAT_BROADCAST, size), RT_OK);
        CHECK_INT(rt_run_room(&run, 0, size, &room), RT_OK);
        core_fill(room, size, 3);
        CHECK_INT(rt_run_push(&run, 0, size), RT_OK);
        rt_message *message =
            (rt_message *)(void *)rt_run_lane(&run, 0)->out; /* lies in the sender's memory until it was taken */
        CHECK_INT(message->size, size);
        CHECK_INT(message->place != 0, size > RT_TEAM_INLINE);
        message->size += more;
        rt_team_waiter_end(&run.waiter);
        rt_run reader;
        const uint8_t *payload = NULL;
        CHECK_INT(rt_run_begin(&reader, self->team, &own, RT_WHAT_BROADCAST, size), RT_OK);
        CHECK_INT(rt_run_receive(&reader, 1, size, &payload), more == 0 ? RT_OK : RT_E_PROTOCOL);
        if (more == 0)
            CHECK_BYTES(payload, room, size);
        rt_team_waiter_end(&reader.waiter);
        team_end(&ends);
    }
}

/* ---- messages of sends and receives ---- */

static void poison(team_ends *ends, const rt_message *message)
{
    rt_lane *lane = &ends->members[0].team->peers[1].lanes[RT_LANE_TRANSFER];
    CHECK(rt_lane_room(lane, message->size) != NULL);
    CHECK_INT(rt_lane_push(lane, message), RT_OK);
}

enum { RECEIVED = 3 * TEAM_CHUNK };

/* The receiver waits for parts of its receive, and has offered a send of its own in ordinary memory. The numbers of both are asked of it. */
static void a_message_that_breaks_a_rule_of_transfers_ends_the_team(void)
{
    enum { RECEIVE = 1 << 20, SEND = 2 << 20 }; /* stand for those numbers */
    const struct {
        rt_message message;
        bool good;
    } cases[] = {
        {{.kind = RT_MESSAGE_PART, .partner = RECEIVE, .size = TEAM_CHUNK}, true},
        {{.kind = RT_MESSAGE_PART, .partner = RECEIVE, .size = 0}, false}, /* nothing, while something is due */
        {{.kind = RT_MESSAGE_PART, .partner = RECEIVE + 1, .size = 64}, false},
        {{.kind = RT_MESSAGE_ACCEPT, .what = RT_ACCEPT_SEND, .number = SEND, .partner = 1}, true},
        {{.kind = RT_MESSAGE_ACCEPT, .what = RT_ACCEPT_READ, .number = SEND, .partner = 1}, false},    /* it was not lent */
        {{.kind = RT_MESSAGE_ACCEPT, .what = RT_ACCEPT_SEND, .number = SEND + 1, .partner = 1}, true}, /* given up meanwhile */
        {{.kind = RT_MESSAGE_REFUSE, .what = RT_MESSAGE_OFFER, .number = SEND + 1}, true},
        {{.kind = RT_MESSAGE_EAGER, .tag = 1, .size = 8, .total = 9}, false},
        {{.kind = RT_MESSAGE_OFFER, .tag = 1, .size = 0, .total = 1 << 20}, true},
        {{.kind = RT_MESSAGE_OFFER, .tag = 1, .size = sizeof(rt_announcement) - 1, .total = 1 << 20}, false},
        {{.kind = RT_MESSAGE_OFFER, .tag = 1, .size = sizeof(rt_announcement), .total = 1 << 20}, true},
        {{.kind = RT_MESSAGE_COLLECTIVE}, false},
        {{.kind = RT_MESSAGE_WORD}, false},
        {{.kind = 0}, false},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        team_ends ends;
        team_begin(&ends, 2, ordinary);
        started receive = begin_receive(&ends, 1, 0, 3, RECEIVED), offer = begin_send(&ends, 1, 0, 4, TEAM_CHUNK + 1);
        poison(&ends, &(rt_message){.kind = RT_MESSAGE_OFFER, .tag = 3, .total = RECEIVED, .number = 1, .dtype = RT_DTYPE_UINT8});
        CHECK_INT(ask(&receive), RT_E_AGAIN);
        rt_message message = cases[index].message;
        message.partner += message.partner >= RECEIVE ? receive.transfer->number - RECEIVE : 0;
        message.number += message.number >= SEND ? offer.transfer->number - SEND : 0;
        poison(&ends, &message);
        if (ask(&receive) != (cases[index].good ? RT_E_AGAIN : RT_E_PROTOCOL))
            printf("case %zu\n", index);
        CHECK_INT(receive.status, cases[index].good ? RT_E_AGAIN : RT_E_PROTOCOL);
        bool accepted = message.kind == RT_MESSAGE_ACCEPT && cases[index].message.number == SEND;
        CHECK_INT(ask(&offer), !cases[index].good ? RT_E_PROTOCOL : accepted ? RT_OK : RT_E_AGAIN); /* all end with the team */
        CHECK_INT(rt_team_failure(ends.members[1].team, NULL), cases[index].good ? RT_OK : RT_E_PROTOCOL);
        drop(&receive), drop(&offer);
        team_end(&ends);
    }
}

static void parts_fill_a_receive_to_the_last_byte_and_not_beyond(void)
{
    for (uint64_t more = 0; more < 2; more++) {
        team_ends ends;
        team_begin(&ends, 2, ordinary);
        started receive = begin_receive(&ends, 1, 0, 3, RECEIVED);
        poison(&ends, &(rt_message){.kind = RT_MESSAGE_OFFER, .tag = 3, .total = RECEIVED, .number = 1, .dtype = RT_DTYPE_UINT8});
        const uint64_t parts[] = {TEAM_CHUNK, TEAM_CHUNK - 1, 1, TEAM_CHUNK - 1, 1 + more};
        for (size_t index = 0; index < 5; index++) {
            CHECK_INT(ask(&receive), RT_E_AGAIN);
            poison(&ends, &(rt_message){.kind = RT_MESSAGE_PART, .partner = receive.transfer->number, .size = parts[index]});
        }
        CHECK_INT(ask(&receive), more == 0 ? RT_OK : RT_E_PROTOCOL);
        CHECK_INT(team_stats(&ends, 1).bytes_received, more == 0 ? RECEIVED : RECEIVED - 1);
        drop(&receive);
        team_end(&ends);
    }
}

static const check_test tests[] = {
    CHECK_TEST(pieces_that_do_not_fit_are_told_of),
    CHECK_TEST(messages_that_no_member_sends_end_the_call_in_words),
    CHECK_TEST(a_reason_that_begins_like_one_of_a_member_is_the_peers_own),
    CHECK_TEST(a_reduction_that_fails_in_the_first_piece_of_several_fails_the_call),
    CHECK_TEST(a_reduction_that_fails_on_the_way_fails_the_call),
    CHECK_TEST(too_many_messages_make_no_sense),
    CHECK_TEST(a_message_larger_than_where_it_lies_makes_no_sense),
    CHECK_TEST(a_message_that_breaks_a_rule_of_transfers_ends_the_team),
    CHECK_TEST(parts_fill_a_receive_to_the_last_byte_and_not_beyond),
};

CHECK_MAIN(tests)
