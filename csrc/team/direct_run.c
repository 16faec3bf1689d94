/* direct_run.c: collective calls of members that have agreed to read each other's tensors: reduce,
 * reduce-scatter and gather without slots. HOT. */
#include <string.h>

#include "proto/dtype.h"
#include "team/agree.h"
#include "team/copy.h"
#include "team/direct.h"
#include "team/direct_run.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/reduce.h"
#include "team/run.h"
#include "team/team.h"

/* A part of a block that is reduced, announced and fetched by the others while it is still in a
 * cache. */
enum { PIECE = 256 << 10, NEAR = 8 << 10 /* the same, where the member that reduces it writes it to the others */ };

static void bytes_count_in(rt_run *run, uint64_t size, bool reduced)
{
    rt_team_stats *stats = &run->team->stats;
    stats->direct_bytes += size;
    stats->bytes_received += size;
    stats->reduced_in_place_bytes += reduced ? size : 0;
}

/* target = this member's and the peers' elements from `from` on, reduced in the order of ranks. */
static int parts_reduce(rt_run *run, const uint8_t *own, uint8_t *target, uint64_t from, uint64_t count)
{
    const rt_team *team = run->team;
    const void *sources[RT_TEAM_SIZE_MAX];
    uint64_t item = rt_dtype_size(run->call->dtype), offset = from * item;
    for (uint32_t rank = 0; rank < team->size; rank++)
        sources[rank] = (rank == team->rank ? own : team->directs[rank].place[0]) + offset;
    bytes_count_in(run, count * item * (team->size - 1), true);
    return count == 0 ? RT_OK : rt_team_reduce_blocks(run->call, target + offset, sources, team->size, count);
}

/* ---- reduce to all: this member's block piece by piece, and each piece of the others as soon as
 * it is ready ---- */

typedef struct rt_cut {
    uint64_t count, share, piece; /* elements: of all, of a member's block, of a piece of it */
} rt_cut;

/* The piece of a member's block: its first element, and the number of its elements. */
static uint64_t piece_of_cut(const rt_cut *cut, uint32_t rank, uint64_t index, uint64_t *count_out)
{
    uint64_t begin = cut->share * rank + cut->piece * index, end = begin + cut->piece;
    uint64_t last = cut->share * (rank + 1) < cut->count ? cut->share * (rank + 1) : cut->count;
    end = end < last ? end : last;
    *count_out = begin < end ? end - begin : 0;
    return begin;
}

static int piece_reduce(rt_run *run, const rt_cut *cut, uint64_t index, const uint8_t *input, uint8_t *output)
{
    const rt_team *team = run->team;
    uint64_t count, from = piece_of_cut(cut, team->rank, index, &count);
    int status = parts_reduce(run, input, output, from, count);
    for (uint32_t step = 1; step < team->size && status == RT_OK; step++)
        status = rt_run_send(run, (team->rank + step) % team->size, "", 0);
    return status;
}

static int pieces_fetch(rt_run *run, const rt_cut *cut, uint64_t index, uint8_t *output)
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
        uint64_t count, from = piece_of_cut(cut, peer, index, &count);
        memcpy(output + from * item, team->directs[peer].place[1] + from * item, count * item);
        bytes_count_in(run, count * item, false);
    }
    return RT_OK;
}

/* Where the peers' outputs may be written to: writes each reduced part into all of them at once,
 * while it is in the cache. No member waits for another before the end. */
static int pieces_reduce_and_spread(rt_run *run, const rt_cut *cut, const uint8_t *input, uint8_t *output)
{
    const rt_team *team = run->team;
    uint64_t item = rt_dtype_size(run->call->dtype), pieces = (cut->share + cut->piece - 1) / cut->piece;
    for (uint64_t index = 0; index < pieces; index++) {
        uint64_t count, from = piece_of_cut(cut, team->rank, index, &count);
        int status = parts_reduce(run, input, output, from, count);
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

int rt_direct_spread(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    rt_cut cut = cut_of(run, count);
    cut.piece = NEAR / rt_dtype_size(run->call->dtype);
    int status = pieces_reduce_and_spread(run, &cut, input, output);
    return status == RT_OK ? rt_direct_finish(run) : status;
}

int rt_direct_pieces(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    rt_cut cut = cut_of(run, count);
    uint64_t pieces = (cut.share + cut.piece - 1) / cut.piece;
    int status = RT_OK;
    for (uint64_t index = 0; index < pieces + 1 && status == RT_OK; index++) {
        if (index < pieces)
            status = piece_reduce(run, &cut, index, input, output);
        if (index > 0 && status == RT_OK)
            status = pieces_fetch(run, &cut, index - 1, output);
    }
    return status == RT_OK ? rt_direct_finish(run) : status;
}

/* Reduces the elements [from, from + count) into the root's output. */
static int parts_reduce_to_root(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t from, uint64_t count)
{
    const rt_team *team = run->team;
    uint32_t root = (uint32_t)run->call->root;
    uint8_t *target = team->rank == root ? output : team->directs[root].place[1];
    int status = parts_reduce(run, input, target, from, count);
    run->team->stats.bytes_sent += team->rank == root ? 0 : count * rt_dtype_size(run->call->dtype);
    return status == RT_OK ? rt_direct_finish(run) : status;
}

int rt_direct_deliver(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    rt_cut cut = cut_of(run, count);
    cut.piece = cut.share;
    uint64_t own, from = piece_of_cut(&cut, run->team->rank, 0, &own);
    return parts_reduce_to_root(run, input, output, from, own);
}

int rt_direct_collect(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    bool reduces = run->team->rank == (uint32_t)run->call->root;
    return parts_reduce_to_root(run, input, output, 0, reduces ? count : 0);
}

/* ---- reduce-scatter and gather ---- */

int rt_direct_reduce_scatter(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    int status = parts_reduce(run, input, output, 0, count);
    return status == RT_OK ? rt_direct_finish(run) : status;
}

int rt_direct_gather(rt_run *run, void *const *outputs, uint64_t size)
{
    const rt_team *team = run->team;
    for (uint32_t step = 1; step < team->size; step++) {
        uint32_t peer = (team->rank + step) % team->size;
        rt_direct_copy(run->team, outputs[peer], team->directs[peer].place[0], size);
        bytes_count_in(run, size, false);
    }
    return rt_direct_finish(run);
}
