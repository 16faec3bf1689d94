/* lane.c: messages from member to member. A message is put into a slot of the sender's own region; where the provider maps
 * memory the receiver reads it there, elsewhere a WRITE copies it into the receiver's region; then a WRITE of 8 bytes says
 * that it has arrived, and one back, for several messages at once, that it was taken. HOT: no allocation, no lock, no log. */
#include "collective/collective.h"

#include <sched.h>
#include <string.h>

enum { OPERATION_PAYLOAD = 0, OPERATION_HEAD = 1, OPERATION_ACK = 2 };

/* The place of a WRITE's number; what was there has ended by now, since the peer has answered it. */
static int64_t *operation_of(rt_lane *lane, uint32_t which, uint64_t sequence)
{
    int64_t *number = &lane->operations[3 * (sequence % lane->team->options.slots) + which];
    if (*number > 0) {
        rt_op_release(lane->team->peers[lane->peer].channel, *number, NULL);
        *number = 0;
    }
    return number;
}

/* Sees to it that a WRITE is with the provider. Its member may be done with this message and look at nothing again, and one that
 * still waited for room in a full send queue would never reach a peer that waits for it. Completions make room without the peer's
 * doing; a channel that fails ends the wait. */
static void until_posted(const rt_lane *lane, int64_t number)
{
    while (!rt_op_posted(lane->team->peers[lane->peer].channel, number)) {
        if (rt_device_progress(lane->team->device) <= 0)
            sched_yield();
    }
}

static int post(rt_lane *lane, uint32_t which, uint64_t sequence, uint64_t from, uint64_t to, uint64_t size)
{
    const rt_peer *peer = &lane->team->peers[lane->peer];
    int64_t *number = operation_of(lane, which, sequence);
    for (;;) {
        *number = rt_channel_copy(peer->channel, -1, RT_WRITE, peer->remote, to, lane->team->region, from, size, 0);
        if (*number != RT_E_BUSY)
            break;
        rt_device_progress(lane->team->device); /* too many transfers of this QP are under way: other teams' as well */
    }
    if (*number >= 0) {
        until_posted(lane, *number);
        return RT_OK;
    }
    int status = (int)*number;
    *number = 0;
    return status;
}

static int post_word(rt_lane *lane, uint32_t which, uint64_t words, uint64_t sequence, uint64_t value, uint64_t to)
{
    uint64_t from = words + sequence % lane->team->options.slots * sizeof(uint64_t);
    memcpy(lane->team->region->address + from, &value, sizeof value);
    return post(lane, which, sequence, from, to, sizeof value);
}

rt_message *rt_lane_room(rt_lane *lane)
{
    uint64_t under_way = lane->sent - rt_load_acquire_u64(lane->acked);
    if (under_way >= lane->team->options.slots) /* also when the peer's word is nonsense: then for ever */
        return NULL;
    return (rt_message *)(void *)(lane->out + lane->sent % lane->team->options.slots * lane->team->stride);
}

int rt_lane_push(rt_lane *lane, rt_message *message)
{
    uint64_t sequence = lane->sent;
    int status = RT_OK;
    if (!lane->team->maps) {
        uint64_t place = sequence % lane->team->options.slots * lane->team->stride;
        uint64_t from = (uint64_t)((uint8_t *)message - lane->team->region->address);
        status = post(lane, OPERATION_PAYLOAD, sequence, from, lane->remote_in + place, sizeof *message + message->size);
    }
    if (status == RT_OK)
        status = post_word(lane, OPERATION_HEAD, lane->heads, sequence, sequence + 1, lane->remote_arrived);
    lane->sent++;
    return status;
}

const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out)
{
    *status_out = RT_OK;
    uint64_t waiting = rt_load_acquire_u64(lane->arrived) - lane->taken;
    if (waiting == 0)
        return NULL;
    const uint8_t *slot = lane->in + lane->taken % lane->team->options.slots * lane->team->stride;
    memcpy(&lane->message, slot, sizeof lane->message); /* once: the peer could change it */
    if (waiting > lane->team->options.slots || lane->message.size > lane->team->options.chunk) {
        *status_out = RT_E_PROTOCOL;
        return NULL;
    }
    return slot + sizeof lane->message;
}

void rt_lane_take(rt_lane *lane)
{
    lane->taken++;
    if (lane->taken - lane->told < lane->team->options.slots / 2)
        return;
    /* A peer that is gone needs no answer, and whoever waits for it finds out. */
    post_word(lane, OPERATION_ACK, lane->tails, lane->taken, lane->taken, lane->remote_acked);
    lane->told = lane->taken;
}

void rt_lane_drain(rt_lane *lane)
{
    rt_channel *channel = lane->team->peers[lane->peer].channel;
    for (uint32_t index = 0; index < 3 * lane->team->options.slots; index++) {
        if (lane->operations[index] <= 0)
            continue;
        for (int slice = 0; slice < 20 && rt_op_wait(channel, lane->operations[index], RT_SLICE_NS) == RT_E_AGAIN; slice++)
            ;
        rt_op_release(channel, lane->operations[index], NULL);
        lane->operations[index] = 0;
    }
}
