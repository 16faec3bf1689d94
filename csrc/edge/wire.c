/* wire.c: turns an answered request into an edge that carries tensors. */
#include <stdlib.h>

#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/attach.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/edge.h"
#include "proto/edge_mode.h"
#include "region/pool.h"
#include "region/region.h"

/* ---- the sender's wiring ---- */

/* Attaches the receiver's slots and flag lines, within the slice. */
static int lines_attach(rt_edge *edge, const rt_edge_message *answer, const rt_edge_layout *layout, int64_t end_ns,
                        rt_detail *detail)
{
    const rt_edge_need slots = {&answer->slots_handle, layout->payload_span, RT_RIGHT_REMOTE_WRITE};
    const rt_edge_need flags = {&answer->flags_handle, layout->flag_span, RT_RIGHT_REMOTE_WRITE};
    int status = rt_edge_attach(edge, edge->channel, &slots, end_ns, &edge->slots_remote, detail);
    return status == RT_OK ? rt_edge_attach(edge, edge->channel, &flags, end_ns, &edge->lines_remote, detail) : status;
}

static void edge_wire(rt_edge *edge, const rt_edge_message *answer, const rt_edge_layout *layout)
{
    const rt_limits *limits = &edge->device->limits;
    uint32_t first = edge->qp >= 0 ? (uint32_t)edge->qp : answer->number;
    rt_edge_wire(edge, edge->channel, answer, layout, first);
    edge->plain = limits->completes_in_post && layout->stripes == 1 && edge->wiring.mode == RT_EDGE_CHAINED &&
                  !edge->wiring.verify && !edge->wiring.loop_check;
    /* A loop check needs BEGUN before the first byte, and a loan may be given back unsent. */
    edge->lends =
        answer->lends != 0 && limits->maps_remote && limits->orders_writes && !edge->wiring.loop_check && !edge->staging_wanted;
    edge->verify = answer->verify != 0;
    edge->eager_size = answer->eager_size;
    edge->trusting = edge->wiring.mode == RT_EDGE_TAIL && edge->trusting;
}

/* Takes memory for the source words and for the copies of every slot. */
static int sender_furnish(rt_edge *edge, rt_detail *detail)
{
    const rt_edge_layout *layout = &edge->wiring.layout;
    bool registered = false;
    if (edge->sent != NULL)
        return RT_OK;
    int status = rt_pool_take(edge->device, NULL, RT_POOL_LOCAL, rt_edge_source_span(edge, layout->slots, layout->stripes),
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
    edge->tx.slots = layout->slots; /* edge_free uses it as the count */
    edge->sent = sent;
    return whole ? RT_OK : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the slots of an edge");
}

static void sender_join(rt_edge *edge)
{
    rt_device *device = edge->device;
    const rt_edge_layout *layout = &edge->wiring.layout;
    pthread_mutex_lock(&device->lock);
    rt_turn_take(&edge->turn);
    rt_edge_sender_begin(&edge->tx, layout->slots, (rt_edge_flow)edge->terms.flow, device->limits.places_words_whole);
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        edge->keys[0] = edge->slots.region;
        rt_edge_keys_begin(&edge->key_numbers, RT_EDGE_KEYS_MAX);
        rt_region_reference(edge->keys[0]);
    }
    if (edge->peer_knows) /* the peer, or this end, closed the edge while it was wired */
        rt_edge_sender_end(&edge->tx, RT_E_PEER_CLOSED);
    if (edge->close_wanted)
        rt_edge_sender_close(&edge->tx);
    rt_turn_leave(&edge->turn);
    if (edge->ask.message.kind == RT_EDGE_OPEN_EDGE) /* a close that came meanwhile may have made another request already */
        edge->ask.state = RT_ASK_NONE;
    if (edge->close_wanted)
        rt_edge_attend(edge);
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_JOINED, memory_order_release);
    rt_device_changed(device);
    pthread_mutex_unlock(&device->lock);
}

static int sender_wire(rt_edge *edge, int64_t end_ns, rt_detail *detail)
{
    rt_edge_layout layout;
    pthread_mutex_lock(&edge->device->lock);
    const rt_edge_asking asked = edge->ask; /* a copy: a close may replace the request */
    bool closed = edge->close_wanted;
    pthread_mutex_unlock(&edge->device->lock);
    const rt_edge_message *answer = &asked.answer;
    if (closed)
        return rt_fail(detail, RT_E_CLOSED, 0, "the edge \"%s\" was closed on this side", edge->name);
    int status = rt_edge_answer_check(&asked.message, answer, &layout, detail);
    if (status == RT_OK) {
        edge_wire(edge, answer, &layout);
        status = rt_edge_wiring_check(&edge->wiring, detail);
    }
    if (status == RT_OK)
        status = lines_attach(edge, answer, &layout, end_ns, detail);
    if (status == RT_OK)
        status = sender_furnish(edge, detail);
    if (status == RT_OK) {
        sender_join(edge);
        return RT_OK;
    }
    if (status == RT_E_AGAIN || status == RT_E_INTERRUPTED)
        return status;
    pthread_mutex_lock(&edge->device->lock);
    rt_detail_pass(&edge->failure, detail);
    edge->close_wanted = true; /* the receiver must learn that it has no sender */
    rt_edge_attend(edge);
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_REFUSED, memory_order_release);
    pthread_mutex_unlock(&edge->device->lock);
    rt_service_kick(edge->device);
    return status;
}

int rt_edge_wait_open(rt_edge *edge, int64_t timeout_ns, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    rt_device *device = edge->device;
    int64_t end_ns = rt_device_slice_end(device, timeout_ns);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        switch ((rt_edge_phase)atomic_load_explicit(&edge->phase, memory_order_acquire)) {
        case RT_EDGE_PHASE_JOINED: return RT_OK;
        case RT_EDGE_PHASE_REFUSED: return rt_detail_pass(detail, &edge->failure);
        case RT_EDGE_PHASE_ANSWERED: return sender_wire(edge, end_ns, detail);
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
