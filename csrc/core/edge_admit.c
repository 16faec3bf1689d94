/* edge_admit.c: the receiver's side of set-up: what is asked of its edges by OPEN_EDGE, ADD_KEY and CLOSE_EDGE, and the answers (EDGES.md
 * section 9). device->lock held throughout. */
#include <stdio.h>
#include <string.h>

#include "core/edge.h"

static void refuse(rt_edge_request *request, rt_edge_refusal refusal, const char *text)
{
    rt_edge_refuse(&request->message, refusal, text, &request->answer);
    request->answered = true;
}

static void let_go(rt_edge_request *request)
{
    if (request->credit != NULL)
        rt_remote_unreference(request->credit);
    if (request->tensors != NULL)
        rt_remote_unreference(request->tensors);
    request->credit = request->tensors = NULL;
}

/* ---- OPEN_EDGE ---- */

static rt_edge *find_name(const rt_device *device, const char *name)
{
    RT_LIST_EACH(node, &device->edges) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, name_node);
        if (strcmp(edge->name, name) == 0)
            return edge;
    }
    return NULL;
}

static uint32_t count_names(const rt_device *device)
{
    uint32_t count = 0;
    RT_LIST_EACH(node, &device->edges)
        count++;
    return count;
}

/* Attaches what the peer gave. RT_E_AGAIN: later. */
static int attach(rt_channel *channel, const rt_edge_bytes *handle, uint64_t size, uint32_t right, rt_remote **remote,
                  rt_detail *detail)
{
    if (*remote != NULL || handle->size == 0)
        return RT_OK;
    int status = rt_remote_attach_now(channel, handle->bytes, handle->size, remote, detail);
    if (status == RT_OK && ((*remote)->size < size || ((*remote)->rights & right) == 0))
        return rt_fail(detail, RT_E_ACCESS, 0, "the handle does not reach what the edge needs: %llu bytes and the right 0x%x",
                       (unsigned long long)size, right);
    return status;
}

static uint16_t new_number(rt_rpc *rpc, const rt_channel *channel)
{
    for (uint32_t tries = 0; tries < RT_EDGES_MAX; tries++) {
        uint16_t number = ++rpc->next_edge_number;
        if (number != 0 && rt_edge_of_number(channel, number, false) == NULL)
            return number;
    }
    return 0;
}

static int wire(rt_edge *edge, rt_channel *channel, const rt_edge_message *answer, rt_detail *detail)
{
    const rt_limits *limits = &channel->device->limits;
    rt_edge_wiring *wiring = &edge->wiring;
    *wiring = (rt_edge_wiring){.verify = answer->verify != 0 && edge->terms.edge_kind == RT_EDGE_STATIC,
                               .loop_check = answer->loop_check != 0,
                               .orders_writes = limits->orders_writes,
                               .record = edge->terms.edge_kind == RT_EDGE_DYNAMIC,
                               .number = answer->number,
                               .piece_size = limits->message_size_max};
    for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++)
        wiring->mode = answer->modes == 1u << mode ? (uint8_t)mode : wiring->mode;
    uint64_t size = 0;
    if (wiring->record)
        size = rt_edge_record_slot_size(answer->eager_size);
    else
        (void)rt_tensor_bytes(&edge->terms.shape, &size, NULL); /* checked when the edge was made */
    int status = rt_edge_lay_out(size, answer->slots, answer->stripes, 1ull << answer->alignment_log,
                                 wiring->mode == RT_EDGE_TAIL, &wiring->layout, detail);
    if (status == RT_OK)
        status = rt_edge_wiring_check(wiring, detail);
    for (uint32_t stripe = 0; stripe < answer->stripes; stripe++)
        edge->links[stripe] = &channel->links[(answer->number + stripe) % channel->link_count];
    return status;
}

/* RECVs for what the sender may have under way. */
static int reserve(const rt_edge *edge, rt_detail *detail)
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

static int handles(rt_edge *edge, rt_edge_message *answer, rt_detail *detail)
{
    const rt_edge_layout *layout = &edge->wiring.layout;
    size_t size = 0;
    int status =
        rt_region_handle(edge->slots.region, edge->slots.offset, layout->payload_span, answer->slots_handle.bytes, &size, detail);
    answer->slots_handle.size = (uint8_t)size;
    if (status != RT_OK || layout->tail)
        return status;
    status = rt_region_handle(edge->lines.region, edge->lines.offset + RT_EDGE_LINE_SIZE, layout->flag_span,
                              answer->flags_handle.bytes, &size, detail);
    answer->flags_handle.size = (uint8_t)size;
    return status;
}

/* From here on tensors may come. */
static void join(rt_edge *edge, rt_channel *channel, rt_edge_request *request)
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
    edge->number = edge->wiring.number;
    edge->verify = request->answer.verify != 0;
    edge->eager_size = request->answer.eager_size;
    edge->trusting = edge->wiring.mode == RT_EDGE_TAIL && edge->trusting;
    edge->credit_remote = request->credit;
    if (request->tensors != NULL) {
        edge->remotes[0] = request->tensors;
        edge->key_sizes[0] = request->tensors->size;
        edge->key_count = 1;
    }
    edge->credit_copy = (rt_copy){.region = (uint64_t)(uintptr_t)edge->lines.region,
                                  .region_offset = edge->lines.offset,
                                  .remote = (uint64_t)(uintptr_t)edge->credit_remote,
                                  .size = sizeof(uint64_t),
                                  .direction = RT_WRITE};
    rt_turn_leave(&edge->turn);
    request->credit = request->tensors = NULL;
    edge->channel = channel;
    rt_channel_reference(channel);
    rt_edge_reference(edge);
    rt_list_append(&channel->rpc->edges, &edge->node);
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_JOINED, memory_order_release);
    rt_device_changed(channel->device);
    channel->device->provider->memory_wake(channel->device->pdevice);
}

static void open_edge(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_device *device = channel->device;
    char text[RT_REASON_MAX + 1];
    rt_detail detail = {.status = RT_OK};
    rt_edge *edge = find_name(device, message->name);
    if (edge == NULL) {
        if (rt_device_time(device) < request->deadline_ns)
            return;
        snprintf(text, sizeof text, "no edge of that name was made here within %.1f s; there are %u others",
                 (double)message->wait_ms / 1000.0, count_names(device));
        refuse(request, RT_EDGE_REFUSED_NAME, text);
        return;
    }
    rt_edge_terms terms = edge->terms;
    terms.has_sender = rt_edge_joined(edge);
    terms.stripes = terms.stripes < channel->link_count ? terms.stripes : (uint8_t)channel->link_count;
    request->answered = !rt_edge_admit(&terms, message, &request->answer);
    if (request->answered)
        return;
    int status = attach(channel, &message->credit, sizeof(uint64_t), RT_RIGHT_REMOTE_WRITE, &request->credit, &detail);
    if (status == RT_OK)
        status = attach(channel, &message->tensors, 1, RT_RIGHT_REMOTE_READ, &request->tensors, &detail);
    if (status == RT_E_AGAIN)
        return;
    if (status != RT_OK) {
        refuse(request, RT_EDGE_REFUSED_KEY, detail.text);
        return;
    }
    request->answer.number = new_number(channel->rpc, channel);
    status = request->answer.number == 0 ? rt_fail(&detail, RT_E_BUSY, 0, "the channel carries %d edges already", RT_EDGES_MAX)
                                         : wire(edge, channel, &request->answer, &detail);
    if (status == RT_OK)
        status = handles(edge, &request->answer, &detail);
    if (status == RT_OK)
        status = reserve(edge, &detail);
    if (status != RT_OK) {
        refuse(request, status == RT_E_UNSUPPORTED ? RT_EDGE_REFUSED_ORDERING : RT_EDGE_REFUSED_FULL, detail.text);
        return;
    }
    join(edge, channel, request);
    request->answered = true;
}

/* ---- ADD_KEY, CLOSE_EDGE ---- */

static void add_key(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_edge *edge = rt_edge_of_number(channel, message->number, false);
    rt_detail detail = {.status = RT_OK};
    if (edge == NULL || message->key != edge->key_count || edge->key_count == RT_EDGE_KEYS_MAX) {
        refuse(request, RT_EDGE_REFUSED_FULL, "the edge is closed here, or takes no more keys");
        return;
    }
    int status = attach(channel, &message->tensors, 1, RT_RIGHT_REMOTE_READ, &request->tensors, &detail);
    if (status == RT_E_AGAIN)
        return;
    if (status != RT_OK) {
        refuse(request, RT_EDGE_REFUSED_KEY, detail.text);
        return;
    }
    rt_turn_take(&edge->turn);
    edge->remotes[edge->key_count] = request->tensors;
    edge->key_sizes[edge->key_count] = request->tensors->size;
    edge->key_count++;
    edge->stats.keys = edge->key_count;
    rt_turn_leave(&edge->turn);
    request->tensors = NULL;
    request->answer = (rt_edge_message){.kind = RT_EDGE_KEY_ADDED, .request = message->request};
    request->answered = true;
}

/* Looks for completions when nobody else may be about to: a sender that does something else polls nothing. */
static void step(const rt_edge *edge)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
        rt_queue_step(edge->links[stripe]->queue);
}

static void close_edge(rt_channel *channel, rt_edge_request *request)
{
    const rt_edge_message *message = &request->message;
    rt_edge *edge = rt_edge_of_number(channel, message->number, message->by_sender == 0);
    rt_detail detail = {.status = RT_OK};
    if (edge != NULL && message->by_sender == 0 && rt_edge_joined(edge)) {
        rt_turn_take(&edge->turn);
        rt_edge_sender_end(&edge->tx, RT_E_PEER_CLOSED);
        rt_edge_take_credit(edge); /* its tensors are free */
        rt_turn_leave(&edge->turn);
        step(edge);
        if (!rt_edge_quiet(edge))
            return; /* its memory is in use until the last WRITE is placed; asked again after a moment */
    }
    if (edge != NULL) {
        rt_turn_take(&edge->turn);
        int status = RT_OK;
        if (!rt_edge_joined(edge))
            status = RT_OK; /* opening: it will be closed when it is wired */
        else if (message->by_sender != 0)
            status = rt_edge_receiver_finish(&edge->rx, message->final, &detail);
        if (status != RT_OK)
            rt_edge_fail(edge, &detail);
        rt_turn_leave(&edge->turn);
        edge->peer_knows = true;
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
        case RT_EDGE_OPEN_EDGE: open_edge(channel, request); break;
        case RT_EDGE_ADD_KEY: add_key(channel, request); break;
        case RT_EDGE_CLOSE_EDGE: close_edge(channel, request); break;
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
    let_go(request);
    request->active = false;
    return true;
}

void rt_edge_requests_end(rt_rpc *rpc)
{
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        let_go(&rpc->edge_requests[index]);
}
