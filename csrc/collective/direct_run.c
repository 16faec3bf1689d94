/* direct_run.c: what members do that have agreed to read each other's tensors: reduce, reduce-scatter and gather without slots.
 * HOT. */
#include "collective/direct.h"

#include <string.h>

/* A part of a block that is reduced, announced and fetched by the others while it is still in a cache. */
enum { PIECE = 256 << 10, NEAR = 8 << 10 /* the same, written to the others by who reduces it */ };

/* In steps, so that what a way costs is learned within one call. */
enum { COPY_STEP = 8 << 20 };

void rt_direct_copy(rt_team *team, void *to, const void *from, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += COPY_STEP) {
        uint64_t some = size - at < COPY_STEP ? size - at : COPY_STEP;
        if (some < RT_LARGE_SIZE_MIN)
            memcpy((uint8_t *)to + at, (const uint8_t *)from + at, some);
        else
            rt_large_copy(team->paces, (uint8_t *)to + at, (const uint8_t *)from + at, some);
    }
}

static void count_in(rt_run *run, uint64_t size, bool reduced)
{
    rt_team_stats *stats = &run->team->stats;
    stats->direct_bytes += size;
    stats->bytes_received += size;
    stats->reduced_in_place_bytes += reduced ? size : 0;
}

/* target = the own and the peers' elements from `from` on, in the order of ranks. */
static int reduce_parts(rt_run *run, const uint8_t *own, uint8_t *target, uint64_t from, uint64_t count)
{
    const rt_team *team = run->team;
    const void *sources[RT_TEAM_SIZE_MAX];
    uint64_t item = rt_dtype_size(run->call->dtype), offset = from * item;
    for (uint32_t rank = 0; rank < team->size; rank++)
        sources[rank] = (rank == team->rank ? own : team->directs[rank].place[0]) + offset;
    count_in(run, count * item * (team->size - 1), true);
    return count == 0 ? RT_OK : rt_team_reduce_blocks(run->call, target + offset, sources, team->size, count);
}

/* ---- reduce to all: the own block piece by piece, and each piece of the others' as soon as they have it ---- */

typedef struct rt_cut {
    uint64_t count, share, piece; /* elements: of all, of a member's block, of a piece of it */
} rt_cut;

/* The piece of a member's block: its first element, and how many. */
static uint64_t piece_of(const rt_cut *cut, uint32_t rank, uint64_t index, uint64_t *count_out)
{
    uint64_t begin = cut->share * rank + cut->piece * index, end = begin + cut->piece;
    uint64_t last = cut->share * (rank + 1) < cut->count ? cut->share * (rank + 1) : cut->count;
    end = end < last ? end : last;
    *count_out = begin < end ? end - begin : 0;
    return begin;
}

static int reduce_piece(rt_run *run, const rt_cut *cut, uint64_t index, const uint8_t *input, uint8_t *output)
{
    const rt_team *team = run->team;
    uint64_t count, from = piece_of(cut, team->rank, index, &count);
    int status = reduce_parts(run, input, output, from, count);
    for (uint32_t step = 1; step < team->size && status == RT_OK; step++)
        status = rt_run_send(run, (team->rank + step) % team->size, "", 0);
    return status;
}

static int fetch_pieces(rt_run *run, const rt_cut *cut, uint64_t index, uint8_t *output)
{
    const rt_team *team = run->team;
    uint64_t item = rt_dtype_size(run->call->dtype);
    for (uint32_t step = 1; step < team->size; step++) {
        uint32_t peer = (team->rank + step) % team->size;
        const uint8_t *payload;
        int status = rt_run_receive(run, peer, 0, &payload);
        if (status != RT_OK)
            return status;
        rt_lane_take(rt_run_lane(run, peer));
        uint64_t count, from = piece_of(cut, peer, index, &count);
        memcpy(output + from * item, team->directs[peer].place[1] + from * item, count * item);
        count_in(run, count * item, false);
    }
    return RT_OK;
}

/* Where the peers' outputs may be written to: into all of them at once, while the part that was reduced is near. Nobody waits for
 * anybody before the end. */
static int reduce_and_spread(rt_run *run, const rt_cut *cut, const uint8_t *input, uint8_t *output)
{
    const rt_team *team = run->team;
    uint64_t item = rt_dtype_size(run->call->dtype), pieces = (cut->share + cut->piece - 1) / cut->piece;
    for (uint64_t index = 0; index < pieces; index++) {
        uint64_t count, from = piece_of(cut, team->rank, index, &count);
        int status = reduce_parts(run, input, output, from, count);
        if (status != RT_OK)
            return status;
        for (uint32_t step = 1; step < team->size; step++) {
            uint8_t *there = team->directs[(team->rank + step) % team->size].place[1];
            memcpy(there + from * item, output + from * item, count * item);
        }
        run->team->stats.bytes_sent += count * item * (team->size - 1);
    }
    return RT_OK;
}

/* Blocks of whole cache lines, one for each member. */
static rt_cut cut_of(const rt_run *run, uint64_t count)
{
    uint64_t item = rt_dtype_size(run->call->dtype), line = RT_TEAM_LINE / item;
    uint64_t share = (count + run->team->size - 1) / run->team->size;
    return (rt_cut){.count = count, .share = (share + line - 1) / line * line, .piece = PIECE / item};
}

int rt_direct_reduce(rt_run *run, enum rt_reach reach, const uint8_t *input, uint8_t *output, uint64_t count)
{
    rt_cut cut = cut_of(run, count);
    int status = RT_OK;
    if (reach == RT_REACH_WRITE) {
        cut.piece = NEAR / rt_dtype_size(run->call->dtype);
        status = reduce_and_spread(run, &cut, input, output);
        return status == RT_OK ? rt_direct_finish(run) : status;
    }
    uint64_t pieces = (cut.share + cut.piece - 1) / cut.piece;
    for (uint64_t index = 0; index < pieces + 1 && status == RT_OK; index++) {
        if (index < pieces)
            status = reduce_piece(run, &cut, index, input, output);
        if (index > 0 && status == RT_OK)
            status = fetch_pieces(run, &cut, index - 1, output);
    }
    return status == RT_OK ? rt_direct_finish(run) : status;
}

int rt_direct_reduce_to(rt_run *run, enum rt_reach reach, uint32_t root, const uint8_t *input, uint8_t *output, uint64_t count)
{
    const rt_team *team = run->team;
    rt_cut cut = cut_of(run, count);
    uint64_t from = 0, some = team->rank == root ? count : 0;
    if (reach == RT_REACH_WRITE) {
        cut.piece = cut.share;
        from = piece_of(&cut, team->rank, 0, &some);
    }
    uint8_t *target = team->rank == root ? output : team->directs[root].place[1];
    int status = reduce_parts(run, input, target, from, some);
    run->team->stats.bytes_sent += team->rank == root ? 0 : some * rt_dtype_size(run->call->dtype);
    return status == RT_OK ? rt_direct_finish(run) : status;
}

/* ---- reduce-scatter and gather ---- */

int rt_direct_reduce_scatter(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    int status = reduce_parts(run, input, output, 0, count);
    return status == RT_OK ? rt_direct_finish(run) : status;
}

int rt_direct_gather(rt_run *run, void *const *outputs, uint64_t size)
{
    const rt_team *team = run->team;
    for (uint32_t step = 1; step < team->size; step++) {
        uint32_t peer = (team->rank + step) % team->size;
        rt_direct_copy(run->team, outputs[peer], team->directs[peer].place[0], size);
        count_in(run, size, false);
    }
    return rt_direct_finish(run);
}
