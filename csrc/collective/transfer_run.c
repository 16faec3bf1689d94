/* transfer_run.c: what moves sends and receives: takes what has arrived, sends what there is room for. */
#include "collective/collective.h"

#include <stdlib.h>
#include <string.h>

static rt_lane *lane_of(rt_team *team, uint32_t peer)
{
    return &team->peers[peer].lanes[RT_LANE_TRANSFER];
}

/* ---- answers to the peer: kept until there is room ---- */

void rt_transfer_answer(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_control_note *note = calloc(1, sizeof *note);
    if (note == NULL) { /* the peer would wait for ever: better an end */
        rt_detail why;
        rt_fail(&why, RT_E_NO_MEMORY, 0, "no memory for an answer to rank %u", peer);
        rt_team_break(team, &why, false);
        return;
    }
    note->message = *message;
    rt_list_append(&team->peers[peer].controls, &note->node);
}

void rt_transfer_refuse_rest(rt_team *team, const rt_team_transfer *send)
{
    rt_message refusal = {.kind = RT_MESSAGE_REFUSE, .what = RT_MESSAGE_ACCEPT, .number = send->number, .partner = send->partner};
    rt_transfer_answer(team, (uint32_t)send->peer, &refusal);
}

/* ---- a receive and its message ---- */

static void misfit(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *message)
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
    if (message->total != receive->size || message->dtype != receive->dtype) {
        misfit(team, receive, peer, message);
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
    if (rt_transfer_reads(team, receive, peer, message, payload)) {
        rt_list_append(&team->reading, &receive->node);
        return;
    }
    rt_list_append(&team->arriving, &receive->node);
    rt_message accept = {.kind = RT_MESSAGE_ACCEPT, .number = message->number, .partner = receive->number};
    rt_transfer_answer(team, peer, &accept);
}

static rt_team_transfer *find_receive(rt_team *team, uint32_t peer, uint64_t tag)
{
    RT_LIST_EACH(node, &team->receives) {
        rt_team_transfer *receive = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (receive->tag == tag && (receive->peer < 0 || receive->peer == (int32_t)peer))
            return receive;
    }
    return NULL;
}

static rt_team_transfer *find_number(rt_list *list, uint32_t peer, uint64_t number)
{
    RT_LIST_EACH(node, list) {
        rt_team_transfer *transfer = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (transfer->number == number && transfer->peer == (int32_t)peer)
            return transfer;
    }
    return NULL;
}

/* ---- what has arrived ---- */

static int take_new(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    if (message->kind == RT_MESSAGE_EAGER && message->total != message->size)
        return RT_E_PROTOCOL;
    if (message->kind == RT_MESSAGE_OFFER && message->size != 0 && message->size != sizeof(rt_announcement))
        return RT_E_PROTOCOL;
    rt_team_transfer *receive = find_receive(team, peer, message->tag);
    if (receive != NULL) {
        rt_transfer_meet(team, receive, peer, message, payload);
        return RT_OK;
    }
    uint64_t size = message->size;
    rt_unexpected *waiting = malloc(sizeof *waiting + size);
    if (waiting == NULL)
        return RT_E_NO_MEMORY;
    waiting->peer = peer;
    waiting->message = *message;
    memcpy(waiting->payload, payload, size);
    rt_list_append(&team->unexpected, &waiting->node);
    team->stats.unexpected++;
    team->stats.unexpected_bytes += message->kind == RT_MESSAGE_EAGER ? size : 0;
    return RT_OK;
}

static int take_part(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    rt_team_transfer *receive = find_number(&team->arriving, peer, message->partner);
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

static int take_accept(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_team_transfer *send = find_number(&team->peers[peer].offered, peer, message->number);
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
    rt_list_remove(&send->node);
    rt_list_append(&team->peers[peer].flowing, &send->node);
    return RT_OK;
}

static int take_refusal(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_detail why;
    if (message->what == RT_MESSAGE_ACCEPT) {
        rt_team_transfer *receive = find_number(&team->arriving, peer, message->partner);
        rt_fail(&why, RT_E_PEER_CLOSED, 0, "rank %u gave its send up", peer);
        if (receive != NULL)
            rt_transfer_finish(receive, RT_E_PEER_CLOSED, &why);
        return RT_OK;
    }
    rt_fail(&why, RT_E_INVALID, 0,
            "rank %u sent %llu bytes of %s with tag %llu, and rank %u receives %llu bytes or another dtype: "
            "shapes and dtypes must agree",
            team->rank, (unsigned long long)message->total, rt_dtype_name(message->dtype), (unsigned long long)message->tag, peer,
            (unsigned long long)message->partner);
    rt_team_transfer *send = find_number(&team->peers[peer].offered, peer, message->number);
    if (send != NULL)
        rt_transfer_finish(send, RT_E_INVALID, &why);
    else
        team->peers[peer].refused = why; /* it had travelled already: the next one says so */
    return RT_OK;
}

static int take(rt_team *team, uint32_t peer, const rt_message *message, const uint8_t *payload)
{
    switch ((enum rt_message_kind)message->kind) {
    case RT_MESSAGE_EAGER:
    case RT_MESSAGE_OFFER: return take_new(team, peer, message, payload);
    case RT_MESSAGE_PART: return take_part(team, peer, message, payload);
    case RT_MESSAGE_ACCEPT: return take_accept(team, peer, message);
    case RT_MESSAGE_REFUSE: return take_refusal(team, peer, message);
    case RT_MESSAGE_COLLECTIVE: break;
    }
    return RT_E_PROTOCOL;
}

static uint32_t take_all(rt_team *team, uint32_t peer)
{
    rt_lane *lane = lane_of(team, peer);
    uint32_t moved = 0;
    for (;;) {
        int status;
        const uint8_t *payload = rt_lane_peek(lane, &status);
        if (payload != NULL)
            status = take(team, peer, &lane->message, payload);
        if (status != RT_OK) {
            rt_detail why;
            rt_fail(&why, status, 0, "what rank %u sent could not be taken: %s", peer, rt_status_name(status));
            rt_team_break(team, &why, false);
            rt_transfers_fail(team, -1, &why);
            return moved;
        }
        if (payload == NULL)
            return moved;
        rt_lane_take(lane);
        moved++;
    }
}

/* ---- what is to be sent ---- */

static bool push(rt_team *team, uint32_t peer, rt_message *slot, const rt_message *head, const uint8_t *bytes)
{
    *slot = *head;
    if (head->size > 0 && bytes != NULL)
        memcpy(rt_message_payload(slot), bytes, head->size);
    return rt_lane_push(lane_of(team, peer), slot) == RT_OK;
}

static bool send_control(rt_team *team, uint32_t peer, rt_message *slot)
{
    rt_list *controls = &team->peers[peer].controls;
    rt_control_note *note = RT_LIST_ENTRY(controls->next, rt_control_note, node);
    rt_list_remove(&note->node);
    bool sent = push(team, peer, slot, &note->message, NULL);
    free(note);
    return sent;
}

/* Announces the oldest send: whole, or as an offer. */
static bool send_next(rt_team *team, uint32_t peer, rt_message *slot)
{
    rt_peer *to = &team->peers[peer];
    rt_team_transfer *send = RT_LIST_ENTRY(to->queue.next, rt_team_transfer, node);
    bool eager = send->size <= team->options.chunk;
    rt_announcement told;
    bool lent = !eager && (send->loan.region != NULL || rt_loan_begin(team->device, send->bytes, send->size, &send->loan));
    if (lent)
        rt_announcement_make(&send->loan, &told);
    rt_message head = {
        .kind = eager ? RT_MESSAGE_EAGER : RT_MESSAGE_OFFER,
        .size = eager  ? send->size
                : lent ? sizeof told
                       : 0,
        .total = send->size,
        .number = send->number,
        .tag = send->tag,
        .dtype = send->dtype,
    };
    if (!push(team, peer, slot, &head, lent ? (const uint8_t *)&told : send->bytes))
        return false;
    if (eager) {
        team->stats.bytes_sent += send->size;
        rt_transfer_finish(send, RT_OK, NULL);
        return true;
    }
    rt_list_remove(&send->node);
    rt_list_append(&to->offered, &send->node);
    return true;
}

static bool send_part(rt_team *team, uint32_t peer, rt_message *slot)
{
    rt_peer *to = &team->peers[peer];
    rt_team_transfer *send = RT_LIST_ENTRY(to->flowing.next, rt_team_transfer, node);
    uint64_t left = send->size - send->done;
    rt_message head = {.kind = RT_MESSAGE_PART, .number = send->number, .partner = send->partner};
    head.size = left < team->options.chunk ? left : team->options.chunk;
    if (!push(team, peer, slot, &head, send->bytes + send->done))
        return false;
    send->done += head.size;
    team->stats.bytes_sent += head.size;
    if (send->done == send->size)
        rt_transfer_finish(send, RT_OK, NULL);
    return true;
}

static uint32_t send_all(rt_team *team, uint32_t peer)
{
    rt_peer *to = &team->peers[peer];
    uint32_t moved = 0;
    for (;;) {
        bool none = rt_list_empty(&to->controls) && rt_list_empty(&to->queue) && rt_list_empty(&to->flowing);
        rt_message *slot = none ? NULL : rt_lane_room(lane_of(team, peer));
        if (slot == NULL)
            return moved;
        bool sent;
        if (!rt_list_empty(&to->controls))
            sent = send_control(team, peer, slot);
        else if (!rt_list_empty(&to->queue))
            sent = send_next(team, peer, slot);
        else
            sent = send_part(team, peer, slot);
        if (!sent) /* the channel failed: whoever waits finds out why */
            return moved;
        moved++;
    }
}

uint32_t rt_transfers_move(rt_team *team)
{
    uint32_t moved = 0;
    for (uint32_t peer = 0; peer < team->size; peer++) {
        if (team->peers[peer].channel == NULL)
            continue;
        moved += take_all(team, peer);
        moved += send_all(team, peer);
    }
    return moved + (rt_list_empty(&team->reading) ? 0 : rt_transfers_read(team));
}

/* ---- endings ---- */

static void fail_list(rt_list *list, int32_t peer, const rt_detail *why)
{
    RT_LIST_EACH_SAFE(node, list) {
        rt_team_transfer *transfer = RT_LIST_ENTRY(node, rt_team_transfer, node);
        if (peer < 0 || transfer->peer == peer)
            rt_transfer_finish(transfer, why->status, why);
    }
}

void rt_transfers_fail(rt_team *team, int32_t peer, const rt_detail *why)
{
    fail_list(&team->receives, peer, why);
    fail_list(&team->reading, peer, why);
    fail_list(&team->arriving, peer, why);
    for (uint32_t rank = 0; rank < team->size; rank++) {
        fail_list(&team->peers[rank].queue, peer, why);
        fail_list(&team->peers[rank].offered, peer, why);
        fail_list(&team->peers[rank].flowing, peer, why);
    }
}
