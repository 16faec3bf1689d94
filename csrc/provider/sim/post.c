/* post.c: taking work items, and planning when their pieces are placed.
 *
 * An item is planned when it starts: at post, or when the READs before its fence are done. The cost
 * model gives the times at which its first and last bytes reach the target; the seed gives cuts and
 * delays; the link's promises then hold back pieces that must not come early. deliver.c executes
 * the plan. HOT by the seam's rules: no allocation, no system call. */
#include <assert.h>
#include <string.h>

#include "provider/sim/sim.h"

typedef struct travel {
    int64_t first_ns, last_ns; /* arrival of the first and of the last byte */
    uint64_t bytes_per_us;
} travel;

/* Sends bytes from one NIC to another: each NIC passes one byte after the other. `to` may be NULL:
 * the peer is gone. */
static travel bytes_send(sim_world *world, sim_device *from, sim_device *to, int64_t start_ns, uint64_t size)
{
    travel result = {.bytes_per_us = from->bytes_per_us};
    if (to != NULL && to->bytes_per_us < result.bytes_per_us)
        result.bytes_per_us = to->bytes_per_us;
    int64_t sending_ns = (int64_t)(size * 1000 / from->bytes_per_us);
    int64_t taking_ns = (int64_t)(size * 1000 / result.bytes_per_us);
    int64_t begin_ns = start_ns > from->egress_free_ns ? start_ns : from->egress_free_ns;
    from->egress_free_ns = begin_ns + sending_ns;
    result.first_ns = begin_ns + rt_sim_latency(world, from, to);
    if (to != NULL && to->ingress_free_ns > result.first_ns)
        result.first_ns = to->ingress_free_ns;
    result.last_ns = result.first_ns + taking_ns;
    if (to != NULL)
        to->ingress_free_ns = result.last_ns;
    return result;
}

static bool limit_promised(const sim_link *link, const sim_device *target, size_t limit)
{
    bool here = *((const bool *)((const uint8_t *)&link->device->base.limits + limit));
    return here || (target != NULL && *((const bool *)((const uint8_t *)&target->base.limits + limit)));
}

#define PROMISED(link, target, name) limit_promised(link, target, offsetof(rt_limits, name))

/* Whether the item must be placed after all WRITEs before it: so the promise says, unless the
 * target memory gave it up. */
static bool item_is_ordered(const sim_item *item, const sim_device *target, const sim_memory *memory)
{
    if (memory != NULL && (memory->base.access & RT_ACCESS_RELAXED_ORDER) != 0 && item->opcode != RT_WORK_SEND)
        return false;
    return PROMISED(item->link, target, orders_writes);
}

static bool item_is_word(const sim_item *item, const sim_device *target, const sim_memory *memory)
{
    if (item->opcode != RT_WORK_WRITE || item->size != 8 || memory == NULL || !PROMISED(item->link, target, places_words_whole))
        return false;
    return ((uintptr_t)memory->base.address + item->remote_offset) % 8 == 0;
}

/* Cuts an item's bytes into 1 to SIM_PIECES_MAX pieces at seeded places, ascending. */
static void pieces_cut(sim_world *world, sim_item *item, bool whole)
{
    uint64_t cuts[SIM_PIECES_MAX + 1];
    uint64_t most = item->size < SIM_PIECES_MAX ? item->size : SIM_PIECES_MAX;
    uint32_t count = whole || most <= 1 ? 1 : 1 + (uint32_t)rt_sim_random_below(&world->random, most);
    cuts[0] = 0;
    uint32_t used = 1;
    for (uint32_t index = 1; index < count; index++) {
        uint64_t cut = 1 + rt_sim_random_below(&world->random, item->size - 1);
        uint32_t at = used;
        for (; at > 0 && cuts[at - 1] > cut; at--)
            cuts[at] = cuts[at - 1];
        if (cuts[at - 1] == cut) {
            memmove(&cuts[at], &cuts[at + 1], (used - at) * sizeof cuts[0]);
            continue;
        }
        cuts[at] = cut;
        used++;
    }
    cuts[used] = item->size;
    for (uint32_t index = 0; index < used; index++)
        item->pieces[index] = (sim_piece){.offset = cuts[index], .size = cuts[index + 1] - cuts[index]};
    item->piece_count = (uint8_t)used;
    item->piece_next = 0;
}

static void pieces_sort(sim_item *item)
{
    for (uint32_t index = 1; index < item->piece_count; index++) {
        const sim_piece piece = item->pieces[index];
        uint32_t at = index;
        for (; at > 0 && item->pieces[at - 1].at_ns > piece.at_ns; at--)
            item->pieces[at] = item->pieces[at - 1];
        item->pieces[at] = piece;
    }
}

/* Gives every piece its time. Returns the last. */
static int64_t pieces_time(sim_world *world, sim_item *item, const travel *way, int64_t floor_ns, bool ascending)
{
    const sim_device *device = item->link->device;
    int64_t last_ns = floor_ns, before_ns = floor_ns;
    for (uint32_t index = 0; index < item->piece_count; index++) {
        sim_piece *piece = &item->pieces[index];
        piece->at_ns = way->first_ns + (int64_t)((piece->offset + piece->size) * 1000 / way->bytes_per_us);
        piece->at_ns += (int64_t)rt_sim_random_below(&world->random, (uint64_t)device->jitter_ns + 1);
        if (piece->at_ns < before_ns)
            piece->at_ns = before_ns;
        if (ascending)
            before_ns = piece->at_ns;
        if (piece->at_ns > last_ns)
            last_ns = piece->at_ns;
    }
    pieces_sort(item);
    return last_ns;
}

static void item_start(sim_item *item)
{
    sim_link *link = item->link;
    sim_device *device = link->device;
    sim_world *world = device->world;
    const sim_link *peer = rt_sim_link_peer(link);
    sim_device *target = peer == NULL ? NULL : peer->device;
    const sim_memory *memory = target == NULL || item->size == 0 ? NULL : rt_sim_memory_reached(peer, item);
    bool word = item_is_word(item, target, memory);
    bool ordered = word || item_is_ordered(item, target, memory);
    int64_t floor_ns = ordered ? link->write_floor_ns + 1 : 0;
    travel way;
    if (item->opcode == RT_WORK_READ && target != NULL)
        way = bytes_send(world, target, device, world->now_ns + rt_sim_latency(world, device, target), item->size);
    else
        way = bytes_send(world, device, target, world->now_ns, item->size);
    pieces_cut(world, item, word || !world->tears || item->opcode == RT_WORK_SEND);
    bool ascending = PROMISED(link, target, orders_bytes_within_a_write) && item->opcode != RT_WORK_READ;
    int64_t last_ns = pieces_time(world, item, &way, floor_ns, ascending);
    item->deliver_ns = last_ns;
    if (item->opcode == RT_WORK_SEND || item->opcode == RT_WORK_WRITE_IMM) {
        if (item->deliver_ns <= link->receive_floor_ns)
            item->deliver_ns = link->receive_floor_ns + 1;
        link->receive_floor_ns = item->deliver_ns;
    }
    if (item->opcode == RT_WORK_READ)
        link->reads++;
    else if (item->deliver_ns > link->write_floor_ns)
        link->write_floor_ns = item->deliver_ns;
    item->phase = item->opcode == RT_WORK_SEND ? SIM_PHASE_DELIVERING : SIM_PHASE_PLACING;
    rt_sim_schedule(&world->heap, &item->event, item->opcode == RT_WORK_SEND ? item->deliver_ns : item->pieces[0].at_ns);
}

void rt_sim_link_start(sim_link *link)
{
    while (link->state == SIM_LINK_JOINED && link->started != link->posted) {
        sim_item *item = rt_sim_item_at(link, link->started);
        if ((item->flags & RT_WORK_FENCE) != 0 && link->reads > 0)
            return;
        if (item->opcode == RT_WORK_READ && link->reads >= link->device->base.limits.read_depth)
            return;
        item_start(item);
        link->started++;
    }
}

/* ---- taking items ---- */

static uint64_t segments_take(const rt_limits *limits, const rt_work *work, rt_segment *segments_out)
{
    uint64_t size = 0;
    assert(work->segment_count <= limits->segments_max);
    for (uint32_t index = 0; index < work->segment_count; index++) {
        const rt_segment *segment = &work->segments[index];
        const rt_pmemory *memory = segment->memory;
        assert(memory != NULL || (work->flags & RT_WORK_INLINE) != 0);
        if (memory != NULL) {
            uintptr_t begin = (uintptr_t)memory->address, at = (uintptr_t)segment->address;
            assert(at >= begin && at - begin <= memory->size && segment->size <= memory->size - (at - begin));
            (void)begin, (void)at;
        }
        segments_out[index] = *segment;
        size += segment->size;
    }
    (void)limits;
    return size;
}

static void inline_take(const rt_limits *limits, const rt_work *work, sim_item *item)
{
    assert(item->size <= limits->inline_size_max && work->opcode != RT_WORK_READ);
    (void)limits;
    uint64_t at = 0;
    for (uint32_t index = 0; index < work->segment_count; index++) {
        if (work->segments[index].size != 0)
            memcpy(item->inline_bytes + at, work->segments[index].address, work->segments[index].size);
        at += work->segments[index].size;
    }
    item->segments[0] = (rt_segment){.memory = NULL, .address = item->inline_bytes, .size = item->size};
    item->segment_count = 1;
}

static void item_take(sim_link *link, const rt_work *work)
{
    const rt_limits *limits = &link->device->base.limits;
    sim_item *item = rt_sim_item_at(link, link->posted);
    assert(work->opcode >= RT_WORK_WRITE && work->opcode <= RT_WORK_SEND);
    item->position = link->posted;
    item->opcode = work->opcode;
    item->flags = work->flags;
    item->phase = SIM_PHASE_QUEUED;
    item->segment_count = work->segment_count;
    item->immediate = work->immediate;
    item->status = RT_OK;
    item->cause = SIM_CAUSE_NONE;
    item->blocked_since_ns = SIM_NEVER;
    item->token = work->token;
    item->remote_offset = work->remote_offset;
    item->size = segments_take(limits, work, item->segments);
    item->remote = (sim_reference){.slot = UINT32_MAX, .nonce = 0};
    item->windowed = false;
    assert(item->size <= (work->opcode == RT_WORK_SEND ? limits->send_size_max : limits->message_size_max));
    assert(work->opcode != RT_WORK_WRITE_IMM || limits->carries_immediate);
    assert(work->opcode != RT_WORK_READ || limits->read_depth > 0);
    if (work->remote != NULL && work->opcode != RT_WORK_SEND) {
        assert(work->remote_offset <= work->remote->size && item->size <= work->remote->size - work->remote_offset);
        item->remote = ((const sim_remote *)work->remote)->reference;
        item->windowed = ((const sim_remote *)work->remote)->windowed;
    }
    if ((work->flags & RT_WORK_INLINE) != 0)
        inline_take(limits, work, item);
    link->posted++;
}

static void receive_take(sim_link *link, const rt_work *work)
{
    sim_receive *receive = &link->receives[link->receive_head & link->receive_mask];
    receive->token = work->token;
    receive->segment_count = work->segment_count;
    segments_take(&link->device->base.limits, work, receive->segments);
    link->receive_head++;
}

int rt_sim_post(rt_plink *plink, const rt_work *items, uint32_t count, rt_posted *posted_out)
{
    sim_link *link = (sim_link *)plink;
    const rt_limits *limits = &link->device->base.limits;
    *posted_out = (rt_posted){.accepted = 0, .completed = 0};
    int status = rt_sim_refused(link->device, SIM_CALL_POST, "post", NULL);
    if (status == RT_E_AGAIN)
        return RT_OK; /* a fault plan under which no item is taken */
    if (status != RT_OK) {
        rt_sim_link_shut(plink); /* an error belongs to the link, and sticks */
        return status;
    }
    bool receives = count > 0 && items[0].opcode == RT_WORK_RECV;
    assert(receives || link->state != SIM_LINK_NEW);
    uint32_t taken = 0;
    for (; taken < count; taken++) {
        assert((items[taken].opcode == RT_WORK_RECV) == receives);
        bool full = receives ? link->receive_head - link->receive_tail >= limits->receive_depth
                             : link->posted - link->released >= limits->work_depth;
        if (full)
            break;
        if (receives)
            receive_take(link, &items[taken]);
        else
            item_take(link, &items[taken]);
    }
    posted_out->accepted = taken;
    if (link->state == SIM_LINK_ERROR)
        rt_sim_link_flush_soon(link);
    else
        rt_sim_link_start(link);
    return RT_OK;
}
