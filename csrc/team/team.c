/* team.c: a team's life: joining, meeting, ending. Messages are elsewhere; the memory layout is in
 * block.h. */
#include <stdlib.h>
#include <string.h>

#include "channel/remote.h"
#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"
#include "team/attached.h"
#include "team/block.h"
#include "team/direct.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/pair.h"
#include "team/team.h"
#include "team/transfer_run.h"
#include "team/transfer_state.h"
#include "team/wait.h"
#include "team/way.h"

/* ---- sizes ---- */

uint64_t rt_team_block_size(const rt_team_options *options, int maps_remote)
{
    uint64_t slots = rt_block_slots_at(options, 0, true) - rt_block_slots_at(options, 0, false);
    return RT_BLOCK_SLOTS + slots * (maps_remote ? 1 : 2);
}

uint64_t rt_team_words_size(const rt_team_options *options)
{
    return rt_words_lane_at(options, options->size, 0);
}

/* ---- life ---- */

static int team_options_check(const rt_team_options *options, rt_detail *detail)
{
    if (options->size == 0 || options->size > RT_TEAM_SIZE_MAX || options->rank >= options->size)
        return rt_fail(detail, RT_E_INVALID, 0, "a team has 1 to %d members, and ranks below that: not rank %u of %u",
                       RT_TEAM_SIZE_MAX, options->rank, options->size);
    if (options->slots < 4 || options->slots > RT_TEAM_SLOTS_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a lane has 4 to %d slots, not %u", RT_TEAM_SLOTS_MAX, options->slots);
    return RT_OK;
}

static rt_team *team_new(uint32_t size)
{
    rt_team *team = calloc(1, sizeof *team);
    rt_peer *peers = calloc(size, sizeof *peers);
    rt_direct *directs = calloc(size, sizeof *directs);
    if (team == NULL || peers == NULL || directs == NULL) {
        free(team);
        free(peers);
        free(directs);
        return NULL;
    }
    team->peers = peers;
    team->directs = directs;
    return team;
}

int rt_team_create(rt_device *device, rt_region *words, uint64_t words_at, const rt_team_options *options, rt_team **team_out,
                   rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = team_options_check(options, detail);
    if (status != RT_OK)
        return status;
    uint64_t needed = rt_team_words_size(options);
    if (words->size < words_at || words->size - words_at < needed)
        return rt_fail(detail, RT_E_INVALID, 0, "this team needs %llu bytes for its words", (unsigned long long)needed);
    rt_team *team = team_new(options->size);
    if (team == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a team of %u", options->size);
    team->device = device;
    team->words = words;
    team->words_at = words_at;
    rt_region_reference(words);
    team->options = *options;
    team->rank = options->rank;
    team->size = options->size;
    team->maps = device->limits.maps_remote;
    team->fences = !device->limits.orders_writes;
    team->terms = rt_way_terms_of(options->size, options->chunk, team->maps);
    team->next_number = 1;
    rt_mutex_begin(&team->failing, NULL, RT_RANK_FAILING);
    rt_mutex_begin(&team->lock, NULL, RT_RANK_TEAM);
    rt_list_init(&team->receives);
    rt_list_init(&team->reading);
    rt_list_init(&team->arriving);
    rt_list_init(&team->unexpected);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        rt_list_init(&team->peers[rank].queue);
        rt_list_init(&team->peers[rank].offered);
        rt_list_init(&team->peers[rank].flowing);
        rt_list_init(&team->peers[rank].controls);
    }
    *team_out = team;
    return RT_OK;
}

static void lane_open(rt_team *team, uint32_t rank, uint32_t kind)
{
    rt_peer *peer = &team->peers[rank];
    rt_lane *lane = &peer->lanes[kind];
    const rt_team_options *options = &team->options;
    uint8_t *block = peer->region->address + peer->block;
    lane->team = team;
    lane->peer = rank;
    lane->kind = (enum rt_lane_kind)kind;
    lane->slots = options->slots;
    lane->out = block + rt_block_slots_at(options, kind, false);
    lane->arrived = (const uint64_t *)(const void *)(block + rt_block_word_at(RT_BLOCK_ARRIVED, kind));
    lane->acked = (const uint64_t *)(const void *)(block + rt_block_word_at(RT_BLOCK_ACKED, kind));
    lane->heads = team->words_at + rt_words_lane_at(options, rank, kind);
    lane->tails = lane->heads + options->slots * sizeof(uint64_t);
    lane->in =
        team->maps ? peer->mapped + rt_block_slots_at(options, kind, false) : block + rt_block_slots_at(options, kind, true);
    rt_turn_take(&peer->pair->turn);
    rt_list_append(&peer->pair->lanes, &lane->in_pair);
    rt_turn_leave(&peer->pair->turn);
}

static int block_check(const rt_team *team, uint32_t rank, const rt_region *region, uint64_t block, const rt_team_place *theirs,
                       rt_detail *detail)
{
    uint64_t needed = rt_team_block_size(&team->options, team->maps);
    if (rank >= team->size || rank == team->rank || team->peers[rank].channel != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "rank %u cannot join rank %u of %u", rank, team->rank, team->size);
    if (region->size < block || region->size - block < needed || block % RT_TEAM_LINE != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "this team needs %llu bytes for rank %u, at a multiple of %d",
                       (unsigned long long)needed, rank, RT_TEAM_LINE);
    if (theirs->size != needed)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "rank %u has %llu bytes for this team, not %llu: the members disagree on its slots", rank,
                       (unsigned long long)theirs->size, (unsigned long long)needed);
    if (team->fences && (rt_remote_rights(theirs->remote) & RT_RIGHT_REMOTE_READ) == 0)
        return rt_fail(detail, RT_E_ACCESS, 0,
                       "the memory of rank %u cannot be READ, by which WRITEs without order are waited for", rank);
    uint64_t size = rt_remote_size(theirs->remote);
    if (size < theirs->offset || size - theirs->offset < needed || theirs->offset % RT_TEAM_LINE != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "rank %u says that its block lies at %llu of %llu bytes", rank,
                       (unsigned long long)theirs->offset, (unsigned long long)size);
    return RT_OK;
}

int rt_team_join(rt_team *team, uint32_t rank, rt_pair *pair, rt_region *region, uint64_t block, const rt_team_place *theirs,
                 rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = block_check(team, rank, region, block, theirs, detail);
    if (status != RT_OK)
        return status;
    if (pair->chunk != team->options.chunk)
        return rt_fail(detail, RT_E_INVALID, 0, "the team has chunks of %u bytes and the pair of %u", team->options.chunk,
                       pair->chunk);
    rt_peer *peer = &team->peers[rank];
    const uint8_t *mapped = (const uint8_t *)(uintptr_t)rt_remote_address(theirs->remote);
    if (team->maps && mapped == NULL)
        return rt_fail(detail, RT_E_ACCESS, 0, "the memory of rank %u cannot be mapped", rank);
    rt_pair_reference(pair);
    rt_region_reference(region);
    rt_remote_reference(theirs->remote);
    peer->pair = pair;
    peer->channel = pair->channel;
    peer->region = region;
    peer->block = block;
    peer->remote = theirs->remote;
    peer->remote_at = theirs->offset;
    peer->mapped = team->maps ? mapped + theirs->offset : NULL;
    const uint8_t *bytes = region->address + block;
    peer->notice = (const uint64_t *)(const void *)(bytes + RT_BLOCK_SLOTS - sizeof(uint64_t));
    peer->met = (const uint64_t *)(const void *)(bytes + rt_block_word_at(RT_BLOCK_MET, 0));
    peer->eaten = (const uint64_t *)(const void *)(bytes + rt_block_word_at(RT_BLOCK_EATEN, 0));
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
    rt_detail gone;
    rt_fail(&gone, RT_E_CLOSED, 0, "the team is gone");
    rt_transfers_fail(team, -1, &gone); /* receives that were given up while bytes were due to them: nobody else frees those */
    RT_LIST_EACH_SAFE(node, &team->unexpected)
        free(RT_LIST_ENTRY(node, rt_unexpected, node));
    for (uint32_t rank = 0; rank < team->size; rank++) {
        RT_LIST_EACH_SAFE(node, &team->peers[rank].controls)
            free(RT_LIST_ENTRY(node, rt_control_note, node));
        rt_attachments_drop(&team->peers[rank].attached);
        if (team->peers[rank].telling > 0)
            rt_op_release(team->peers[rank].channel, team->peers[rank].telling, NULL);
    }
    rt_mutex_end(&team->lock);
    rt_mutex_end(&team->failing);
    rt_direct_drop(team);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        rt_peer *peer = &team->peers[rank];
        if (peer->channel == NULL)
            continue;
        for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++) {
            rt_pair_forget(peer->pair, &peer->lanes[kind]);
            rt_lane_free(&peer->lanes[kind]);
        }
        rt_remote_unreference(peer->remote);
        rt_region_unreference(peer->region);
        rt_pair_drop(peer->pair);
    }
    rt_region_unreference(team->words);
    free(team->directs);
    free(team->peers);
    free(team);
}

/* ---- meeting ---- */

/* The first joined peer that has not reported reaching every member, with our sign; or -1. */
static int32_t peer_unmet(const rt_team *team)
{
    for (uint32_t rank = 0; rank < team->size; rank++)
        if (rank != team->rank && rt_load_acquire_u64(team->peers[rank].met) != team->sign)
            return (int32_t)rank;
    return -1;
}

static void team_say_met(rt_team *team)
{
    uint64_t from = team->words_at + rt_words_met_at();
    memcpy(team->words->address + from, &team->sign, sizeof team->sign);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        rt_copy copy = {.region_offset = from, .remote_offset = rt_block_word_at(RT_BLOCK_MET, 0), .size = sizeof team->sign};
        if (rank != team->rank && rt_team_reaches(&team->peers[rank]))
            rt_team_write_words(team, rank, &copy, 1);
    }
}

int rt_team_meet(rt_team *team, uint64_t sign, int64_t timeout_ns, int32_t *missing_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    for (uint32_t rank = 0; rank < team->size; rank++)
        if (rank != team->rank && team->peers[rank].channel == NULL)
            return rt_fail(detail, RT_E_INVALID, 0, "rank %u has not joined", rank);
    if (sign == 0 || (team->sign != 0 && team->sign != sign))
        return rt_fail(detail, RT_E_INVALID, 0, "a team meets with one sign, which is not 0");
    if (team->sign == 0) {
        team->sign = sign;
        team_say_met(team);
    }
    int status = RT_OK;
    *missing_out = peer_unmet(team);
    if (timeout_ns <= 0 && *missing_out >= 0 && (status = rt_team_trouble(team, *missing_out, false, detail)) == RT_OK)
        return RT_E_AGAIN; /* the caller asked without waiting */
    if (status != RT_OK)
        return status;
    rt_team_waiter waiter;
    rt_team_waiter_begin(&waiter, team, timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS, NULL);
    while (status == RT_OK && (*missing_out = waiter.needed = peer_unmet(team)) >= 0)
        status = rt_team_waiter_idle(&waiter);
    rt_team_waiter_end(&waiter);
    if (status == RT_E_DEADLINE)
        return rt_fail(detail, RT_E_AGAIN, 0, "rank %d has not reached everybody yet", *missing_out);
    return status == RT_OK ? RT_OK : rt_detail_pass(detail, &waiter.detail);
}
