/* run.c: what all collective calls share: beginning and ending, waiting for room and for messages, and comparing what the
 * members have called. */
#include "collective/direct.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    [RT_WHAT_BARRIER] = "barrier",       [RT_WHAT_REDUCE] = "reduce",       [RT_WHAT_REDUCE_SCATTER] = "reduce_scatter",
    [RT_WHAT_GATHER_ALL] = "all_gather", [RT_WHAT_BROADCAST] = "broadcast", [RT_WHAT_EXCHANGE] = "exchange",
};

static const char *name_of(uint32_t what)
{
    return what >= RT_WHAT_BARRIER && what <= RT_WHAT_EXCHANGE ? names[what] : "something unknown";
}

int rt_run_begin(rt_run *run, rt_team *team, const rt_team_call *call, enum rt_team_what what, uint64_t total)
{
    if (rt_forked())
        return rt_fail(call->detail, RT_E_FORKED, 0, "this process is a child made by fork: the group is its parent's");
    int status = rt_team_failure(team, call->detail);
    if (status != RT_OK)
        return status;
    if (rt_dtype_size(call->dtype) == 0 || call->reduction > RT_TEAM_XOR || call->root >= (int32_t)team->size)
        return rt_fail(call->detail, RT_E_INVALID, 0, "no such dtype (%u), reduction (%u) or root (%d)", call->dtype,
                       call->reduction, call->root);
    run->team = team;
    run->call = call;
    run->what = what;
    run->number = ++team->calls;
    run->total = total;
    run->kind = 0;
    team->stats.collectives++;
    rt_team_waiter_begin(&run->waiter, team, call->timeout_ns, call->interrupted);
    return RT_OK;
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

static void describe(char *text, size_t capacity, const rt_message *message)
{
    snprintf(text, capacity, "call %llu, %s of %llu bytes of %s, reduction %u, root %d", (unsigned long long)message->number,
             name_of(message->what), (unsigned long long)message->total, rt_dtype_name(message->dtype), message->reduction,
             message->root);
}

int rt_run_check(rt_run *run, const rt_lane *lane)
{
    rt_message expected;
    const rt_message *message = &lane->message;
    rt_run_head(run, &expected, message->size);
    if (memcmp(&expected, message, sizeof expected) == 0)
        return RT_OK;
    char ours[160], theirs[160];
    describe(ours, sizeof ours, &expected);
    describe(theirs, sizeof theirs, message);
    return rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "the members do not agree: rank %u called %s; rank %u called %s",
                   lane->peer, theirs, run->team->rank, ours);
}

/* Who has not come: those without a message of this call where everybody hears of everybody, else the one waited for. */
static void name_missing(const rt_run *run, char *text, size_t capacity)
{
    const rt_team *team = run->team;
    bool all = run->what != RT_WHAT_BROADCAST && run->what != RT_WHAT_EXCHANGE && run->call->root < 0;
    size_t used = 0;
    text[0] = 0;
    for (uint32_t rank = 0; rank < team->size && used + 12 < capacity; rank++) {
        if (rank == team->rank)
            continue;
        const rt_lane *lane = rt_run_lane(run, rank);
        bool silent = rt_load_acquire_u64(lane->arrived) == lane->taken && lane->message.number < run->number;
        if ((int32_t)rank == run->waiter.needed || (all && silent))
            used += (size_t)snprintf(text + used, capacity - used, "%s%u", used == 0 ? "" : ", ", rank);
    }
}

int rt_run_end(rt_run *run, int status)
{
    rt_team_waiter_end(&run->waiter);
    if (status == RT_OK)
        return RT_OK;
    rt_direct_end(run->team);
    rt_detail why = {.status = status};
    if (run->call->detail != NULL)
        rt_detail_pass(&why, run->call->detail);
    if (status == RT_E_DEADLINE) {
        char missing[128];
        name_missing(run, missing, sizeof missing);
        rt_fail(&why, status, 0, "Timed out after %.3g s in %s (call %llu of the group): waiting for rank %s",
                (double)run->call->timeout_ns / 1e9, name_of(run->what), (unsigned long long)run->number,
                missing[0] != 0 ? missing : "unknown");
    }
    rt_detail_pass(run->call->detail, &why);
    rt_team_break(run->team, &why, false);
    return status;
}

/* One more round of waiting for this peer. */
static int idle(rt_run *run, uint32_t peer)
{
    run->waiter.needed = (int32_t)peer;
    int status = rt_team_waiter_idle(&run->waiter);
    if (status != RT_OK)
        rt_detail_pass(run->call->detail, &run->waiter.detail);
    return status;
}

int rt_run_room(rt_run *run, uint32_t peer, rt_message **message_out)
{
    rt_lane *lane = rt_run_lane(run, peer);
    for (;;) {
        rt_message *message = rt_lane_room(lane);
        if (message != NULL) {
            rt_team_waiter_moved(&run->waiter);
            *message_out = message;
            return RT_OK;
        }
        int status = idle(run, peer);
        if (status != RT_OK)
            return status;
    }
}

int rt_run_push(rt_run *run, uint32_t peer, rt_message *message, uint64_t size)
{
    rt_run_head(run, message, size);
    int status = rt_lane_push(rt_run_lane(run, peer), message);
    if (status == RT_OK) {
        run->team->stats.bytes_sent += size;
        return RT_OK;
    }
    if (rt_team_trouble(run->team, (int32_t)peer, false, run->call->detail) == RT_OK)
        rt_fail(run->call->detail, status, 0, "cannot send to rank %u: %s", peer, rt_status_name(status));
    return run->call->detail != NULL ? run->call->detail->status : status;
}

int rt_run_send(rt_run *run, uint32_t peer, const void *bytes, uint64_t size)
{
    rt_message *message;
    int status = rt_run_room(run, peer, &message);
    if (status != RT_OK)
        return status;
    memcpy(rt_message_payload(message), bytes, size);
    run->team->stats.staged_bytes += size;
    return rt_run_push(run, peer, message, size);
}

int rt_run_receive(rt_run *run, uint32_t peer, uint64_t size, const uint8_t **payload_out)
{
    rt_lane *lane = rt_run_lane(run, peer);
    for (;;) {
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (status != RT_OK)
            return rt_fail(run->call->detail, status, 0, "what rank %u sent makes no sense", peer);
        if (payload == NULL) {
            status = idle(run, peer);
            if (status != RT_OK)
                return status;
            continue;
        }
        rt_team_waiter_moved(&run->waiter);
        status = rt_run_check(run, lane);
        if (status == RT_OK && lane->message.size != size)
            status = rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "rank %u sent %llu bytes where %llu were due", peer,
                             (unsigned long long)lane->message.size, (unsigned long long)size);
        if (status == RT_OK) {
            run->team->stats.bytes_received += size;
            *payload_out = payload;
        }
        return status;
    }
}
