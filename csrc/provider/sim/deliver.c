/* deliver.c: a work item once it is under way: pieces placed at the target, receives met, answers,
 * retries.
 *
 * The fabric may do the following: pieces of one WRITE come in any order unless the bytes are
 * ordered; a later WRITE may overtake an earlier one unless WRITEs are ordered; a READ may be
 * overtaken unless fenced; anything may be late or be sent again. It never does the following:
 * complete before all pieces are placed, complete out of order, place without key, right and
 * bounds. */
#include <assert.h>
#include <string.h>

#include "provider/sim/sim.h"

/* ---- bytes ---- */

/* Copies between contiguous bytes and a range of a segment list. memmove: both ends may be one party's memory. */
static void range_copy(const rt_segment *segments, uint32_t count, uint64_t offset, uint8_t *bytes, uint64_t size,
                       bool to_segments)
{
    for (uint32_t index = 0; index < count && size != 0; index++) {
        if (offset >= segments[index].size) {
            offset -= segments[index].size;
            continue;
        }
        uint64_t part = segments[index].size - offset;
        if (part > size)
            part = size;
        uint8_t *local = (uint8_t *)segments[index].address + offset;
        memmove(to_segments ? local : bytes, to_segments ? bytes : local, part);
        bytes += part;
        size -= part;
        offset = 0;
    }
    assert(size == 0);
}

static uint64_t segments_size(const rt_segment *segments, uint32_t count)
{
    uint64_t size = 0;
    for (uint32_t index = 0; index < count; index++)
        size += segments[index].size;
    return size;
}

/* ---- delays ---- */

/* Delays an item and everything behind it, so that no promise between them is lost. */
static void item_stall(sim_link *link, sim_item *from, int64_t delta_ns)
{
    sim_world *world = link->device->world;
    rt_sim_trace(world, SIM_TRACE_STALL, link->id, from->position, (uint64_t)delta_ns);
    if (from->phase == SIM_PHASE_ANSWERING) {
        rt_sim_schedule(&world->heap, &from->event, world->now_ns + delta_ns);
        return;
    }
    for (uint32_t position = from->position; position != link->started; position++) {
        sim_item *item = rt_sim_item_at(link, position);
        if (item->phase != SIM_PHASE_PLACING && item->phase != SIM_PHASE_DELIVERING)
            continue;
        for (uint32_t index = item->piece_next; index < item->piece_count; index++)
            item->pieces[index].at_ns += delta_ns;
        item->deliver_ns += delta_ns;
        int64_t due_ns = item == from ? world->now_ns : item->event.at_ns;
        rt_sim_schedule(&world->heap, &item->event, due_ns + delta_ns);
    }
    link->write_floor_ns += delta_ns;
    link->receive_floor_ns += delta_ns;
}

/* The path was closed when a packet of the item came: it is sent again, until the retry time is over. */
static void item_blocked(sim_link *link, sim_item *item)
{
    int64_t now_ns = link->device->world->now_ns, retry_ns = link->device->retry_ns;
    if (item->blocked_since_ns == SIM_NEVER)
        item->blocked_since_ns = now_ns;
    int64_t left_ns = item->blocked_since_ns + retry_ns - now_ns;
    if (left_ns <= 0) {
        rt_sim_link_fail(link, RT_E_PEER_LOST, SIM_CAUSE_RETRY);
        return;
    }
    int64_t step_ns = retry_ns / SIM_RETRY_STEPS;
    item_stall(link, item, step_ns < left_ns ? step_ns : left_ns);
}

/* Whether a packet of the item finds no path. An answer is under way already: only a cut stops
 * it. */
static bool item_is_blocked(const sim_link *link, const sim_item *item, const sim_link *peer)
{
    const sim_world *world = link->device->world;
    if (item->phase != SIM_PHASE_ANSWERING)
        return peer == NULL || rt_sim_path_cut(world, link->device, peer->device);
    if (rt_list_empty(&world->cuts))
        return false;
    RT_LIST_EACH(node, &world->devices) {
        const sim_device *other = RT_LIST_ENTRY(node, sim_device, node);
        if (other->id == link->peer_device)
            return rt_sim_path_cut(world, link->device, other);
    }
    return false;
}

/* ---- answers ---- */

static void item_answer(sim_item *item)
{
    sim_device *device = item->link->device;
    sim_world *world = device->world;
    int64_t delay_ns = rt_sim_latency(world, device, NULL);
    item->phase = SIM_PHASE_ANSWERING;
    rt_sim_schedule(&world->heap, &item->event, world->now_ns + delay_ns);
}

/* The target refuses. It executes no item of this link that was posted after this one. */
static void item_refuse(sim_item *item, int status, uint32_t cause)
{
    sim_link *link = item->link;
    rt_sim_trace(link->device->world, SIM_TRACE_REFUSE, link->id, item->position, cause);
    link->refused = true;
    link->refused_position = item->position;
    item->status = status;
    item->cause = cause;
    item_answer(item);
}

/* The answer has arrived. Completions come in posting order, so an item may wait for earlier
 * ones. */
static void item_answered(sim_link *link, sim_item *item)
{
    rt_sim_trace(link->device->world, SIM_TRACE_ANSWER, link->id, item->position, 0);
    item->phase = SIM_PHASE_DONE;
    if (item->opcode == RT_WORK_READ)
        link->reads--;
    while (link->retired != link->started) {
        const sim_item *head = rt_sim_item_at(link, link->retired);
        if (head->phase != SIM_PHASE_DONE)
            break;
        if (head->status != RT_OK) {
            rt_sim_link_fail(link, head->status, head->cause);
            return;
        }
        link->retired++;
        const sim_entry entry = {.completion = {.token = head->token}, .link = link, .position = head->position};
        if ((head->flags & RT_WORK_SIGNALED) != 0)
            rt_sim_complete(link->device, link->base.send_queue, &entry);
    }
    rt_sim_link_start(link);
}

/* ---- at the target ---- */

static void piece_placed(sim_world *world, sim_link *link, sim_item *item)
{
    if (item->piece_next < item->piece_count)
        rt_sim_schedule(&world->heap, &item->event, item->pieces[item->piece_next].at_ns);
    else if (item->opcode == RT_WORK_WRITE_IMM) {
        item->phase = SIM_PHASE_DELIVERING;
        rt_sim_schedule(&world->heap, &item->event, item->deliver_ns);
    } else if (link->state == SIM_LINK_JOINED)
        item_answer(item);
}

static void piece_place(sim_world *world, sim_link *link, sim_item *item, const sim_link *peer)
{
    sim_device *target = peer->device;
    const sim_piece *piece = &item->pieces[item->piece_next];
    bool reading = item->opcode == RT_WORK_READ;
    if (item->size != 0) {
        const sim_memory *memory = rt_sim_memory_reached(peer, item);
        uint32_t right = reading ? RT_ACCESS_REMOTE_READ : RT_ACCESS_REMOTE_WRITE;
        if (memory == NULL || (memory->base.access & right) == 0 || item->remote_offset > memory->base.size ||
            item->size > memory->base.size - item->remote_offset) {
            item_refuse(item, RT_E_REMOTE_ACCESS, SIM_CAUSE_REMOTE_ACCESS);
            return;
        }
        uint8_t *bytes = (uint8_t *)memory->base.address + item->remote_offset + piece->offset;
        range_copy(item->segments, item->segment_count, piece->offset, bytes, piece->size, reading);
    }
    rt_sim_trace(world, reading ? SIM_TRACE_READ : SIM_TRACE_PIECE, (uint64_t)link->id << 32 | item->position, piece->offset,
                 piece->size);
    item->piece_next++;
    if (!reading && target->base.limits.can_wake_receiver) {
        target->epoch++;
        rt_sim_happen(target, false);
    }
    piece_placed(world, link, item);
}

/* A SEND, or the immediate of a WRITE_IMM, meets the oldest RECV. */
static void item_deliver(sim_world *world, sim_link *link, sim_item *item, sim_link *peer)
{
    if (peer->receive_tail == peer->receive_head) {
        if (++link->rnr_tries > SIM_RNR_TRIES)
            item_refuse(item, RT_E_PEER_LOST, SIM_CAUSE_NO_RECEIVE);
        else
            item_stall(link, item, link->device->retry_ns / SIM_RETRY_STEPS);
        return;
    }
    link->rnr_tries = 0;
    const sim_receive *receive = &peer->receives[peer->receive_tail & peer->receive_mask];
    bool sending = item->opcode == RT_WORK_SEND;
    if (sending && item->size > segments_size(receive->segments, receive->segment_count)) {
        item_refuse(item, RT_E_REMOTE_ACCESS, SIM_CAUSE_REMOTE_REQUEST);
        return;
    }
    rt_sim_trace(world, SIM_TRACE_DELIVER, link->id, item->position, item->size);
    uint64_t offset = 0;
    for (uint32_t index = 0; sending && index < item->segment_count; index++) {
        const rt_segment *segment = &item->segments[index];
        range_copy(receive->segments, receive->segment_count, offset, segment->address, segment->size, true);
        offset += segment->size;
    }
    rt_sim_receive_complete(peer, RT_OK, SIM_CAUSE_NONE, (uint32_t)item->size, sending ? NULL : &item->immediate);
    item_answer(item);
}

void rt_sim_item_fire(sim_world *world, sim_event *event)
{
    sim_item *item = RT_LIST_ENTRY(event, sim_item, event);
    sim_link *link = item->link;
    bool failed = link->state == SIM_LINK_ERROR; /* items under way go on until the flush, but are not sent again */
    if (link->refused && (int32_t)(item->position - link->refused_position) > 0)
        return;
    sim_link *peer = rt_sim_link_peer(link);
    if (item_is_blocked(link, item, peer)) {
        if (!failed)
            item_blocked(link, item);
        return;
    }
    if (failed && (item->phase != SIM_PHASE_PLACING || item->piece_next == item->piece_count))
        return;
    if (!failed && (rt_sim_random(&world->random) >> 32) < world->drop_per_2_32) {
        item_stall(link, item, 4 * rt_sim_latency(world, link->device, peer == NULL ? NULL : peer->device));
        return;
    }
    item->blocked_since_ns = SIM_NEVER;
    switch ((enum sim_phase)item->phase) {
    case SIM_PHASE_PLACING: piece_place(world, link, item, peer); break;
    case SIM_PHASE_DELIVERING: item_deliver(world, link, item, peer); break;
    case SIM_PHASE_ANSWERING: item_answered(link, item); break;
    case SIM_PHASE_QUEUED:
    case SIM_PHASE_DONE: assert(false);
    }
}
