/* word.c: detects members that would wait for each other, each in a different call. In some calls a
 * member only receives, as the root of a reduction does, so nothing shows the others which call it
 * made. A member that has waited for a while therefore tells all others: a message without payload
 * carries the header of its call. A peer in another call with the same number ends the team with
 * both members' terms; any other peer ignores the message. Calls without a long wait send
 * nothing. */
#include "team/word.h"
#include "team/agree.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/team.h"

enum {
    WORD_LOOKS = 64, /* checks beyond spinning, after which a wait sleeps */
    WORD_AFTER_NS = 100 * 1000 * 1000,
};

bool rt_word_waits_long(const rt_run *run)
{
    return run->waiter.wait.checks >= run->team->options.spins + WORD_LOOKS;
}

static bool message_is_of_call(const rt_run *run, const rt_message *message)
{
    const rt_team_call *call = run->call;
    return message->what == run->what && message->dtype == call->dtype && message->reduction == call->reduction &&
           message->root == call->root && (run->what == RT_WHAT_EXCHANGE || message->total == run->total);
}

int rt_word_take(rt_run *run, rt_lane *lane)
{
    const rt_message *word = &lane->message;
    if (word->number > run->number || (word->number == run->number && !message_is_of_call(run, word)))
        return rt_run_disagree(run, lane);
    rt_lane_take(lane);
    return RT_OK;
}

static void call_tell_all(rt_run *run)
{
    for (uint32_t step = 1; step < run->team->size; step++) {
        uint32_t peer = (run->team->rank + step) % run->team->size;
        rt_message message;
        if (rt_lane_room(rt_run_lane(run, peer), 0) ==
            NULL) /* the peer has not taken earlier messages: those show the call, or an earlier one */
            continue;
        rt_run_head(run, &message, 0);
        message.kind = RT_MESSAGE_WORD;
        if (rt_lane_push(rt_run_lane(run, peer), &message) != RT_OK)
            return; /* the wait reports why */
    }
}

/* Checks the first message in a lane, whether or not this call would read it. */
static int lane_look(rt_run *run, rt_lane *lane)
{
    int status;
    while (rt_lane_peek(lane, &status) != NULL) {
        const rt_message *message = &lane->message;
        if (message->number == run->number && !message_is_of_call(run, message))
            return rt_run_disagree(run, lane);
        if (message->kind != RT_MESSAGE_WORD || message->number > run->number)
            return RT_OK;
        rt_lane_take(lane);
    }
    return RT_OK; /* the call that reads an invalid message reports it */
}

int rt_word_wait(rt_run *run)
{
    if (!rt_word_waits_long(run))
        return RT_OK;
    int64_t now = rt_clock_now_ns();
    if (run->waits_since_ns == 0)
        run->waits_since_ns = now;
    if (now - run->waits_since_ns < WORD_AFTER_NS)
        return RT_OK;
    if (!run->told) {
        run->told = true;
        call_tell_all(run);
    }
    for (uint32_t step = 1; step < run->team->size; step++) {
        int status = lane_look(run, rt_run_lane(run, (run->team->rank + step) % run->team->size));
        if (status != RT_OK)
            return status;
    }
    return RT_OK;
}
