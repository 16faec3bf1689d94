/* direct.c: collective calls that read directly from the members' tensors, where the provider maps
 * memory and all of the tensors lie in regions that peers may read. The agreement between members:
 * TEAMS.md, "Direct". */
#include <string.h>

#include "channel/remote.h"
#include "region/loan.h"
#include "team/agree.h"
#include "team/attached.h"
#include "team/direct.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/run.h"
#include "team/team.h"
#include "team/wait.h"

static rt_direct *direct_of(const rt_run *run, uint32_t peer)
{
    return &run->team->directs[peer];
}

static uint32_t peer_at(const rt_run *run, uint32_t step)
{
    return (run->team->rank + step) % run->team->size;
}

/* Asks the peer in slices, between which the call's own deadline is checked. */
int rt_direct_map(rt_run *run, uint32_t peer, uint32_t index, const rt_announcement *told, uint64_t size, uint64_t *reach_out)
{
    rt_direct *direct = direct_of(run, peer);
    int status;
    *reach_out = RT_REACH_NONE;
    direct->place[index] = NULL;
    while ((status = rt_attach(&direct->attached, run->team->peers[peer].channel, told, size, RT_SLICE_NS,
                               &direct->held[index])) == RT_E_AGAIN) {
        run->waiter.needed = (int32_t)peer;
        status = rt_team_waiter_idle(&run->waiter);
        if (status != RT_OK)
            return rt_detail_pass(run->call->detail, &run->waiter.detail);
    }
    if (status != RT_OK || direct->held[index] == NULL)
        return status;
    const rt_remote *remote = direct->held[index]->remote;
    uint64_t start = rt_remote_address(remote);
    if (start == 0)
        return RT_OK;
    *reach_out = (rt_remote_rights(remote) & RT_RIGHT_REMOTE_WRITE) != 0 ? RT_REACH_WRITE : RT_REACH_READ;
    direct->place[index] = (uint8_t *)(uintptr_t)(start + told->offset);
    return RT_OK;
}

/* ---- agreeing ---- */

/* Lends a peer its ranges. False when one of them lies in no region that peers may read. */
static bool ranges_lend(rt_run *run, uint32_t peer, const rt_range *ranges, uint32_t count)
{
    bool all = true;
    for (uint32_t index = 0; index < count && all; index++)
        all = rt_loan_begin(run->team->device, ranges[index].address, ranges[index].size, &direct_of(run, peer)->lent[index]);
    return all;
}

/* Announces to a peer the ranges it was lent, or that not every peer could be lent its ranges. */
static int ranges_announce(rt_run *run, uint32_t peer, uint32_t count, bool all)
{
    rt_announcement told[RT_DIRECT_RANGES];
    for (uint32_t index = 0; index < count; index++)
        rt_announcement_make(all ? &direct_of(run, peer)->lent[index] : NULL, &told[index]);
    return rt_run_tell(run, peer, told, count * sizeof told[0]);
}

/* Every member tells every other what it can do; *reach is then what all of them can do. */
static int reach_vote(rt_run *run, uint64_t *reach)
{
    uint64_t word = *reach;
    for (uint32_t step = 1; step < run->team->size; step++) {
        int status = rt_run_tell(run, peer_at(run, step), &word, sizeof word);
        if (status != RT_OK)
            return status;
    }
    for (uint32_t step = 1; step < run->team->size; step++) {
        int status = rt_run_hear(run, peer_at(run, step), &word, sizeof word);
        if (status != RT_OK)
            return status;
        *reach &= word;
    }
    return RT_OK;
}

int rt_direct_meet(rt_run *run, const rt_range *ranges, uint32_t count, enum rt_reach *reach_out)
{
    rt_announcement told[RT_DIRECT_RANGES];
    bool all = true;
    uint64_t reach = RT_REACH_WRITE, found = RT_REACH_NONE;
    int status = RT_OK;
    for (uint32_t step = 1; step < run->team->size && all; step++)
        all = ranges_lend(run, peer_at(run, step), &ranges[(uint64_t)peer_at(run, step) * count], count);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++)
        status = ranges_announce(run, peer_at(run, step), count, all);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++) {
        uint32_t peer = peer_at(run, step);
        status = rt_run_hear(run, peer, told, count * sizeof told[0]);
        for (uint32_t index = 0; index < count && status == RT_OK; index++) {
            all = all && told[index].direct == 1;
            uint64_t size = ranges[(uint64_t)peer * count + index].size;
            if (all)
                status = rt_direct_map(run, peer, index, &told[index], size, &found);
            reach &= found;
        }
    }
    if (status == RT_OK && all) /* all members see the same announcements, so they all vote or none does */
        status = reach_vote(run, &reach);
    *reach_out = status != RT_OK || !all        ? RT_REACH_NONE
                 : reach == RT_REACH_WRITE      ? RT_REACH_WRITE
                 : (reach & RT_REACH_READ) != 0 ? RT_REACH_READ
                                                : RT_REACH_NONE;
    if (*reach_out == RT_REACH_NONE)
        rt_direct_end(run->team);
    return status;
}

/* A member that gives up tells its peers before its caller may change its tensors. So while none has
 * told, all that was read until now was part of the call. */
int rt_direct_check(rt_run *run)
{
    atomic_thread_fence(memory_order_acquire); /* what was read, before the notices */
    return rt_team_trouble(run->team, -1, false, run->call->detail);
}

int rt_direct_finish(rt_run *run)
{
    uint64_t done = RT_REACH_READ;
    int status = rt_direct_check(run);
    if (status == RT_OK)
        status = reach_vote(run, &done);
    rt_direct_end(run->team);
    return status;
}

void rt_direct_end(rt_team *team)
{
    for (uint32_t rank = 0; rank < team->size; rank++) {
        rt_direct *direct = &team->directs[rank];
        for (uint32_t index = 0; index < RT_DIRECT_RANGES; index++) {
            rt_loan_end(&direct->lent[index]);
            rt_attached_release(direct->held[index]);
            direct->held[index] = NULL;
        }
    }
}

void rt_direct_drop(rt_team *team)
{
    rt_direct_end(team);
    for (uint32_t rank = 0; rank < team->size; rank++)
        rt_attachments_drop(&team->directs[rank].attached);
}

/* ---- from one to the others ---- */

int rt_direct_offer(rt_run *run, rt_range range, bool *direct_out)
{
    bool all = true;
    int status = RT_OK;
    for (uint32_t step = 1; step < run->team->size && all; step++)
        all = ranges_lend(run, peer_at(run, step), &range, 1);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++)
        status = ranges_announce(run, peer_at(run, step), 1, all);
    *direct_out = all;
    return status;
}

int rt_direct_accept(rt_run *run, uint32_t root, uint64_t size, bool *direct_out, uint8_t **place_out)
{
    rt_announcement told;
    uint64_t reach;
    *place_out = NULL;
    int status = rt_run_hear(run, root, &told, sizeof told);
    if (status != RT_OK)
        return status;
    *direct_out = told.direct == 1;
    if (*direct_out)
        status = rt_direct_map(run, root, 0, &told, size, &reach);
    *place_out = *direct_out ? direct_of(run, root)->place[0] : NULL;
    return status;
}

int rt_direct_reply(rt_run *run, uint32_t root, bool taken)
{
    uint64_t word = taken;
    return rt_run_tell(run, root, &word, sizeof word);
}

int rt_direct_hear(rt_run *run, uint32_t peer, bool *taken_out)
{
    uint64_t word = 0;
    int status = rt_run_hear(run, peer, &word, sizeof word);
    *taken_out = word == 1;
    return status;
}
