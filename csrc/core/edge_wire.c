/* edge_wire.c: an edge that was answered becomes one that carries tensors; and its end: close, drop, why, who hangs. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/edge.h"

/* ---- the sender's wiring ---- */

/* Attaches what the receiver gave, as far as the slice goes; checks that it reaches. */
static int attach(rt_edge *edge, const rt_edge_bytes *handle, uint64_t size, int64_t end_ns, rt_remote **remote,
                  rt_detail *detail)
{
    if (size == 0 || *remote != NULL)
        return RT_OK;
    int64_t left = end_ns - rt_device_time(edge->device);
    int status = rt_remote_attach(edge->channel, handle->bytes, handle->size, left > 0 ? left : 0, remote, detail);
    if (status == RT_OK && ((*remote)->size < size || ((*remote)->rights & RT_RIGHT_REMOTE_WRITE) == 0))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the receiver of edge \"%s\" gave memory that is too small, or cannot be written", edge->name);
    return status;
}

static void wire(rt_edge *edge, const rt_edge_message *answer, const rt_edge_layout *layout)
{
    const rt_limits *limits = &edge->device->limits;
    uint32_t first = edge->qp >= 0 ? (uint32_t)edge->qp : answer->number;
    edge->wiring = (rt_edge_wiring){.layout = *layout,
                                    .verify = answer->verify != 0 && edge->terms.edge_kind == RT_EDGE_STATIC,
                                    .loop_check = answer->loop_check != 0,
                                    .orders_writes = limits->orders_writes,
                                    .record = edge->terms.edge_kind == RT_EDGE_DYNAMIC,
                                    .number = answer->number,
                                    .piece_size = limits->message_size_max};
    for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++)
        edge->wiring.mode = answer->modes == 1u << mode ? (uint8_t)mode : edge->wiring.mode;
    for (uint32_t stripe = 0; stripe < layout->stripes; stripe++)
        edge->links[stripe] = &edge->channel->links[(first + stripe) % edge->channel->link_count];
    edge->plain = limits->completes_in_post && layout->stripes == 1 && edge->wiring.mode == RT_EDGE_CHAINED &&
                  !edge->wiring.verify && !edge->wiring.loop_check;
    edge->verify = answer->verify != 0;
    edge->eager_size = answer->eager_size;
    edge->trusting = edge->wiring.mode == RT_EDGE_TAIL && edge->trusting;
}

/* Memory for the source words and for the copies of every slot. */
static int furnish(rt_edge *edge, rt_detail *detail)
{
    const rt_edge_layout *layout = &edge->wiring.layout;
    bool registered = false;
    if (edge->sent != NULL)
        return RT_OK;
    int status =
        rt_edge_memory_take(edge->device, RT_RIGHT_REMOTE_WRITE, rt_edge_source_span(edge, layout->slots, layout->stripes),
                            RT_EDGE_LINE_SIZE, &edge->lines, &registered, detail);
    if (status != RT_OK)
        return status;
    rt_edge_sent *sent = calloc(layout->slots, sizeof *sent);
    bool whole = sent != NULL;
    for (uint32_t slot = 0; whole && slot < layout->slots; slot++) {
        sent[slot].copies_max = (RT_EDGE_COPIES + 2) * layout->stripes;
        sent[slot].copies = calloc(sent[slot].copies_max, sizeof *sent[slot].copies);
        whole = sent[slot].copies != NULL;
    }
    edge->tx.slots = layout->slots; /* edge_free counts by it */
    edge->sent = sent;
    return whole ? RT_OK : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the slots of an edge");
}

static void join(rt_edge *edge)
{
    rt_device *device = edge->device;
    const rt_edge_layout *layout = &edge->wiring.layout;
    pthread_mutex_lock(&device->lock);
    rt_turn_take(&edge->turn);
    rt_edge_sender_begin(&edge->tx, layout->slots, (rt_edge_flow)edge->terms.flow, device->limits.places_words_whole);
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        edge->keys[0] = edge->slots.region;
        edge->key_sizes[0] = edge->slots.region->size;
        edge->key_count = 1;
        rt_region_reference(edge->keys[0]);
    }
    if (edge->peer_knows) /* it was closed there, or here, while it was wired */
        rt_edge_sender_end(&edge->tx, RT_E_PEER_CLOSED);
    if (edge->close_wanted)
        rt_edge_sender_close(&edge->tx);
    rt_turn_leave(&edge->turn);
    edge->ask.state = RT_ASK_NONE;
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_JOINED, memory_order_release);
    rt_device_changed(device);
    pthread_mutex_unlock(&device->lock);
}

static int wire_sender(rt_edge *edge, int64_t end_ns, rt_detail *detail)
{
    const rt_edge_message *answer = &edge->ask.answer;
    rt_edge_layout layout;
    int status = rt_edge_answer_check(&edge->ask.message, answer, &layout, detail);
    if (status == RT_OK) {
        wire(edge, answer, &layout);
        status = rt_edge_wiring_check(&edge->wiring, detail);
    }
    if (status == RT_OK)
        status = attach(edge, &answer->slots_handle, layout.payload_span, end_ns, &edge->slots_remote, detail);
    if (status == RT_OK)
        status = attach(edge, &answer->flags_handle, layout.flag_span, end_ns, &edge->lines_remote, detail);
    if (status == RT_OK)
        status = furnish(edge, detail);
    if (status == RT_OK) {
        join(edge);
        return RT_OK;
    }
    if (status == RT_E_AGAIN || status == RT_E_INTERRUPTED)
        return status;
    pthread_mutex_lock(&edge->device->lock);
    rt_detail_pass(&edge->failure, detail);
    edge->ask.state = RT_ASK_NONE;
    edge->close_wanted = true; /* the receiver counts on a sender */
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_REFUSED, memory_order_release);
    pthread_mutex_unlock(&edge->device->lock);
    rt_service_kick(edge->device);
    return status;
}

int rt_edge_wait_open(rt_edge *edge, int64_t timeout_ns, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the edge is its parent's");
    rt_device *device = edge->device;
    int64_t end_ns = rt_edge_slice_end(device, timeout_ns);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        switch ((rt_edge_phase)atomic_load_explicit(&edge->phase, memory_order_acquire)) {
        case RT_EDGE_PHASE_JOINED: return RT_OK;
        case RT_EDGE_PHASE_REFUSED: return rt_detail_pass(detail, &edge->failure);
        case RT_EDGE_PHASE_ANSWERED: return wire_sender(edge, end_ns, detail);
        case RT_EDGE_PHASE_NEW: break;
        }
        if (edge->close_wanted || device->closed)
            return rt_fail(detail, RT_E_CLOSED, 0, "the edge \"%s\" was closed on this side", edge->name);
        if (edge->sender && rt_channel_state(edge->channel) != RT_CHANNEL_READY)
            return rt_channel_refuse(edge->channel, detail);
        int status = rt_service_wait(device, seen, end_ns);
        if (status != RT_OK)
            return rt_fail(detail, status, 0, "the other end of edge \"%s\" has not been opened yet", edge->name);
    }
}

/* ---- the end ---- */

void rt_edge_close(rt_edge *edge)
{
    if (rt_forked())
        return;
    rt_device *device = edge->device;
    pthread_mutex_lock(&device->lock);
    bool first = !edge->close_wanted;
    edge->close_wanted = true;
    rt_list_remove(&edge->name_node);
    if (first && rt_edge_joined(edge)) {
        rt_turn_take(&edge->turn);
        if (edge->sender) {
            rt_edge_stage_give_up(edge); /* after this its tensor may be gone */
            rt_edge_sender_close(&edge->tx);
        } else {
            rt_edge_receiver_end(&edge->rx, RT_E_CLOSED);
        }
        rt_turn_leave(&edge->turn);
    }
    rt_channel *channel = edge->channel;
    if (!device->closed && channel != NULL && channel->rpc != NULL && rt_channel_state(channel) == RT_CHANNEL_READY)
        rt_rpc_run(channel);
    bool alone = rt_list_empty(&edge->node);
    if (!device->closed) {
        device->provider->memory_wake(device->pdevice);
        rt_device_changed(device);
    }
    pthread_mutex_unlock(&device->lock);
    if (alone && edge->borrowed == 0)
        rt_edge_let_go(edge);
    if (!device->closed)
        rt_service_kick(device);
}

void rt_edge_drop(rt_edge *edge)
{
    if (rt_forked())
        return;
    rt_edge_close(edge);
    rt_edge_unreference(edge);
}

rt_region *rt_edge_slots_region(rt_edge *edge)
{
    if (rt_forked() || edge->sender || edge->slots.region == NULL)
        return NULL;
    rt_region_reference(edge->slots.region);
    return edge->slots.region;
}

/* ---- what it says ---- */

int rt_edge_fail(rt_edge *edge, const rt_detail *why)
{
    rt_detail_pass(&edge->trouble, why);
    return why->status;
}

int rt_edge_explain(rt_edge *edge, int status, rt_detail *detail)
{
    rt_detail trouble;
    rt_turn_take(&edge->turn);
    trouble = edge->trouble;
    rt_turn_leave(&edge->turn);
    rt_channel *channel = rt_edge_joined(edge) ? edge->channel : NULL;
    if (status == RT_E_CLOSED && edge->close_wanted)
        return rt_fail(detail, status, 0, "the edge \"%s\" was closed on this side", edge->name);
    if (channel != NULL && rt_channel_state(channel) != RT_CHANNEL_READY && status != RT_E_CORRUPT && status != RT_E_INVALID) {
        rt_detail why;
        rt_channel_refuse(channel, &why);
        if (why.status == status)
            return rt_detail_pass(detail, &why);
    }
    if (trouble.status == status)
        return rt_fail(detail, status, 0, "edge \"%s\": %.400s", edge->name, trouble.text);
    switch (status) {
    case RT_E_BUSY:
        return rt_fail(detail, status, 0,
                       edge->sender ? "the edge \"%s\" is not open yet: wait for it"
                                    : "all slots of edge \"%s\" are held: release a tensor, or make the edge with more slots",
                       edge->name);
    case RT_E_PEER_CLOSED: return rt_fail(detail, status, 0, "the peer closed the edge \"%s\"", edge->name);
    case RT_E_INVALID:
        return rt_fail(detail, status, 0,
                       "edge \"%s\": this is not a tensor of it that is held here, or not a call for its side and kind",
                       edge->name);
    case RT_E_UNSUPPORTED:
        return rt_fail(detail, status, 0, "edge \"%s\": %s cannot map the peer's memory (limits.maps_remote): receive it instead",
                       edge->name, edge->device->provider->name);
    default: return rt_fail(detail, status, 0, "edge \"%s\": %s", edge->name, rt_status_name(status));
    }
}

int rt_edge_failure(rt_edge *edge, rt_detail *detail)
{
    rt_detail_clear(detail);
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the edge is its parent's");
    if (atomic_load(&edge->phase) == RT_EDGE_PHASE_REFUSED)
        return rt_detail_pass(detail, &edge->failure);
    rt_turn_take(&edge->turn);
    int status = edge->sender ? edge->tx.failure : edge->rx.failure != RT_OK ? edge->rx.failure : edge->rx.lost;
    rt_turn_leave(&edge->turn);
    if (status == RT_OK && edge->close_wanted)
        status = RT_E_CLOSED;
    return status == RT_OK ? RT_OK : rt_edge_explain(edge, status, detail);
}

void rt_edge_get_info(const rt_edge *edge, rt_edge_info *info_out)
{
    memset(info_out, 0, sizeof *info_out);
    info_out->slots_address = edge->sender ? 0 : (uint64_t)(uintptr_t)edge->slots.address;
    info_out->slots = edge->terms.slots;
    info_out->trusting = edge->trusting; /* known by what this end was asked for */
    snprintf(info_out->ordering, sizeof info_out->ordering, "%s", edge->ordering);
    if (!rt_edge_joined(edge))
        return;
    const rt_edge_wiring *wiring = &edge->wiring;
    info_out->slot_stride = wiring->layout.slot_stride;
    info_out->slot_size = wiring->layout.payload_size;
    info_out->eager_size = edge->eager_size;
    info_out->number = edge->number;
    info_out->slots = wiring->layout.slots;
    info_out->stripes = wiring->layout.stripes;
    info_out->mode = wiring->mode;
    info_out->verify = edge->verify;
    info_out->loop_check = wiring->loop_check;
    const char *name = rt_edge_mode_name(wiring->mode);
    if (strncmp(edge->ordering, name, strlen(name)) != 0)
        snprintf(info_out->ordering, sizeof info_out->ordering, "%s: the other end asked for it", name);
}

void rt_edge_get_stats(rt_edge *edge, rt_edge_stats *stats_out)
{
    memset(stats_out, 0, sizeof *stats_out);
    if (rt_forked())
        return;
    rt_turn_take(&edge->turn);
    *stats_out = edge->stats;
    stats_out->sequence = edge->sender ? edge->tx.sent : edge->rx.received;
    stats_out->released = edge->sender ? edge->tx.released : edge->rx.released;
    rt_turn_leave(&edge->turn);
}

int rt_edge_describe(const rt_edge *edge, char *text_out, size_t capacity)
{
    const char *kind = edge->terms.edge_kind == RT_EDGE_STATIC ? "static" : "dynamic";
    const char *mode = rt_edge_joined(edge) ? rt_edge_mode_name(edge->wiring.mode) : "not joined";
    if (edge->sender)
        return snprintf(text_out, capacity, "edge \"%s\" (%s, %s), sending, %s: sent %" PRIu64 ", released %" PRIu64, edge->name,
                        kind, mode, rt_edge_state_name((rt_edge_state)edge->tx.state), edge->tx.sent, edge->tx.released);
    return snprintf(text_out, capacity,
                    "edge \"%s\" (%s, %s), receiving, %s: received %" PRIu64 ", expects %" PRIu64 ", released %" PRIu64
                    ", credited %" PRIu64,
                    edge->name, kind, mode, rt_edge_state_name((rt_edge_state)edge->rx.state), edge->rx.received,
                    rt_edge_receiver_expects(&edge->rx), edge->rx.released, edge->rx.credited);
}

int64_t rt_edge_dump(rt_edge *edge, char *text_out, size_t capacity)
{
    if (rt_forked())
        return 0;
    rt_turn_take(&edge->turn);
    int size = rt_edge_describe(edge, text_out, capacity);
    rt_turn_leave(&edge->turn);
    return size;
}

int rt_channel_ordering(rt_channel *channel, char *text_out, size_t capacity)
{
    const rt_limits *limits = &channel->device->limits;
    const rt_edge_promises promises = {.orders_writes = limits->orders_writes,
                                       .orders_bytes_within_a_write = limits->orders_bytes_within_a_write,
                                       .places_words_whole = limits->places_words_whole,
                                       .carries_immediate = limits->carries_immediate};
    uint32_t modes = 0;
    bool trusting = false;
    char reason[RT_EDGE_REASON_SIZE];
    rt_detail detail;
    int status = rt_edge_mode_offer(&promises, 0, &modes, &trusting, reason, &detail);
    snprintf(text_out, capacity, "%s", status == RT_OK ? reason : detail.text);
    return status;
}
