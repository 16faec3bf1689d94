/* lend.c: lends the place of an edge's next tensor to a caller, who writes the tensor there and then
 * sends it, or gives the place back (EDGES.md section 13). The place is the receiver's slot where
 * this end maps it, else memory of this end's that the provider can take the tensor from. HOT, but
 * for the first loan of a slot, and for memory of a dynamic tensor. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/remote.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/service.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/credit.h"
#include "edge/dynamic.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/quick.h"
#include "edge/send.h"
#include "edge/source.h"
#include "proto/dtype.h"
#include "region/pool.h"
#include "region/region.h"

/* ---- lending ---- */

/* RT_OK: the edge's turn is held and the next sequence may be lent. */
static int loan_look(void *object)
{
    rt_edge_dynamic *send = object;
    return rt_edge_look_credit(send->edge, send->end_ns, &send->sequence, &send->waited);
}

/* The address of a slot where this end maps it, or 0. */
static uint64_t slot_mapped(const rt_edge *edge, uint64_t sequence)
{
    if (!edge->lends)
        return 0;
    uint64_t start = rt_remote_address(edge->slots_remote);
    return start == 0 ? 0 : start + rt_edge_slot_offset(&edge->wiring.layout, rt_edge_slot(&edge->wiring.layout, sequence));
}

/* Makes the object of the edge's loans. Without any turn. */
static int loan_prepare(rt_edge *edge)
{
    rt_turn_take(&edge->turn);
    bool made = edge->loan != NULL;
    rt_turn_leave(&edge->turn);
    rt_edge_loan *fresh = made ? NULL : calloc(1, sizeof *fresh);
    if (made || fresh == NULL)
        return made ? RT_OK : RT_E_NO_MEMORY;
    rt_turn_take(&edge->turn);
    rt_edge_loan *other = edge->loan;
    if (other == NULL)
        edge->loan = fresh;
    rt_turn_leave(&edge->turn);
    if (other != NULL) /* another thread was faster */
        free(fresh);
    return RT_OK;
}

/* Takes registered memory for the loans of a slot, from which one WRITE carries the tensor. Without any turn. */
static int buffer_prepare(rt_edge *edge, uint64_t sequence)
{
    bool registered = false;
    rt_pool_block made = {.region = NULL};
    int status = rt_pool_take(edge->device, NULL, RT_POOL_LOCAL, edge->wiring.layout.payload_size, RT_EDGE_LINE_SIZE, &made,
                              &registered, NULL);
    if (status != RT_OK)
        return status;
    rt_turn_take(&edge->turn);
    rt_pool_block *buffer = &edge->sent[sequence % edge->tx.slots].staging;
    bool first = buffer->region == NULL;
    if (first)
        *buffer = made;
    edge->stats.registrations += first && registered;
    rt_turn_leave(&edge->turn);
    if (!first)
        rt_pool_give(&made);
    return RT_OK;
}

/* The loan of the sequence begins. edge->turn held, and left. */
static int64_t loan_begin(rt_edge *edge, uint64_t sequence, uint64_t address, bool in_place)
{
    rt_edge_loan *loan = edge->loan;
    loan->ticket = ++loan->given;
    loan->sequence = sequence;
    loan->address = address;
    loan->in_place = in_place;
    rt_edge_sender_lend(&edge->tx);
    int64_t ticket = (int64_t)loan->ticket;
    rt_turn_leave(&edge->turn);
    return ticket;
}

/* The place of the next tensor of a static edge, or 0: its slot has no buffer yet. edge->turn held. */
static uint64_t static_place(const rt_edge *edge, uint64_t sequence, bool *in_place_out)
{
    *in_place_out = false;
    if (edge->wiring.layout.payload_size == 0)
        return (uint64_t)(uintptr_t)edge->lines.address;
    uint64_t place = slot_mapped(edge, sequence);
    *in_place_out = place != 0;
    return place != 0 ? place : (uint64_t)(uintptr_t)edge->sent[sequence % edge->tx.slots].staging.address;
}

static int64_t static_lend(rt_edge *edge, int64_t end_ns, uint64_t *address_out)
{
    rt_edge_dynamic next = {.edge = edge, .end_ns = end_ns};
    for (;;) {
        int status = rt_wait_memory(edge->device, loan_look, &next, end_ns);
        if (status != RT_OK)
            return status;
        bool in_place;
        uint64_t place = static_place(edge, next.sequence, &in_place);
        if (place != 0) {
            *address_out = place;
            return loan_begin(edge, next.sequence, place, in_place);
        }
        rt_turn_leave(&edge->turn);
        status = buffer_prepare(edge, next.sequence);
        if (status != RT_OK)
            return status;
    }
}

/* Where the bytes of a tensor that travels in its record are written: in the slot, or in the edge's own memory.
 * edge->turn held. */
static uint64_t eager_place(rt_edge_dynamic *send)
{
    rt_edge *edge = send->edge;
    uint64_t slot = slot_mapped(edge, send->sequence);
    send->written = slot != 0;
    if (send->written)
        return slot + rt_edge_eager_offset(edge->eager_size, send->size);
    const uint8_t *own = rt_edge_source_of(edge, rt_edge_slot(&edge->wiring.layout, send->sequence), 0) + RT_EDGE_SOURCE_EAGER;
    send->region = edge->lines.region;
    send->offset = edge->lines.offset + (uint64_t)(own - edge->lines.address);
    return (uint64_t)(uintptr_t)own;
}

/* The loan of a dynamic tensor begins, whose place is known. edge->turn held, and left. */
static int64_t dynamic_begin(rt_edge_dynamic *send, uint64_t *address_out)
{
    rt_edge *edge = send->edge;
    uint64_t place = send->eager ? eager_place(send) : (uint64_t)(uintptr_t)send->staging.address;
    rt_edge_loan *loan = edge->loan;
    loan->tensor.address = place;
    loan->tensor.dtype = send->tensor->dtype;
    loan->tensor.rank = send->tensor->rank;
    memcpy(loan->tensor.dims, send->tensor->dims, sizeof loan->tensor.dims);
    loan->size = send->size;
    loan->eager = send->eager;
    loan->region = send->region;
    loan->offset = send->offset;
    loan->key = send->key;
    loan->room = send->staging;
    *address_out = place;
    return loan_begin(edge, send->sequence, place, send->written);
}

static int64_t dynamic_lend(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, int64_t end_ns, uint64_t *address_out)
{
    rt_edge_dynamic send = {.edge = edge, .tensor = tensor, .size = size, .end_ns = end_ns};
    send.eager = size <= edge->eager_size;
    int status = rt_wait_memory(edge->device, loan_look, &send, end_ns);
    if (status == RT_OK && !send.eager) { /* memory is taken only when a slot is free */
        rt_turn_leave(&edge->turn);
        status = rt_edge_room_find(&send);
        if (status == RT_OK)
            status = rt_edge_region_announce(&send);
        if (status == RT_OK)
            status = rt_wait_memory(edge->device, loan_look, &send, end_ns);
    }
    if (status != RT_OK) {
        rt_edge_staged_give(edge, &send.staging);
        return status;
    }
    return dynamic_begin(&send, address_out);
}

int64_t rt_edge_lend(rt_edge *edge, const rt_edge_tensor *tensor, int64_t timeout_ns, uint64_t *address_out)
{
    int status = rt_edge_check_sender(edge);
    uint64_t size = 0;
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC;
    if (status == RT_OK && dynamic != (tensor != NULL))
        status = RT_E_INVALID;
    if (status == RT_OK && dynamic)
        status = rt_edge_check_tensor(edge, tensor, &size, NULL);
    if (status == RT_OK)
        status = loan_prepare(edge);
    if (status != RT_OK)
        return status;
    int64_t end_ns = rt_device_slice_end(edge->device, timeout_ns);
    return dynamic ? dynamic_lend(edge, tensor, size, end_ns, address_out) : static_lend(edge, end_ns, address_out);
}

int64_t rt_edge_lend_at_once(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *address_out)
{
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC, in_place;
    rt_edge_dynamic next = {.edge = edge, .tensor = tensor, .at_once = true};
    if (rt_edge_check_sender(edge) != RT_OK || dynamic != (tensor != NULL))
        return RT_E_AGAIN;
    if ((dynamic && rt_edge_check_tensor(edge, tensor, &next.size, NULL) != RT_OK) || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    bool idle = edge->loan != NULL && rt_edge_may_send_at_once(edge, &next.sequence);
    if (idle && dynamic) {
        next.eager = next.size <= edge->eager_size;
        if (next.eager || (rt_edge_room_again(&next) && rt_edge_key_find(edge, next.region, &next.key)))
            return dynamic_begin(&next, address_out);
    } else if (idle) {
        uint64_t place = static_place(edge, next.sequence, &in_place);
        if (place != 0) {
            *address_out = place;
            return loan_begin(edge, next.sequence, place, in_place);
        }
    }
    rt_turn_leave(&edge->turn);
    return RT_E_AGAIN;
}

/* ---- the end of a loan ---- */

/* Threads that send may wait for the end of the loan. edge->turn held. */
static bool loan_awaited(rt_edge *edge)
{
    bool awaited = edge->loan->awaited;
    edge->loan->awaited = false;
    return awaited;
}

/* Without any turn. */
static void waiters_wake(rt_edge *edge, bool awaited)
{
    if (awaited)
        edge->device->provider->memory_wake(edge->device->pdevice);
}

/* The tensor of a dynamic edge's loan, to be sent. */
static rt_edge_dynamic dynamic_of(rt_edge *edge, int64_t end_ns, bool at_once)
{
    const rt_edge_loan *loan = edge->loan;
    return (rt_edge_dynamic){.edge = edge,
                             .tensor = &loan->tensor,
                             .size = loan->size,
                             .item_size = rt_dtype_size(loan->tensor.dtype),
                             .sequence = loan->sequence,
                             .end_ns = end_ns,
                             .at_once = at_once,
                             .eager = loan->eager,
                             .written = loan->in_place,
                             .region = loan->region,
                             .offset = loan->offset,
                             .key = loan->key,
                             .staging = loan->room};
}

/* Posts the flag of a tensor that lies in its slot, unless another thread has the link. edge->turn held. */
static int64_t flag_post(rt_edge *edge, uint64_t sequence)
{
    uint32_t slot = rt_edge_slot(&edge->wiring.layout, sequence);
    uint64_t size = edge->wiring.layout.payload_size;
    rt_edge_sent *sent = &edge->sent[slot];
    rt_link *link = edge->links[0];
    rt_edge_plan plan;
    rt_edge_plan_make(&edge->wiring, sequence, 0, 0, size, 0, &plan);
    uint32_t count = rt_edge_copies_of(edge, &plan, sequence, 0, 0, NULL, 0, sent->copies);
    sent->plain = false;
    if (!rt_turn_try(&link->turn) || !rt_edge_post_small(link, sent->copies, count, &sent->ops[0]))
        return RT_E_AGAIN;
    sent->sequence = sequence;
    rt_edge_count_sent(edge, sequence, size);
    return sent->ops[0] == 0 ? 0 : (int64_t)sequence;
}

/* Posts the tensor of the open loan, which may be sent now. edge->turn held. */
static int64_t loan_post(rt_edge *edge, rt_edge_dynamic *send, rt_pool_block *old_out)
{
    rt_edge_loan *loan = edge->loan;
    if (loan->in_place)
        rt_fence_full(); /* stores that bypass the cache are placed before the flag, too */
    int64_t result;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        result = rt_edge_record_send(send, old_out);
    } else if (send->at_once) {
        result = edge->plain && loan->in_place ? flag_post(edge, loan->sequence) : RT_E_AGAIN;
    } else {
        const rt_pool_block *buffer = &edge->sent[loan->sequence % edge->tx.slots].staging;
        rt_region *own = edge->wiring.layout.payload_size == 0 ? edge->lines.region : buffer->region;
        result = rt_edge_post_lent(edge, loan->sequence, loan->address, loan->in_place ? NULL : own, send->end_ns);
    }
    if (result < 0)
        return result;
    loan->ticket = 0;
    loan->room = (rt_pool_block){.region = NULL};
    edge->stats.lent++;
    edge->stats.lent_in_place += loan->in_place;
    return result;
}

/* Sends the loan if nothing stands in its way. RT_E_NOT_FOUND: the receiver has to learn its region anew. edge->turn
 * held. */
static int64_t loan_send(rt_edge *edge, uint64_t ticket, rt_edge_dynamic *send, rt_pool_block *old_out)
{
    uint64_t sequence = 0;
    if (edge->loan == NULL || ticket == 0 || edge->loan->ticket != ticket)
        return RT_E_INVALID;
    *send = dynamic_of(edge, send->end_ns, send->at_once);
    rt_edge_sender_take_back(&edge->tx);
    int64_t result = rt_edge_may_send(edge, &sequence);
    assert(result != RT_OK || sequence == edge->loan->sequence);
    bool named = edge->terms.edge_kind == RT_EDGE_STATIC || send->eager || edge->keys[send->key] == send->region;
    if (result == RT_OK)
        result = named ? loan_post(edge, send, old_out) : RT_E_NOT_FOUND;
    if (result < 0 && edge->tx.state == RT_EDGE_OPEN)
        rt_edge_sender_lend(&edge->tx); /* the caller tries again, or gives it back */
    return result;
}

int64_t rt_edge_send_lent(rt_edge *edge, uint64_t ticket, int64_t timeout_ns)
{
    int64_t result = rt_edge_check_sender(edge);
    if (result != RT_OK)
        return result;
    rt_edge_dynamic send = {.edge = edge, .end_ns = rt_device_slice_end(edge->device, timeout_ns)};
    rt_pool_block old = {.region = NULL};
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC, awaited = false;
    for (;;) {
        rt_turn_take(&edge->turn);
        result = loan_send(edge, ticket, &send, &old);
        if (result >= 0)
            awaited = loan_awaited(edge);
        rt_turn_leave(&edge->turn);
        if (result != RT_E_NOT_FOUND)
            break;
        result = rt_edge_region_announce(&send);
        if (result != RT_OK)
            return result;
        rt_turn_take(&edge->turn);
        if (edge->loan->ticket == ticket)
            edge->loan->key = send.key;
        rt_turn_leave(&edge->turn);
    }
    waiters_wake(edge, awaited);
    if (dynamic && result >= 0) {
        rt_edge_staged_give(edge, &old);
        return rt_edge_record_await(&send, result);
    }
    return result == RT_E_BUSY ? RT_E_AGAIN : result;
}

int64_t rt_edge_send_lent_at_once(rt_edge *edge, uint64_t ticket)
{
    rt_edge_dynamic send = {.edge = edge, .at_once = true};
    rt_pool_block old = {.region = NULL};
    if (rt_edge_check_sender(edge) != RT_OK || !edge->device->limits.completes_in_post || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    int64_t result = loan_send(edge, ticket, &send, &old);
    bool awaited = result >= 0 && loan_awaited(edge);
    rt_turn_leave(&edge->turn);
    rt_edge_staged_give(edge, &old);
    waiters_wake(edge, awaited);
    return result >= 0 ? result : RT_E_AGAIN;
}

void rt_edge_give_back(rt_edge *edge, uint64_t ticket)
{
    rt_pool_block room = {.region = NULL};
    if (rt_forked())
        return;
    rt_turn_take(&edge->turn);
    rt_edge_loan *loan = edge->loan;
    bool open = loan != NULL && ticket != 0 && loan->ticket == ticket, awaited = open && loan_awaited(edge);
    if (open) {
        room = loan->room;
        loan->room.region = NULL;
        loan->ticket = 0;
        rt_edge_sender_take_back(&edge->tx);
    }
    bool over = open && edge->tx.state != RT_EDGE_OPEN;
    rt_turn_leave(&edge->turn);
    rt_edge_staged_give(edge, &room);
    waiters_wake(edge, awaited);
    if (over) /* the close of the edge waits for this */
        rt_service_kick(edge->device);
}

/* ---- the memory of a loan ---- */

rt_remote *rt_edge_lent_from(rt_edge *edge)
{
    if (rt_edge_check_sender(edge) != RT_OK || !edge->lends)
        return NULL;
    rt_turn_take(&edge->turn);
    rt_remote *remote = edge->slots_remote;
    if (remote != NULL)
        rt_remote_reference(remote);
    rt_turn_leave(&edge->turn);
    return remote;
}

rt_region *rt_edge_loan_region(rt_edge *edge)
{
    if (rt_edge_check_sender(edge) != RT_OK)
        return NULL;
    rt_turn_take(&edge->turn);
    rt_region *region = edge->loan != NULL && edge->loan->ticket != 0 ? edge->loan->room.region : NULL;
    if (region != NULL)
        rt_region_reference(region);
    rt_turn_leave(&edge->turn);
    return region;
}
