/* lane_slot.c: the WRITEs of a lane: of a slot, of a chunk, of a word. HOT: no allocation, no lock, no
 * log. */
#include <string.h>

#include "base/waiter.h"
#include "channel/channel.h"
#include "channel/op.h"
#include "channel/remote.h"
#include "device/device.h"
#include "region/region.h"
#include "team/block.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/pair.h"
#include "team/team.h"

/* Room in a send queue comes when completions are polled, usually within a yield or two; no event
 * ends the wait. */
static const rt_wait_mode for_room = {.yields = 64};

static void device_progress_or_nap(rt_device *device, rt_waiter *waiter)
{
    if (rt_device_progress(device) > 0)
        rt_waiter_moved(waiter);
    else
        rt_waiter_idle(waiter); /* a signal ends only the nap */
}

/* Waits until a WRITE is wholly with the provider. Its member may be done with its message and not
 * poll again, so a WRITE that still waited for room in a full send queue would never reach a peer
 * that waits for it. Completions make room without the peer's help; a channel that fails ends the
 * wait. */
void rt_lane_until_posted(rt_device *device, rt_channel *channel, int64_t number)
{
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &for_room, INT64_MAX);
    while (!rt_op_posted(channel, number))
        device_progress_or_nap(device, &waiter);
}

/* One end of a WRITE. */
typedef struct rt_from {
    rt_region *region;
    uint64_t offset;
} rt_from;

typedef struct rt_to {
    rt_remote *remote;
    uint64_t offset;
} rt_to;

/* All WRITEs of a lane go over one QP, which completes them in order, so the last one stands for all;
 * the others are left to complete. A lane keeps no more, since a QP has room for so many operations,
 * and the lanes of all teams share it. */
static int lane_post(rt_lane *lane, rt_from from, rt_to to, uint64_t size)
{
    rt_channel *channel = lane->team->peers[lane->peer].channel;
    int64_t number;
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &for_room, INT64_MAX);
    for (;;) {
        number = rt_channel_copy(channel, -1, RT_WRITE, to.remote, to.offset, from.region, from.offset, size, 0);
        if (number != RT_E_BUSY)
            break;
        device_progress_or_nap(lane->team->device,
                               &waiter); /* too many transfers of this QP are under way, those of other teams included */
    }
    if (number < 0)
        return (int)number;
    if (number == 0)
        return RT_OK;
    rt_lane_until_posted(lane->team->device, channel, number);
    if (lane->operation > 0)
        rt_op_release(channel, lane->operation, NULL);
    lane->operation = number;
    return RT_OK;
}

/* All WRITEs of a channel's teams go over its first QP. A READ on it is served after the WRITEs before
 * it, and its answer leaves the peer's memory only when they are placed there. */
int rt_lane_fence(rt_team *team, uint32_t rank, uint32_t slices)
{
    const rt_peer *peer = &team->peers[rank];
    int64_t number;
    rt_waiter waiter;
    if (!team->fences)
        return RT_OK;
    rt_waiter_begin(&waiter, &for_room, INT64_MAX);
    while ((number = rt_channel_copy(peer->channel, -1, RT_READ, peer->remote, peer->remote_at, team->words,
                                     team->words_at + rt_words_fence_at(), sizeof(uint64_t), 0)) == RT_E_BUSY)
        device_progress_or_nap(team->device, &waiter);
    if (number <= 0)
        return (int)number;
    int status = RT_E_AGAIN;
    for (uint32_t slice = 0; slice < slices && status == RT_E_AGAIN; slice++)
        status = rt_op_wait(peer->channel, number, RT_SLICE_NS);
    rt_op_release(peer->channel, number, NULL);
    return status;
}

int rt_lane_post_word(rt_lane *lane, uint64_t words, uint64_t sequence, uint64_t value, enum rt_block_word to)
{
    const rt_team *team = lane->team;
    const rt_peer *peer = &team->peers[lane->peer];
    uint64_t from = words + sequence % lane->slots * sizeof value;
    int status = rt_lane_fence(lane->team, lane->peer, UINT32_MAX); /* ends with the channel at the latest */
    if (status != RT_OK)
        return status;
    memcpy(team->words->address + from, &value, sizeof value);
    return lane_post(lane, (rt_from){team->words, from},
                     (rt_to){peer->remote, peer->remote_at + rt_block_word_at(to, lane->kind)}, sizeof value);
}

/* Where memory cannot be mapped: posts the payload of a chunk, and the slot. */
static int lane_post_message(rt_lane *lane, uint64_t sequence, const rt_message *message)
{
    const rt_peer *peer = &lane->team->peers[lane->peer];
    uint64_t place = sequence % lane->slots * RT_TEAM_SLOT, size = sizeof *message;
    int status = RT_OK;
    if (message->place == 0 || message->place >= RT_PLACE_LAST)
        size += message->size;
    else
        status = lane_post(lane, (rt_from){peer->pair->region, rt_pair_out_at(peer->pair, message->place - 1)},
                           (rt_to){peer->pair->remote, rt_pair_in_at(peer->pair, message->place - 1)}, message->size);
    if (status != RT_OK)
        return status;
    uint64_t from = (uint64_t)(lane->out - peer->region->address) + place;
    uint64_t to = peer->remote_at + rt_block_slots_at(&lane->team->options, lane->kind, true) + place;
    return lane_post(lane, (rt_from){peer->region, from}, (rt_to){peer->remote, to}, size);
}

int rt_lane_push_slot(rt_lane *lane, const rt_message *head)
{
    uint64_t sequence = lane->sent;
    int status = RT_OK;
    memcpy(rt_lane_slot(lane) - RT_TEAM_LINE, head, sizeof *head);
    if (!lane->team->maps)
        status = lane_post_message(lane, sequence, head);
    if (status == RT_OK)
        status = rt_lane_post_word(lane, lane->heads, sequence, sequence + 1, RT_BLOCK_ARRIVED);
    lane->sent++;
    return status;
}
