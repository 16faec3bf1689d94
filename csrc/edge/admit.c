/* admit.c: the receiver's side of set-up: the peer's requests OPEN_EDGE, ADD_KEY and CLOSE_EDGE,
 * and the answers (EDGES.md section 9). device->lock held throughout. */
#include <assert.h>
#include <stdio.h>

#include "channel/channel.h"
#include "channel/receives.h"
#include "channel/remote.h"
#include "device/device.h"
#include "edge/admit.h"
#include "edge/attach.h"
#include "edge/attend.h"
#include "edge/credit.h"
#include "edge/edge.h"
#include "edge/quiet.h"
#include "proto/edge_mode.h"
#include "region/pool.h"
#include "rpc/carrier.h"

static void request_refuse(rt_edge_request *request, rt_edge_refusal refusal, const char *text)
{
    rt_edge_refuse(&request->message, refusal, text, &request->answer);
    request->answered = true;
}

/* The refusal to send when this end could not do what the request needs. */
static rt_edge_refusal refusal_of(int status, rt_edge_refusal otherwise)
{
    bool memory = status == RT_E_NO_MEMORY || status == RT_E_MEMLOCK;
    return memory ? RT_EDGE_REFUSED_MEMORY : status == RT_E_UNSUPPORTED ? RT_EDGE_REFUSED_ORDERING : otherwise;
}

static void request_let_go(rt_edge_request *request)
{
    if (request->credit != NULL)
        rt_remote_unreference(request->credit);
    if (request->tensors != NULL)
        rt_remote_unreference(request->tensors);
    request->credit = request->tensors = NULL;
    rt_pool_give(&request->slots);
    rt_pool_give(&request->lines);
    rt_pool_give(&request->credit_line);
}

/* ---- OPEN_EDGE ---- */

static uint16_t number_choose(rt_edges *edges, const rt_channel *channel)
{
    for (uint32_t tries = 0; tries < RT_EDGES_MAX; tries++) {
        uint16_t number = ++edges->next_number;
        if (number != 0 && rt_edge_of_number(channel, number, false) == NULL)
            return number;
    }
    return 0;
}

static int layout_make(const rt_edge *edge, const rt_edge_message *answer, rt_edge_layout *layout_out, rt_detail *detail)
{
    uint64_t size = 0;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC)
        size = rt_edge_record_slot_size(answer->eager_size);
    else
        (void)rt_tensor_bytes(&edge->terms.shape, &size, NULL); /* checked when the edge was made */
    return rt_edge_lay_out(size, answer->slots, answer->stripes, 1ull << answer->alignment_log,
                           answer->modes == 1u << RT_EDGE_TAIL, layout_out, detail);
}

/* Takes a block of a pool, unless there is one already; one that does not fit was for an earlier
 * edge of that name, which is gone. */
static int channel_block_take(rt_channel *channel, rt_pool_use use, uint64_t size, uint64_t alignment, rt_pool_block *memory,
                              rt_detail *detail)
{
    if (memory->region != NULL && memory->size == size && (uintptr_t)memory->address % alignment == 0)
        return RT_OK;
    rt_pool_give(memory);
    if (size == 0)
        return RT_OK;
    return rt_pool_take_ready(channel->device, &channel->pools, use, size, alignment, memory, detail);
}

/* Takes memory of the channel, which the request holds until the edge is joined: another channel's
 * request for the same edge may come first. RT_E_AGAIN: the service makes room. */
static int request_furnish(const rt_edge *edge, rt_channel *channel, const rt_edge_layout *layout, rt_edge_request *request,
                           rt_detail *detail)
{
    int status = RT_OK;
    if (edge->slots.region == NULL)
        status = channel_block_take(channel, RT_POOL_WRITTEN, layout->payload_span, 1ull << edge->terms.alignment_log,
                                    &request->slots, detail);
    if (status == RT_OK)
        status = channel_block_take(channel, RT_POOL_WRITTEN, layout->tail ? 0 : layout->flag_span, RT_EDGE_LINE_SIZE,
                                    &request->lines, detail);
    if (status == RT_OK)
        status = channel_block_take(channel, RT_POOL_LOCAL, request->message.credit.size == 0 ? 0 : RT_EDGE_LINE_SIZE,
                                    RT_EDGE_LINE_SIZE, &request->credit_line, detail);
    return status;
}

/* Reserves RECVs for everything that the sender may have under way. RT_E_AGAIN: the service makes
 * room. */
static int receives_reserve(const rt_edge *edge, rt_detail *detail)
{
    int status = RT_OK;
    if (edge->wiring.mode != RT_EDGE_IMMEDIATE)
        return RT_OK;
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes && status == RT_OK; stripe++) {
        uint32_t count = edge->wiring.layout.slots * rt_edge_immediate_count(&edge->wiring, stripe);
        status = rt_receives_reserve(edge->links[stripe], count, detail);
        for (uint32_t done = 0; status != RT_OK && done < stripe; done++)
            rt_receives_unreserve(edge->links[done], edge->wiring.layout.slots * rt_edge_immediate_count(&edge->wiring, done));
    }
    return status;
}

static int handles_fill(const rt_edge *edge, rt_edge_request *request, rt_detail *detail)
{
    const rt_edge_layout *layout = &edge->wiring.layout;
    const rt_pool_block *slots = edge->slots.region != NULL ? &edge->slots : &request->slots, *lines = &request->lines;
    rt_edge_message *answer = &request->answer;
    size_t size = 0;
    /* A region of the caller's may serve another purpose once the channel has ended, while a sender still writes. */
    answer->lends = edge->device->limits.maps_remote && !slots->bound;
    int status = rt_region_handle(slots->region, slots->offset, layout->payload_span, answer->slots_handle.bytes, &size, detail);
    answer->slots_handle.size = (uint8_t)size;
    if (status != RT_OK || layout->tail)
        return status;
    status = rt_region_handle(lines->region, lines->offset, layout->flag_span, answer->flags_handle.bytes, &size, detail);
    answer->flags_handle.size = (uint8_t)size;
    return status;
}

/* Moves the request's memory and remotes to the edge. edge->turn held. */
static void request_hand_over(rt_edge *edge, rt_edge_request *request)
{
    if (edge->slots.region == NULL) {
        edge->slots = request->slots;
        request->slots.region = NULL;
    }
    edge->lines = request->lines;
    edge->credit_line = request->credit_line;
    request->lines.region = request->credit_line.region = NULL;
    edge->credit_remote = request->credit;
    if (request->tensors != NULL) {
        edge->remotes[0] = request->tensors;
        edge->key_sizes[0] = request->tensors->size;
        rt_edge_keys_begin(&edge->key_numbers, RT_EDGE_KEYS_MAX);
    }
    request->credit = request->tensors = NULL;
}

/* Joins the edge: from here on tensors may come. */
static void receiver_join(rt_edge *edge, rt_channel *channel, rt_edge_request *request)
{
    const rt_limits *limits = &channel->device->limits;
    const rt_edge_layout *layout = &edge->wiring.layout;
    rt_edge_receiver_options options = {.slots = layout->slots,
                                        .stripes = layout->stripes,
                                        .flow = (rt_edge_flow)edge->terms.flow,
                                        .flags_whole = edge->wiring.mode != RT_EDGE_TAIL && limits->places_words_whole,
                                        .begun_whole = limits->places_words_whole,
                                        .loop_check = edge->wiring.loop_check,
                                        .credits_serial = !limits->orders_writes || limits->inline_size_max < sizeof(uint64_t)};
    rt_turn_take(&edge->turn);
    rt_edge_receiver_begin(&edge->rx, &options);
    edge->verify = request->answer.verify != 0;
    edge->eager_size = request->answer.eager_size;
    edge->trusting = edge->wiring.mode == RT_EDGE_TAIL && edge->trusting;
    request_hand_over(edge, request);
    edge->credit_copy = (rt_piece){.region = edge->credit_line.region,
                                   .region_offset = edge->credit_line.offset,
                                   .remote = edge->credit_remote,
                                   .size = sizeof(uint64_t),
                                   .direction = RT_WRITE};
    rt_turn_leave(&edge->turn);
    edge->channel = channel;
    rt_channel_reference(channel);
    rt_edge_list(edge);
    rt_edge_take_number(edge, edge->wiring.number);
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_JOINED, memory_order_release);
    rt_device_changed(channel->device);
    channel->device->provider->memory_wake(channel->device->pdevice);
}

/* Prepares all that an edge needs before it is joined. RT_E_AGAIN: the service makes room, and the
 * request is then tried again. */
static int receiver_prepare(rt_edge *edge, rt_channel *channel, rt_edge_request *request, rt_detail *detail)
{
    rt_edge_layout layout;
    int status = layout_make(edge, &request->answer, &layout, detail);
    if (status == RT_OK)
        status = request_furnish(edge, channel, &layout, request, detail);
    if (status != RT_OK)
        return status;
    request->answer.number = number_choose(rt_edges_of(channel), channel);
    if (request->answer.number == 0)
        return rt_fail(detail, RT_E_BUSY, 0, "the channel carries %d edges already", RT_EDGES_MAX);
    rt_edge_wire(edge, channel, &request->answer, &layout, request->answer.number);
    status = rt_edge_wiring_check(&edge->wiring, detail);
    if (status == RT_OK)
        status = handles_fill(edge, request, detail);
    return status == RT_OK ? receives_reserve(edge, detail) : status;
}

/* Whether the edge had a sender, which died or closed it. Its receiver still gets the tensors that
 * came, learns of the end, and makes the edge anew: a sender that comes back waits for that as for
 * an edge that is not made yet. */
static bool sender_left(const rt_edge *edge)
{
    return rt_edge_joined(edge) && (edge->peer_knows || rt_channel_state(edge->channel) != RT_CHANNEL_READY);
}

/* Attaches a region that tensors will be read from; a static edge has none. */
static int tensors_attach(const rt_edge *edge, rt_channel *channel, rt_edge_request *request, rt_detail *detail)
{
    const rt_edge_bytes *handle = &request->message.tensors;
    const rt_edge_need need = {handle, handle->size == 0 ? 0 : 1, RT_RIGHT_REMOTE_READ};
    return rt_edge_attach(edge, channel, &need, RT_EDGE_LOCKED, &request->tensors, detail);
}

static void opening_answer(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_device *device = channel->device;
    char text[RT_REASON_MAX + 1];
    rt_detail detail = {.status = RT_OK};
    rt_edge *edge = rt_edge_of_name(device, message->name);
    bool left = edge != NULL && sender_left(edge);
    if (edge == NULL || left) {
        if (rt_device_time(device) < request->deadline_ns)
            return;
        if (left)
            snprintf(text, sizeof text,
                     "its sender is gone, and the receiver did not close the edge and make it anew within %.1f s",
                     (double)message->wait_ms / 1000.0);
        else
            snprintf(text, sizeof text, "no edge of that name was made here within %.1f s; there are %u others",
                     (double)message->wait_ms / 1000.0, device->edges.count);
        request_refuse(request, RT_EDGE_REFUSED_NAME, text);
        return;
    }
    rt_edge_terms terms = edge->terms;
    terms.has_sender = rt_edge_joined(edge);
    terms.stripes = terms.stripes < channel->link_count ? terms.stripes : (uint8_t)channel->link_count;
    request->answered = !rt_edge_admit(&terms, message, &request->answer);
    if (request->answered)
        return;
    const rt_edge_need credit = {&message->credit, message->credit.size == 0 ? 0 : sizeof(uint64_t), RT_RIGHT_REMOTE_WRITE};
    int status = rt_edge_attach(edge, channel, &credit, RT_EDGE_LOCKED, &request->credit, &detail);
    if (status == RT_OK)
        status = tensors_attach(edge, channel, request, &detail);
    if (status == RT_E_AGAIN)
        return;
    if (status != RT_OK) {
        request_refuse(request, refusal_of(status, RT_EDGE_REFUSED_KEY), detail.text);
        return;
    }
    status = receiver_prepare(edge, channel, request, &detail);
    if (status == RT_E_AGAIN)
        return;
    if (status != RT_OK) {
        request_refuse(request, refusal_of(status, RT_EDGE_REFUSED_FULL), detail.text);
        return;
    }
    receiver_join(edge, channel, request);
    request->answered = true;
}

/* ---- ADD_KEY, CLOSE_EDGE ---- */

/* Whether a tensor that is held here lies in the registration of this number. edge->turn held. */
static bool key_held(const rt_edge *edge, uint32_t key)
{
    for (uint32_t slot = 0; edge->got != NULL && slot < edge->rx.slots; slot++) {
        const rt_edge_got *got = &edge->got[slot];
        if (got->decoded && !got->record.eager && got->record.key == key)
            return true;
    }
    return false;
}

/* Gives a number to the attached remote; the remote that had the number before is released. False:
 * the number is not free. */
static bool key_take(rt_edge *edge, uint32_t key, rt_remote *remote)
{
    rt_turn_take(&edge->turn);
    bool may = rt_edge_keys_may_add(&edge->key_numbers, key, key_held(edge, key));
    rt_remote *before = may ? edge->remotes[key] : NULL;
    if (may) {
        rt_edge_keys_added(&edge->key_numbers, key, 0);
        edge->remotes[key] = remote;
        edge->key_sizes[key] = remote->size;
        edge->stats.keys = edge->key_numbers.count;
    }
    rt_turn_leave(&edge->turn);
    if (before != NULL)
        rt_remote_unreference(before);
    return may;
}

static void key_answer(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_edge *edge = rt_edge_of_number(channel, message->number, false);
    rt_detail detail = {.status = RT_OK};
    if (edge == NULL || edge->terms.edge_kind != RT_EDGE_DYNAMIC) {
        request_refuse(request, RT_EDGE_REFUSED_FULL, "the edge is closed here, or takes no keys");
        return;
    }
    int status = tensors_attach(edge, channel, request, &detail);
    if (status == RT_E_AGAIN)
        return;
    if (status != RT_OK) {
        request_refuse(request, refusal_of(status, RT_EDGE_REFUSED_KEY), detail.text);
        return;
    }
    if (!key_take(edge, message->key, request->tensors)) {
        request_refuse(request, RT_EDGE_REFUSED_KEY, "the number of the key is not the next one, or is in use");
        return;
    }
    request->tensors = NULL;
    request->answer = (rt_edge_message){.kind = RT_EDGE_KEY_ADDED, .request = message->request};
    request->answered = true;
}

static void closing_answer(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_edge *edge = rt_edge_of_number(channel, message->number, message->by_sender == 0);
    rt_detail detail = {.status = RT_OK};
    if (edge != NULL) {
        const rt_edge_closing closing = rt_edge_closing_of(edge);
        rt_turn_take(&edge->turn);
        if (rt_edge_close_heard(&closing, &edge->tx, &edge->rx, message->final, &detail) != RT_OK)
            rt_edge_fail(edge, &detail);
        bool waits = rt_edge_close_answer_waits(&closing);
        if (waits)
            rt_edge_take_credit(edge); /* the edge's tensors are free */
        rt_turn_leave(&edge->turn);
        if (waits)
            rt_edge_step(edge);
        if (waits && !rt_edge_quiet(edge))
            return; /* the answer is tried again after a moment */
        edge->peer_knows = true;
        rt_edge_attend(edge);
        channel->device->provider->memory_wake(channel->device->pdevice);
        rt_device_changed(channel->device);
    }
    request->answer = (rt_edge_message){.kind = RT_EDGE_EDGE_CLOSED, .request = message->request};
    request->answered = true;
}

/* ---- requests ---- */

bool rt_edge_answer(rt_channel *channel, rt_edge_request *request)
{
    if (!request->answered) {
        switch ((enum rt_edge_message_kind)request->message.kind) {
        case RT_EDGE_OPEN_EDGE: opening_answer(channel, request); break;
        case RT_EDGE_ADD_KEY: key_answer(channel, request); break;
        case RT_EDGE_CLOSE_EDGE: closing_answer(channel, request); break;
        case RT_EDGE_EDGE_OPENED:
        case RT_EDGE_EDGE_REFUSED:
        case RT_EDGE_EDGE_CLOSED:
        case RT_EDGE_KEY_ADDED: assert(false); break; /* never taken as requests */
        }
    }
    if (!request->answered)
        return false;
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    int64_t size = rt_edge_message_encode(&request->answer, bytes, sizeof bytes);
    assert(size > 0);
    if (!rt_rpc_send(channel, bytes, (size_t)size))
        return false;
    request_let_go(request);
    request->active = false;
    return true;
}

void rt_edge_requests_end(rt_edges *edges)
{
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        request_let_go(&edges->requests[index]);
}
