/* exchange.c: a piece to and a piece from every member at once, whatever their sizes: all-to-all, gather, scatter. Nobody
 * waits for one peer while another one could go on, so the order in which members come does not matter. */
#include "collective/run.h"

#include <string.h>

typedef struct rt_side {
    uint64_t sent, received;
} rt_side;

static uint64_t part(const rt_team *team, uint64_t left)
{
    return left < team->options.chunk ? left : team->options.chunk;
}

/* As much to this peer as there is room for. Returns how many messages, or a failure. */
static int push_some(rt_run *run, uint32_t peer, const rt_team_piece *piece, rt_side *side)
{
    int moved = 0;
    while (side->sent < piece->size) {
        rt_message *message = rt_lane_room(rt_run_lane(run, peer));
        if (message == NULL)
            break;
        uint64_t size = part(run->team, piece->size - side->sent);
        memcpy(rt_message_payload(message), (const uint8_t *)piece->address + side->sent, size);
        run->team->stats.staged_bytes += size;
        run->total = piece->size;
        int status = rt_run_push(run, peer, message, size);
        if (status != RT_OK)
            return status;
        side->sent += size;
        moved++;
    }
    return moved;
}

static int pull_some(rt_run *run, uint32_t peer, const rt_team_piece *piece, rt_side *side)
{
    int moved = 0;
    rt_lane *lane = rt_run_lane(run, peer);
    while (side->received < piece->size) {
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (status != RT_OK)
            return rt_fail(run->call->detail, status, 0, "what rank %u sent makes no sense", peer);
        if (payload == NULL)
            break;
        run->total = piece->size;
        status = rt_run_check(run, lane);
        if (status == RT_OK && lane->message.size != part(run->team, piece->size - side->received))
            status = rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "rank %u sent pieces of another size", peer);
        if (status != RT_OK)
            return status;
        memcpy((uint8_t *)piece->address + side->received, payload, lane->message.size);
        side->received += lane->message.size;
        run->team->stats.bytes_received += lane->message.size;
        rt_lane_take(lane);
        moved++;
    }
    return moved;
}

/* One round over all peers, beginning behind this one, so that not everybody writes to the same. Returns moved messages, or
 * a failure; *waiting_out is a peer that is not done, or -1. */
static int round_of(rt_run *run, const rt_team_piece *sends, const rt_team_piece *receives, rt_side *sides, int32_t *waiting_out)
{
    int moved = 0;
    *waiting_out = -1;
    for (uint32_t step = 1; step < run->team->size; step++) {
        uint32_t peer = (run->team->rank + step) % run->team->size;
        int some = push_some(run, peer, &sends[peer], &sides[peer]);
        if (some < 0)
            return some;
        int more = pull_some(run, peer, &receives[peer], &sides[peer]);
        if (more < 0)
            return more;
        moved += some + more;
        if (sides[peer].sent < sends[peer].size || sides[peer].received < receives[peer].size)
            *waiting_out = (int32_t)peer;
    }
    return moved;
}

static int exchange(rt_run *run, const rt_team_piece *sends, const rt_team_piece *receives)
{
    rt_side sides[RT_TEAM_SIZE_MAX];
    memset(sides, 0, run->team->size * sizeof *sides);
    for (;;) {
        int moved = round_of(run, sends, receives, sides, &run->waiter.needed);
        if (moved < 0)
            return moved;
        if (run->waiter.needed < 0)
            return RT_OK;
        if (moved > 0) {
            rt_team_waiter_moved(&run->waiter);
            continue;
        }
        int status = rt_team_waiter_idle(&run->waiter);
        if (status != RT_OK) {
            rt_detail_pass(run->call->detail, &run->waiter.detail);
            return status;
        }
    }
}

int rt_team_exchange(rt_team *team, const rt_team_call *call, const rt_team_piece *sends, const rt_team_piece *receives)
{
    rt_run run;
    int status = rt_run_begin(&run, team, call, RT_WHAT_EXCHANGE, 0);
    if (status != RT_OK)
        return status;
    const rt_team_piece *out = &sends[team->rank], *in = &receives[team->rank];
    if (out->size != in->size)
        status = rt_fail(call->detail, RT_E_INVALID, 0, "rank %u would send itself %llu bytes and receive %llu", team->rank,
                         (unsigned long long)out->size, (unsigned long long)in->size);
    else if (out->size > 0 && in->address != out->address)
        memmove(in->address, out->address, out->size);
    if (status == RT_OK)
        status = exchange(&run, sends, receives);
    return rt_run_end(&run, status);
}
