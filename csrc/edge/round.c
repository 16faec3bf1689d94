/* round.c: the messages of edges: this end's requests, the answers to them, and the point where an
 * edge is finished with its channel (EDGES.md section 9). Answers to the peer's requests are in
 * admit.c. device->lock held, unless it says otherwise. */
#include <assert.h>

#include "channel/channel.h"
#include "channel/poll.h"
#include "channel/receives.h"
#include "device/device.h"
#include "edge/admit.h"
#include "edge/ask.h"
#include "edge/attend.h"
#include "edge/credit.h"
#include "edge/dynamic.h"
#include "edge/edge.h"
#include "edge/quiet.h"
#include "edge/round.h"
#include "edge/slot.h"
#include "edge/stage.h"
#include "proto/edge_mode.h"
#include "region/pool.h"
#include "rpc/carrier.h"

/* ---- asking ---- */

/* Whether an answer waits for room among the SENDs. */
static bool answers_wait(const rt_edges *edges)
{
    bool wait = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        wait = wait || (edges->requests[index].active && edges->requests[index].answered);
    return wait;
}

static bool ask_send(rt_edge *edge)
{
    rt_rpc *rpc = edge->channel->rpc;
    rt_edges *edges = rt_edges_of(edge->channel);
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    if (rt_rpc_outstanding(edge->channel) >= RT_RPC_REQUESTS_MAX)
        return false;
    if (edge->ask.message.kind == RT_EDGE_CLOSE_EDGE && answers_wait(edges))
        return false; /* a close must not arrive before EDGE_OPENED: the peer would open an edge that is gone */
    edge->ask.message.request = rpc->next_request;
    int64_t size = rt_edge_message_encode(&edge->ask.message, bytes, sizeof bytes);
    assert(size > 0);
    if (!rt_rpc_send(edge->channel, bytes, (size_t)size))
        return false;
    rpc->next_request++;
    edges->asked++;
    edge->ask.state = RT_ASK_SENT;
    rt_list_remove(&edge->ask_node);
    rt_list_append(&edges->awaiting, &edge->ask_node);
    return true;
}

/* Sends requests in the order in which they came, as long as there is room. True when one was
 * sent. */
static bool asks_send(const rt_edges *edges)
{
    bool moved = false;
    while (!rt_list_empty(&edges->asking) && ask_send(RT_LIST_ENTRY(edges->asking.next, rt_edge, ask_node)))
        moved = true;
    return moved;
}

/* Takes the answer to OPEN_EDGE. */
static void opening_answer_take(rt_edge *edge, const rt_edge_message *answer)
{
    if (answer->kind == RT_EDGE_EDGE_OPENED) {
        rt_edge_take_number(edge, answer->number);
        edge->ask.answer = *answer;
        edge->ask.state = RT_ASK_DONE; /* until it is wired, or closed instead */
        atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_ANSWERED, memory_order_release);
        return;
    }
    rt_fail(&edge->failure, rt_edge_refusal_status(answer->refusal), 0, "%s did not open the edge \"%s\": %s",
            edge->channel->peer, edge->name, answer->text);
    edge->peer_knows = true;
    edge->ask.state = RT_ASK_NONE;
    atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_REFUSED, memory_order_release);
}

/* Whether this kind of answer fits the request. */
static bool answer_fits(uint8_t asked, uint8_t answered)
{
    switch ((enum rt_edge_message_kind)asked) {
    case RT_EDGE_OPEN_EDGE: return answered == RT_EDGE_EDGE_OPENED || answered == RT_EDGE_EDGE_REFUSED;
    case RT_EDGE_ADD_KEY: return answered == RT_EDGE_KEY_ADDED || answered == RT_EDGE_EDGE_REFUSED;
    case RT_EDGE_CLOSE_EDGE: return answered == RT_EDGE_EDGE_CLOSED;
    case RT_EDGE_EDGE_OPENED:
    case RT_EDGE_EDGE_REFUSED:
    case RT_EDGE_EDGE_CLOSED:
    case RT_EDGE_KEY_ADDED: break;
    }
    return false;
}

static int answer_take(rt_channel *channel, const rt_edge_message *answer, rt_detail *detail)
{
    RT_LIST_EACH(node, &rt_edges_of(channel)->awaiting) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, ask_node);
        rt_edges_of(channel)->looks++;
        if (edge->ask.message.request != answer->request)
            continue;
        if (!answer_fits(edge->ask.message.kind, answer->kind))
            return rt_fail(detail, RT_E_PROTOCOL, 0, "an answer of kind %u to a request of kind %u", answer->kind,
                           edge->ask.message.kind);
        rt_edges_of(channel)->asked--;
        rt_list_remove(&edge->ask_node);
        if (edge->ask.message.kind == RT_EDGE_OPEN_EDGE) {
            opening_answer_take(edge, answer);
        } else if (edge->ask.message.kind == RT_EDGE_CLOSE_EDGE) {
            edge->peer_knows = true;
            edge->ask.state = RT_ASK_NONE;
        } else {
            edge->ask.answer = *answer;
            edge->ask.state = RT_ASK_DONE;
        }
        if (edge->close_wanted)
            rt_edge_attend(edge);
        rt_device_changed(channel->device);
        return RT_OK;
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "an answer to request %u, which is not outstanding", answer->request);
}

static int request_take(rt_channel *channel, const rt_edge_message *message, rt_detail *detail)
{
    rt_edges *edges = rt_edges_of(channel);
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX && rt_rpc_pending(channel) < RT_RPC_REQUESTS_MAX; index++) {
        rt_edge_request *request = &edges->requests[index];
        if (request->active)
            continue;
        *request = (rt_edge_request){.active = true, .message = *message};
        request->deadline_ns = rt_device_time(channel->device) + message->wait_ms * RT_NS_PER_MS;
        return RT_OK;
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "%s has more than %d requests outstanding", channel->peer, RT_RPC_REQUESTS_MAX);
}

int rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail)
{
    rt_edge_message message;
    int status = rt_edge_message_decode(bytes, size, &message, detail);
    if (status != RT_OK)
        return status;
    bool request = message.kind == RT_EDGE_OPEN_EDGE || message.kind == RT_EDGE_ADD_KEY || message.kind == RT_EDGE_CLOSE_EDGE;
    return request ? request_take(channel, &message, detail) : answer_take(channel, &message, detail);
}

/* ---- the round ---- */

static void closing_ask(rt_edge *edge)
{
    bool wired = rt_edge_joined(edge);
    edge->ask.message = (rt_edge_message){.kind = RT_EDGE_CLOSE_EDGE, .number = edge->number, .by_sender = edge->sender};
    rt_turn_take(&edge->turn);
    edge->ask.message.final = wired && edge->sender ? edge->tx.sent : 0;
    rt_edge_receiver_told(&edge->rx);
    rt_turn_leave(&edge->turn);
    rt_edge_want_answer(edge);
    edge->close_told = true;
}

/* Applies a sender's credit word, or the end of its channel, to the tensors that it sent. */
static void credit_refresh(rt_edge *edge)
{
    if (!edge->sender || !rt_edge_joined(edge))
        return;
    rt_turn_take(&edge->turn);
    rt_edge_take_credit(edge);
    rt_turn_leave(&edge->turn);
}

/* The next step of a closing edge, if it may take it now. */
static rt_edge_close_step closing_due(rt_edge *edge, bool lost)
{
    rt_edge_closing closing = rt_edge_closing_of(edge);
    closing.lost = lost;
    if (!closing.wanted)
        return RT_EDGE_CLOSE_WAIT;
    credit_refresh(edge);
    rt_turn_take(&edge->turn);
    rt_edge_close_step due = rt_edge_close_due(&closing, &edge->tx, &edge->rx);
    rt_turn_leave(&edge->turn);
    return due != RT_EDGE_CLOSE_WAIT && rt_edge_quiet(edge) ? due : RT_EDGE_CLOSE_WAIT;
}

/* Separates the edge from its channel: neither needs the other any more. */
static void edge_leave(rt_edge *edge)
{
    if (rt_edge_joined(edge) && !edge->sender && edge->wiring.mode == RT_EDGE_IMMEDIATE) {
        for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
            rt_receives_unreserve(edge->links[stripe],
                                  edge->wiring.layout.slots * rt_edge_immediate_count(&edge->wiring, stripe));
    }
    rt_edge_unlist(edge);
    rt_edge_let_go(edge);
    rt_edge_unreference(edge);
}

/* A closing edge waits for its last WRITEs and READs: polls for their completions, when no other
 * thread may be about to. */
static void channel_reap(const rt_channel *channel)
{
    for (uint32_t index = 0; index < channel->link_count; index++)
        rt_queue_step(channel->links[index].queue);
}

/* Moves a half-staged tensor on by one step. True when that made progress. */
static bool stage_step(rt_edge *edge)
{
    rt_turn_take(&edge->turn);
    uint32_t before = edge->stage->chunks.count;
    rt_edge_stage_run(edge, rt_device_time(edge->device));
    bool moved = edge->stage->chunks.count != before || !edge->stage_owed;
    rt_turn_leave(&edge->turn);
    return moved;
}

/* Moves records that the link had no room for on by one step; the last record is posted last. True
 * when that made progress. */
static bool records_post(rt_edge *edge)
{
    bool moved = rt_queue_step(edge->links[0]->queue) > 0;
    edge->record_owed = false; /* before the check: a thread that sends meanwhile sets it again */
    rt_turn_take(&edge->turn);
    uint64_t last = edge->tx.sent;
    rt_turn_leave(&edge->turn);
    if (last != 0 && !rt_edge_record_posted(edge, last))
        edge->record_owed = true;
    return moved;
}

static bool edge_run(rt_edge *edge)
{
    bool moved = false;
    if (edge->credit_owed) {
        rt_queue_step(edge->links[0]->queue);
        rt_turn_take(&edge->turn);
        rt_edge_give_credit(edge);
        rt_turn_leave(&edge->turn);
    }
    if (edge->stage_owed)
        moved |= stage_step(edge);
    if (edge->record_owed)
        moved |= records_post(edge);
    if (edge->close_wanted && edge->ask.state == RT_ASK_DONE)
        edge->ask.state = RT_ASK_NONE; /* nobody will wire it, or use the key */
    if (edge->close_wanted && edge->ask.state == RT_ASK_NONE && !edge->lingers && rt_edge_joined(edge))
        channel_reap(edge->channel);
    switch (closing_due(edge, false)) {
    case RT_EDGE_CLOSE_WAIT: break;
    case RT_EDGE_CLOSE_TELL: closing_ask(edge); break;
    case RT_EDGE_CLOSE_LEAVE: edge_leave(edge); return true;
    }
    rt_edge_settle(edge);
    return moved;
}

bool rt_edges_run(rt_channel *channel)
{
    rt_edges *edges = rt_edges_of(channel);
    bool moved = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        if (edges->requests[index].active)
            moved |= rt_edge_answer(channel, &edges->requests[index]);
    }
    rt_list due;
    if (rt_edges_gather(channel, false, &due))
        channel_reap(channel);
    for (rt_edge *edge; (edge = rt_edge_next_due(&due)) != NULL;)
        moved |= edge_run(edge);
    return asks_send(edges) || moved;
}

/* Tells the edge that its channel is over. */
static void edge_hear_end(rt_edge *edge)
{
    edge->peer_knows = true;
    if (atomic_load(&edge->phase) != RT_EDGE_PHASE_JOINED) {
        rt_channel_refuse(edge->channel, &edge->failure);
        edge->ask.state = RT_ASK_NONE;
        rt_list_remove(&edge->ask_node);
        atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_REFUSED, memory_order_release);
    }
    credit_refresh(edge);
    rt_edge_attend(edge);
}

void rt_edges_channel_ending(rt_channel *channel)
{
    rt_edges *edges = rt_edges_of(channel);
    rt_list due;
    rt_edge_requests_end(edges);
    if (!edges->told) { /* once; this function may be called again until the last remote is dropped */
        edges->told = true;
        RT_LIST_EACH(node, &edges->list)
            edge_hear_end(RT_LIST_ENTRY(node, rt_edge, node));
    }
    rt_edges_gather(channel, true, &due);
    for (rt_edge *edge; (edge = rt_edge_next_due(&due)) != NULL;) {
        if (closing_due(edge, true) == RT_EDGE_CLOSE_LEAVE)
            edge_leave(edge);
        else if (edge->close_wanted)
            rt_edge_attend(edge);
    }
    rt_device_changed(channel->device);
}

void rt_edges_channel_closed(rt_channel *channel)
{
    rt_edges_channel_ending(channel);
    RT_LIST_EACH_SAFE(node, &rt_edges_of(channel)->list) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, node);
        rt_edge_unlist(edge);
        rt_edge_unreference(edge);
    }
    rt_pools_leave(channel->device, &channel->pools);
}
