/* edge_setup.c: the messages of edges: what this end asks and how it takes the answers, and when an edge has no more to do with its
 * channel (EDGES.md section 9). Answers to the peer's requests are edge_admit.c's. device->lock held, unless it says otherwise. */
#include <stdio.h>
#include <string.h>

#include "core/edge.h"

/* What waits for something that nobody tells of is looked at again after this; an edge that closes then less and less often. */
#define LOOK_AGAIN_NS RT_NS_PER_MS
#define LOOK_AGAIN_MAX_NS (50 * RT_NS_PER_MS)

rt_edge *rt_edge_of_number(const rt_channel *channel, uint16_t number, bool sender)
{
    for (rt_list *node = channel->rpc->edges.next; node != &channel->rpc->edges; node = node->next) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, node);
        if (edge->number == number && edge->sender == sender && edge->number != 0)
            return edge;
    }
    return NULL;
}

/* ---- asking ---- */

int rt_edge_ask(rt_edge *edge, const rt_edge_message *message)
{
    if (edge->ask.state != RT_ASK_NONE)
        return RT_E_BUSY;
    edge->ask.message = *message;
    edge->ask.state = RT_ASK_NEW;
    rt_rpc_run(edge->channel);
    return RT_OK;
}

/* Whether an answer waits for room among the SENDs. */
static bool answers_wait(const rt_rpc *rpc)
{
    bool wait = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        wait = wait || (rpc->edge_requests[index].active && rpc->edge_requests[index].answered);
    return wait;
}

static bool send_ask(rt_edge *edge)
{
    rt_rpc *rpc = edge->channel->rpc;
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    if (rt_rpc_outstanding(rpc) >= RT_RPC_REQUESTS_MAX)
        return false;
    if (edge->ask.message.kind == RT_EDGE_CLOSE_EDGE && answers_wait(rpc))
        return false; /* the close of an edge must not come before EDGE_OPENED, whose peer would open what is gone */
    edge->ask.message.request = rpc->next_request;
    int64_t size = rt_edge_message_encode(&edge->ask.message, bytes, sizeof bytes);
    assert(size > 0);
    if (!rt_rpc_send(edge->channel, bytes, (size_t)size))
        return false;
    rpc->next_request++;
    rpc->asked++;
    edge->ask.state = RT_ASK_SENT;
    return true;
}

/* The answer to OPEN_EDGE. */
static void opened(rt_edge *edge, const rt_edge_message *answer)
{
    if (answer->kind == RT_EDGE_EDGE_OPENED) {
        edge->number = answer->number;
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

/* Whether this kind of answer fits what was asked. */
static bool fits(uint8_t asked, uint8_t answered)
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

static int take_answer(rt_channel *channel, const rt_edge_message *answer, rt_detail *detail)
{
    RT_LIST_EACH(node, &channel->rpc->edges) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, node);
        if (edge->ask.state != RT_ASK_SENT || edge->ask.message.request != answer->request)
            continue;
        if (!fits(edge->ask.message.kind, answer->kind))
            return rt_fail(detail, RT_E_PROTOCOL, 0, "an answer of kind %u to a request of kind %u", answer->kind,
                           edge->ask.message.kind);
        channel->rpc->asked--;
        if (edge->ask.message.kind == RT_EDGE_OPEN_EDGE) {
            opened(edge, answer);
        } else if (edge->ask.message.kind == RT_EDGE_CLOSE_EDGE) {
            edge->peer_knows = true;
            edge->ask.state = RT_ASK_NONE;
        } else {
            edge->ask.answer = *answer;
            edge->ask.state = RT_ASK_DONE;
        }
        rt_device_changed(channel->device);
        return RT_OK;
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "an answer to request %u, which is not outstanding", answer->request);
}

static int take_request(rt_channel *channel, const rt_edge_message *message, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX && rt_rpc_pending(rpc) < RT_RPC_REQUESTS_MAX; index++) {
        rt_edge_request *request = &rpc->edge_requests[index];
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
    return request ? take_request(channel, &message, detail) : take_answer(channel, &message, detail);
}

/* ---- the round ---- */

bool rt_edge_quiet(rt_edge *edge)
{
    bool quiet = true;
    rt_turn_take(&edge->turn);
    for (uint32_t slot = 0; edge->sent != NULL && slot < edge->tx.slots; slot++)
        quiet = !rt_edge_pending(edge->channel, edge->sent[slot].ops, RT_EDGE_STRIPES_MAX) && quiet;
    if (edge->stage != NULL)
        quiet = !rt_edge_pending(edge->channel, edge->stage->ops, RT_EDGE_STAGES) && quiet;
    for (uint32_t slot = 0; edge->got != NULL && slot < edge->rx.slots; slot++)
        quiet = rt_edge_fetched(edge, &edge->got[slot]) != RT_E_AGAIN && quiet;
    if (!edge->sender && edge->credit_op != 0)
        quiet = !rt_edge_pending(edge->channel, &edge->credit_op, 1) && quiet;
    quiet = quiet && edge->borrowed == 0;
    rt_turn_leave(&edge->turn);
    return quiet;
}

static void ask_to_close(rt_edge *edge)
{
    bool wired = rt_edge_joined(edge);
    edge->ask.message = (rt_edge_message){.kind = RT_EDGE_CLOSE_EDGE, .number = edge->number, .by_sender = edge->sender};
    rt_turn_take(&edge->turn);
    edge->ask.message.final = wired && edge->sender ? edge->tx.sent : 0;
    rt_turn_leave(&edge->turn);
    edge->ask.state = RT_ASK_NEW;
    edge->close_told = true;
}

/* Whether a sender's tensors, or the credit of what it sent, may still be touched by the peer. */
static bool awaited(rt_edge *edge)
{
    if (!edge->sender || !rt_edge_joined(edge))
        return false;
    rt_turn_take(&edge->turn);
    rt_edge_take_credit(edge);
    bool open = edge->tx.state != RT_EDGE_OVER;
    rt_turn_leave(&edge->turn);
    return open;
}

/* Whether the peer must be told of the close: it was not yet, and has not closed itself; or it did, and waits for the release of tensors
 * that will not come any more. */
static bool owes_close(rt_edge *edge)
{
    if (edge->close_told || !edge->peer_knows || edge->sender || !rt_edge_joined(edge))
        return !edge->close_told && !edge->peer_knows;
    rt_turn_take(&edge->turn);
    bool awaited_there = edge->terms.flow == RT_EDGE_FLOW_CREDIT && edge->rx.credited < edge->rx.final;
    rt_turn_leave(&edge->turn);
    return awaited_there;
}

/* The edge and its channel have nothing more to do with each other. */
static void leave(rt_edge *edge)
{
    if (rt_edge_joined(edge) && !edge->sender && edge->wiring.mode == RT_EDGE_IMMEDIATE) {
        for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
            rt_receives_unreserve(edge->links[stripe],
                                  edge->wiring.layout.slots * rt_edge_immediate_count(&edge->wiring, stripe));
    }
    rt_list_remove(&edge->node);
    rt_edge_let_go(edge);
    rt_edge_unreference(edge);
}

/* An edge that closes waits for its last WRITEs and READs: looks for their completions, when nobody else may be about to. */
static void reap(rt_edge *edge)
{
    int64_t now = rt_device_time(edge->device);
    if (now < edge->reap_ns || !rt_edge_joined(edge))
        return;
    for (uint32_t stripe = 0; stripe < edge->channel->link_count; stripe++)
        rt_queue_step(edge->channel->links[stripe].queue);
    edge->reap_nap_ns = edge->reap_nap_ns == 0 ? LOOK_AGAIN_NS : 2 * edge->reap_nap_ns;
    edge->reap_nap_ns = edge->reap_nap_ns < LOOK_AGAIN_MAX_NS ? edge->reap_nap_ns : LOOK_AGAIN_MAX_NS;
    edge->reap_ns = now + edge->reap_nap_ns;
}

/* A step with a tensor that was left half staged. True when it got on. */
static bool stage(rt_edge *edge)
{
    rt_turn_take(&edge->turn);
    uint32_t before = edge->stage->chunks;
    if (edge->stage->sequence != 0)
        rt_edge_stage_run(edge, rt_device_time(edge->device));
    bool moved = edge->stage->chunks != before || !edge->stage_owed;
    rt_turn_leave(&edge->turn);
    return moved;
}

/* A step with records that the link had no room for; the last is posted last. True when it got on. */
static bool post_records(rt_edge *edge)
{
    bool moved = rt_queue_step(edge->links[0]->queue) > 0;
    edge->record_owed = false; /* before the look: who sends meanwhile sets it again */
    rt_turn_take(&edge->turn);
    uint64_t last = edge->tx.sent;
    rt_turn_leave(&edge->turn);
    if (last != 0 && !rt_edge_record_posted(edge, last))
        edge->record_owed = true;
    return moved;
}

static bool run_edge(rt_edge *edge)
{
    bool moved = false;
    if (edge->ask.state == RT_ASK_NEW)
        moved = send_ask(edge);
    if (edge->credit_owed) {
        rt_queue_step(edge->links[0]->queue);
        rt_turn_take(&edge->turn);
        rt_edge_give_credit(edge);
        rt_turn_leave(&edge->turn);
    }
    if (edge->stage_owed)
        moved |= stage(edge);
    if (edge->record_owed)
        moved |= post_records(edge);
    if (edge->close_wanted && edge->ask.state == RT_ASK_DONE)
        edge->ask.state = RT_ASK_NONE; /* nobody will wire it, or use the key */
    if (edge->close_wanted && edge->ask.state == RT_ASK_NONE)
        reap(edge);
    if (edge->close_wanted && edge->ask.state == RT_ASK_NONE && owes_close(edge) && rt_edge_quiet(edge)) {
        ask_to_close(edge);
        moved |= send_ask(edge);
    }
    bool over = edge->close_wanted && edge->peer_knows && edge->ask.state == RT_ASK_NONE && !owes_close(edge);
    if (over && rt_edge_quiet(edge) && !awaited(edge)) {
        leave(edge);
        return true;
    }
    return moved;
}

bool rt_edges_run(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    bool moved = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        if (rpc->edge_requests[index].active)
            moved |= rt_edge_answer(channel, &rpc->edge_requests[index]);
    }
    RT_LIST_EACH_SAFE(node, &rpc->edges)
        moved |= run_edge(RT_LIST_ENTRY(node, rt_edge, node));
    return moved;
}

int64_t rt_edges_next_deadline(const rt_channel *channel)
{
    const rt_rpc *rpc = channel->rpc;
    int64_t due = INT64_MAX, soon = rt_device_time(channel->device) + LOOK_AGAIN_NS;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        const rt_edge_request *request = &rpc->edge_requests[index];
        int64_t at = request->message.kind == RT_EDGE_OPEN_EDGE && !request->answered ? request->deadline_ns : soon;
        due = request->active && at < due ? at : due;
    }
    for (const rt_list *node = rpc->edges.next; node != &rpc->edges; node = node->next) {
        const rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, node);
        bool closing = edge->close_wanted && edge->ask.state == RT_ASK_NONE;
        int64_t at = edge->credit_owed || edge->stage_owed || edge->record_owed ? soon : closing ? edge->reap_ns : INT64_MAX;
        due = at < due ? at : due;
    }
    return due;
}

void rt_edges_changed(rt_device *device)
{
    RT_LIST_EACH(node, &device->channels)
        rt_rpc_run(RT_LIST_ENTRY(node, rt_channel, node));
}

void rt_edges_channel_ending(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    rt_edge_requests_end(rpc);
    RT_LIST_EACH_SAFE(node, &rpc->edges) {
        rt_edge *edge = RT_LIST_ENTRY(node, rt_edge, node);
        edge->peer_knows = true;
        if (atomic_load(&edge->phase) != RT_EDGE_PHASE_JOINED) {
            rt_channel_refuse(channel, &edge->failure);
            edge->ask.state = RT_ASK_NONE;
            atomic_store_explicit(&edge->phase, RT_EDGE_PHASE_REFUSED, memory_order_release);
        }
        awaited(edge);
        if (edge->close_wanted && rt_edge_quiet(edge))
            leave(edge);
    }
    rt_device_changed(channel->device);
}

void rt_edges_channel_closed(rt_channel *channel)
{
    rt_edges_channel_ending(channel);
    RT_LIST_EACH_SAFE(node, &channel->rpc->edges) {
        rt_list_remove(node);
        rt_edge_unreference(RT_LIST_ENTRY(node, rt_edge, node));
    }
}
