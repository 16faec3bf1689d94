/* run.c: the part that all collective calls share: waiting for room and for messages. */
#include <string.h>

#include "team/agree.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/run.h"
#include "team/wait.h"
#include "team/word.h"

static int send_failed(rt_run *run, uint32_t peer, int status)
{
    if (rt_team_trouble(run->team, (int32_t)peer, false, run->call->detail) == RT_OK)
        rt_fail(run->call->detail, status, 0, "cannot send to rank %u: %s", peer, rt_status_name(status));
    return run->call->detail != NULL ? run->call->detail->status : status;
}

/* Sends messages that wait for slots, as far as there is room. */
static int run_flush(rt_run *run)
{
    int status = RT_OK;
    if (!run->flushes)
        return RT_OK;
    run->flushes = false;
    for (uint32_t rank = 0; rank < run->team->size && status == RT_OK; rank++) {
        rt_lane *lane = rt_run_lane(run, rank);
        if (rt_lane_flushes(lane) && (status = rt_lane_flush(lane)) != RT_OK)
            return send_failed(run, rank, status);
        run->flushes = run->flushes || rt_lane_flushes(lane);
    }
    return status;
}

int rt_run_wait(rt_run *run)
{
    int status = run_flush(run);
    if (status != RT_OK)
        return status;
    status = rt_team_waiter_idle(&run->waiter);
    if (status != RT_OK)
        return rt_detail_pass(run->call->detail, &run->waiter.detail);
    if (!rt_word_waits_long(run))
        return RT_OK;
    for (uint32_t rank = 0; rank < run->team->size; rank++)
        rt_lane_settle(rt_run_lane(run, rank)); /* other teams may wait for the chunks that were taken here */
    return rt_word_wait(run);
}

static int run_wait_for(rt_run *run, uint32_t peer)
{
    run->waiter.needed = (int32_t)peer;
    return rt_run_wait(run);
}

int rt_run_flush_all(rt_run *run)
{
    for (;;) {
        uint32_t peer = 0;
        int status = run_flush(run);
        if (status != RT_OK || !run->flushes)
            return status;
        while (!rt_lane_flushes(rt_run_lane(run, peer)))
            peer++;
        status = run_wait_for(run, peer);
        if (status != RT_OK)
            return status;
    }
}

int rt_run_room(rt_run *run, uint32_t peer, uint64_t size, uint8_t **payload_out)
{
    rt_lane *lane = rt_run_lane(run, peer);
    for (;;) {
        uint8_t *payload = rt_lane_room(lane, size);
        if (payload != NULL) {
            rt_team_waiter_moved(&run->waiter);
            *payload_out = payload;
            return RT_OK;
        }
        int status = run_wait_for(run, peer);
        if (status != RT_OK)
            return status;
    }
}

int rt_run_push(rt_run *run, uint32_t peer, uint64_t size)
{
    rt_message message;
    rt_run_head(run, &message, size);
    int status = rt_lane_push(rt_run_lane(run, peer), &message);
    if (status == RT_OK) {
        run->flushes = run->flushes || rt_lane_flushes(rt_run_lane(run, peer));
        run->team->stats.bytes_sent += size;
        return RT_OK;
    }
    return send_failed(run, peer, status);
}

int rt_run_tell(rt_run *run, uint32_t peer, const void *bytes, uint64_t size)
{
    uint8_t *payload;
    int status = rt_run_room(run, peer, size, &payload);
    if (status != RT_OK)
        return status;
    memcpy(payload, bytes, size);
    return rt_run_push(run, peer, size);
}

int rt_run_send(rt_run *run, uint32_t peer, const void *bytes, uint64_t size)
{
    int status = rt_run_tell(run, peer, bytes, size);
    if (status == RT_OK)
        run->team->stats.staged_bytes += size;
    return status;
}

int rt_run_receive(rt_run *run, uint32_t peer, uint64_t size, const uint8_t **payload_out)
{
    rt_lane *lane = rt_run_lane(run, peer);
    for (;;) {
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (status != RT_OK)
            return rt_fail(run->call->detail, status, 0, "what rank %u sent makes no sense", peer);
        if (payload != NULL && lane->message.kind == RT_MESSAGE_WORD) {
            status = rt_word_take(run, lane);
            if (status != RT_OK)
                return status;
            payload = NULL;
        }
        if (payload == NULL) {
            status = run_wait_for(run, peer);
            if (status != RT_OK)
                return status;
            continue;
        }
        rt_team_waiter_moved(&run->waiter);
        status = rt_run_check(run, lane);
        if (status == RT_OK && lane->message.size != size)
            status = rt_fail(run->call->detail, RT_E_PROTOCOL, 0, "rank %u sent %llu bytes where %llu were due", peer,
                             (unsigned long long)lane->message.size, (unsigned long long)size);
        if (status == RT_OK) {
            run->team->stats.bytes_received += size;
            *payload_out = payload;
        }
        return status;
    }
}

int rt_run_hear(rt_run *run, uint32_t peer, void *bytes, uint64_t size)
{
    const uint8_t *payload;
    int status = rt_run_receive(run, peer, size, &payload);
    if (status != RT_OK)
        return status;
    memcpy(bytes, payload, size);
    rt_lane_take(rt_run_lane(run, peer));
    return RT_OK;
}
