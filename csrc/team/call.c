/* call.c: begins and ends a collective call. */
#include <stdio.h>

#include "device/fork.h"
#include "proto/dtype.h"
#include "team/agree.h"
#include "team/call.h"
#include "team/direct.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/run.h"
#include "team/team.h"
#include "team/wait.h"

int rt_run_begin(rt_run *run, rt_team *team, const rt_team_call *call, enum rt_team_what what, uint64_t total)
{
    if (rt_forked())
        return rt_fork_refuse(call->detail);
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
    run->waits_since_ns = 0;
    run->told = run->flushes = false;
    team->stats.collectives++;
    rt_team_waiter_begin(&run->waiter, team, call->timeout_ns, call->interrupted);
    return RT_OK;
}

/* Names the missing ranks: all that sent nothing for this call if it involves everyone, else the
 * one being waited for. */
static void missing_list(const rt_run *run, char *text, size_t capacity)
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
    if (status == RT_OK)
        status = rt_run_flush_all(run);
    rt_team_waiter_end(&run->waiter);
    for (uint32_t rank = 0; rank < run->team->size; rank++)
        rt_lane_settle(rt_run_lane(run, rank)); /* does nothing for this member's own rank */
    if (status == RT_OK)
        return RT_OK;
    rt_direct_end(run->team);
    rt_detail why = {.status = status};
    if (run->call->detail != NULL)
        rt_detail_pass(&why, run->call->detail);
    if (status == RT_E_DEADLINE) {
        char missing[128];
        missing_list(run, missing, sizeof missing);
        rt_fail(&why, status, 0, "Timed out after %.3g s in %s (call %llu of the group): waiting for rank %s",
                (double)run->call->timeout_ns / 1e9, rt_run_name(run->what, run->call->reduction),
                (unsigned long long)run->number, missing[0] != 0 ? missing : "unknown");
    }
    rt_detail_pass(run->call->detail, &why);
    rt_team_break(run->team, &why, false);
    return status;
}
