/* test_team_words.c: words that members send which wait for long: when, to whom, and what a member makes of them; and the sizes from which
 * calls go another way.
 *
 * Needs the whole library. */
#include "proto/dtype.h"
#include "team_ends.h"

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY};

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_INT32,
                          .reduction = RT_TEAM_SUM,
                          .root = root,
                          .timeout_ns = self->timeout_ns,
                          .detail = &self->detail};
}

/* ---- words ---- */

enum { LOOKS = 64, AFTER_NS = 100 * 1000 * 1000 };

/* A member's call that has waited for so many looks. */
typedef struct waiting {
    rt_team_call call;
    rt_run run;
} waiting;

static void begin_waiting(waiting *one, team_member *self, enum rt_team_what what)
{
    one->call = call_of(self, 0);
    CHECK_INT(rt_run_begin(&one->run, self->team, &one->call, what, 64), RT_OK);
    one->run.waiter.wait.checks = self->team->options.spins + LOOKS;
}

static void end_waiting(waiting *one)
{
    rt_team_waiter_end(&one->run.waiter);
}

static uint64_t arrived(team_ends *ends, uint32_t at, uint32_t from)
{
    return rt_load_acquire_u64(ends->members[at].team->peers[from].lanes[RT_LANE_COLLECTIVE].arrived);
}

static void words_are_sent_once_when_a_wait_has_lasted(void)
{
    team_ends ends;
    waiting one;
    team_begin(&ends, 3, ordinary);
    begin_waiting(&one, &ends.members[0], RT_WHAT_REDUCE);
    rt_lane *full = rt_run_lane(&one.run, 1);
    for (uint32_t index = 0; index < 8; index++)
        CHECK_INT(rt_run_send(&one.run, 1, "", 0), RT_OK);
    one.run.waiter.wait.checks = LOOKS - 1; /* this team does not spin */
    CHECK_INT(rt_word_wait(&one.run), RT_OK);
    CHECK_INT(one.run.waits_since_ns, 0); /* too early */
    one.run.waiter.wait.checks = LOOKS;
    int64_t before = rt_clock_now_ns();
    CHECK_INT(rt_word_wait(&one.run), RT_OK);
    CHECK(one.run.waits_since_ns >= before && one.run.waits_since_ns <= rt_clock_now_ns());
    one.run.waits_since_ns = rt_clock_now_ns() + AFTER_NS; /* as if it began later, however slow this machine is */
    CHECK_INT(rt_word_wait(&one.run), RT_OK);
    CHECK(!one.run.told);
    CHECK_INT(arrived(&ends, 2, 0), 0);
    one.run.waits_since_ns = rt_clock_now_ns() - AFTER_NS;
    for (uint32_t turn = 0; turn < 3; turn++) {
        CHECK_INT(rt_word_wait(&one.run), RT_OK);
        CHECK(one.run.told);
        CHECK_INT(arrived(&ends, 2, 0), 1);
        CHECK_INT(arrived(&ends, 1, 0), 8); /* no room: what it has not taken shows the call */
    }
    int status;
    rt_lane *there = &ends.members[2].team->peers[0].lanes[RT_LANE_COLLECTIVE];
    CHECK(rt_lane_peek(there, &status) != NULL);
    rt_message wanted;
    rt_run_head(&one.run, &wanted, 0);
    wanted.kind = RT_MESSAGE_WORD;
    CHECK_BYTES(&there->message, &wanted, sizeof wanted);
    CHECK_INT(full->sent, 8);
    end_waiting(&one);
    team_end(&ends);
}

static void a_word_of_another_call_ends_the_wait_and_any_other_does_not(void)
{
    static const struct {
        rt_message change; /* what the word has more than it should */
        enum rt_team_what what;
        int wanted;
        uint64_t taken;
    } cases[] = {
        {{.kind = 0}, RT_WHAT_REDUCE, RT_OK, 1},
        {{.what = 1}, RT_WHAT_REDUCE, RT_E_PROTOCOL, 0},
        {{.dtype = 1}, RT_WHAT_REDUCE, RT_E_PROTOCOL, 0},
        {{.reduction = 1}, RT_WHAT_REDUCE, RT_E_PROTOCOL, 0},
        {{.root = 1}, RT_WHAT_REDUCE, RT_E_PROTOCOL, 0},
        {{.total = 1}, RT_WHAT_REDUCE, RT_E_PROTOCOL, 0},
        {{.total = 1}, RT_WHAT_EXCHANGE, RT_OK, 1}, /* pieces differ in size */
        {{.root = 1}, RT_WHAT_EXCHANGE, RT_E_PROTOCOL, 0},
        {{.number = 1, .root = 1}, RT_WHAT_REDUCE, RT_OK, 0},          /* the next call's: for later */
        {{.number = UINT64_MAX, .root = 1}, RT_WHAT_REDUCE, RT_OK, 1}, /* the last one's */
    };
    for (size_t index = 0; index < 2 * sizeof cases / sizeof cases[0]; index++) {
        const bool reads = index % 2 == 1; /* the call would read this lane next */
        team_ends ends;
        waiting one;
        team_begin(&ends, 2, ordinary);
        begin_waiting(&one, &ends.members[0], cases[index / 2].what);
        rt_lane *from = &ends.members[1].team->peers[0].lanes[RT_LANE_COLLECTIVE], *lane = rt_run_lane(&one.run, 1);
        const rt_message *change = &cases[index / 2].change;
        rt_message word;
        rt_run_head(&one.run, &word, 0);
        word.kind = RT_MESSAGE_WORD;
        word.what += change->what;
        word.dtype += change->dtype;
        word.reduction += change->reduction;
        word.root += change->root;
        word.total += change->total;
        word.number += change->number;
        CHECK(rt_lane_room(from, 0) != NULL);
        CHECK_INT(rt_lane_push(from, &word), RT_OK);
        one.run.told = true;
        one.run.waits_since_ns = 1;
        int status = RT_OK, wanted = cases[index / 2].wanted;
        if (!reads) {
            status = rt_word_wait(&one.run);
        } else {
            CHECK(rt_lane_peek(lane, &status) != NULL);
            status = rt_word_take(&one.run, lane);
            wanted =
                change->number == 1 ? RT_E_PROTOCOL : wanted; /* it cannot have made another call before this one's message */
        }
        if (status != wanted)
            printf("case %zu\n", index);
        CHECK_INT(status, wanted);
        CHECK_INT(lane->taken, status == RT_OK ? cases[index / 2].taken : 0);
        if (status != RT_OK)
            CHECK_HAS(ends.members[0].detail.text, "the members do not agree: rank 1 called call ");
        end_waiting(&one);
        team_end(&ends);
    }
}

/* A message of the own call is for whoever reads it; one of another call is seen though nobody would read it. */
static void a_message_of_another_call_is_seen_before_it_is_read(void)
{
    for (uint32_t other = 0; other < 2; other++) {
        team_ends ends;
        waiting one, two;
        team_begin(&ends, 2, ordinary);
        begin_waiting(&one, &ends.members[0], RT_WHAT_REDUCE);
        begin_waiting(&two, &ends.members[1], other ? RT_WHAT_BROADCAST : RT_WHAT_REDUCE);
        CHECK_INT(rt_run_send(&two.run, 0, "1234", 4), RT_OK);
        one.run.waits_since_ns = 1;
        CHECK_INT(rt_word_wait(&one.run), other ? RT_E_PROTOCOL : RT_OK);
        CHECK_INT(rt_run_lane(&one.run, 1)->taken, 0);
        end_waiting(&one);
        end_waiting(&two);
        team_end(&ends);
    }
}

/* ---- sizes from which calls go another way ---- */

static uint64_t size_of_call;
static uint32_t which;

static void call_once(team_member *self)
{
    rt_team_call call = call_of(self, which == 1 ? 0 : -1);
    uint8_t *own = self->bytes, *got = self->bytes + (4 << 20);
    void *outputs[TEAM_MAX] = {got, got + (1 << 20), got + (2 << 20)};
    const void *inputs[TEAM_MAX] = {own, own + (1 << 20), own + (2 << 20)};
    rt_team_piece sends[TEAM_MAX], receives[TEAM_MAX];
    memset(own, (int)self->rank + 1, 3 << 20);
    memset(got, 0, 3 << 20);
    for (uint32_t peer = 0; peer < TEAM_MAX; peer++) {
        sends[peer] = (rt_team_piece){(void *)(uintptr_t)inputs[peer], size_of_call};
        receives[peer] = (rt_team_piece){outputs[peer], size_of_call};
    }
    if (which == 0)
        team_note(self, rt_team_reduce(self->team, &call, own, got, size_of_call / 4));
    else if (which == 1)
        team_note(self, rt_team_broadcast(self->team, &call, self->rank == 0 ? own : got, size_of_call));
    else if (which == 2)
        team_note(self, rt_team_gather_all(self->team, &call, own, outputs, size_of_call));
    else if (which == 3)
        team_note(self, rt_team_reduce_scatter(self->team, &call, inputs, got, size_of_call / 4));
    else
        team_note(self, rt_team_exchange(self->team, &call, sends, receives));
    self->wrong += got[size_of_call] != 0; /* and nothing behind it */
}

static void only_calls_of_32_kib_and_more_are_read_in_place(void)
{
    static const struct {
        uint32_t which, members;
        uint64_t least; /* that is read in place */
    } cases[] = {{0, 2, 32772}, {0, 3, 32768}, {1, 2, 32768}, {2, 2, 32768},
                 {2, 3, 32768}, {3, 2, 32768}, {4, 2, 32768}, {4, 3, 32768}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        for (uint64_t less = 0; less < 2; less++) {
            team_ends ends;
            which = cases[index].which;
            size_of_call = cases[index].least - 4 * less;
            team_begin(&ends, cases[index].members, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE, TEAM_READABLE});
            team_run_alike(&ends, call_once);
            for (uint32_t rank = which == 1 ? 1 : 0; rank < ends.size; rank++) {
                if ((team_stats(&ends, rank).direct_bytes > 0) != (less == 0))
                    printf("case %zu, %llu bytes\n", index, (unsigned long long)size_of_call);
                CHECK_INT(team_stats(&ends, rank).direct_bytes > 0, less == 0);
            }
            team_end(&ends);
        }
    }
}

static const check_test tests[] = {
    CHECK_TEST(words_are_sent_once_when_a_wait_has_lasted),
    CHECK_TEST(a_word_of_another_call_ends_the_wait_and_any_other_does_not),
    CHECK_TEST(a_message_of_another_call_is_seen_before_it_is_read),
    CHECK_TEST(only_calls_of_32_kib_and_more_are_read_in_place),
};

CHECK_MAIN(tests)
