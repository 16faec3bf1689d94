/* collective.c: barrier, reduce, reduce-scatter, gather and broadcast, as programs that every
 * member runs alike. The table in way.c chooses which.
 *
 * Small calls take one step: every member sends everything to every other. Large ones go in chunks:
 * each member reduces its block of a chunk directly from the others' messages, in the order of
 * ranks, so that the result has the same bits whichever member computed it and however often. Each
 * step of a chunk runs behind the preceding step of the next chunk, so that no member waits for
 * another's copy. A member waits only for messages that its peers sent two steps ago, so four slots
 * per lane cannot deadlock.
 * Where all tensors of a large call lie in memory that the peers can read in place, direct.c and
 * direct_run.c do without slots. */
#include <assert.h>
#include <string.h>

#include "proto/dtype.h"
#include "team/agree.h"
#include "team/call.h"
#include "team/copy.h"
#include "team/direct.h"
#include "team/direct_run.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/reduce.h"
#include "team/run.h"
#include "team/team.h"
#include "team/way.h"

typedef struct rt_block {
    uint64_t from, count; /* elements */
} rt_block;

/* The elements that one step of a reduction covers, and the size of a member's block in them. */
typedef struct rt_step {
    uint64_t from, count, share;
} rt_step;

static rt_step step_of(const rt_run *run, uint64_t count, uint64_t index)
{
    uint64_t share = run->team->options.chunk / rt_dtype_size(run->call->dtype), span = share * run->team->size;
    uint64_t from = index * span, left = count - from;
    if (left >= span)
        return (rt_step){from, span, share};
    return (rt_step){from, left, (left + run->team->size - 1) / run->team->size};
}

static rt_block block_of(rt_step step, uint32_t rank)
{
    uint64_t begin = step.share * rank < step.count ? step.share * rank : step.count;
    uint64_t end = begin + step.share < step.count ? begin + step.share : step.count;
    return (rt_block){step.from + begin, end - begin};
}

static enum rt_way way_of(const rt_run *run, enum rt_way_call call, enum rt_reach reach)
{
    return rt_way_choose(&run->team->terms, call, run->total, reach);
}

/* Where the way depends on what the members reach of each other's tensors: asks them, and chooses
 * again. The ranges are those of rt_direct_meet. */
static int way_ask(rt_run *run, enum rt_way_call call, const rt_range *ranges, uint32_t count, enum rt_way *way_out)
{
    enum rt_reach reach = RT_REACH_NONE;
    int status = rt_direct_meet(run, ranges, count, &reach);
    if (status == RT_OK)
        *way_out = way_of(run, call, reach);
    return status;
}

/* Sends to the peer `step` ranks ahead; nothing for an empty range. */
static int message_send_to(rt_run *run, uint32_t step, const void *bytes, uint64_t size)
{
    return size == 0 ? RT_OK : rt_run_send(run, (run->team->rank + step) % run->team->size, bytes, size);
}

/* target = this member's block and those that all peers sent, reduced in the order of ranks. */
static int reduce_from_all(rt_run *run, const void *own, void *target, uint64_t count)
{
    rt_team *team = run->team;
    const void *sources[RT_TEAM_SIZE_MAX];
    uint64_t size = count * rt_dtype_size(run->call->dtype);
    if (count == 0)
        return RT_OK;
    for (uint32_t rank = 0; rank < team->size; rank++) {
        const uint8_t *payload = own;
        int status = rank == team->rank ? RT_OK : rt_run_receive(run, rank, size, &payload);
        if (status != RT_OK)
            return status;
        sources[rank] = payload;
    }
    int status = rt_team_reduce_blocks(run->call, target, sources, team->size, count);
    for (uint32_t rank = 0; rank < team->size && status == RT_OK; rank++)
        if (rank != team->rank)
            rt_lane_take(rt_run_lane(run, rank));
    team->stats.reduced_in_place_bytes += team->maps ? size * (team->size - 1) : 0;
    return status;
}

static int chunk_receive_into(rt_run *run, uint32_t peer, void *target, uint64_t size)
{
    return size == 0 ? RT_OK : rt_run_hear(run, peer, target, size);
}

/* ---- reduce: to all, or to a root ---- */

static int reduce_whole(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    const rt_team *team = run->team;
    int32_t root = run->call->root;
    uint64_t size = count * rt_dtype_size(run->call->dtype);
    if (root >= 0 && root != (int32_t)team->rank)
        return rt_run_send(run, (uint32_t)root, input, size);
    for (uint32_t step = 1; step < team->size && root < 0; step++) {
        int status = message_send_to(run, step, input, size);
        if (status != RT_OK)
            return status;
    }
    return reduce_from_all(run, input, output, count);
}

/* Reduces this member's block of a step and sends it to the members that need it. */
static int reduce_block(rt_run *run, rt_step step, const uint8_t *input, uint8_t *output)
{
    const rt_team *team = run->team;
    int32_t root = run->call->root;
    uint64_t item = rt_dtype_size(run->call->dtype);
    rt_block own = block_of(step, team->rank);
    if (root >= 0 && root != (int32_t)team->rank) { /* into the message itself: this member's output is not touched */
        uint8_t *payload;
        if (own.count == 0)
            return RT_OK;
        int status = rt_run_room(run, (uint32_t)root, own.count * item, &payload);
        if (status == RT_OK)
            status = reduce_from_all(run, input + own.from * item, payload, own.count);
        return status != RT_OK ? status : rt_run_push(run, (uint32_t)root, own.count * item);
    }
    int status = reduce_from_all(run, input + own.from * item, output + own.from * item, own.count);
    for (uint32_t next = 1; next < team->size && root < 0 && status == RT_OK; next++)
        status = message_send_to(run, next, output + own.from * item, own.count * item);
    return status;
}

static int blocks_collect(rt_run *run, rt_step step, uint8_t *output)
{
    uint64_t item = rt_dtype_size(run->call->dtype);
    int status = RT_OK;
    for (uint32_t next = 1; next < run->team->size && status == RT_OK; next++) {
        uint32_t peer = (run->team->rank + next) % run->team->size;
        rt_block block = block_of(step, peer);
        status = chunk_receive_into(run, peer, output + block.from * item, block.count * item);
    }
    return status;
}

static int reduce_steps(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count)
{
    const rt_team *team = run->team;
    uint64_t item = rt_dtype_size(run->call->dtype), span = team->options.chunk / item * team->size;
    uint64_t steps = (count + span - 1) / span;
    bool wants = run->call->root < 0 || run->call->root == (int32_t)team->rank;
    int status = RT_OK;
    for (uint64_t index = 0; index < steps + 2; index++) {
        for (uint32_t next = 1; next < team->size && index < steps && status == RT_OK; next++) {
            rt_block block = block_of(step_of(run, count, index), (team->rank + next) % team->size);
            status = message_send_to(run, next, input + block.from * item, block.count * item);
        }
        if (status == RT_OK && index >= 1 && index <= steps)
            status = reduce_block(run, step_of(run, count, index - 1), input, output);
        if (status == RT_OK && index >= 2 && wants)
            status = blocks_collect(run, step_of(run, count, index - 2), output);
    }
    return status;
}

/* Each member's input and output may be read by all others. */
static int reduce_ask(rt_run *run, enum rt_way_call call, const uint8_t *input, const uint8_t *output, enum rt_way *way_out)
{
    rt_range ranges[2 * RT_TEAM_SIZE_MAX];
    int32_t root = run->call->root;
    bool wants = root < 0 || root == (int32_t)run->team->rank; /* else its output is unused; its input stands in */
    for (uint32_t peer = 0; peer < run->team->size; peer++) {
        ranges[2 * peer] = (rt_range){input, run->total};
        ranges[2 * peer + 1] = (rt_range){wants ? output : input, run->total};
    }
    return way_ask(run, call, ranges, 2, way_out);
}

static int reduce_large(rt_run *run, enum rt_way way, const void *input, void *output, uint64_t count)
{
    if (way == RT_WAY_SPREAD)
        return rt_direct_spread(run, input, output, count);
    if (way == RT_WAY_PIECES)
        return rt_direct_pieces(run, input, output, count);
    if (way == RT_WAY_DELIVER)
        return rt_direct_deliver(run, input, output, count);
    if (way == RT_WAY_COLLECT)
        return rt_direct_collect(run, input, output, count);
    assert(way == RT_WAY_STEPS);
    return reduce_steps(run, input, output, count);
}

int rt_team_reduce(rt_team *team, const rt_team_call *call, const void *input, void *output, uint64_t count)
{
    rt_run run;
    int status = rt_run_begin(&run, team, call, RT_WHAT_REDUCE, count * rt_dtype_size(call->dtype));
    if (status != RT_OK)
        return status;
    enum rt_way_call kind = call->root < 0 ? RT_CALL_REDUCE_TO_ALL : RT_CALL_REDUCE_TO_ROOT;
    enum rt_way way = way_of(&run, kind, RT_REACH_UNKNOWN);
    if (way == RT_WAY_ASK)
        status = reduce_ask(&run, kind, input, output, &way);
    if (status != RT_OK)
        return rt_run_end(&run, status);
    if (way == RT_WAY_WHOLE)
        status = reduce_whole(&run, input, output, count);
    else if (way == RT_WAY_COPY)
        memmove(output, input, run.total);
    else if (way != RT_WAY_NOTHING)
        status = reduce_large(&run, way, input, output, count);
    return rt_run_end(&run, status);
}

/* ---- reduce-scatter and gather ---- */

static int scatter_parts(rt_run *run, const void *const *inputs, uint8_t *output, uint64_t count)
{
    const rt_team *team = run->team;
    uint64_t item = rt_dtype_size(run->call->dtype), share = team->options.chunk / item, steps = (count + share - 1) / share;
    int status = RT_OK;
    for (uint64_t index = 0; index < steps + 1 && status == RT_OK; index++) {
        uint64_t from = index * share, some = index < steps ? (count - from < share ? count - from : share) : 0;
        for (uint32_t next = 1; next < team->size && status == RT_OK; next++) {
            uint32_t peer = (team->rank + next) % team->size;
            status = message_send_to(run, next, (const uint8_t *)inputs[peer] + from * item, some * item);
        }
        if (index == 0 || status != RT_OK)
            continue;
        from -= share;
        some = count - from < share ? count - from : share;
        status = reduce_from_all(run, (const uint8_t *)inputs[team->rank] + from * item, output + from * item, some);
    }
    return status;
}

/* Each member's block of every input may be read by the member whose block it is. */
static int scatter_ask(rt_run *run, const void *const *inputs, enum rt_way *way_out)
{
    rt_range ranges[RT_TEAM_SIZE_MAX];
    for (uint32_t peer = 0; peer < run->team->size; peer++)
        ranges[peer] = (rt_range){inputs[peer], run->total};
    return way_ask(run, RT_CALL_REDUCE_SCATTER, ranges, 1, way_out);
}

int rt_team_reduce_scatter(rt_team *team, const rt_team_call *call, const void *const *inputs, void *output, uint64_t count)
{
    rt_run run;
    int status = rt_run_begin(&run, team, call, RT_WHAT_REDUCE_SCATTER, count * rt_dtype_size(call->dtype));
    if (status != RT_OK)
        return status;
    enum rt_way way = way_of(&run, RT_CALL_REDUCE_SCATTER, RT_REACH_UNKNOWN);
    if (way == RT_WAY_ASK)
        status = scatter_ask(&run, inputs, &way);
    if (status == RT_OK && way == RT_WAY_COPY)
        memmove(output, inputs[0], run.total);
    else if (status == RT_OK && way == RT_WAY_OWN)
        status = rt_direct_reduce_scatter(&run, inputs[team->rank], output, count);
    else if (status == RT_OK)
        status = scatter_parts(&run, inputs, output, count);
    return rt_run_end(&run, status);
}

static int gather_chunks(rt_run *run, const uint8_t *input, void *const *outputs, uint64_t size)
{
    const rt_team *team = run->team;
    uint64_t chunk = team->options.chunk, steps = (size + chunk - 1) / chunk;
    int status = RT_OK;
    for (uint64_t index = 0; index < steps + 1 && status == RT_OK; index++) {
        uint64_t from = index * chunk, some = index < steps ? (size - from < chunk ? size - from : chunk) : 0;
        for (uint32_t next = 1; next < team->size && status == RT_OK; next++)
            status = message_send_to(run, next, input + from, some);
        if (index == 0)
            continue;
        from -= chunk;
        some = size - from < chunk ? size - from : chunk;
        for (uint32_t next = 1; next < team->size && status == RT_OK; next++) {
            uint32_t peer = (team->rank + next) % team->size;
            status = chunk_receive_into(run, peer, (uint8_t *)outputs[peer] + from, some);
        }
    }
    return status;
}

static int gather_pieces(rt_run *run, const uint8_t *input, void *const *outputs, uint64_t size)
{
    rt_range ranges[RT_TEAM_SIZE_MAX];
    enum rt_way way = way_of(run, RT_CALL_GATHER_ALL, RT_REACH_UNKNOWN);
    int status = RT_OK;
    if (way == RT_WAY_ASK) {
        for (uint32_t peer = 0; peer < run->team->size; peer++)
            ranges[peer] = (rt_range){input, size};
        status = way_ask(run, RT_CALL_GATHER_ALL, ranges, 1, &way);
    }
    if (status != RT_OK)
        return status;
    return way == RT_WAY_READ ? rt_direct_gather(run, outputs, size) : gather_chunks(run, input, outputs, size);
}

int rt_team_gather_all(rt_team *team, const rt_team_call *call, const void *input, void *const *outputs, uint64_t size)
{
    rt_run run;
    int status = rt_run_begin(&run, team, call, RT_WHAT_GATHER_ALL, size);
    if (status != RT_OK)
        return status;
    if (outputs[team->rank] != input)
        rt_direct_copy(team, outputs[team->rank], input, size);
    return rt_run_end(&run, gather_pieces(&run, input, outputs, size));
}

/* ---- broadcast and barrier ---- */

/* Sends one chunk after the other down a chain that begins at the root: each member copies a chunk
 * out and passes it on. */
static int broadcast_chain(rt_run *run, uint8_t *bytes, uint64_t size)
{
    const rt_team *team = run->team;
    uint32_t place = (team->rank + team->size - (uint32_t)run->call->root) % team->size;
    uint32_t before = (team->rank + team->size - 1) % team->size;
    int status = RT_OK;
    for (uint64_t from = 0; from < size && status == RT_OK; from += team->options.chunk) {
        uint64_t some = size - from < team->options.chunk ? size - from : team->options.chunk;
        if (place > 0)
            status = chunk_receive_into(run, before, bytes + from, some);
        if (place + 1 < team->size && status == RT_OK)
            status = message_send_to(run, 1, bytes + from, some);
    }
    return status;
}

static int broadcast_star(rt_run *run, uint8_t *bytes, uint64_t size)
{
    int status = RT_OK;
    if (run->call->root != (int32_t)run->team->rank)
        return chunk_receive_into(run, (uint32_t)run->call->root, bytes, size);
    for (uint32_t next = 1; next < run->team->size && status == RT_OK; next++)
        status = message_send_to(run, next, bytes, size);
    return status;
}

static int broadcast_staged(rt_run *run, enum rt_way way, uint8_t *bytes, uint64_t size)
{
    return way == RT_WAY_STAR ? broadcast_star(run, bytes, size) : broadcast_chain(run, bytes, size);
}

/* The other members read the root's bytes, all at once; the root sends them to a member that
 * cannot. */
static int broadcast_from_root(rt_run *run, uint8_t *bytes, uint64_t size)
{
    rt_team *team = run->team;
    uint64_t chunk = team->options.chunk;
    bool direct = false, taken = false;
    int status = rt_direct_offer(run, (rt_range){bytes, size}, &direct);
    if (status != RT_OK)
        return status;
    if (!direct)
        return broadcast_staged(run, way_of(run, RT_CALL_BROADCAST, RT_REACH_NONE), bytes, size);
    for (uint32_t step = 1; step < team->size && status == RT_OK; step++) {
        uint32_t peer = (team->rank + step) % team->size;
        status = rt_direct_hear(run, peer, &taken);
        for (uint64_t from = 0; from < size && !taken && status == RT_OK; from += chunk)
            status = rt_run_send(run, peer, bytes + from, size - from < chunk ? size - from : chunk);
    }
    rt_direct_end(team);
    return status;
}

static int broadcast_to_here(rt_run *run, uint8_t *bytes, uint64_t size)
{
    rt_team *team = run->team;
    uint32_t root = (uint32_t)run->call->root;
    uint64_t chunk = team->options.chunk;
    uint8_t *place;
    bool direct = false;
    int status = rt_direct_accept(run, root, size, &direct, &place);
    if (status != RT_OK)
        return status;
    if (!direct)
        return broadcast_staged(run, way_of(run, RT_CALL_BROADCAST, RT_REACH_NONE), bytes, size);
    if (place != NULL) {
        rt_direct_copy(team, bytes, place, size);
        team->stats.direct_bytes += size;
        team->stats.bytes_received += size;
        status = rt_direct_check(run);
    }
    if (status == RT_OK)
        status = rt_direct_reply(run, root, place != NULL);
    rt_direct_end(team);
    for (uint64_t from = 0; from < size && place == NULL && status == RT_OK; from += chunk)
        status = chunk_receive_into(run, root, bytes + from, size - from < chunk ? size - from : chunk);
    return status;
}

int rt_team_broadcast(rt_team *team, const rt_team_call *call, void *bytes, uint64_t size)
{
    rt_run run;
    if (call->root < 0)
        return rt_fail(call->detail, RT_E_INVALID, 0, "a broadcast needs a root");
    int status = rt_run_begin(&run, team, call, RT_WHAT_BROADCAST, size);
    if (status != RT_OK)
        return status;
    enum rt_way way = way_of(&run, RT_CALL_BROADCAST, RT_REACH_UNKNOWN);
    if (way != RT_WAY_ASK)
        status = broadcast_staged(&run, way, bytes, size);
    else if (call->root == (int32_t)team->rank)
        status = broadcast_from_root(&run, bytes, size);
    else
        status = broadcast_to_here(&run, bytes, size);
    return rt_run_end(&run, status);
}

/* Receives from every member, so that it can name the missing ones. */
static int barrier(rt_run *run)
{
    const rt_team *team = run->team;
    int status = RT_OK;
    for (uint32_t next = 1; next < team->size && status == RT_OK; next++)
        status = rt_run_send(run, (team->rank + next) % team->size, "", 0);
    for (uint32_t next = 1; next < team->size && status == RT_OK; next++) {
        uint32_t peer = (team->rank + next) % team->size;
        const uint8_t *payload;
        status = rt_run_receive(run, peer, 0, &payload);
        if (status == RT_OK)
            rt_lane_take(rt_run_lane(run, peer));
    }
    return status;
}

int rt_team_barrier(rt_team *team, const rt_team_call *call)
{
    rt_run run;
    int status = rt_run_begin(&run, team, call, RT_WHAT_BARRIER, 0);
    return status != RT_OK ? status : rt_run_end(&run, barrier(&run));
}
