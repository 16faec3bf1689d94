/* edge_dynamic.c: sending on a dynamic edge: the record, an eager tensor in front of it, keys of regions that tensors lie in, and what
 * stays as it is until the receiver has released it (EDGES.md section 7). */
#include <string.h>

#include "core/edge.h"

typedef struct dynamic {
    rt_edge *edge;
    const rt_edge_tensor *tensor;
    uint64_t size, item_size;
    uint64_t sequence;
    int64_t end_ns;
    bool waited;
    bool eager;
    rt_region *region;      /* where it is taken from; NULL of an eager one: copied behind the source words */
    uint64_t offset;        /* in it */
    uint32_t key;           /* of a fetched one */
    rt_edge_memory staging; /* of a fetched one that had to be copied */
} dynamic;

/* RT_OK: the edge's turn is held and the next sequence may be sent. */
static int look(void *object)
{
    dynamic *send = object;
    rt_turn_take(&send->edge->turn);
    int status = rt_edge_may_send(send->edge, &send->sequence);
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN && !send->waited) {
        send->edge->stats.waits++;
        send->waited = true;
    }
    rt_turn_leave(&send->edge->turn);
    return status;
}

/* ---- keys ---- */

/* The key of a region; edge->turn held. */
static bool find_key(const rt_edge *edge, const rt_region *region, uint32_t *key_out)
{
    for (uint32_t key = 0; key < edge->key_count; key++) {
        if (edge->keys[key] == region) {
            *key_out = key;
            return true;
        }
    }
    return false;
}

/* Takes the receiver's answer to the ADD_KEY that is outstanding, whichever region it was for. RT_E_AGAIN: not yet. device->lock held. */
static int take_answer(rt_edge *edge, rt_detail *detail)
{
    rt_region *region = edge->asked_region;
    if (edge->ask.state != RT_ASK_DONE)
        return rt_channel_state(edge->channel) == RT_CHANNEL_READY ? RT_E_AGAIN : rt_channel_refuse(edge->channel, detail);
    edge->ask.state = RT_ASK_NONE;
    edge->asked_region = NULL;
    if (edge->ask.answer.kind == RT_EDGE_EDGE_REFUSED) {
        rt_region_unreference(region);
        return rt_fail(detail, rt_edge_refusal_status(edge->ask.answer.refusal), 0,
                       "the receiver did not take another region of tensors: %s", edge->ask.answer.text);
    }
    rt_turn_take(&edge->turn);
    edge->keys[edge->key_count] = region;
    edge->key_sizes[edge->key_count] = region->size;
    edge->key_count++;
    edge->stats.keys = edge->key_count;
    rt_turn_leave(&edge->turn);
    return RT_OK;
}

/* Asks for a key of the region; the answer comes later. device->lock held. */
static int ask_for_key(rt_edge *edge, rt_region *region, rt_detail *detail)
{
    rt_edge_message message = {.kind = RT_EDGE_ADD_KEY, .number = edge->number, .key = (uint16_t)edge->key_count};
    size_t size = 0;
    if (edge->key_count == RT_EDGE_KEYS_MAX)
        return rt_fail(detail, RT_E_BUSY, 0, "its tensors come from more than %d regions: take them from fewer",
                       RT_EDGE_KEYS_MAX);
    int status = rt_region_handle(region, 0, region->size, message.tensors.bytes, &size, detail);
    message.tensors.size = (uint8_t)size;
    if (status == RT_OK)
        status = rt_edge_ask(edge, &message);
    if (status != RT_OK)
        return status;
    edge->asked_region = region;
    rt_region_reference(region);
    return RT_OK;
}

/* Announces a region to the receiver and waits until it knows it. An answer to what was asked before, when a slice ended, is taken
 * first. Without any turn. */
static int add_key(rt_edge *edge, rt_region *region, int64_t end_ns, rt_detail *detail)
{
    rt_device *device = edge->device;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire), key;
        pthread_mutex_lock(&device->lock);
        bool mine = edge->asked_region == region || edge->close_wanted;
        int status = edge->close_wanted ? RT_E_CLOSED : edge->asked_region != NULL ? take_answer(edge, detail) : RT_OK;
        if (status != RT_OK && status != RT_E_AGAIN && !mine && rt_channel_state(edge->channel) == RT_CHANNEL_READY)
            status = RT_OK; /* another region was refused: its own sender hears of it */
        rt_turn_take(&edge->turn);
        bool known = find_key(edge, region, &key);
        rt_turn_leave(&edge->turn);
        if (status == RT_OK && !known)
            status = ask_for_key(edge, region, detail);
        pthread_mutex_unlock(&device->lock);
        if (known)
            return RT_OK;
        if (status == RT_OK || status == RT_E_AGAIN)
            status = rt_service_wait(device, seen, end_ns);
        if (status != RT_OK)
            return status;
    }
}

/* ---- where it is taken from ---- */

/* A buffer of an earlier tensor that was released, if one is large enough: nothing is registered for tensors that follow each other. */
static void take_staged(dynamic *send)
{
    rt_edge *edge = send->edge;
    rt_turn_take(&edge->turn);
    rt_edge_memory *found = edge->spare.region != NULL && edge->spare.size >= send->size ? &edge->spare : NULL;
    for (uint32_t slot = 0; found == NULL && slot < edge->tx.slots; slot++) {
        rt_edge_sent *sent = &edge->sent[slot];
        bool fits = sent->staging.region != NULL && sent->staging.size >= send->size && sent->staging.size / 4 <= send->size;
        found = fits && sent->staged <= edge->tx.released ? &sent->staging : NULL;
    }
    if (found != NULL) {
        send->staging = *found;
        *found = (rt_edge_memory){.region = NULL};
    }
    rt_turn_leave(&edge->turn);
}

/* Copies it into registered memory that the receiver can READ. Without any turn. */
static int stage(dynamic *send)
{
    rt_edge *edge = send->edge;
    bool registered = false;
    take_staged(send);
    int status = send->staging.region != NULL ? RT_OK
                                              : rt_edge_memory_take(edge->device, RT_RIGHT_REMOTE_READ, send->size,
                                                                    RT_EDGE_LINE_SIZE, &send->staging, &registered, NULL);
    if (status != RT_OK)
        return status;
    rt_edge_gather(send->tensor, send->item_size, 0, send->size, send->staging.address);
    send->region = send->staging.region;
    send->offset = send->staging.offset;
    rt_turn_take(&edge->turn);
    edge->stats.copies++;
    edge->stats.copied_bytes += send->size;
    edge->stats.registrations += registered;
    rt_turn_leave(&edge->turn);
    return RT_OK;
}

/* The region that holds a contiguous tensor, or NULL. The device's list of regions may be searched: without any turn. */
static rt_region *region_of(dynamic *send)
{
    rt_edge *edge = send->edge;
    uint64_t run_size;
    bool left = false;
    if (edge->staging_wanted || send->size == 0 || rt_edge_runs(send->tensor, send->item_size, &run_size) != 1)
        return NULL;
    rt_turn_take(&edge->turn);
    rt_region *region = send->eager && edge->device->limits.local_anywhere
                            ? edge->device->anywhere
                            : rt_edge_region_of(edge, send->tensor->address, send->size, &left);
    rt_turn_leave(&edge->turn);
    return region;
}

/* Finds where the receiver will READ it, and sees to it that the receiver knows that region. Without any turn. */
static int place(dynamic *send)
{
    rt_edge *edge = send->edge;
    send->region = region_of(send);
    if (send->region != NULL)
        send->offset = send->tensor->address - (uint64_t)(uintptr_t)send->region->address;
    if (send->eager)
        return RT_OK;
    bool readable = send->region != NULL && (send->region->rights & RT_RIGHT_REMOTE_READ) != 0 &&
                    (send->region->rights & RT_RIGHT_PER_PEER_KEYS) == 0;
    rt_detail detail = {.status = RT_OK};
    int status = readable ? RT_OK : stage(send);
    if (status != RT_OK)
        return status;
    rt_turn_take(&edge->turn);
    bool known = find_key(edge, send->region, &send->key);
    rt_turn_leave(&edge->turn);
    while (status == RT_OK && !known) {
        status = add_key(edge, send->region, send->end_ns, &detail);
        rt_turn_take(&edge->turn);
        known = find_key(edge, send->region, &send->key);
        if (status != RT_OK && status != RT_E_AGAIN && status == detail.status)
            rt_edge_fail(edge, &detail);
        rt_turn_leave(&edge->turn);
    }
    return status;
}

/* ---- posting ---- */

static int encode(const dynamic *send, uint8_t bytes_out[RT_EDGE_RECORD_SIZE])
{
    const rt_edge *edge = send->edge;
    rt_edge_record record = {.sequence = send->sequence,
                             .size = send->size,
                             .eager = send->eager,
                             .verified = edge->verify,
                             .offset = send->eager ? 0 : send->offset,
                             .key = send->eager ? 0 : send->key};
    record.shape.dtype = (uint8_t)send->tensor->dtype;
    record.shape.rank = (uint8_t)send->tensor->rank;
    memcpy(record.shape.dims, send->tensor->dims, send->tensor->rank * sizeof record.shape.dims[0]);
    if (edge->verify) {
        rt_edge_tensor where = *send->tensor;
        uint32_t crc = 0;
        uint64_t run_size, runs = send->size == 0 ? 0 : rt_edge_runs(&where, send->item_size, &run_size);
        for (uint64_t index = 0; index < runs; index++) {
            uint64_t address = rt_edge_run_address(&where, send->item_size, run_size, index);
            crc = rt_crc32c(crc, (const void *)(uintptr_t)address, run_size);
        }
        record.payload_crc = rt_edge_crc(crc, send->sequence);
    }
    return rt_edge_record_encode(&record, bytes_out, NULL);
}

/* Eager bytes, as a copy of their own, or behind the source words where they had to be gathered. Returns the copies made. */
static uint32_t eager_copy(dynamic *send, uint8_t *source, uint64_t remote_offset, rt_copy *copy_out)
{
    rt_edge *edge = send->edge;
    uint64_t region_offset = send->offset;
    rt_region *region = send->region;
    if (send->size == 0)
        return 0;
    if (region == NULL) {
        uint8_t *room = source + RT_EDGE_SOURCE_EAGER;
        rt_edge_gather(send->tensor, send->item_size, 0, send->size, room);
        edge->stats.copies++;
        edge->stats.copied_bytes += send->size;
        region = edge->lines.region;
        region_offset = edge->lines.offset + (uint64_t)(room - edge->lines.address);
    }
    *copy_out = (rt_copy){.region = (uint64_t)(uintptr_t)region,
                          .region_offset = region_offset,
                          .remote = (uint64_t)(uintptr_t)edge->slots_remote,
                          .remote_offset = remote_offset,
                          .size = send->size,
                          .direction = RT_WRITE | RT_COPY_JOINED};
    return 1;
}

/* edge->turn held. */
static int64_t post(dynamic *send)
{
    rt_edge *edge = send->edge;
    const rt_edge_layout *layout = &edge->wiring.layout;
    uint32_t slot = rt_edge_slot(layout, send->sequence);
    rt_edge_sent *sent = &edge->sent[slot];
    uint8_t *source = rt_edge_source_of(edge, slot, 0), *record = source + RT_EDGE_SOURCE_RECORD;
    int status = encode(send, record);
    if (status != RT_OK)
        return status;
    uint64_t at = rt_edge_record_offset(edge->eager_size), from = at;
    if (send->eager && send->size != 0)
        from = rt_edge_eager_offset(edge->eager_size, send->size);
    uint64_t base = rt_edge_slot_offset(layout, slot), padding = send->eager ? at - from - send->size : 0;
    rt_copy payload[2];
    uint32_t count = send->eager ? eager_copy(send, source, base + from, &payload[0]) : 0;
    if (count == 0)
        padding = 0, from = at;
    payload[count++] = (rt_copy){.region = (uint64_t)(uintptr_t)edge->lines.region,
                                 .region_offset = edge->lines.offset + (uint64_t)(record - padding - edge->lines.address),
                                 .remote = (uint64_t)(uintptr_t)edge->slots_remote,
                                 .remote_offset = base + at - padding,
                                 .size = padding + RT_EDGE_RECORD_SIZE,
                                 .direction = RT_WRITE};
    rt_edge_plan plan;
    rt_edge_plan_make(&edge->wiring, send->sequence, 0, from, at + RT_EDGE_RECORD_SIZE - from, 0, &plan);
    uint32_t copies = rt_edge_copies_of(edge, &plan, send->sequence, 0, 0, payload, count, sent->copies);
    int64_t end_ns = edge->device->limits.completes_in_post ? INT64_MAX : send->end_ns;
    status = rt_edge_post(edge->links[0], sent->copies, copies, end_ns, &sent->ops[0]);
    if (status != RT_OK)
        return status;
    sent->sequence = send->sequence;
    if (!send->eager) {
        sent->kept = send->region;
        atomic_fetch_add_explicit(&send->region->operations, 1, memory_order_relaxed);
    }
    rt_edge_sender_sent(&edge->tx, send->sequence);
    edge->stats.transfers++;
    edge->stats.bytes += send->size;
    edge->stats.eager += send->eager;
    return (int64_t)send->sequence;
}

bool rt_edge_record_posted(rt_edge *edge, uint64_t sequence)
{
    rt_turn_take(&edge->turn);
    int64_t number = edge->sent[sequence % edge->tx.slots].ops[0];
    rt_turn_leave(&edge->turn);
    return number == 0 || rt_op_posted(edge->channel, number);
}

static int look_posted(void *object)
{
    const dynamic *send = object;
    return rt_edge_record_posted(send->edge, send->sequence) ? RT_OK : RT_E_AGAIN;
}

/* A large staging buffer is kept for the next tensor, whose receiver knows it; others go back. Without any turn. */
static void give(rt_edge *edge, rt_edge_memory *memory)
{
    if (memory->region != NULL && memory->own) {
        rt_turn_take(&edge->turn);
        rt_edge_memory before = edge->spare;
        bool keep = before.region == NULL || before.size < memory->size;
        edge->spare = keep ? *memory : before;
        *memory = keep ? before : *memory;
        rt_turn_leave(&edge->turn);
    }
    rt_edge_memory_give(memory);
}

int64_t rt_edge_send_dynamic(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, int64_t end_ns)
{
    dynamic send = {.edge = edge, .tensor = tensor, .size = size, .end_ns = end_ns};
    send.item_size = rt_dtype_size(tensor->dtype);
    send.eager = size <= edge->eager_size;
    if (!send.eager) { /* what is staged is staged when there is a slot for it */
        int status = rt_wait_memory(edge->device, look, &send, end_ns);
        if (status != RT_OK)
            return status;
        rt_turn_leave(&edge->turn);
    }
    int64_t result = place(&send);
    if (result == RT_OK)
        result = rt_wait_memory(edge->device, look, &send, end_ns);
    rt_edge_memory old = send.staging;
    if (result == RT_OK) {
        rt_edge_sent *sent = &edge->sent[send.sequence % edge->tx.slots];
        result = post(&send);
        if (result > 0) { /* what the slot had is free: its tensor was released */
            bool staged = send.staging.region != NULL;
            old = staged ? sent->staging : (rt_edge_memory){.region = NULL};
            sent->staging = staged ? send.staging : sent->staging;
            sent->staged = staged ? send.sequence : sent->staged;
        }
        rt_turn_leave(&edge->turn);
    }
    give(edge, &old);
    bool waits = result > 0 && !edge->device->limits.completes_in_post;
    if (waits && rt_wait_memory(edge->device, look_posted, &send, end_ns) != RT_OK) {
        edge->record_owed = true; /* the receiver may wait for it, and its sender for nothing */
        rt_service_kick(edge->device);
    }
    return result == RT_E_BUSY ? RT_E_AGAIN : result;
}
