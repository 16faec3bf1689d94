/* agree.c: the call that a member is in: the header of its messages, compared with those of the
 * others. */
#include <stdio.h>
#include <string.h>

#include "proto/dtype.h"
#include "team/agree.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/team.h"

static const char *const names[] = {
    [RT_WHAT_BARRIER] = "barrier",       [RT_WHAT_REDUCE] = "reduce",       [RT_WHAT_REDUCE_SCATTER] = "reduce_scatter",
    [RT_WHAT_GATHER_ALL] = "all_gather", [RT_WHAT_BROADCAST] = "broadcast",
};

const char *rt_run_name(uint32_t what, uint32_t reduction)
{
    if (what == RT_WHAT_EXCHANGE)
        return reduction == RT_TEAM_GATHER ? "gather" : reduction == RT_TEAM_SCATTER ? "scatter" : "all_to_all";
    return what >= RT_WHAT_BARRIER && what < RT_WHAT_EXCHANGE ? names[what] : "something unknown";
}

rt_lane *rt_run_lane(const rt_run *run, uint32_t peer)
{
    return &run->team->peers[peer].lanes[RT_LANE_COLLECTIVE];
}

void rt_run_head(const rt_run *run, rt_message *message, uint64_t size)
{
    *message = (rt_message){
        .kind = RT_MESSAGE_COLLECTIVE,
        .what = run->what,
        .size = size,
        .total = run->total,
        .number = run->number,
        .partner = run->kind,
        .dtype = run->call->dtype,
        .reduction = run->call->reduction,
        .root = run->call->root,
    };
}

static void message_describe(char *text, size_t capacity, const rt_message *message)
{
    snprintf(text, capacity, "call %llu, %s of %llu bytes of %s, reduction %u, root %d", (unsigned long long)message->number,
             rt_run_name(message->what, message->reduction), (unsigned long long)message->total, rt_dtype_name(message->dtype),
             message->reduction, message->root);
}

int rt_run_disagree(rt_run *run, const rt_lane *lane)
{
    rt_message expected;
    char ours[160], theirs[160];
    rt_run_head(run, &expected, 0);
    message_describe(ours, sizeof ours, &expected);
    message_describe(theirs, sizeof theirs, &lane->message);
    return rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "the members do not agree: rank %u called %s; rank %u called %s",
                   lane->peer, theirs, run->team->rank, ours);
}

int rt_run_check(rt_run *run, const rt_lane *lane)
{
    rt_message expected;
    const rt_message *message = &lane->message;
    rt_run_head(run, &expected, message->size);
    expected.place = message->place;
    return memcmp(&expected, message, sizeof expected) == 0 ? RT_OK : rt_run_disagree(run, lane);
}
