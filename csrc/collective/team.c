/* team.c: a team's life: its place in the members' regions, joining, ending, and what ended it. Not here: messages. */
#include "collective/direct.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- where things lie in a member's region; every member computes the same ----
 * line 0 is empty · per peer and lane: a line with `arrived`, a line with `acked` · per peer: its notice · per peer and lane:
 * words that WRITEs are made from · per peer and lane: slots · where memory cannot be mapped: copies of the peers' slots */

static uint64_t slot_stride(const rt_team_options *options)
{
    return RT_TEAM_LINE + (uint64_t)options->chunk;
}

uint64_t rt_team_flags_at(uint32_t peer, uint32_t kind)
{
    return RT_TEAM_LINE + ((uint64_t)peer * RT_LANE_KINDS + kind) * 2 * RT_TEAM_LINE;
}

uint64_t rt_team_notice_at(const rt_team_options *options, uint32_t peer)
{
    return rt_team_flags_at(options->size, 0) + (uint64_t)peer * RT_TEAM_NOTICE_SIZE;
}

uint64_t rt_team_words_at(const rt_team_options *options, uint32_t peer, uint32_t kind)
{
    uint64_t lane = (uint64_t)peer * RT_LANE_KINDS + kind;
    return rt_team_notice_at(options, options->size) + RT_TEAM_NOTICE_SIZE + lane * 2 * options->slots * sizeof(uint64_t);
}

uint64_t rt_team_slots_at(const rt_team_options *options, uint32_t peer, uint32_t kind)
{
    uint64_t start = (rt_team_words_at(options, options->size, 0) + 4095) / 4096 * 4096;
    return start + ((uint64_t)peer * RT_LANE_KINDS + kind) * options->slots * slot_stride(options);
}

uint64_t rt_team_inbox_at(const rt_team_options *options, uint32_t peer, uint32_t kind)
{
    uint64_t slots = rt_team_slots_at(options, options->size, 0) - rt_team_slots_at(options, 0, 0);
    return rt_team_slots_at(options, peer, kind) + slots;
}

uint64_t rt_team_region_size(const rt_team_options *options, int maps_remote)
{
    return maps_remote ? rt_team_slots_at(options, options->size, 0) : rt_team_inbox_at(options, options->size, 0);
}

/* ---- life ---- */

static int check_options(const rt_team_options *options, rt_detail *detail)
{
    if (options->size == 0 || options->size > RT_TEAM_SIZE_MAX || options->rank >= options->size)
        return rt_fail(detail, RT_E_INVALID, 0, "a team has 1 to %d members, and ranks below that: not rank %u of %u",
                       RT_TEAM_SIZE_MAX, options->rank, options->size);
    if (options->chunk < RT_TEAM_CHUNK_MIN || options->chunk % RT_TEAM_LINE != 0 || options->chunk > RT_TEAM_CHUNK_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a chunk is a multiple of %d bytes from %d to %d, not %u", RT_TEAM_LINE,
                       RT_TEAM_CHUNK_MIN, RT_TEAM_CHUNK_MAX, options->chunk);
    if (options->slots < 4 || options->slots > RT_TEAM_SLOTS_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a lane has 4 to %d slots, not %u", RT_TEAM_SLOTS_MAX, options->slots);
    return RT_OK;
}

int rt_team_create(rt_device *device, rt_region *region, const rt_team_options *options, rt_team **team_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: make a team of its own");
    int status = check_options(options, detail);
    if (status != RT_OK)
        return status;
    bool maps = device->limits.maps_remote;
    if (device->limits.virtual_time || !device->limits.orders_writes || !device->limits.places_words_whole)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "a team needs real time, ordered WRITEs and whole words, which this provider does not promise");
    uint64_t needed = rt_team_region_size(options, maps);
    if (region->size < needed)
        return rt_fail(detail, RT_E_INVALID, 0, "this team needs a region of %llu bytes, not %llu", (unsigned long long)needed,
                       (unsigned long long)region->size);
    rt_team *team = calloc(1, sizeof *team);
    rt_peer *peers = calloc(options->size, sizeof *peers);
    rt_direct *directs = calloc(options->size, sizeof *directs);
    if (team == NULL || peers == NULL || directs == NULL) {
        free(team);
        free(peers);
        free(directs);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a team of %u", options->size);
    }
    team->device = device;
    team->region = region;
    rt_region_reference(region);
    team->options = *options;
    team->rank = options->rank;
    team->size = options->size;
    team->maps = maps;
    team->stride = slot_stride(options);
    team->peers = peers;
    team->directs = directs;
    team->next_number = 1;
    pthread_mutex_init(&team->failing, NULL);
    pthread_mutex_init(&team->lock, NULL);
    rt_list_init(&team->receives);
    rt_list_init(&team->reading);
    rt_list_init(&team->arriving);
    rt_list_init(&team->unexpected);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        rt_list_init(&peers[rank].queue);
        rt_list_init(&peers[rank].offered);
        rt_list_init(&peers[rank].flowing);
        rt_list_init(&peers[rank].controls);
    }
    *team_out = team;
    return RT_OK;
}

static void lane_open(rt_team *team, uint32_t rank, uint32_t kind)
{
    rt_peer *peer = &team->peers[rank];
    rt_lane *lane = &peer->lanes[kind];
    const rt_team_options *options = &team->options;
    uint8_t *base = team->region->address;
    uint64_t flags = rt_team_flags_at(rank, kind), words = rt_team_words_at(options, rank, kind);
    lane->team = team;
    lane->peer = rank;
    lane->kind = (enum rt_lane_kind)kind;
    lane->out = base + rt_team_slots_at(options, rank, kind);
    lane->arrived = (const uint64_t *)(const void *)(base + flags);
    lane->acked = (const uint64_t *)(const void *)(base + flags + RT_TEAM_LINE);
    lane->heads = words;
    lane->tails = words + options->slots * sizeof(uint64_t);
    lane->remote_arrived = rt_team_flags_at(team->rank, kind);
    lane->remote_acked = rt_team_flags_at(team->rank, kind) + RT_TEAM_LINE;
    lane->remote_in = rt_team_inbox_at(options, team->rank, kind);
    lane->in =
        team->maps ? peer->mapped + rt_team_slots_at(options, team->rank, kind) : base + rt_team_inbox_at(options, rank, kind);
}

int rt_team_join(rt_team *team, uint32_t rank, rt_channel *channel, rt_remote *remote, rt_detail *detail)
{
    if (rank >= team->size || rank == team->rank || team->peers[rank].channel != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "rank %u cannot join rank %u of %u", rank, team->rank, team->size);
    uint64_t needed = rt_team_region_size(&team->options, team->maps);
    if (rt_remote_size(remote) < needed)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "rank %u has a region of %llu bytes for this team, not %llu: the members "
                       "disagree on its size, chunk or slots",
                       rank, (unsigned long long)rt_remote_size(remote), (unsigned long long)needed);
    rt_peer *peer = &team->peers[rank];
    if (team->maps) {
        peer->mapped = (const uint8_t *)(uintptr_t)rt_remote_address(remote);
        if (peer->mapped == NULL)
            return rt_fail(detail, RT_E_ACCESS, 0, "the region of rank %u cannot be mapped", rank);
    }
    rt_channel_reference(channel);
    rt_remote_reference(remote);
    peer->channel = channel;
    peer->remote = remote;
    uint8_t *notice = team->region->address + rt_team_notice_at(&team->options, rank);
    peer->notice = (const uint64_t *)(const void *)(notice + RT_TEAM_NOTICE_SIZE - sizeof(uint64_t));
    for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++)
        lane_open(team, rank, kind);
    return RT_OK;
}

void rt_team_drop(rt_team *team)
{
    if (rt_forked())
        return;
    for (uint32_t rank = 0; rank < team->size; rank++)
        for (uint32_t kind = 0; kind < RT_LANE_KINDS && team->peers[rank].channel != NULL; kind++)
            rt_lane_drain(&team->peers[rank].lanes[kind]);
    RT_LIST_EACH_SAFE(node, &team->unexpected)
        free(RT_LIST_ENTRY(node, rt_unexpected, node));
    for (uint32_t rank = 0; rank < team->size; rank++) {
        RT_LIST_EACH_SAFE(node, &team->peers[rank].controls)
            free(RT_LIST_ENTRY(node, rt_control_note, node));
        rt_attachments_drop(&team->peers[rank].attached);
    }
    pthread_mutex_destroy(&team->lock);
    pthread_mutex_destroy(&team->failing);
    rt_direct_drop(team);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        if (team->peers[rank].channel == NULL)
            continue;
        rt_remote_unreference(team->peers[rank].remote);
        rt_channel_unreference(team->peers[rank].channel);
    }
    rt_region_unreference(team->region);
    free(team->directs);
    free(team->peers);
    free(team);
}

/* ---- endings ---- */

enum { NOTICE_FAILED = 1, NOTICE_LEFT = 2 };

/* WRITEs a notice to one peer: the text, then the word. A peer that cannot be written to needs none. */
static void notify(rt_team *team, uint32_t rank, const char *text, uint64_t word)
{
    rt_peer *peer = &team->peers[rank];
    if (peer->channel == NULL || rt_channel_state(peer->channel) != RT_CHANNEL_READY)
        return;
    const uint64_t text_size = RT_TEAM_NOTICE_SIZE - sizeof(uint64_t);
    uint64_t here = rt_team_notice_at(&team->options, team->size), there = rt_team_notice_at(&team->options, team->rank);
    char *scratch = (char *)team->region->address + here;
    strncpy(scratch, text, text_size - 1);
    memcpy(scratch + text_size, &word, sizeof word);
    rt_copy copies[2] = {
        {(uint64_t)(uintptr_t)team->region, here, (uint64_t)(uintptr_t)peer->remote, there, text_size, RT_WRITE},
        {(uint64_t)(uintptr_t)team->region, here + text_size, (uint64_t)(uintptr_t)peer->remote, there + text_size, sizeof word,
         RT_WRITE},
    };
    uint64_t bad = 0;
    int64_t number = rt_channel_copy_many(peer->channel, -1, copies, 2, RT_NS_PER_S / 20, &bad);
    if (number > 0) { /* not done in a slice: `copies` must stay until it ended or is given up */
        rt_op_wait(peer->channel, number, RT_SLICE_NS);
        rt_op_release(peer->channel, number, NULL);
    }
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
        for (uint32_t rank = 0; rank < team->size && !quiet && !team->left; rank++)
            notify(team, rank, text, NOTICE_FAILED);
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
            notify(team, rank, "", NOTICE_LEFT);
    }
    pthread_mutex_unlock(&team->failing);
}

int rt_team_left(rt_team *team)
{
    for (uint32_t rank = 0; rank < team->size; rank++) {
        const rt_peer *peer = &team->peers[rank];
        if (peer->channel == NULL || rt_channel_state(peer->channel) != RT_CHANNEL_READY)
            continue;
        if (rt_load_acquire_u64(peer->notice) != NOTICE_LEFT)
            return 0;
    }
    return 1;
}

int rt_team_failure(rt_team *team, rt_detail *detail)
{
    int status = atomic_load(&team->broken);
    if (status != RT_OK)
        rt_detail_pass(detail, &team->failure);
    return status;
}

static int peer_trouble(const rt_team *team, uint32_t rank, bool needed, bool transfers, rt_detail *detail)
{
    const rt_peer *peer = &team->peers[rank];
    uint64_t notice = rt_load_acquire_u64(peer->notice);
    if (notice == NOTICE_FAILED && !transfers) {
        char text[RT_TEAM_NOTICE_SIZE];
        memcpy(text, (const char *)peer->notice - (sizeof text - 8), sizeof text - 8);
        text[sizeof text - 9] = 0;
        return rt_fail(detail, RT_E_PEER_LOST, 0, "rank %u gave up: %s", rank, text);
    }
    if (notice == NOTICE_LEFT && needed)
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
    if (status != RT_OK && !(transfers && status != RT_E_CLOSED && status != RT_E_PEER_LOST))
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

void rt_team_get_stats(rt_team *team, rt_team_stats *stats_out)
{
    pthread_mutex_lock(&team->lock);
    *stats_out = team->stats;
    pthread_mutex_unlock(&team->lock);
    stats_out->sleeps = atomic_load(&team->sleeps);
}

const rt_team_api *rt_team_get_api(void)
{
    static const rt_team_api api = {
        RT_TEAM_API_VERSION, rt_team_get_stats,      rt_team_failure,       rt_team_abort,         rt_team_barrier,
        rt_team_reduce,      rt_team_reduce_scatter, rt_team_gather_all,    rt_team_broadcast,     rt_team_exchange,
        rt_team_send,        rt_team_receive,        rt_team_transfer_wait, rt_team_transfer_drop, rt_team_progress,
    };
    return &api;
}
