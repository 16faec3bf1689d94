/* pair.c: the chunks that the lanes of all teams between this process and one peer share; pair.h
 * explains why. Taking and giving back is hot; growing is rare, and registers memory without any
 * turn held. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/remote.h"
#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/pair.h"

/* Chunks that collective calls leave to transfers, which always take what has come. */
enum { CHUNKS_RESERVED = 1 };

static uint64_t records_size(void)
{
    uint64_t bytes = RT_PAIR_EXTENTS_MAX * sizeof(rt_pair_record);
    return (bytes + RT_TEAM_LINE - 1) / RT_TEAM_LINE * RT_TEAM_LINE;
}

uint64_t rt_pair_size(uint32_t chunk, uint32_t chunks, int maps_remote)
{
    return records_size() + (uint64_t)chunk * chunks * (maps_remote ? 1 : 2);
}

/* ---- life ---- */

static int pair_numbers_check(const rt_device *device, uint32_t chunk, uint32_t chunks, rt_detail *detail)
{
    uint32_t most = device->limits.maps_remote ? RT_PAIR_CHUNKS_FIRST_MAX : RT_PAIR_CHUNKS_MAX;
    bool fenced = device->limits.immediate_covers_earlier && device->limits.read_depth > 0; /* RC: READs keep their place */
    if (device->limits.virtual_time || !(device->limits.orders_writes || fenced) || !device->limits.places_words_whole)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "a team needs real time, whole words, and WRITEs that are ordered or can be waited for by a READ, which "
                       "this provider does not promise");
    if (chunk < RT_TEAM_CHUNK_MIN || chunk % RT_TEAM_LINE != 0 || chunk > RT_TEAM_CHUNK_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a chunk is a multiple of %d bytes from %d to %d, not %u", RT_TEAM_LINE,
                       RT_TEAM_CHUNK_MIN, RT_TEAM_CHUNK_MAX, chunk);
    if (chunks < RT_LANE_CHUNKS_SURE || chunks > most)
        return rt_fail(detail, RT_E_INVALID, 0, "a pair begins with %d to %u chunks, not %u", RT_LANE_CHUNKS_SURE, most, chunks);
    return RT_OK;
}

int rt_pair_create(rt_channel *channel, rt_region *region, uint64_t offset, rt_remote *remote, uint32_t chunk, uint32_t chunks,
                   rt_pair **pair_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = pair_numbers_check(channel->device, chunk, chunks, detail);
    if (status != RT_OK)
        return status;
    bool maps = channel->device->limits.maps_remote;
    uint64_t needed = rt_pair_size(chunk, chunks, maps);
    if (region->size < offset || region->size - offset < needed)
        return rt_fail(detail, RT_E_INVALID, 0, "this pair needs %llu bytes of a region", (unsigned long long)needed);
    if (rt_remote_size(remote) != needed)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "%s shares %llu bytes, not %llu: the two disagree on chunks", channel->peer,
                       (unsigned long long)rt_remote_size(remote), (unsigned long long)needed);
    uint8_t *theirs = (uint8_t *)(uintptr_t)rt_remote_address(remote);
    if (maps && theirs == NULL)
        return rt_fail(detail, RT_E_ACCESS, 0, "the memory of %s cannot be mapped", channel->peer);
    rt_pair *pair = calloc(1, sizeof *pair);
    if (pair == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a pair with %s", channel->peer);
    pair->device = channel->device;
    pair->channel = channel;
    pair->remote = remote;
    pair->region = region;
    pair->offset = offset;
    pair->maps = maps;
    pair->chunk = chunk;
    pair->first = pair->count = chunks;
    pair->extents = 1;
    atomic_init(&pair->references, 1);
    rt_list_init(&pair->lanes);
    rt_turn_rank(&pair->turn, RT_RANK_PAIR);
    pair->own[0].bytes = region->address + offset + records_size();
    pair->theirs[0].bytes = maps ? theirs + records_size() : pair->own[0].bytes + (uint64_t)chunk * chunks;
    rt_channel_reference(channel);
    rt_region_reference(region);
    rt_remote_reference(remote);
    *pair_out = pair;
    return RT_OK;
}

void rt_pair_reference(rt_pair *pair)
{
    atomic_fetch_add_explicit(&pair->references, 1, memory_order_relaxed);
}

void rt_pair_drop(rt_pair *pair)
{
    if (rt_forked() || atomic_fetch_sub_explicit(&pair->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t index = 1; index < RT_PAIR_EXTENTS_MAX; index++) {
        if (pair->theirs[index].remote != NULL)
            rt_remote_drop(pair->theirs[index].remote);
        if (pair->own[index].region == NULL)
            continue;
        rt_region_close(pair->own[index].region, NULL);
        rt_region_drop(pair->own[index].region);
    }
    rt_remote_unreference(pair->remote);
    rt_region_unreference(pair->region);
    rt_channel_unreference(pair->channel);
    free(pair);
}

/* ---- places ---- */

/* The extent of a place, and the place's number in it. */
static uint32_t extent_of(const rt_pair *pair, uint32_t place, uint32_t *index_out)
{
    uint32_t extent = 0, from = 0, count = pair->first;
    while (place >= from + count) {
        from += count;
        count = from;
        extent++;
    }
    *index_out = place - from;
    return extent;
}

uint8_t *rt_pair_outgoing(const rt_pair *pair, uint32_t place)
{
    uint32_t index, extent = extent_of(pair, place, &index);
    return pair->own[extent].bytes + (uint64_t)index * pair->chunk;
}

uint64_t rt_pair_out_at(const rt_pair *pair, uint32_t place)
{
    return pair->offset + records_size() + (uint64_t)place * pair->chunk;
}

uint64_t rt_pair_in_at(const rt_pair *pair, uint32_t place)
{
    return records_size() + (uint64_t)(pair->first + place) * pair->chunk;
}

/* ---- growing ---- */

static rt_pair_record *record_at(uint8_t *part, uint32_t extent)
{
    return (rt_pair_record *)(void *)part + extent;
}

/* Makes the next extent and writes its handle into the record. The pair's turn is not held, but
 * pair->growing is ours. */
static rt_region *extent_make(const rt_pair *pair, uint32_t extent, uint32_t count)
{
    rt_region *region;
    rt_pair_record *record = record_at(pair->region->address + pair->offset, extent);
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size;
    if (rt_region_create(pair->device, (uint64_t)count * pair->chunk, RT_RIGHT_REMOTE_READ, RT_HUGE_OFF, &region, NULL) != RT_OK)
        return NULL;
    if (rt_region_handle(region, 0, region->size, handle, &size, NULL) != RT_OK) {
        rt_region_close(region, NULL);
        rt_region_drop(region);
        return NULL;
    }
    memcpy(record->handle, handle, size);
    rt_store_release_u64(&record->handle_size, size);
    return region;
}

/* Makes an extent, if that is possible; whether there are more chunks now. */
static bool pair_grow(rt_pair *pair)
{
    rt_turn_take(&pair->turn);
    bool can = pair->maps && !pair->growing && !pair->failed_to_grow && pair->extents < RT_PAIR_EXTENTS_MAX;
    pair->growing |= can;
    rt_turn_leave(&pair->turn);
    if (!can)
        return false;
    uint32_t extent = pair->extents, count = pair->count;
    rt_region *region = extent_make(pair, extent, count);
    rt_turn_take(&pair->turn);
    if (region != NULL) {
        pair->own[extent] = (rt_pair_extent){.region = region, .bytes = region->address};
        pair->extents++;
        pair->count += count;
    }
    pair->failed_to_grow = region == NULL;
    pair->growing = false;
    rt_turn_leave(&pair->turn);
    return region != NULL;
}

/* Attaches the peer's extent, when a message first lies in it. */
static int extent_attach(rt_pair *pair, uint32_t extent, const uint8_t **bytes_out)
{
    rt_pair_record *record = record_at((uint8_t *)(uintptr_t)rt_remote_address(pair->remote), extent);
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    uint64_t size = rt_load_acquire_u64(&record->handle_size);
    uint64_t needed = ((uint64_t)pair->first << (extent - 1)) * pair->chunk;
    rt_remote *remote;
    if (size == 0 || size > sizeof handle)
        return RT_E_PROTOCOL;
    memcpy(handle, record->handle, size); /* once: the peer could change it */
    int status = rt_remote_attach(pair->channel, handle, size, 0, &remote, NULL);
    if (status != RT_OK)
        return status == RT_E_AGAIN || status == RT_E_DEADLINE ? RT_E_AGAIN : RT_E_PROTOCOL;
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_remote_address(remote);
    bool fits = bytes != NULL && rt_remote_size(remote) >= needed && (rt_remote_rights(remote) & RT_RIGHT_REMOTE_READ) != 0;
    rt_turn_take(&pair->turn);
    bool first = fits && pair->theirs[extent].bytes == NULL;
    if (first)
        pair->theirs[extent] = (rt_pair_extent){.remote = remote, .bytes = bytes};
    *bytes_out = pair->theirs[extent].bytes;
    rt_turn_leave(&pair->turn);
    if (!first)
        rt_remote_drop(remote);
    return fits ? RT_OK : RT_E_PROTOCOL;
}

int rt_pair_incoming(rt_pair *pair, uint32_t place, const uint8_t **bytes_out)
{
    if (place >= (pair->maps ? pair->first << (RT_PAIR_EXTENTS_MAX - 1) : pair->first))
        return RT_E_PROTOCOL;
    uint32_t index, extent = extent_of(pair, place, &index);
    const uint8_t *bytes;
    if (extent == 0) {
        bytes = pair->theirs[0].bytes;
    } else {
        rt_turn_take(&pair->turn);
        bytes = pair->theirs[extent].bytes;
        rt_turn_leave(&pair->turn);
    }
    int status = bytes != NULL ? RT_OK : extent_attach(pair, extent, &bytes);
    if (status == RT_OK)
        *bytes_out = bytes + (uint64_t)index * pair->chunk;
    return status;
}

/* ---- taking and giving back; the turn is held ---- */

static void chunk_give_back(rt_pair *pair, rt_lane *lane, uint32_t slot)
{
    uint32_t place = lane->places[slot] - 1;
    pair->busy[place / 64] &= ~(1ull << place % 64);
    lane->places[slot] = 0;
    atomic_fetch_sub_explicit(&lane->held, 1, memory_order_relaxed);
}

/* Frees chunks that the peer has taken. A peer that acknowledges too early gets other bytes, and
 * harms only itself. */
static void chunks_reclaim(rt_pair *pair, rt_lane *lane)
{
    uint64_t acked = rt_load_acquire_u64(lane->acked);
    for (uint32_t slot = 0; slot < RT_TEAM_SLOTS_MAX; slot++)
        if (lane->places[slot] != 0 && (int64_t)(acked - lane->place_sequences[slot]) > 0)
            chunk_give_back(pair, lane, slot);
}

static int64_t chunk_find_free(const rt_pair *pair)
{
    for (uint32_t word = 0; word < (pair->count + 63) / 64; word++) {
        if (~pair->busy[word] == 0)
            continue;
        uint32_t place = word * 64 + (uint32_t)__builtin_ctzll(~pair->busy[word]);
        return place < pair->count ? (int64_t)place : -1;
    }
    return -1;
}

static uint32_t chunks_count_free(const rt_pair *pair)
{
    uint32_t busy = 0;
    for (uint32_t word = 0; word < RT_PAIR_CHUNKS_MAX / 64; word++)
        busy += (uint32_t)__builtin_popcountll(pair->busy[word]);
    return pair->count - busy;
}

/* Whether the lane must leave the chunks that are free: where the number of chunks is fixed, when it
 * has its share; and where it cannot grow any more, the last chunk, which is kept for transfers. */
static bool lane_has_enough(const rt_pair *pair, const rt_lane *lane)
{
    if (pair->maps && !pair->failed_to_grow && pair->extents < RT_PAIR_EXTENTS_MAX)
        return false;
    uint32_t left = chunks_count_free(pair);
    bool has_share = atomic_load_explicit(&lane->held, memory_order_relaxed) >= RT_LANE_CHUNKS_SURE;
    return (lane->kind == RT_LANE_COLLECTIVE && left <= CHUNKS_RESERVED) || (!pair->maps && has_share && 2 * left <= pair->count);
}

static int64_t chunk_take(rt_pair *pair, rt_lane *lane)
{
    uint32_t slot = (uint32_t)(lane->sent % RT_TEAM_SLOTS_MAX);
    if (lane->places[slot] != 0 && lane->place_sequences[slot] == lane->sent)
        return lane->places[slot] - 1; /* room was requested before, and not used */
    chunks_reclaim(pair, lane);
    int64_t place = chunk_find_free(pair);
    if (place < 0 || lane_has_enough(pair, lane)) {
        RT_LIST_EACH(node, &pair->lanes)
            chunks_reclaim(pair, RT_LIST_ENTRY(node, rt_lane, in_pair));
        place = chunk_find_free(pair);
    }
    if (place < 0 || lane_has_enough(pair, lane))
        return -1;
    pair->busy[place / 64] |= 1ull << place % 64;
    lane->places[slot] = (uint32_t)place + 1;
    lane->place_sequences[slot] = lane->sent;
    atomic_fetch_add_explicit(&lane->held, 1, memory_order_relaxed);
    return place;
}

int64_t rt_pair_take(rt_pair *pair, rt_lane *lane)
{
    for (;;) {
        rt_turn_take(&pair->turn);
        int64_t place = chunk_take(pair, lane);
        rt_turn_leave(&pair->turn);
        bool short_of = atomic_load_explicit(&lane->held, memory_order_relaxed) < RT_LANE_CHUNKS_SURE;
        if (place >= 0 || !short_of || !pair_grow(pair))
            return place;
    }
}

void rt_pair_forget(rt_pair *pair, rt_lane *lane)
{
    rt_turn_take(&pair->turn);
    for (uint32_t slot = 0; slot < RT_TEAM_SLOTS_MAX; slot++)
        if (lane->places[slot] != 0)
            chunk_give_back(pair, lane, slot);
    rt_list_remove(&lane->in_pair);
    rt_turn_leave(&pair->turn);
}
