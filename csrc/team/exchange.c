/* exchange.c: sends a piece to and receives one from every member at once, whatever their sizes:
 * all-to-all, gather, scatter. No member waits for one peer while another could make progress, so
 * the order in which members arrive does not matter.
 *
 * Where the provider maps memory, a large piece is announced first. The receiver reads it in place
 * and says so, or says that it cannot; the sender answers with an empty message, or with the piece
 * in chunks. TEAMS.md, "Direct". */
#include <string.h>
#include <unistd.h>

#include "region/loan.h"
#include "team/agree.h"
#include "team/attached.h"
#include "team/call.h"
#include "team/copy.h"
#include "team/direct.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/run.h"
#include "team/team.h"
#include "team/wait.h"
#include "team/way.h"
#include "team/word.h"

/* The meaning of the lane's messages, in `partner` of the header. */
enum { CHUNK = 0, ANNOUNCED = 1, TAKEN = 2, NOT_TAKEN = 3 };

/* Bytes of a direct copy before the other peers are served again. */
enum { STEP = 4 << 20 };

/* The state of one piece in transfer. */
enum rt_phase {
    PHASE_ANNOUNCE, /* it must be announced, or will be */
    PHASE_ANSWER,   /* the receiver must say whether it has read it */
    PHASE_READ,     /* the receiver reads it in place */
    PHASE_SAY,      /* the receiver must say that it has read it, or, unless `direct`, that it cannot */
    PHASE_CHUNKS,   /* chunks of the rest come: for a piece that was read nothing is left, and an empty message comes */
    PHASE_DONE,
};

typedef struct rt_flow {
    const rt_team_piece *piece;
    enum rt_phase phase;
    uint64_t done;
    bool direct; /* it was read in place */
} rt_flow;

typedef struct rt_side {
    rt_flow out, in;
} rt_side;

static rt_flow flow_of(const rt_run *run, const rt_team_piece *piece)
{
    enum rt_way way = rt_way_choose(&run->team->terms, RT_CALL_EXCHANGE, piece->size, RT_REACH_UNKNOWN);
    enum rt_phase phase = way == RT_WAY_NOTHING ? PHASE_DONE : way == RT_WAY_ASK ? PHASE_ANNOUNCE : PHASE_CHUNKS;
    return (rt_flow){.piece = piece, .phase = phase};
}

static uint64_t flow_part(const rt_team *team, const rt_flow *flow)
{
    uint64_t left = flow->piece->size - flow->done;
    return left < team->options.chunk ? left : team->options.chunk;
}

/* Sends one message to this peer, if there is room. Returns 1 when it was sent, 0 without room, or
 * a failure. */
static int flow_message_send(rt_run *run, uint32_t peer, const rt_flow *flow, uint64_t kind, const void *bytes, uint64_t size)
{
    uint8_t *payload = rt_lane_room(rt_run_lane(run, peer), size);
    if (payload == NULL)
        return 0;
    if (size > 0)
        memcpy(payload, bytes, size);
    run->total = flow->piece->size;
    run->kind = kind;
    int status = rt_run_push(run, peer, size);
    return status != RT_OK ? status : 1;
}

/* ---- sending ---- */

static int flow_announce(rt_run *run, uint32_t peer, rt_flow *out)
{
    rt_loan *loan = &run->team->directs[peer].lent[0];
    rt_announcement told;
    if (loan->region == NULL)
        out->direct = rt_loan_begin(run->team->device, out->piece->address, out->piece->size, loan);
    rt_announcement_make(out->direct ? loan : NULL, &told);
    int moved = flow_message_send(run, peer, out, ANNOUNCED, &told, sizeof told);
    if (moved > 0)
        out->phase = out->direct ? PHASE_ANSWER : PHASE_CHUNKS;
    return moved;
}

/* Sends as much to this peer as there is room for. Returns the number of messages, or a failure. */
static int flow_push_some(rt_run *run, uint32_t peer, rt_flow *out)
{
    int moved = 0, some = out->phase == PHASE_ANNOUNCE ? flow_announce(run, peer, out) : 1;
    while (out->phase == PHASE_CHUNKS && some > 0) {
        uint64_t size = flow_part(run->team, out);
        some = flow_message_send(run, peer, out, CHUNK, (const uint8_t *)out->piece->address + out->done, size);
        if (some <= 0)
            break;
        run->team->stats.staged_bytes += size;
        out->done += size;
        moved++;
        if (out->done == out->piece->size)
            out->phase = PHASE_DONE;
    }
    return some < 0 ? some : moved;
}

/* ---- receiving ---- */

/* Takes the announcement of the peer's piece: maps the piece, or leaves it to come in chunks. */
static int flow_announced(rt_run *run, uint32_t peer, rt_flow *in, const uint8_t *payload)
{
    rt_announcement told;
    memcpy(&told, payload, sizeof told); /* once: the peer could change it */
    if (told.direct != 1) {
        in->phase = PHASE_CHUNKS;
        return RT_OK;
    }
    uint64_t reach;
    int status = rt_direct_map(run, peer, 0, &told, in->piece->size, &reach);
    in->direct = run->team->directs[peer].place[0] != NULL;
    in->phase = in->direct ? PHASE_READ : PHASE_SAY;
    return status;
}

static int sizes_disagree(rt_run *run, uint32_t peer)
{
    return rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "rank %u sent pieces of another size", peer);
}

/* Gives one message to the flow that it belongs to. */
static int flow_take(rt_run *run, uint32_t peer, rt_side *side, const uint8_t *payload)
{
    const rt_message *message = &rt_run_lane(run, peer)->message;
    bool answer = message->partner == TAKEN || message->partner == NOT_TAKEN;
    rt_flow *in = &side->in, *out = &side->out;
    if (message->kind == RT_MESSAGE_WORD)
        return rt_word_take(run, rt_run_lane(run, peer));
    run->total = answer ? out->piece->size : in->piece->size;
    run->kind = message->partner;
    int status = rt_run_check(run, rt_run_lane(run, peer));
    if (status != RT_OK)
        return status;
    if (answer && out->phase == PHASE_ANSWER && message->size == 0) {
        out->done = message->partner == TAKEN ? out->piece->size : 0;
        out->phase = PHASE_CHUNKS;
        return RT_OK;
    }
    if (message->partner == ANNOUNCED && in->phase == PHASE_ANNOUNCE && message->size == sizeof(rt_announcement))
        return flow_announced(run, peer, in, payload);
    if (message->partner != CHUNK || in->phase != PHASE_CHUNKS || message->size != flow_part(run->team, in))
        return sizes_disagree(run, peer);
    memcpy((uint8_t *)in->piece->address + in->done, payload, message->size);
    in->done += message->size;
    run->team->stats.bytes_received += message->size;
    if (in->done == in->piece->size)
        in->phase = PHASE_DONE;
    return RT_OK;
}

static int flow_pull_some(rt_run *run, uint32_t peer, rt_side *side)
{
    rt_lane *lane = rt_run_lane(run, peer);
    for (int moved = 0;; moved++) {
        if (side->in.phase == PHASE_DONE && side->out.phase != PHASE_ANSWER)
            return moved; /* messages that come now belong to the next call */
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (status != RT_OK)
            return rt_fail(run->call->detail, status, 0, "what rank %u sent makes no sense", peer);
        if (payload == NULL)
            return moved;
        bool word = lane->message.kind == RT_MESSAGE_WORD;
        status = flow_take(run, peer, side, payload);
        if (status != RT_OK)
            return status;
        if (word)
            return moved; /* so that the wait continues, and ends in time, whatever the peer sends */
        rt_lane_take(lane);
    }
}

/* Reads a step of the peer's piece, and reports it when all is read. */
static int flow_read_some(rt_run *run, uint32_t peer, rt_flow *in)
{
    rt_team_stats *stats = &run->team->stats;
    int moved = 0;
    if (in->phase == PHASE_READ) {
        uint64_t left = in->piece->size - in->done, size = left < STEP ? left : STEP;
        rt_direct_copy(run->team, (uint8_t *)in->piece->address + in->done, run->team->directs[peer].place[0] + in->done, size);
        in->done += size;
        stats->direct_bytes += size;
        stats->bytes_received += size;
        if (in->done == in->piece->size)
            in->phase = PHASE_SAY;
        moved = 1;
    }
    if (in->phase != PHASE_SAY)
        return moved;
    int said = flow_message_send(run, peer, in, in->direct ? TAKEN : NOT_TAKEN, NULL, 0);
    if (said > 0)
        in->phase = PHASE_CHUNKS;
    return said < 0 ? said : moved + said;
}

/* ---- all peers ---- */

static int peer_exchange(rt_run *run, uint32_t peer, rt_side *side)
{
    int moved = flow_push_some(run, peer, &side->out);
    if (moved < 0)
        return moved;
    int pulled = flow_pull_some(run, peer, side);
    if (pulled < 0)
        return pulled;
    int read = flow_read_some(run, peer, &side->in);
    return read < 0 ? read : moved + pulled + read;
}

/* One round over all peers, starting behind this member, so that not all write to the same one.
 * Returns the number of messages moved, or a failure; *waiting_out is a peer that is not done, or
 * -1. */
static int round_run(rt_run *run, rt_side *sides, int32_t *waiting_out)
{
    int moved = 0;
    *waiting_out = -1;
    for (uint32_t step = 1; step < run->team->size; step++) {
        uint32_t peer = (run->team->rank + step) % run->team->size;
        int some = peer_exchange(run, peer, &sides[peer]);
        if (some < 0)
            return some;
        moved += some;
        if (sides[peer].out.phase != PHASE_DONE || sides[peer].in.phase != PHASE_DONE)
            *waiting_out = (int32_t)peer;
    }
    return moved;
}

static int pieces_exchange(rt_run *run, const rt_team_piece *sends, const rt_team_piece *receives)
{
    rt_side sides[RT_TEAM_SIZE_MAX];
    for (uint32_t peer = 0; peer < run->team->size; peer++)
        if (peer != run->team->rank)
            sides[peer] = (rt_side){flow_of(run, &sends[peer]), flow_of(run, &receives[peer])};
    for (;;) {
        int moved = round_run(run, sides, &run->waiter.needed);
        if (moved < 0)
            return moved;
        if (run->waiter.needed < 0)
            return RT_OK;
        if (moved > 0) {
            rt_team_waiter_moved(&run->waiter);
            continue;
        }
        int status = rt_run_wait(run);
        if (status != RT_OK)
            return status;
    }
}

/* Copies the piece that this member keeps. */
static void own_piece_keep(rt_team *team, const rt_team_piece *out, const rt_team_piece *in)
{
    uintptr_t to = (uintptr_t)in->address, from = (uintptr_t)out->address;
    if (to >= from + out->size || from >= to + out->size)
        rt_direct_copy(team, in->address, out->address, out->size);
    else if (to != from)
        memmove(in->address, out->address, out->size);
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
    else if (out->size > 0)
        own_piece_keep(team, out, in);
    if (status == RT_OK)
        status = pieces_exchange(&run, sends, receives);
    if (status == RT_OK)
        rt_direct_end(team);
    return rt_run_end(&run, status);
}
