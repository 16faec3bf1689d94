/* lane.c: messages from member to member. A message is put into a slot of the sender's own block,
 * and its payload, if it is larger than a slot, into a chunk of the pair. Where the provider maps
 * memory the receiver reads both in place, elsewhere WRITEs copy them into its memory; then a WRITE
 * of 8 bytes tells that the message has arrived, and one back, for several messages at once, that
 * it was taken. HOT: no allocation, no lock, no log. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/op.h"
#include "team/block.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/pair.h"
#include "team/team.h"

uint8_t *rt_lane_room(rt_lane *lane, uint64_t size)
{
    if (rt_lane_flushes(lane)) {
        if (rt_lane_flush(lane) != RT_OK)
            return NULL;
        if (rt_lane_flushes(lane))
            return rt_lane_parts_room(lane);
    }
    if (!rt_lane_has_slot(lane))
        return NULL;
    lane->room_place = 0;
    lane->room = rt_lane_slot(lane);
    if (size <= RT_TEAM_INLINE)
        return lane->room;
    rt_pair *pair = lane->team->peers[lane->peer].pair;
    int64_t place = rt_pair_take(pair, lane);
    if (place < 0)
        return rt_lane_parts_room(lane);
    lane->short_since_ns = 0;
    lane->room_place = (uint32_t)place + 1;
    lane->room = rt_pair_outgoing(pair, (uint32_t)place);
    return lane->room;
}

int rt_lane_push(rt_lane *lane, const rt_message *message)
{
    rt_message head = *message;
    if (lane->room_place >= RT_PLACE_LAST)
        return rt_lane_parts_push(lane, message);
    head.place = lane->room_place;
    return rt_lane_push_slot(lane, &head);
}

const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out)
{
    *status_out = RT_OK;
    uint64_t waiting = rt_load_acquire_u64(lane->arrived) - lane->taken;
    if (waiting == 0)
        return NULL;
    const uint8_t *slot = lane->in + lane->taken % lane->slots * RT_TEAM_SLOT;
    memcpy(&lane->message, slot, sizeof lane->message); /* once: the peer could change it */
    const rt_message *message = &lane->message;
    uint64_t most = message->place == 0 ? RT_TEAM_INLINE : lane->team->options.chunk;
    if (waiting > lane->slots || message->size > most) {
        *status_out = RT_E_PROTOCOL;
        return NULL;
    }
    if (message->place == 0)
        return slot + sizeof *message;
    if (message->place >= RT_PLACE_LAST) {
        const uint8_t *whole = rt_lane_parts_peek(lane, slot + sizeof *message, status_out);
        if (whole != NULL || message->place != RT_PLACE_PART || *status_out != RT_OK || rt_lane_waits_for_memory(lane))
            return whole;
        rt_lane_take(lane);
        return rt_lane_peek(lane, status_out); /* at most as often as there are slots */
    }
    const uint8_t *payload = NULL;
    int status = rt_pair_incoming(lane->team->peers[lane->peer].pair, message->place - 1, &payload);
    *status_out = status == RT_E_AGAIN ? RT_OK : status;
    return payload;
}

/* A peer that is gone needs no answer; a call that waits for it learns that from its channel. */
static void lane_tell(rt_lane *lane)
{
    rt_lane_post_word(lane, lane->tails, lane->taken, lane->taken, RT_BLOCK_ACKED);
    lane->told = lane->taken;
    lane->untold_chunks = 0;
}

void rt_lane_take(rt_lane *lane)
{
    lane->taken++;
    if (lane->message.place >= RT_PLACE_LAST)
        rt_lane_parts_take(lane);
    else
        lane->untold_chunks += lane->message.place != 0;
    if (lane->taken - lane->told >= lane->slots / 2 || lane->untold_chunks >= RT_LANE_CHUNKS_SURE / 2)
        lane_tell(lane);
}

void rt_lane_settle(rt_lane *lane)
{
    if (lane->untold_chunks > 0)
        lane_tell(lane);
}

void rt_lane_drain(rt_lane *lane)
{
    rt_channel *channel = lane->team->peers[lane->peer].channel;
    if (lane->operation <= 0)
        return;
    for (int slice = 0; slice < 20 && rt_op_wait(channel, lane->operation, RT_SLICE_NS) == RT_E_AGAIN; slice++)
        ;
    rt_op_release(channel, lane->operation, NULL);
    lane->operation = 0;
}

void rt_lane_free(rt_lane *lane)
{
    for (uint32_t index = 0; index < RT_LANE_PARTS; index++)
        free(lane->out_parts[index].bytes);
    free(lane->in_parts.bytes);
}
