/* dynamic.c: sending on a dynamic edge: the record, an eager tensor in front of it, keys of the
 * regions that tensors lie in, and the memory that stays unchanged until the receiver has released
 * it (EDGES.md section 7). */
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/service.h"
#include "edge/ask.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/credit.h"
#include "edge/dynamic.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/source.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"
#include "region/pool.h"
#include "region/region.h"

enum { EAGER_AT_ONCE_MAX = 8192 /* bytes that are copied while the caller holds the interpreter's lock */ };

/* RT_OK: the edge's turn is held and the next sequence may be sent. */
static int dynamic_credit_look(void *object)
{
    rt_edge_dynamic *send = object;
    return rt_edge_look_credit(send->edge, send->end_ns, &send->sequence, &send->waited);
}

/* ---- keys ---- */

bool rt_edge_key_find(const rt_edge *edge, const rt_region *region, uint32_t *key_out)
{
    for (uint32_t key = 0; key < edge->key_numbers.count; key++) {
        if (edge->keys[key] == region) {
            *key_out = key;
            return true;
        }
    }
    return false;
}

/* Chooses a number for a region, and takes it from the region that had it. RT_E_AGAIN: all are in
 * use. device->lock held. */
static int key_choose(rt_edge *edge, uint32_t *key_out)
{
    uint64_t idle = 0;
    rt_region *before = NULL;
    rt_turn_take(&edge->turn);
    for (uint32_t key = 0; key < edge->key_numbers.count; key++)
        idle |= (uint64_t)(edge->keys[key] == NULL || edge->keys[key]->device == NULL) << key;
    int status = rt_edge_keys_choose(&edge->key_numbers, &edge->tx, idle, key_out);
    if (status == RT_OK && *key_out < edge->key_numbers.count) {
        before = edge->keys[*key_out];
        edge->keys[*key_out] = NULL; /* no record names the region from here on */
    }
    rt_turn_leave(&edge->turn);
    if (before != NULL)
        rt_region_unreference(before);
    return status;
}

/* RT_OK: a number is free. */
static int key_number_look(void *object)
{
    rt_edge *edge = ((const rt_edge_dynamic *)object)->edge;
    uint32_t key;
    rt_turn_take(&edge->turn);
    int status = rt_edge_take_credit(edge);
    if (status == RT_OK && edge->tx.state == RT_EDGE_OVER)
        status = edge->tx.failure;
    if (status == RT_OK)
        status = rt_edge_keys_choose(&edge->key_numbers, &edge->tx, 0, &key);
    rt_turn_leave(&edge->turn);
    return status;
}

/* device->lock held: rt_edge_explain reads it under the turn alone. */
static void asked_set(rt_edge *edge, rt_region *region)
{
    rt_turn_take(&edge->turn);
    edge->asked_region = region;
    rt_turn_leave(&edge->turn);
}

/* Takes the receiver's answer to the outstanding ADD_KEY, whichever region it was for. RT_E_AGAIN:
 * not yet. device->lock held. */
static int key_answer_take(rt_edge *edge, rt_detail *detail)
{
    rt_region *region = edge->asked_region;
    if (edge->ask.state != RT_ASK_DONE)
        return rt_channel_state(edge->channel) == RT_CHANNEL_READY ? RT_E_AGAIN : rt_channel_refuse(edge->channel, detail);
    edge->ask.state = RT_ASK_NONE;
    asked_set(edge, NULL);
    if (edge->ask.answer.kind == RT_EDGE_EDGE_REFUSED) {
        rt_region_unreference(region);
        return rt_fail(detail, rt_edge_refusal_status(edge->ask.answer.refusal), 0,
                       "the receiver did not take another region of tensors: %s", edge->ask.answer.text);
    }
    rt_turn_take(&edge->turn);
    edge->keys[edge->ask.message.key] = region;
    rt_edge_keys_added(&edge->key_numbers, edge->ask.message.key, edge->tx.released);
    edge->stats.keys = edge->key_numbers.count;
    rt_turn_leave(&edge->turn);
    return RT_OK;
}

/* Asks for a key of the region; the answer comes later. RT_E_BUSY: wait for a free number.
 * device->lock held. */
static int key_ask(rt_edge *edge, rt_region *region, rt_detail *detail)
{
    rt_edge_message message = {.kind = RT_EDGE_ADD_KEY, .number = edge->number};
    size_t size = 0;
    uint32_t key;
    int status = rt_region_handle(region, 0, region->size, message.tensors.bytes, &size, detail);
    message.tensors.size = (uint8_t)size;
    if (status == RT_OK && key_choose(edge, &key) != RT_OK)
        status = RT_E_BUSY;
    if (status != RT_OK)
        return status;
    message.key = (uint16_t)key;
    status = rt_edge_ask(edge, &message);
    if (status != RT_OK)
        return status;
    rt_region_reference(region);
    asked_set(edge, region);
    return RT_OK;
}

/* Announces a region to the receiver and waits until the receiver knows it. The answer to an
 * earlier request, whose slice ended, is taken first. Without any turn. */
static int key_add(rt_edge *edge, rt_region *region, int64_t end_ns, rt_detail *detail)
{
    rt_device *device = edge->device;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire), key;
        int status = rt_device_lock_until(device, end_ns, detail);
        if (status != RT_OK)
            return status;
        bool mine = edge->asked_region == region || edge->close_wanted;
        status = edge->close_wanted ? RT_E_CLOSED : edge->asked_region != NULL ? key_answer_take(edge, detail) : RT_OK;
        if (status != RT_OK && status != RT_E_AGAIN && !mine && rt_channel_state(edge->channel) == RT_CHANNEL_READY)
            status = RT_OK; /* another region was refused: its own sender learns of it */
        rt_turn_take(&edge->turn);
        bool known = rt_edge_key_find(edge, region, &key);
        rt_turn_leave(&edge->turn);
        if (status == RT_OK && !known)
            status = key_ask(edge, region, detail);
        pthread_mutex_unlock(&device->lock);
        if (known)
            return RT_OK;
        if (status == RT_OK || status == RT_E_AGAIN)
            status = rt_service_wait(device, seen, end_ns);
        if (status != RT_OK)
            return status;
    }
}

/* ---- the source of the bytes ---- */

/* Whether a tensor may take the buffer that an earlier one had. */
static bool room_fits(const rt_edge_dynamic *send, const rt_pool_block *room)
{
    uint32_t key;
    if (room->region == NULL || room->size < send->size)
        return false;
    return !send->at_once || rt_edge_key_find(send->edge, room->region, &key);
}

bool rt_edge_room_again(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    rt_pool_block *found = room_fits(send, &edge->spare) ? &edge->spare : NULL;
    for (uint32_t slot = 0; found == NULL && slot < edge->tx.slots; slot++) {
        rt_edge_sent *sent = &edge->sent[slot];
        bool fits = room_fits(send, &sent->staging) && sent->staging.size / 4 <= send->size;
        found = fits && sent->staged <= edge->tx.released ? &sent->staging : NULL;
    }
    if (found != NULL) {
        send->staging = *found;
        *found = (rt_pool_block){.region = NULL};
        send->region = send->staging.region;
        send->offset = send->staging.offset;
    }
    return found != NULL;
}

int rt_edge_room_find(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    bool registered = false;
    rt_turn_take(&edge->turn);
    bool found = rt_edge_room_again(send);
    rt_turn_leave(&edge->turn);
    if (found)
        return RT_OK;
    int status = rt_edge_take(edge->channel, RT_POOL_READ, send->size, RT_EDGE_LINE_SIZE, &send->staging, &registered, NULL);
    if (status != RT_OK)
        return status;
    send->region = send->staging.region;
    send->offset = send->staging.offset;
    rt_turn_take(&edge->turn);
    edge->stats.registrations += registered;
    rt_turn_leave(&edge->turn);
    return RT_OK;
}

/* Without any turn. */
static void tensor_stage(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    rt_edge_gather(send->tensor, send->item_size, 0, send->size, send->staging.address);
    rt_turn_take(&edge->turn);
    edge->stats.copies++;
    edge->stats.copied_bytes += send->size;
    rt_turn_leave(&edge->turn);
}

/* The region that holds a contiguous tensor, or NULL. The device's list of regions may be searched:
 * without any turn. */
static rt_region *region_of(rt_edge_dynamic *send)
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

int rt_edge_region_announce(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    int status = RT_OK;
    for (;;) {
        rt_detail detail = {.status = RT_OK};
        rt_turn_take(&edge->turn);
        bool known = rt_edge_key_find(edge, send->region, &send->key);
        rt_turn_leave(&edge->turn);
        if (known || status != RT_OK)
            return known ? RT_OK : status;
        status = key_add(edge, send->region, send->end_ns, &detail);
        if (status == RT_E_BUSY) {
            status = rt_wait_memory(edge->device, key_number_look, send, send->end_ns);
        } else if (status != RT_OK && status == detail.status) {
            rt_turn_take(&edge->turn);
            rt_edge_fail(edge, &detail);
            rt_turn_leave(&edge->turn);
        }
    }
}

/* Finds the place where the receiver will READ the tensor, and ensures that the receiver knows that
 * region. A tensor that has to be copied there is copied last: a receiver that is slow to learn a
 * region ends the call's slice, and the next call repeats these steps. Without any turn. */
static int tensor_place(rt_edge_dynamic *send)
{
    send->region = region_of(send);
    if (send->region != NULL)
        send->offset = send->tensor->address - (uint64_t)(uintptr_t)send->region->address;
    if (send->eager)
        return RT_OK;
    bool readable = send->region != NULL && (send->region->rights & RT_RIGHT_REMOTE_READ) != 0 &&
                    (send->region->rights & RT_RIGHT_PER_PEER_KEYS) == 0;
    int status = readable ? RT_OK : rt_edge_room_find(send);
    if (status == RT_OK)
        status = rt_edge_region_announce(send);
    if (status == RT_OK && !readable)
        tensor_stage(send);
    return status;
}

/* ---- posting ---- */

static int record_encode(const rt_edge_dynamic *send, uint8_t bytes_out[RT_EDGE_RECORD_SIZE])
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

/* Makes the copy of eager bytes, from their region, or from behind the source words where they had
 * to be gathered. Returns the number of copies. */
static uint32_t copy_of_eager(rt_edge_dynamic *send, uint8_t *source, uint64_t remote_offset, rt_piece *copy_out)
{
    rt_edge *edge = send->edge;
    uint64_t region_offset = send->offset;
    rt_region *region = send->region;
    if (send->size == 0 || send->written)
        return 0;
    if (region == NULL) {
        uint8_t *room = source + RT_EDGE_SOURCE_EAGER;
        rt_edge_gather(send->tensor, send->item_size, 0, send->size, room);
        edge->stats.copies++;
        edge->stats.copied_bytes += send->size;
        region = edge->lines.region;
        region_offset = edge->lines.offset + (uint64_t)(room - edge->lines.address);
    }
    *copy_out = (rt_piece){.region = region,
                           .region_offset = region_offset,
                           .remote = edge->slots_remote,
                           .remote_offset = remote_offset,
                           .size = send->size,
                           .direction = RT_WRITE,
                           .flags = RT_PIECE_JOINED};
    return 1;
}

/* edge->turn held. */
static int64_t record_post(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    const rt_edge_layout *layout = &edge->wiring.layout;
    uint32_t slot = rt_edge_slot(layout, send->sequence);
    rt_edge_sent *sent = &edge->sent[slot];
    uint8_t *source = rt_edge_source_of(edge, slot, 0), *record = source + RT_EDGE_SOURCE_RECORD;
    int status = record_encode(send, record);
    if (status != RT_OK)
        return status;
    uint64_t at = rt_edge_record_offset(edge->eager_size), from = at;
    if (send->eager && send->size != 0)
        from = rt_edge_eager_offset(edge->eager_size, send->size);
    uint64_t base = rt_edge_slot_offset(layout, slot), padding = send->eager ? at - from - send->size : 0;
    rt_piece payload[2];
    uint32_t count = send->eager ? copy_of_eager(send, source, base + from, &payload[0]) : 0;
    if (count == 0)
        padding = 0, from = at;
    payload[count++] = (rt_piece){.region = edge->lines.region,
                                  .region_offset = edge->lines.offset + (uint64_t)(record - padding - edge->lines.address),
                                  .remote = edge->slots_remote,
                                  .remote_offset = base + at - padding,
                                  .size = padding + RT_EDGE_RECORD_SIZE,
                                  .direction = RT_WRITE};
    rt_edge_plan plan;
    rt_edge_plan_make(&edge->wiring, send->sequence, 0, from, at + RT_EDGE_RECORD_SIZE - from, 0, &plan);
    uint32_t copies = rt_edge_copies_of(edge, &plan, send->sequence, 0, 0, payload, count, sent->copies);
    rt_link *link = edge->links[0];
    int64_t end_ns = edge->device->limits.completes_in_post ? INT64_MAX : send->end_ns;
    if (!send->at_once)
        status = rt_edge_post(link, sent->copies, copies, end_ns, &sent->ops[0]);
    else if (!rt_turn_try(&link->turn) || !rt_edge_post_small(link, sent->copies, copies, &sent->ops[0]))
        status = RT_E_AGAIN;
    if (status != RT_OK)
        return status;
    sent->sequence = send->sequence;
    sent->in_place = !send->eager && send->staging.region == NULL;
    if (!send->eager) {
        rt_edge_keys_used(&edge->key_numbers, send->key, send->sequence);
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

static int posted_look(void *object)
{
    const rt_edge_dynamic *send = object;
    return rt_edge_record_posted(send->edge, send->sequence) ? RT_OK : RT_E_AGAIN;
}

void rt_edge_staged_give(rt_edge *edge, rt_pool_block *memory)
{
    if (memory->region != NULL && memory->own) {
        rt_turn_take(&edge->turn);
        rt_pool_block before = edge->spare;
        bool keep = before.region == NULL || before.size < memory->size;
        edge->spare = keep ? *memory : before;
        *memory = keep ? before : *memory;
        rt_turn_leave(&edge->turn);
    }
    rt_pool_give(memory);
}

int64_t rt_edge_record_send(rt_edge_dynamic *send, rt_pool_block *old_out)
{
    rt_edge_sent *sent = &send->edge->sent[send->sequence % send->edge->tx.slots];
    int64_t result = record_post(send);
    if (result > 0) { /* the slot's old buffer is free: its tensor was released */
        bool staged = send->staging.region != NULL;
        *old_out = staged ? sent->staging : (rt_pool_block){.region = NULL};
        sent->staging = staged ? send->staging : sent->staging;
        sent->staged = staged ? send->sequence : sent->staged;
    }
    return result;
}

int64_t rt_edge_record_await(rt_edge_dynamic *send, int64_t result)
{
    rt_edge *edge = send->edge;
    bool waits = result > 0 && !edge->device->limits.completes_in_post;
    if (waits && rt_wait_memory(edge->device, posted_look, send, send->end_ns) != RT_OK) {
        edge->record_owed = true; /* the receiver may wait for the record, and the sender may never call again */
        rt_edge_call(edge);
        rt_service_kick(edge->device);
    }
    return result == RT_E_BUSY ? RT_E_AGAIN : result;
}

int64_t rt_edge_send_dynamic(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, int64_t end_ns)
{
    rt_edge_dynamic send = {.edge = edge, .tensor = tensor, .size = size, .end_ns = end_ns};
    send.item_size = rt_dtype_size(tensor->dtype);
    send.eager = size <= edge->eager_size;
    if (!send.eager) { /* staging happens only when a slot is free */
        int status = rt_wait_memory(edge->device, dynamic_credit_look, &send, end_ns);
        if (status != RT_OK)
            return status;
        rt_turn_leave(&edge->turn);
    }
    int64_t result = tensor_place(&send);
    while (result == RT_OK) {
        result = rt_wait_memory(edge->device, dynamic_credit_look, &send, end_ns);
        if (result != RT_OK || send.eager || edge->keys[send.key] == send.region)
            break;
        rt_turn_leave(&edge->turn); /* meanwhile the number was given to another region */
        result = rt_edge_region_announce(&send);
    }
    rt_pool_block old = send.staging;
    if (result == RT_OK) {
        result = rt_edge_record_send(&send, &old);
        rt_turn_leave(&edge->turn);
    }
    rt_edge_staged_give(edge, &old);
    return rt_edge_record_await(&send, result);
}

int64_t rt_edge_send_tensor_at_once(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *released_out)
{
    rt_edge_dynamic send = {.edge = edge, .tensor = tensor, .item_size = rt_dtype_size(tensor->dtype), .at_once = true};
    rt_pool_block none = {.region = NULL};
    bool usual = rt_edge_check_sender(edge) == RT_OK && edge->terms.edge_kind == RT_EDGE_DYNAMIC && tensor->strided == 0;
    if (!usual || edge->verify || edge->staging_wanted || rt_edge_check_tensor(edge, tensor, &send.size, NULL) != RT_OK)
        return RT_E_AGAIN;
    if (!edge->device->limits.local_anywhere || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    int64_t result = RT_E_AGAIN;
    send.eager = send.size <= edge->eager_size;
    send.region = send.eager ? edge->device->anywhere : edge->source;
    bool placed = send.eager ? send.size <= EAGER_AT_ONCE_MAX
                             : send.region != NULL && rt_region_holds(send.region, tensor->address, send.size) &&
                                   rt_edge_key_find(edge, send.region, &send.key);
    if (placed && rt_edge_may_send_at_once(edge, &send.sequence)) {
        send.offset = tensor->address - (uint64_t)(uintptr_t)send.region->address;
        result = rt_edge_record_send(&send, &none);
    }
    *released_out = edge->tx.released;
    bool done = result > 0 && send.eager && edge->sent[send.sequence % edge->tx.slots].ops[0] == 0;
    rt_turn_leave(&edge->turn);
    return done ? 0 : result > 0 ? result : RT_E_AGAIN;
}
