/* transfer_run.c: moves sends and receives: takes arrived messages, and sends as many as there is
 * room for. */
#include <stdlib.h>
#include <string.h>

#include "proto/dtype.h"
#include "region/loan.h"
#include "team/attached.h"
#include "team/block.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/team.h"
#include "team/transfer_read.h"
#include "team/transfer_run.h"
#include "team/transfer_state.h"

static rt_lane *lane_of(rt_team *team, uint32_t peer)
{
    return &team->peers[peer].lanes[RT_LANE_TRANSFER];
}

/* ---- answers to the peer: kept until there is room ---- */

void rt_transfer_refuse_rest(rt_team *team, const rt_team_transfer *send)
{
    rt_message refusal = {.kind = RT_MESSAGE_REFUSE, .what = RT_MESSAGE_ACCEPT, .number = send->number, .partner = send->partner};
    rt_transfer_answer(team, (uint32_t)send->peer, &refusal);
}

/* ---- messages kept for later receives ---- */

uint64_t rt_transfer_cost(uint64_t size)
{
    return size + RT_TEAM_KEPT_COST;
}

/* Tells the peer how much of its sends was received, in quarters of the amount it may send ahead.
 * While the WRITE of an earlier count is under way, this one is told later: the word it is made
 * from must not change before it is done. */
static void received_tell(rt_team *team, uint32_t rank)
{
    rt_peer *peer = &team->peers[rank];
    if (peer->received - peer->told < RT_TEAM_KEPT_MAX / 4)
        return;
    if (peer->telling > 0) {
        if (rt_op_wait(peer->channel, peer->telling, 0) == RT_E_AGAIN)
            return;
        rt_op_release(peer->channel, peer->telling, NULL);
    }
    if (rt_lane_fence(team, rank, 1) != RT_OK)
        return; /* tried again at the next call */
    uint64_t from = team->words_at + rt_words_eaten_at(rank);
    memcpy(team->words->address + from, &peer->received, sizeof peer->received);
    peer->telling =
        rt_channel_copy(peer->channel, -1, RT_WRITE, peer->remote, peer->remote_at + rt_block_word_at(RT_BLOCK_EATEN, 0),
                        team->words, from, sizeof peer->received, 0);
    if (peer->telling < 0)
        peer->telling = 0; /* no operation is free, or the channel failed: tried again at the next call */
    else
        peer->told = peer->received;
    if (peer->telling > 0)
        rt_lane_until_posted(team->device, peer->channel, peer->telling);
}

/* Keeps a message until a receive asks for it. Refuses a peer that sends more than it may. */
static int unexpected_keep(rt_team *team, uint32_t rank, const rt_message *message, const uint8_t *payload)
{
    rt_peer *peer = &team->peers[rank];
    bool eager = message->kind == RT_MESSAGE_EAGER;
    uint64_t cost = eager ? rt_transfer_cost(message->size) : 0;
    if (peer->kept + cost > RT_TEAM_KEPT_MAX || (!eager && peer->kept_offers >= RT_TEAM_OFFERS_MAX))
        return RT_E_PROTOCOL;
    rt_unexpected *waiting = malloc(sizeof *waiting + message->size);
    if (waiting == NULL)
        return RT_E_NO_MEMORY;
    waiting->peer = rank;
    waiting->message = *message;
    memcpy(waiting->payload, payload, message->size);
    rt_list_append(&team->unexpected, &waiting->node);
    peer->kept += cost;
    peer->kept_offers += !eager;
    team->stats.unexpected++;
    team->stats.unexpected_bytes += eager ? message->size : 0;
    team->stats.kept_bytes += cost;
    if (team->stats.kept_bytes > team->stats.kept_bytes_max)
        team->stats.kept_bytes_max = team->stats.kept_bytes;
    return RT_OK;
}

void rt_transfer_unkeep(rt_team *team, rt_unexpected *waiting)
{
    rt_peer *peer = &team->peers[waiting->peer];
    bool eager = waiting->message.kind == RT_MESSAGE_EAGER;
    uint64_t cost = eager ? rt_transfer_cost(waiting->message.size) : 0;
    rt_list_remove(&waiting->node);
    peer->kept -= cost;
    peer->kept_offers -= !eager;
    team->stats.kept_bytes -= cost;
}

/* ---- a receive and its message ---- */

static void receive_misfit(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *message)
{
    rt_detail why;
    rt_fail(&why, RT_E_INVALID, 0,
            "rank %u sent %llu bytes of %s with tag %llu, and rank %u receives %llu bytes of %s: shapes and dtypes must agree",
            peer, (unsigned long long)message->total, rt_dtype_name(message->dtype), (unsigned long long)message->tag, team->rank,
            (unsigned long long)receive->size, rt_dtype_name(receive->dtype));
    rt_message refusal = *message;
    refusal.kind = RT_MESSAGE_REFUSE;
    refusal.what = message->kind;
    refusal.size = 0;
    refusal.partner = receive->size;
    rt_transfer_answer(team, peer, &refusal);
    receive->peer = (int32_t)peer;
    rt_transfer_finish(receive, RT_E_INVALID, &why);
}

void rt_transfer_meet(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    if (message->kind == RT_MESSAGE_EAGER)
        team->peers[peer].received += rt_transfer_cost(message->size);
    if (message->total != receive->size || message->dtype != receive->dtype) {
        receive_misfit(team, receive, peer, message);
        return;
    }
    receive->peer = (int32_t)peer;
    if (message->kind == RT_MESSAGE_EAGER) {
        memcpy(receive->bytes, payload, message->size);
        team->stats.bytes_received += message->size;
        rt_transfer_finish(receive, RT_OK, NULL);
        return;
    }
    receive->partner = message->number;
    rt_list_remove(&receive->node);
    if (rt_transfer_reads(team, receive, message, payload))
        rt_list_append(&team->reading, &receive->node);
    else
        rt_transfer_accept(team, receive, RT_ACCEPT_SEND);
}

static rt_team_transfer *receive_find(rt_team *team, uint32_t peer, uint64_t tag)
{
    RT_LIST_EACH(node, &team->receives) {
        rt_team_transfer *receive = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (receive->tag == tag && (receive->peer < 0 || receive->peer == (int32_t)peer))
            return receive;
    }
    return NULL;
}

static rt_team_transfer *transfer_find(rt_list *list, uint32_t peer, uint64_t number)
{
    RT_LIST_EACH(node, list) {
        rt_team_transfer *transfer = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (transfer->number == number && transfer->peer == (int32_t)peer)
            return transfer;
    }
    return NULL;
}

/* ---- arrived messages ---- */

static int arrival_take(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    if (message->kind == RT_MESSAGE_EAGER && message->total != message->size)
        return RT_E_PROTOCOL;
    if (message->kind == RT_MESSAGE_OFFER && message->size != 0 && message->size != sizeof(rt_announcement))
        return RT_E_PROTOCOL;
    rt_team_transfer *receive = receive_find(team, peer, message->tag);
    if (receive != NULL) {
        rt_transfer_meet(team, receive, peer, message, payload);
        return RT_OK;
    }
    return unexpected_keep(team, peer, message, payload);
}

static int part_take(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    rt_team_transfer *receive = transfer_find(&team->arriving, peer, message->partner);
    if (receive == NULL)
        return RT_E_PROTOCOL;
    if (message->size > receive->size - receive->done || (message->size == 0 && receive->done < receive->size))
        return RT_E_PROTOCOL;
    if (receive->bytes != NULL)
        memcpy(receive->bytes + receive->done, payload, message->size);
    receive->done += message->size;
    team->stats.bytes_received += message->size;
    if (receive->done == receive->size)
        rt_transfer_finish(receive, RT_OK, NULL);
    return RT_OK;
}

static int acceptance_take(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_team_transfer *send = transfer_find(&team->peers[peer].offered, peer, message->number);
    if (send == NULL) { /* given up here: the receive must learn of it */
        rt_message refusal = {.kind = RT_MESSAGE_REFUSE,
                              .what = RT_MESSAGE_ACCEPT,
                              .number = message->number,
                              .partner = message->partner};
        rt_transfer_answer(team, peer, &refusal);
        return RT_OK;
    }
    if (message->what == RT_ACCEPT_READ) {
        if (send->loan.region == NULL)
            return RT_E_PROTOCOL;
        send->done = send->size;
    }
    send->partner = message->partner;
    send->offered = false;
    team->peers[peer].offers--;
    rt_list_remove(&send->node);
    rt_list_append(&team->peers[peer].flowing, &send->node);
    return RT_OK;
}

/* A send was given up after it was offered, and maybe before this member accepted it. A receive
 * that is reading it in place is told when it reports that it has read it. */
static void send_withdraw(rt_team *team, uint32_t peer, uint64_t number)
{
    rt_detail why;
    rt_fail(&why, RT_E_PEER_CLOSED, 0, "rank %u gave its send up", peer);
    RT_LIST_EACH_SAFE(node, &team->arriving) {
        rt_team_transfer *receive = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (receive->partner == number && receive->peer == (int32_t)peer)
            rt_transfer_finish(receive, RT_E_PEER_CLOSED, &why);
    }
    RT_LIST_EACH_SAFE(node, &team->unexpected) {
        rt_unexpected *waiting = RT_LIST_ENTRY(node, rt_unexpected, node);
        if (waiting->peer != peer || waiting->message.kind != RT_MESSAGE_OFFER || waiting->message.number != number)
            continue;
        rt_transfer_unkeep(team, waiting);
        free(waiting);
    }
}

static int refusal_take(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_detail why;
    if (message->what == RT_MESSAGE_ACCEPT) {
        send_withdraw(team, peer, message->number);
        return RT_OK;
    }
    rt_fail(&why, RT_E_INVALID, 0,
            "rank %u sent %llu bytes of %s with tag %llu, and rank %u receives %llu bytes or another dtype: "
            "shapes and dtypes must agree",
            team->rank, (unsigned long long)message->total, rt_dtype_name(message->dtype), (unsigned long long)message->tag, peer,
            (unsigned long long)message->partner);
    rt_team_transfer *send = transfer_find(&team->peers[peer].offered, peer, message->number);
    if (send != NULL)
        rt_transfer_finish(send, RT_E_INVALID, &why);
    else if (message->what == RT_MESSAGE_EAGER)
        team->peers[peer].refused = why; /* it had travelled already: the next transfer reports it */
    return RT_OK;
}

static int peer_take_message(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    switch ((enum rt_message_kind)message->kind) {
    case RT_MESSAGE_EAGER:
    case RT_MESSAGE_OFFER: return arrival_take(team, peer, message, payload);
    case RT_MESSAGE_PART: return part_take(team, peer, message, payload);
    case RT_MESSAGE_ACCEPT: return acceptance_take(team, peer, message);
    case RT_MESSAGE_REFUSE: return refusal_take(team, peer, message);
    case RT_MESSAGE_COLLECTIVE:
    case RT_MESSAGE_WORD: break;
    }
    return RT_E_PROTOCOL;
}

static uint32_t peer_take_all(rt_team *team, uint32_t peer)
{
    rt_lane *lane = lane_of(team, peer);
    uint32_t moved = 0;
    for (;;) {
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (payload != NULL)
            status = peer_take_message(team, peer, &lane->message, payload);
        if (status != RT_OK) {
            rt_detail why;
            rt_fail(&why, status, 0, "what rank %u sent could not be taken: %s", peer, rt_status_name(status));
            rt_team_break(team, &why, false);
            rt_transfers_fail(team, -1, &why);
            return moved;
        }
        if (payload == NULL)
            break;
        rt_lane_take(lane);
        moved++;
    }
    rt_lane_settle(lane);
    received_tell(team, peer);
    return moved;
}

/* ---- messages to send ---- */

/* Sends a message, if there is room for it. False: there is none, or the channel failed, and the
 * waiting call reports why. */
static bool message_push(rt_team *team, uint32_t peer, const rt_message *head, const uint8_t *bytes)
{
    rt_lane *lane = lane_of(team, peer);
    uint8_t *payload = rt_lane_room(lane, head->size);
    if (payload == NULL)
        return false;
    if (head->size > 0 && bytes != NULL)
        memcpy(payload, bytes, head->size);
    return rt_lane_push(lane, head) == RT_OK;
}

static bool control_send(rt_team *team, uint32_t peer)
{
    rt_list *controls = &team->peers[peer].controls;
    rt_control_note *note = RT_LIST_ENTRY(controls->next, rt_control_note, node);
    if (!message_push(team, peer, &note->message, NULL))
        return false;
    rt_list_remove(&note->node);
    free(note);
    return true;
}

/* Whether a send may travel before it is received. */
static bool send_is_eager(const rt_team *team, const rt_peer *to, const rt_team_transfer *send)
{
    uint64_t unreceived = to->eager_sent - rt_load_acquire_u64(to->eaten);
    return send->size <= team->options.chunk && unreceived <= RT_TEAM_KEPT_MAX &&
           rt_transfer_cost(send->size) <= RT_TEAM_KEPT_MAX - unreceived;
}

/* The message for a send that waits for its receive; *told announces where its bytes can be read,
 * if they can. */
static rt_message offer_of(rt_team *team, rt_team_transfer *send, rt_announcement *told)
{
    rt_message head = {.kind = RT_MESSAGE_OFFER,
                       .total = send->size,
                       .number = send->number,
                       .tag = send->tag,
                       .dtype = send->dtype};
    bool large = send->size > team->options.chunk;
    if (large && (send->loan.region != NULL || rt_loan_begin(team->device, send->bytes, send->size, &send->loan))) {
        rt_announcement_make(&send->loan, told);
        head.size = sizeof *told;
    }
    return head;
}

/* Announces the oldest send: whole, or as an offer. */
static bool send_announce(rt_team *team, uint32_t peer)
{
    rt_peer *to = &team->peers[peer];
    rt_team_transfer *send = RT_LIST_ENTRY(to->queue.next, rt_team_transfer, node);
    if (send_is_eager(team, to, send)) {
        rt_message head = {.kind = RT_MESSAGE_EAGER,
                           .size = send->size,
                           .total = send->size,
                           .number = send->number,
                           .tag = send->tag,
                           .dtype = send->dtype};
        if (!message_push(team, peer, &head, send->bytes))
            return false;
        to->eager_sent += rt_transfer_cost(send->size);
        team->stats.bytes_sent += send->size;
        rt_transfer_finish(send, RT_OK, NULL);
        return true;
    }
    rt_announcement told;
    if (to->offers >= RT_TEAM_OFFERS_MAX)
        return false;
    rt_message head = offer_of(team, send, &told);
    if (!message_push(team, peer, &head, (const uint8_t *)&told))
        return false;
    team->stats.held_back += send->size <= team->options.chunk;
    send->offered = true;
    to->offers++;
    rt_list_remove(&send->node);
    rt_list_append(&to->offered, &send->node);
    return true;
}

static bool part_push(rt_team *team, uint32_t peer, rt_team_transfer *send, uint64_t most)
{
    uint64_t left = send->size - send->done;
    rt_message head = {.kind = RT_MESSAGE_PART,
                       .number = send->number,
                       .partner = send->partner,
                       .size = left < most ? left : most};
    if (!message_push(team, peer, &head, send->bytes + send->done))
        return false;
    send->done += head.size;
    team->stats.bytes_sent += head.size;
    if (send->done == send->size)
        rt_transfer_finish(send, RT_OK, NULL);
    return true;
}

/* Sends the next part. When other teams have all chunks and this lane has none that will be freed,
 * it continues with payloads that fit into slots. */
static bool part_send(rt_team *team, uint32_t peer)
{
    rt_team_transfer *send = RT_LIST_ENTRY(team->peers[peer].flowing.next, rt_team_transfer, node);
    if (part_push(team, peer, send, team->options.chunk))
        return true;
    bool stuck = atomic_load_explicit(&lane_of(team, peer)->held, memory_order_relaxed) == 0;
    return stuck && part_push(team, peer, send, RT_TEAM_INLINE);
}

static uint32_t peer_send_all(rt_team *team, uint32_t peer)
{
    rt_peer *to = &team->peers[peer];
    for (uint32_t moved = 0;; moved++) {
        bool sent = false;
        if (!rt_list_empty(&to->controls))
            sent = control_send(team, peer);
        else if (!rt_list_empty(&to->queue))
            sent = send_announce(team, peer);
        if (!sent && rt_list_empty(&to->controls) && !rt_list_empty(&to->flowing))
            sent = part_send(team, peer);
        if (!sent)
            return moved;
    }
}

uint32_t rt_transfers_move(rt_team *team)
{
    uint32_t moved = 0;
    for (uint32_t peer = 0; peer < team->size; peer++) {
        if (team->peers[peer].channel == NULL)
            continue;
        moved += peer_take_all(team, peer);
        moved += peer_send_all(team, peer);
    }
    return moved + (rt_list_empty(&team->reading) ? 0 : rt_transfers_read(team));
}

/* ---- endings ---- */

static void list_fail(rt_list *list, int32_t peer, const rt_detail *why)
{
    RT_LIST_EACH_SAFE(node, list) {
        rt_team_transfer *transfer = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (peer < 0 || transfer->peer == peer)
            rt_transfer_finish(transfer, why->status, why);
    }
}

void rt_transfers_fail(rt_team *team, int32_t peer, const rt_detail *why)
{
    list_fail(&team->receives, peer, why);
    list_fail(&team->reading, peer, why);
    list_fail(&team->arriving, peer, why);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        list_fail(&team->peers[rank].queue, peer, why);
        list_fail(&team->peers[rank].offered, peer, why);
        list_fail(&team->peers[rank].flowing, peer, why);
    }
}
