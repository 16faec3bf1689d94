/* direct.c: collective calls that read straight out of the members' tensors, where the provider maps memory and all of them
 * lie in regions that peers may read. Who agrees on what: COLLECTIVE.md, "Direct". */
#include "collective/direct.h"

#include <string.h>

/* What a member tells a peer of one range. Hostile until checked. */
typedef struct rt_announcement {
    uint32_t direct; /* 1: the peer may read it */
    uint32_t handle_size;
    uint64_t offset;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_announcement;

bool rt_direct_worth(const rt_run *run)
{
    return run->team->maps && run->team->size > 1 && run->total >= RT_DIRECT_SIZE_MIN;
}

static rt_direct *direct_of(const rt_run *run, uint32_t peer)
{
    return &run->team->directs[peer];
}

static uint32_t peer_at(const rt_run *run, uint32_t step)
{
    return (run->team->rank + step) % run->team->size;
}

/* ---- mapping ---- */

static rt_attached *attached_find(rt_direct *direct, const rt_announcement *told)
{
    for (uint32_t index = 0; index < RT_DIRECT_ATTACHED_MAX; index++) {
        rt_attached *attached = &direct->attached[index];
        if (attached->remote != NULL && attached->handle_size == told->handle_size &&
            memcmp(attached->handle, told->handle, told->handle_size) == 0)
            return attached;
    }
    return NULL;
}

/* A free place, or that of the region which was used longest ago; never one of this call. */
static rt_attached *attached_room(rt_direct *direct, uint64_t call)
{
    rt_attached *oldest = NULL;
    for (uint32_t index = 0; index < RT_DIRECT_ATTACHED_MAX; index++) {
        rt_attached *attached = &direct->attached[index];
        if (attached->remote == NULL)
            return attached;
        if (attached->used != call && (oldest == NULL || attached->used < oldest->used))
            oldest = attached;
    }
    if (oldest != NULL) {
        rt_remote_drop(oldest->remote);
        oldest->remote = NULL;
    }
    return oldest;
}

/* The peer's region, mapped now or before; NULL when it cannot be. It is asked for in slices, between which the call's own end
 * is looked at. */
static rt_attached *attach(rt_run *run, uint32_t peer, const rt_announcement *told, int *status_out)
{
    rt_direct *direct = direct_of(run, peer);
    rt_attached *attached = attached_find(direct, told);
    *status_out = RT_OK;
    if (attached != NULL)
        return attached;
    attached = attached_room(direct, run->number);
    for (;;) {
        rt_detail why;
        int status = rt_remote_attach(run->team->peers[peer].channel, told->handle, told->handle_size, RT_SLICE_NS,
                                      &attached->remote, &why);
        if (status == RT_OK)
            break;
        attached->remote = NULL;
        if (status != RT_E_AGAIN && status != RT_E_DEADLINE)
            return NULL;
        run->waiter.needed = (int32_t)peer;
        *status_out = rt_team_waiter_idle(&run->waiter);
        if (*status_out != RT_OK) {
            rt_detail_pass(run->call->detail, &run->waiter.detail);
            return NULL;
        }
    }
    attached->handle_size = told->handle_size;
    memcpy(attached->handle, told->handle, told->handle_size);
    return attached;
}

/* Where a peer's range lies here, or NULL; and what can be done with it. */
static uint8_t *place_of(rt_run *run, uint32_t peer, const rt_announcement *told, uint64_t size, uint64_t *reach_out,
                         int *status_out)
{
    *status_out = RT_OK;
    *reach_out = RT_REACH_NONE;
    if (told->direct != 1 || told->handle_size == 0 || told->handle_size > sizeof told->handle)
        return NULL;
    rt_attached *attached = attach(run, peer, told, status_out);
    if (attached == NULL)
        return NULL;
    attached->used = run->number;
    uint64_t whole = rt_remote_size(attached->remote), start = rt_remote_address(attached->remote);
    uint32_t rights = rt_remote_rights(attached->remote);
    if (start == 0 || (rights & RT_RIGHT_REMOTE_READ) == 0 || size > whole || told->offset > whole - size)
        return NULL;
    *reach_out = (rights & RT_RIGHT_REMOTE_WRITE) != 0 ? RT_REACH_WRITE : RT_REACH_READ;
    return (uint8_t *)(uintptr_t)(start + told->offset);
}

/* ---- agreeing ---- */

static int tell(rt_run *run, uint32_t peer, const void *bytes, uint64_t size)
{
    rt_message *message;
    int status = rt_run_room(run, peer, &message);
    if (status != RT_OK)
        return status;
    memcpy(rt_message_payload(message), bytes, size);
    return rt_run_push(run, peer, message, size);
}

/* The payload is copied once, since the peer may change it. */
static int hear(rt_run *run, uint32_t peer, void *bytes, uint64_t size)
{
    const uint8_t *payload;
    int status = rt_run_receive(run, peer, size, &payload);
    if (status != RT_OK)
        return status;
    memcpy(bytes, payload, size);
    rt_lane_take(rt_run_lane(run, peer));
    return RT_OK;
}

static void announcement_of(const rt_loan *loan, bool lent, rt_announcement *told)
{
    *told = (rt_announcement){.direct = lent};
    if (!lent)
        return;
    told->handle_size = (uint32_t)loan->handle_size;
    told->offset = loan->offset;
    memcpy(told->handle, loan->handle, loan->handle_size);
}

/* Lends a peer its ranges. False when one of them lies in no region that peers may read. */
static bool lend(rt_run *run, uint32_t peer, const rt_range *ranges, uint32_t count)
{
    bool all = true;
    for (uint32_t index = 0; index < count && all; index++)
        all = rt_loan_begin(run->team->device, ranges[index].address, ranges[index].size, &direct_of(run, peer)->lent[index]);
    return all;
}

/* Tells a peer of what it was lent, or that not all peers could be lent theirs. */
static int announce(rt_run *run, uint32_t peer, uint32_t count, bool all)
{
    rt_announcement told[RT_DIRECT_RANGES];
    for (uint32_t index = 0; index < count; index++)
        announcement_of(&direct_of(run, peer)->lent[index], all, &told[index]);
    return tell(run, peer, told, count * sizeof told[0]);
}

/* Everybody says to everybody what it can do; *reach then is what all can. */
static int vote(rt_run *run, uint64_t *reach)
{
    uint64_t word = *reach;
    for (uint32_t step = 1; step < run->team->size; step++) {
        int status = tell(run, peer_at(run, step), &word, sizeof word);
        if (status != RT_OK)
            return status;
    }
    for (uint32_t step = 1; step < run->team->size; step++) {
        int status = hear(run, peer_at(run, step), &word, sizeof word);
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
        all = lend(run, peer_at(run, step), &ranges[(uint64_t)peer_at(run, step) * count], count);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++)
        status = announce(run, peer_at(run, step), count, all);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++) {
        uint32_t peer = peer_at(run, step);
        status = hear(run, peer, told, count * sizeof told[0]);
        for (uint32_t index = 0; index < count && status == RT_OK; index++) {
            all = all && told[index].direct == 1;
            uint64_t size = ranges[(uint64_t)peer * count + index].size;
            if (all)
                direct_of(run, peer)->place[index] = place_of(run, peer, &told[index], size, &found, &status);
            reach &= found;
        }
    }
    if (status == RT_OK && all) /* all members see the same announcements, so they all vote or none does */
        status = vote(run, &reach);
    *reach_out = status != RT_OK || !all        ? RT_REACH_NONE
                 : reach == RT_REACH_WRITE      ? RT_REACH_WRITE
                 : (reach & RT_REACH_READ) != 0 ? RT_REACH_READ
                                                : RT_REACH_NONE;
    if (*reach_out == RT_REACH_NONE)
        rt_direct_end(run->team);
    return status;
}

int rt_direct_finish(rt_run *run)
{
    uint64_t done = RT_REACH_READ;
    int status = vote(run, &done);
    rt_direct_end(run->team);
    return status;
}

void rt_direct_end(rt_team *team)
{
    for (uint32_t rank = 0; rank < team->size; rank++)
        for (uint32_t index = 0; index < RT_DIRECT_RANGES; index++)
            rt_loan_end(&team->directs[rank].lent[index]);
}

void rt_direct_drop(rt_team *team)
{
    rt_direct_end(team);
    for (uint32_t rank = 0; rank < team->size; rank++)
        for (uint32_t index = 0; index < RT_DIRECT_ATTACHED_MAX; index++)
            if (team->directs[rank].attached[index].remote != NULL)
                rt_remote_drop(team->directs[rank].attached[index].remote);
}

/* ---- from one to the others ---- */

int rt_direct_offer(rt_run *run, rt_range range, bool *direct_out)
{
    bool all = true;
    int status = RT_OK;
    for (uint32_t step = 1; step < run->team->size && all; step++)
        all = lend(run, peer_at(run, step), &range, 1);
    for (uint32_t step = 1; step < run->team->size && status == RT_OK; step++)
        status = announce(run, peer_at(run, step), 1, all);
    *direct_out = all;
    return status;
}

int rt_direct_accept(rt_run *run, uint32_t root, uint64_t size, bool *direct_out, uint8_t **place_out)
{
    rt_announcement told;
    uint64_t reach;
    *place_out = NULL;
    int status = hear(run, root, &told, sizeof told);
    if (status != RT_OK)
        return status;
    *direct_out = told.direct == 1;
    if (*direct_out)
        *place_out = place_of(run, root, &told, size, &reach, &status);
    return status;
}

int rt_direct_reply(rt_run *run, uint32_t root, bool taken)
{
    uint64_t word = taken;
    return tell(run, root, &word, sizeof word);
}

int rt_direct_hear(rt_run *run, uint32_t peer, bool *taken_out)
{
    uint64_t word = 0;
    int status = hear(run, peer, &word, sizeof word);
    *taken_out = word == 1;
    return status;
}
