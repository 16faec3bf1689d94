/* lane_parts.c: messages larger than a slot that go through the slots in parts, because all chunks of
 * the pair are in use. Chunks serve the lanes of all teams, so a lane could wait for a chunk that
 * comes back only when its own call goes on; its slots belong to it alone. It is the slow way, taken
 * when no chunk came for a while. Messages wait here in order, as many as there would be chunks. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/team.h"

enum { PATIENCE_NS = RT_NS_PER_MS };

static bool parts_allocate(const rt_lane *lane, rt_parts *parts)
{
    if (parts->bytes == NULL)
        parts->bytes = malloc(lane->team->options.chunk);
    return parts->bytes != NULL;
}

/* ---- sending ---- */

static rt_parts *parts_next(rt_lane *lane)
{
    return &lane->out_parts[(lane->parts_first + lane->parts_count) % RT_LANE_PARTS];
}

uint8_t *rt_lane_parts_room(rt_lane *lane)
{
    if (lane->kind != RT_LANE_COLLECTIVE)
        return NULL; /* transfers have a chunk in reserve, and it always comes back */
    int64_t now = rt_clock_now_ns();
    if (lane->short_since_ns == 0)
        lane->short_since_ns = now;
    bool waits = lane->parts_count == 0 && now - lane->short_since_ns < PATIENCE_NS;
    if (waits || lane->parts_count == RT_LANE_PARTS || !parts_allocate(lane, parts_next(lane)))
        return NULL;
    lane->room_place = RT_PLACE_PART;
    lane->room = parts_next(lane)->bytes;
    return lane->room;
}

int rt_lane_parts_push(rt_lane *lane, const rt_message *message)
{
    rt_parts *parts = parts_next(lane);
    parts->head = *message;
    parts->size = message->size;
    parts->done = 0;
    lane->parts_count++;
    return rt_lane_flush(lane);
}

/* Sends one part; a message that fits goes whole. */
static int parts_send_one(rt_lane *lane, rt_parts *parts)
{
    rt_message head = parts->head;
    uint64_t left = parts->size - parts->done;
    head.size = left < RT_TEAM_INLINE ? left : RT_TEAM_INLINE;
    head.place = parts->size <= RT_TEAM_INLINE ? 0 : head.size < left ? RT_PLACE_PART : RT_PLACE_LAST;
    memcpy(rt_lane_slot(lane), parts->bytes + parts->done, head.size);
    parts->done += head.size;
    return rt_lane_push_slot(lane, &head);
}

int rt_lane_flush(rt_lane *lane)
{
    while (lane->parts_count > 0 && lane->parts_status == RT_OK && rt_lane_has_slot(lane)) {
        rt_parts *parts = &lane->out_parts[lane->parts_first];
        lane->parts_status = parts_send_one(lane, parts);
        if (lane->parts_status != RT_OK || parts->done < parts->size)
            continue;
        lane->parts_first = (lane->parts_first + 1) % RT_LANE_PARTS;
        lane->parts_count--;
    }
    return lane->parts_status;
}

/* ---- receiving: `size` is set once the last part has come ---- */

const uint8_t *rt_lane_parts_peek(rt_lane *lane, const uint8_t *part, int *status_out)
{
    rt_parts *parts = &lane->in_parts;
    const rt_message *head = &lane->message;
    if (parts->size == 0) {
        if (lane->kind != RT_LANE_COLLECTIVE || head->size == 0 || head->size > RT_TEAM_INLINE ||
            head->size > lane->team->options.chunk - parts->done) {
            *status_out = RT_E_PROTOCOL;
            return NULL;
        }
        if (!parts_allocate(lane, parts))
            return NULL; /* the part waits until there is memory */
        memcpy(parts->bytes + parts->done, part, head->size);
        parts->done += head->size;
        if (head->place == RT_PLACE_PART)
            return NULL;
        parts->size = parts->done;
    }
    lane->message.size = parts->size;
    return parts->bytes;
}

void rt_lane_parts_take(rt_lane *lane)
{
    rt_parts *parts = &lane->in_parts;
    if (parts->size > 0)
        parts->size = parts->done = 0;
}
