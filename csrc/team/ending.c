/* ending.c: the ends of a team: its own failure, its leaving, and the notices of its peers. */
#include <stdio.h>
#include <string.h>

#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"
#include "team/block.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/team.h"

/* Bits of a notice's word. */
enum { NOTICE_FAILED = 1, NOTICE_LEFT = 2 };

#define BEARER ", as rank " /* before the rank that passed a reason on */

void rt_team_write_words(rt_team *team, uint32_t rank, rt_copy *copies, uint64_t count)
{
    rt_peer *peer = &team->peers[rank];
    uint64_t bad = 0;
    for (uint64_t index = 0; index < count; index++) {
        copies[index].region = (uint64_t)(uintptr_t)team->words;
        copies[index].remote = (uint64_t)(uintptr_t)peer->remote;
        copies[index].remote_offset += peer->remote_at;
        copies[index].direction = RT_WRITE;
    }
    int64_t number = rt_channel_copy_many(peer->channel, -1, copies, count, RT_NS_PER_S / 20, &bad);
    if (number > 0) { /* not done in a slice: `copies` must stay until the operation ended or is given up */
        rt_lane_until_posted(team->device, peer->channel, number);
        rt_op_wait(peer->channel, number, RT_SLICE_NS);
        rt_op_release(peer->channel, number, NULL);
    }
}

bool rt_team_reaches(const rt_peer *peer)
{
    return peer->channel != NULL && rt_channel_state(peer->channel) == RT_CHANNEL_READY;
}

/* WRITEs a notice to one peer: the text, if any, then the word. A peer that cannot be written to needs none. team->failing held. */
static void peer_notify(rt_team *team, uint32_t rank, const char *text, uint64_t word)
{
    if (!rt_team_reaches(&team->peers[rank]))
        return;
    const uint64_t text_size = RT_TEAM_NOTICE_SIZE - sizeof(uint64_t);
    char *scratch = (char *)team->words->address + team->words_at;
    if (text != NULL)
        strncpy(scratch, text, text_size - 1);
    memcpy(scratch + text_size, &word, sizeof word);
    rt_copy copies[2] = {
        {.region_offset = team->words_at, .remote_offset = RT_BLOCK_NOTICE, .size = text_size},
        {.region_offset = team->words_at + text_size, .remote_offset = RT_BLOCK_NOTICE + text_size, .size = sizeof word},
    };
    if (text != NULL)
        rt_team_write_words(team, rank, copies, 1);
    if (rt_lane_fence(team, rank, 1) != RT_OK)
        return; /* the word could overtake the text, or the last message: the peer hears of the end from its channel */
    rt_team_write_words(team, rank, copies + 1, 1);
}

int rt_team_break(rt_team *team, const rt_detail *why, bool quiet)
{
    pthread_mutex_lock(&team->failing);
    int status = atomic_load(&team->broken);
    if (status == RT_OK) {
        rt_detail_pass(&team->failure, why);
        status = why->status;
        atomic_store(&team->broken, status);
        char text[RT_TEAM_NOTICE_SIZE - 16];
        snprintf(text, sizeof text, "%.*s", (int)sizeof text - 1, why->text);
        team->noticed = !quiet && !team->left;
        for (uint32_t rank = 0; rank < team->size && team->noticed; rank++)
            peer_notify(team, rank, text, NOTICE_FAILED);
    }
    pthread_mutex_unlock(&team->failing);
    if (team->device->limits.can_wake_receiver && !atomic_load(&team->device->closed))
        team->device->provider->memory_wake(team->device->pdevice);
    return status;
}

void rt_team_abort(rt_team *team, const char *why)
{
    if (rt_forked())
        return;
    rt_detail detail;
    rt_fail(&detail, RT_E_CLOSED, 0, "%s", why);
    rt_team_break(team, &detail, false);
}

void rt_team_leave(rt_team *team)
{
    if (rt_forked())
        return;
    pthread_mutex_lock(&team->failing);
    if (!team->left) {
        team->left = true;
        if (atomic_load(&team->broken) == RT_OK) {
            rt_fail(&team->failure, RT_E_CLOSED, 0, "the team was left");
            atomic_store(&team->broken, RT_E_CLOSED);
        }
        for (uint32_t rank = 0; rank < team->size; rank++)
            peer_notify(team, rank, NULL, team->noticed ? NOTICE_FAILED | NOTICE_LEFT : NOTICE_LEFT);
    }
    pthread_mutex_unlock(&team->failing);
}

int rt_team_left(rt_team *team)
{
    for (uint32_t rank = 0; rank < team->size; rank++) {
        const rt_peer *peer = &team->peers[rank];
        if (peer->channel == NULL || rt_channel_state(peer->channel) != RT_CHANNEL_READY)
            continue;
        if ((rt_load_acquire_u64(peer->notice) & NOTICE_LEFT) == 0)
            return 0;
    }
    return 1;
}

int rt_team_failure(rt_team *team, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = atomic_load(&team->broken);
    if (status != RT_OK)
        rt_detail_pass(detail, &team->failure);
    return status;
}

/* The reason that a peer gave. One that names a member itself is that member's, and is passed on with
 * one bearer, however many members it went through. */
static int peer_reason(uint32_t rank, char *text, rt_detail *detail)
{
    if (strncmp(text, "rank ", 5) != 0)
        return rt_fail(detail, RT_E_PEER_LOST, 0, "rank %u gave up: %s", rank, text);
    char *bearer = strstr(text, BEARER);
    if (bearer != NULL)
        *bearer = 0;
    return rt_fail(detail, RT_E_PEER_LOST, 0, "%s" BEARER "%u says", text, rank);
}

static int peer_trouble(const rt_team *team, uint32_t rank, bool needed, bool transfers, rt_detail *detail)
{
    const rt_peer *peer = &team->peers[rank];
    uint64_t notice = rt_load_acquire_u64(peer->notice);
    if ((notice & NOTICE_FAILED) != 0 && !transfers) {
        char text[RT_TEAM_NOTICE_SIZE];
        memcpy(text, (const char *)peer->notice - (sizeof text - 8), sizeof text - 8);
        text[sizeof text - 9] = 0;
        return peer_reason(rank, text, detail);
    }
    if ((notice & NOTICE_LEFT) != 0 && needed)
        return rt_fail(detail, RT_E_PEER_CLOSED, 0, "rank %u has left the group", rank);
    if (rt_channel_state(peer->channel) == RT_CHANNEL_READY)
        return RT_OK;
    rt_detail why;
    int status = rt_channel_failure(peer->channel, &why);
    if ((status == RT_E_PEER_CLOSED || status == RT_E_CLOSED) && !needed)
        return RT_OK;
    return rt_fail(detail, status, 0, "rank %u %s: %s", rank,
                   status == RT_E_PEER_CLOSED || status == RT_E_CLOSED ? "has ended its connection" : "was lost", why.text);
}

int rt_team_trouble(rt_team *team, int32_t needed, bool transfers, rt_detail *detail)
{
    int status = atomic_load(&team->broken);
    bool fatal = status == RT_E_CLOSED || status == RT_E_PEER_LOST || status == RT_E_NO_MEMORY; /* to transfers too */
    if (status != RT_OK && (fatal || !transfers))
        return rt_detail_pass(detail, &team->failure);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        if (team->peers[rank].channel == NULL)
            continue;
        status = peer_trouble(team, rank, needed == (int32_t)rank, transfers, detail);
        if (status != RT_OK)
            return status;
    }
    return RT_OK;
}
