/* members.c: callers that make the calls of their programs, one after the other, and may give them up; and what must hold. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/dtype.h"
#include "team/block.h"
#include "transfers.h"

enum { GIVEN_BACK = 0xdd, UNTOUCHED = 0xee };

/* One call of a program, as its caller sees it. */
typedef struct tx_handle {
    rt_team_transfer *transfer; /* while it goes on */
    bool begun, dropped;
    int32_t source;
    int status; /* RT_E_AGAIN while it goes on */
    uint8_t bytes[TX_SIZE_MAX];
    uint64_t fence; /* what lies behind it */
} tx_handle;

typedef struct tx_member {
    rt_team team;
    rt_peer peers[TX_MEMBERS];
    rt_region words;
    uint8_t memory[RT_TEAM_NOTICE_SIZE + RT_TEAM_LINE + 8 * TX_MEMBERS];
    tx_handle handles[TX_CALLS];
    uint8_t next;
} tx_member;

static tx_member *members;
static const tx_model *model;
static tx_violation violation;

rt_team *members_team(uint32_t rank)
{
    return &members[rank].team;
}

static void complain(tx_violation what)
{
    if (violation == TX_NONE)
        violation = what;
}

tx_violation members_violation(void)
{
    return lanes_broken() ? TX_BLAMED : violation;
}

static void begin_peer(uint32_t rank, uint32_t other)
{
    rt_peer *peer = &members[rank].peers[other];
    tx_wire *wire = lanes_wire(rank, other);
    rt_list_init(&peer->queue);
    rt_list_init(&peer->offered);
    rt_list_init(&peer->flowing);
    rt_list_init(&peer->controls);
    if (other == rank)
        return;
    peer->channel = (rt_channel *)(uintptr_t)(1 + rank * TX_MEMBERS + other); /* never looked into */
    for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++)
        peer->lanes[kind] = (rt_lane){.team = &members[rank].team, .peer = other, .kind = (enum rt_lane_kind)kind};
    peer->eaten = &wire->eaten;
    peer->offers = peer->kept_offers = model->offers == 0 ? 0 : RT_TEAM_OFFERS_MAX - model->offers;
    if (model->budget == 0)
        return;
    /* In the middle of their lives: much lies here unreceived, and one message more makes a report due. */
    uint64_t cost = rt_transfer_cost(2), received = RT_TEAM_KEPT_MAX / 4 - cost;
    peer->received = received;
    peer->kept = RT_TEAM_KEPT_MAX - received - model->budget * cost;
    peer->eager_sent = peer->kept + received;
}

void members_begin(const tx_model *given)
{
    model = given;
    violation = TX_NONE;
    lanes_begin(model);
    members = calloc(TX_MEMBERS, sizeof *members);
    assert(members != NULL);
    for (uint32_t rank = 0; rank < model->members; rank++) {
        tx_member *member = &members[rank];
        rt_team *team = &member->team;
        team->options = (rt_team_options){.rank = rank, .size = model->members, .chunk = TX_CHUNK, .slots = model->slots};
        team->rank = rank;
        team->size = model->members;
        team->peers = member->peers;
        team->words = &member->words;
        member->words.address = member->memory;
        team->next_number = 1;
        pthread_mutex_init(&team->lock, NULL);
        rt_list_init(&team->receives);
        rt_list_init(&team->reading);
        rt_list_init(&team->arriving);
        rt_list_init(&team->unexpected);
        for (uint32_t other = 0; other < model->members; other++)
            begin_peer(rank, other);
        for (uint32_t call = 0; call < TX_CALLS; call++) {
            member->handles[call].status = RT_E_AGAIN;
            memset(member->handles[call].bytes, UNTOUCHED, TX_SIZE_MAX);
        }
    }
}

static void free_list(rt_list *list, bool transfers)
{
    RT_LIST_EACH_SAFE(node, list) {
        rt_list_remove(node);
        if (transfers)
            free(RT_LIST_ENTRY(node, rt_team_transfer, node));
        else
            free(RT_LIST_ENTRY(node, rt_control_note, node));
    }
}

_Static_assert(offsetof(rt_control_note, node) == 0 && offsetof(rt_unexpected, node) == 0, "both are freed by their node");

void members_end(void)
{
    for (uint32_t rank = 0; rank < model->members; rank++) {
        rt_team *team = &members[rank].team;
        for (uint32_t call = 0; call < TX_CALLS; call++) {
            const tx_handle *handle = &members[rank].handles[call];
            if (handle->transfer != NULL && atomic_load(&handle->transfer->status) != RT_E_AGAIN)
                free(handle->transfer);
        }
        free_list(&team->receives, true);
        free_list(&team->arriving, true);
        free_list(&team->unexpected, false);
        for (uint32_t other = 0; other < model->members; other++) {
            if (other == rank)
                continue;
            free_list(&team->peers[other].queue, true);
            free_list(&team->peers[other].offered, true);
            free_list(&team->peers[other].flowing, true);
            free_list(&team->peers[other].controls, false);
        }
    }
    free(members);
    members = NULL;
}

/* ---- what a caller sees ---- */

static uint8_t mark(uint32_t rank, uint32_t call)
{
    return (uint8_t)(16 * (rank + 1) + call);
}

/* The bytes must be those of one send to this member, with the tag and size that were asked for. */
static void check_received(uint32_t rank, uint32_t call)
{
    const tx_call *asked = &model->calls[rank][call];
    const tx_handle *handle = &members[rank].handles[call];
    uint32_t from = handle->bytes[0] / 16u - 1, sent = handle->bytes[0] % 16u;
    for (uint32_t at = 1; at < asked->size; at++) {
        if (handle->bytes[at] != handle->bytes[0])
            complain(TX_TORN);
    }
    if (from >= model->members || sent >= TX_CALLS || (int32_t)from != handle->source) {
        complain(TX_TORN);
        return;
    }
    const tx_call *send = &model->calls[from][sent];
    bool fits = send->kind == 's' && send->peer == (int8_t)rank && send->tag == asked->tag && send->size == asked->size;
    if (!fits || (asked->peer >= 0 && (uint32_t)asked->peer != from))
        complain(TX_TORN);
    /* A message received before it, of the same source and tag, was sent before it. */
    for (uint32_t earlier = 0; earlier < TX_CALLS; earlier++) {
        const tx_call *other = &model->calls[rank][earlier];
        const tx_handle *theirs = &members[rank].handles[earlier];
        bool same = earlier != call && other->kind == 'r' && other->tag == asked->tag && theirs->status == RT_OK &&
                    theirs->source == handle->source && theirs->bytes[0] != UNTOUCHED;
        uint32_t number = theirs->bytes[0] % 16u;
        if (same && (number == sent || (earlier < call) != (number < sent)))
            complain(TX_ORDER);
    }
}

/* A call that has ended: its memory is its caller's again. */
static void ended(uint32_t rank, uint32_t call, int status, int32_t source)
{
    tx_handle *handle = &members[rank].handles[call];
    handle->transfer = NULL;
    handle->status = status;
    handle->source = source;
    if (model->calls[rank][call].kind == 's')
        memset(handle->bytes, GIVEN_BACK, TX_SIZE_MAX);
    else if (status == RT_OK)
        check_received(rank, call);
    bool stated = status == RT_OK || (status == RT_E_PEER_CLOSED && model->drops) ||
                  (status == RT_E_INVALID && model->calls[rank][call].tag == TX_MISFIT);
    if (!stated)
        complain(TX_END);
}

static void look(void)
{
    for (uint32_t rank = 0; rank < model->members; rank++) {
        for (uint32_t call = 0; call < TX_CALLS; call++) {
            rt_team_transfer *transfer = members[rank].handles[call].transfer;
            int status = transfer == NULL ? RT_E_AGAIN : atomic_load(&transfer->status);
            if (status == RT_E_AGAIN)
                continue;
            int32_t source = transfer->peer;
            free(transfer);
            ended(rank, call, status, source);
        }
    }
}

/* Memory that is its caller's again stays as it is. */
static void check_memory(void)
{
    for (uint32_t rank = 0; rank < model->members; rank++) {
        for (uint32_t call = 0; call < members[rank].next; call++) {
            const tx_handle *handle = &members[rank].handles[call];
            if (handle->dropped && handle->bytes[0] != GIVEN_BACK)
                complain(TX_TOUCHED);
            if (handle->dropped && handle->bytes[TX_SIZE_MAX - 1] != GIVEN_BACK)
                complain(TX_TOUCHED);
        }
    }
}

/* ---- steps ---- */

static void begin_call(uint32_t rank)
{
    tx_member *member = &members[rank];
    uint32_t index = member->next++;
    const tx_call *call = &model->calls[rank][index];
    tx_handle *handle = &member->handles[index];
    rt_detail detail;
    int32_t source = -1;
    int status;
    handle->begun = true;
    if (call->kind == 's') {
        memset(handle->bytes, mark(rank, index), call->size);
        status = rt_team_send(&member->team, (uint32_t)call->peer, call->tag, RT_DTYPE_UINT8, handle->bytes, call->size,
                              &handle->transfer, &detail);
    } else {
        status = rt_team_receive(&member->team, call->peer, call->tag, RT_DTYPE_UINT8, handle->bytes, call->size,
                                 &handle->transfer, &source, &detail);
    }
    if (status != RT_E_AGAIN)
        ended(rank, index, status, source);
}

static void move(uint32_t rank)
{
    rt_team *team = &members[rank].team;
    pthread_mutex_lock(&team->lock);
    rt_transfers_move(team);
    pthread_mutex_unlock(&team->lock);
}

static void drop(uint32_t rank, uint32_t call)
{
    tx_handle *handle = &members[rank].handles[call];
    rt_team_transfer_drop(handle->transfer);
    handle->transfer = NULL;
    handle->dropped = true;
    handle->status = RT_E_CLOSED;
    memset(handle->bytes, GIVEN_BACK, TX_SIZE_MAX);
}

void members_do(search_step action)
{
    tx_wire *wire = lanes_wire(action.first, action.second);
    switch (action.kind) {
    case TX_CALL: begin_call(action.first); break;
    case TX_MOVE: move(action.first); break;
    case TX_ARRIVE: wire->arrived++; break;
    case TX_TELL:
        wire->eaten = wire->telling;
        wire->tells = false;
        break;
    case TX_DROP: drop(action.first, action.second); break;
    default: assert(false);
    }
    look();
    check_memory();
}

/* Whether a member's look may find something: messages that arrived, or something to send and room for it. */
static bool may_move(uint32_t rank)
{
    const rt_team *team = &members[rank].team;
    for (uint32_t other = 0; other < model->members; other++) {
        const rt_peer *peer = &team->peers[other];
        if (other == rank)
            continue;
        const tx_wire *in = lanes_wire(other, rank), *out = lanes_wire(rank, other);
        bool due = !rt_list_empty(&peer->controls) || !rt_list_empty(&peer->queue) || !rt_list_empty(&peer->flowing);
        if (in->taken != in->arrived || (due && out->sent - out->taken < model->slots))
            return true;
    }
    return false;
}

static void add(search_step actions[SEARCH_STEPS_MAX], uint32_t *count, uint32_t kind, uint32_t member, uint32_t other)
{
    assert(*count < SEARCH_STEPS_MAX);
    actions[(*count)++] = (search_step){(uint8_t)kind, (uint8_t)member, (uint8_t)other};
}

uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX])
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < model->members; rank++) {
        if (members[rank].next < TX_CALLS && model->calls[rank][members[rank].next].kind != 0)
            add(actions_out, &count, TX_CALL, rank, 0);
        if (may_move(rank))
            add(actions_out, &count, TX_MOVE, rank, 0);
        for (uint32_t other = 0; other < model->members; other++) {
            const tx_wire *wire = lanes_wire(rank, other);
            if (wire->arrived != wire->sent)
                add(actions_out, &count, TX_ARRIVE, rank, other);
            if (wire->tells)
                add(actions_out, &count, TX_TELL, rank, other);
        }
    }
    for (uint32_t rank = 0; model->drops && rank < model->members; rank++) {
        for (uint32_t call = 0; call < members[rank].next; call++) {
            if (members[rank].handles[call].transfer != NULL)
                add(actions_out, &count, TX_DROP, rank, call);
        }
    }
    return count;
}

/* ---- the end ---- */

/* Whether something is there that a receive which waits could have. */
static bool is_served(uint32_t rank, const tx_call *asked)
{
    RT_LIST_EACH(node, &members[rank].team.unexpected) {
        const rt_unexpected *waiting = RT_LIST_ENTRY(node, rt_unexpected, node);
        if (waiting->message.tag == asked->tag && (asked->peer < 0 || (uint32_t)asked->peer == waiting->peer))
            return true;
    }
    for (uint32_t other = 0; other < model->members; other++) {
        for (uint32_t call = 0; call < TX_CALLS; call++) {
            const tx_call *send = &model->calls[other][call];
            bool fits = send->kind == 's' && send->peer == (int8_t)rank && send->tag == asked->tag;
            if (fits && (asked->peer < 0 || (uint32_t)asked->peer == other) && members[other].handles[call].transfer != NULL)
                return true;
        }
    }
    return false;
}

tx_violation members_settled(void)
{
    for (uint32_t rank = 0; rank < model->members; rank++) {
        for (uint32_t call = 0; call < members[rank].next; call++) {
            const tx_call *asked = &model->calls[rank][call];
            bool waits = members[rank].handles[call].transfer != NULL;
            if (waits && (!model->drops || (asked->kind == 'r' && is_served(rank, asked))))
                return TX_DEADLOCK;
        }
        if (!rt_list_empty(&members[rank].team.arriving))
            return TX_DEADLOCK; /* a receive that waits for parts, which nobody sends */
    }
    return TX_NONE;
}

/* ---- telling states apart ---- */

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0xff51afd7ed558ccdull;
    return hash ^ hash >> 32;
}

static uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size; at++)
        hash = mix(hash, ((const uint8_t *)bytes)[at]);
    return hash;
}

static uint64_t mix_transfers(uint64_t hash, const rt_list *list)
{
    for (const rt_list *node = list->next; node != list; node = node->next) {
        const rt_team_transfer *transfer = RT_LIST_ENTRY(node, rt_team_transfer, node);
        hash = mix(hash, transfer->number << 32 | transfer->partner << 16 | transfer->done << 8 | (uint64_t)transfer->dropped);
        hash = mix(hash, (uint64_t)(uint32_t)transfer->peer << 32 | transfer->tag << 16 | transfer->size);
    }
    return mix(hash, 77);
}

static uint64_t mix_message(uint64_t hash, const rt_message *message)
{
    hash = mix(hash, (uint64_t)message->kind << 48 | (uint64_t)message->what << 40 | message->size << 32 | message->total << 24);
    return mix(hash, message->number << 32 | message->partner << 16 | message->tag);
}

static uint64_t mix_peer(uint64_t hash, uint32_t rank, uint32_t other)
{
    const rt_peer *peer = &members[rank].peers[other];
    const tx_wire *wire = lanes_wire(rank, other);
    hash = mix_transfers(hash, &peer->queue);
    hash = mix_transfers(hash, &peer->offered);
    hash = mix_transfers(hash, &peer->flowing);
    for (const rt_list *node = peer->controls.next; node != &peer->controls; node = node->next)
        hash = mix_message(hash, &RT_LIST_ENTRY(node, rt_control_note, node)->message);
    hash = mix(hash, peer->offers);
    hash = mix(hash, peer->eager_sent);
    hash = mix(hash, peer->kept << 8 | peer->kept_offers);
    hash = mix(hash, peer->received);
    hash = mix(hash, peer->told);
    hash = mix(hash, wire->eaten);
    hash = mix(hash, wire->tells ? wire->telling : 0);
    hash = mix(hash, (uint64_t)wire->sent << 32 | wire->arrived << 16 | wire->taken);
    for (uint32_t at = wire->taken; at < wire->sent; at++) {
        hash = mix_message(hash, &wire->messages[at % model->slots]);
        hash = mix_bytes(hash, wire->payloads[at % model->slots], wire->messages[at % model->slots].size);
    }
    return hash;
}

uint64_t members_digest(void)
{
    uint64_t hash = 1;
    for (uint32_t rank = 0; rank < model->members; rank++) {
        const tx_member *member = &members[rank];
        hash = mix(hash, member->next);
        hash = mix(hash, member->team.next_number);
        for (uint32_t call = 0; call < TX_CALLS; call++) {
            const tx_handle *handle = &member->handles[call];
            hash = mix(hash, (uint64_t)(uint32_t)handle->status << 8 | handle->dropped);
            hash = mix(hash, (uint64_t)(handle->status == RT_OK ? handle->source : 0));
            hash = mix_bytes(hash, handle->bytes, TX_SIZE_MAX);
        }
        hash = mix_transfers(hash, &member->team.receives);
        hash = mix_transfers(hash, &member->team.arriving);
        for (const rt_list *node = member->team.unexpected.next; node != &member->team.unexpected; node = node->next)
            hash = mix_message(hash, &RT_LIST_ENTRY(node, rt_unexpected, node)->message);
        for (uint32_t other = 0; other < model->members; other++) {
            if (other != rank)
                hash = mix_peer(hash, rank, other);
        }
    }
    return hash == 0 ? 1 : hash;
}

/* ---- in words ---- */

void members_describe(search_step action, char text_out[SEARCH_TEXT])
{
    static const char *const kinds[] = {[RT_MESSAGE_EAGER] = "the bytes of a send",
                                        [RT_MESSAGE_OFFER] = "an offer",
                                        [RT_MESSAGE_ACCEPT] = "an accept",
                                        [RT_MESSAGE_PART] = "a part",
                                        [RT_MESSAGE_REFUSE] = "a refusal"};
    const tx_wire *wire = lanes_wire(action.first, action.second);
    const tx_call *call = &model->calls[action.first][members[action.first].next % TX_CALLS];
    switch (action.kind) {
    case TX_CALL:
        snprintf(text_out, SEARCH_TEXT, "rank %u: %s %u bytes, tag %u, peer %d", action.first,
                 call->kind == 's' ? "sends" : "receives", call->size, call->tag, call->peer);
        break;
    case TX_MOVE: snprintf(text_out, SEARCH_TEXT, "rank %u: takes what has arrived and sends what is due", action.first); break;
    case TX_ARRIVE:
        snprintf(text_out, SEARCH_TEXT, "network: %s of rank %u arrives at rank %u",
                 kinds[wire->messages[wire->arrived % model->slots].kind], action.first, action.second);
        break;
    case TX_TELL:
        snprintf(text_out, SEARCH_TEXT, "network: how much rank %u received of rank %u arrives there", action.second,
                 action.first);
        break;
    default: snprintf(text_out, SEARCH_TEXT, "rank %u: gives its call %u up", action.first, action.second); break;
    }
}
