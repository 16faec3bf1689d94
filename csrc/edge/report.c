/* report.c: reports of an edge: the reason of a failure, its terms, its statistics, one line for
 * dumps. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "edge/edge.h"
#include "edge/report.h"
#include "proto/edge_mode.h"
#include "region/region.h"

/* The reason why a tensor could not be sent at once. */
static const char *send_obstacle(rt_edge *edge)
{
    uint64_t sequence;
    uint32_t key;
    rt_turn_take(&edge->turn);
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC;
    bool full = rt_edge_sender_next(&edge->tx, &sequence) != RT_OK, lent = edge->tx.state == RT_EDGE_LENT;
    bool asked = edge->asked_region != NULL;
    bool named = dynamic && rt_edge_keys_choose(&edge->key_numbers, &edge->tx, 0, &key) != RT_OK;
    bool staging = edge->stage != NULL && edge->stage->chunks.sequence != 0;
    rt_turn_leave(&edge->turn);
    return lent      ? "a loan of the edge is open: leave its block, or cancel the loan"
           : full    ? "no credit: the receiver has not released enough"
           : asked   ? "the receiver has not answered about memory that is new to it: wait again"
           : named   ? "every region that the receiver knows has a tensor that is not released: wait, or send from fewer regions"
           : staging ? "an earlier tensor is still being copied into registered memory: wait again"
                     : "no operation of the channel was free: wait for some of what is under way, or open the device with "
                       "more qps_per_peer";
}

int rt_edge_explain(rt_edge *edge, int status, rt_detail *detail)
{
    rt_detail trouble;
    if (rt_forked())
        return rt_fork_refuse(detail);
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
    case RT_E_AGAIN: return rt_fail(detail, status, 0, "%s", edge->sender ? send_obstacle(edge) : "no tensor has arrived yet");
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
        return rt_fork_refuse(detail);
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
    info_out->slots = edge->terms.slots;
    info_out->trusting = edge->trusting; /* follows from this end's options */
    snprintf(info_out->ordering, sizeof info_out->ordering, "%s", edge->ordering);
    if (!rt_edge_joined(edge))
        return;
    const rt_edge_wiring *wiring = &edge->wiring;
    info_out->slots_address = edge->sender ? 0 : (uint64_t)(uintptr_t)edge->slots.address;
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
    const rt_device *device = channel->device;
    const rt_limits *limits = &device->limits;
    const rt_edge_promises promises = {.orders_writes = limits->orders_writes,
                                       .orders_bytes_within_a_write = limits->orders_bytes_within_a_write,
                                       .places_words_whole = limits->places_words_whole,
                                       .carries_immediate = limits->carries_immediate,
                                       .order_reason = device->order_reason};
    uint32_t modes = 0;
    bool trusting = false;
    char reason[RT_EDGE_REASON_SIZE];
    rt_detail detail;
    int status = rt_edge_mode_offer(&promises, 0, &modes, &trusting, reason, &detail);
    snprintf(text_out, capacity, "%s", status == RT_OK ? reason : detail.text);
    return status;
}

rt_region *rt_edge_slots_region(rt_edge *edge)
{
    if (rt_forked() || edge->sender || !rt_edge_joined(edge))
        return NULL;
    rt_region_reference(edge->slots.region);
    return edge->slots.region;
}
