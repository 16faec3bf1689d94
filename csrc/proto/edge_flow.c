/* edge_flow.c: the two state machines of edge_flow.h as tables (EDGES.md sections 5 to 8; the
 * diagrams there are drawn from these tables).
 *
 * `edge_table` is the life of an edge on either side, `slot_table` that of a slot at the receiver.
 * An event of an edge that no row lists cannot happen, and is asserted; an event of a slot that no
 * row lists is the caller's mistake, and is refused with RT_E_INVALID.
 *
 * The counters decide on ownership: the sender may begin sequence q only while q <= released +
 * slots, and the receiver looks only for received + 1. An edge that is over keeps its first reason.
 * Where words are not placed whole, a credit seen in part lies outside the window of possible
 * credits and is ignored, since a later look sees the whole word. */
#include "proto/edge_flow.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* ---- the life of an edge ---- */

typedef enum side { SENDER, RECEIVER } side;

typedef enum edge_event {
    EVENT_CLOSE,       /* this side closes it */
    EVENT_PEER_CLOSED, /* the other side did */
    EVENT_LOST,        /* the channel failed */
    EVENT_BROKEN,      /* the peer broke a rule: overrun, protocol */
    EVENT_DRAINED,     /* nothing is left to wait for */
    EVENT_LEND,        /* the next tensor's place is given to the caller … */
    EVENT_TAKEN_BACK   /* … who has written it, or gave it up */
} edge_event;

typedef struct edge_rule {
    side who;
    rt_edge_state state;
    edge_event what;
    rt_edge_state next;
} edge_rule;

/* clang-format off */
static const edge_rule edge_table[] = {
    {SENDER,   RT_EDGE_OPEN,     EVENT_CLOSE,       RT_EDGE_DRAINING},
    {SENDER,   RT_EDGE_OPEN,     EVENT_PEER_CLOSED, RT_EDGE_OVER},
    {SENDER,   RT_EDGE_OPEN,     EVENT_LOST,        RT_EDGE_OVER},
    {SENDER,   RT_EDGE_OPEN,     EVENT_BROKEN,      RT_EDGE_OVER},
    {SENDER,   RT_EDGE_OPEN,     EVENT_LEND,        RT_EDGE_LENT},
    {SENDER,   RT_EDGE_LENT,     EVENT_TAKEN_BACK,  RT_EDGE_OPEN},
    {SENDER,   RT_EDGE_LENT,     EVENT_CLOSE,       RT_EDGE_DRAINING},
    {SENDER,   RT_EDGE_LENT,     EVENT_PEER_CLOSED, RT_EDGE_OVER},
    {SENDER,   RT_EDGE_LENT,     EVENT_LOST,        RT_EDGE_OVER},
    {SENDER,   RT_EDGE_LENT,     EVENT_BROKEN,      RT_EDGE_OVER},
    {SENDER,   RT_EDGE_DRAINING, EVENT_DRAINED,     RT_EDGE_OVER},
    {SENDER,   RT_EDGE_DRAINING, EVENT_PEER_CLOSED, RT_EDGE_OVER},
    {SENDER,   RT_EDGE_DRAINING, EVENT_LOST,        RT_EDGE_OVER},
    {SENDER,   RT_EDGE_DRAINING, EVENT_BROKEN,      RT_EDGE_OVER},
    {RECEIVER, RT_EDGE_OPEN,     EVENT_CLOSE,       RT_EDGE_OVER},
    {RECEIVER, RT_EDGE_OPEN,     EVENT_PEER_CLOSED, RT_EDGE_DRAINING},
    {RECEIVER, RT_EDGE_OPEN,     EVENT_LOST,        RT_EDGE_DRAINING},
    {RECEIVER, RT_EDGE_OPEN,     EVENT_BROKEN,      RT_EDGE_OVER},
    {RECEIVER, RT_EDGE_DRAINING, EVENT_DRAINED,     RT_EDGE_OVER},
    {RECEIVER, RT_EDGE_DRAINING, EVENT_CLOSE,       RT_EDGE_OVER},
    {RECEIVER, RT_EDGE_DRAINING, EVENT_LOST,        RT_EDGE_DRAINING},
    {RECEIVER, RT_EDGE_DRAINING, EVENT_BROKEN,      RT_EDGE_OVER},
};
/* clang-format on */

/* If the edge is over already, the first reason stays. */
static void rule_follow(side who, edge_event what, int status, uint8_t *state, int32_t *failure)
{
    if (*state == RT_EDGE_OVER)
        return;
    const edge_rule *rule = edge_table, *end = edge_table + sizeof edge_table / sizeof edge_table[0];
    while (rule < end && (rule->who != who || rule->state != (rt_edge_state)*state || rule->what != what))
        rule++;
    assert(rule < end);
    *state = (uint8_t)rule->next;
    *failure = status;
}

const char *rt_edge_state_name(rt_edge_state state)
{
    static const char *const names[] =
        {[RT_EDGE_OPEN] = "open", [RT_EDGE_DRAINING] = "draining", [RT_EDGE_OVER] = "over", [RT_EDGE_LENT] = "lent"};
    return names[state];
}

/* ---- the life of a slot ---- */

typedef struct slot_rule {
    rt_slot_state state;
    rt_slot_event what;
    rt_slot_state next;
} slot_rule;

/* clang-format off */
static const slot_rule slot_table[] = {
    {RT_SLOT_EMPTY,    RT_SLOT_FLAG,    RT_SLOT_ARRIVED},
    {RT_SLOT_ARRIVED,  RT_SLOT_USE,     RT_SLOT_HELD},
    {RT_SLOT_ARRIVED,  RT_SLOT_FETCH,   RT_SLOT_FETCHING},
    {RT_SLOT_ARRIVED,  RT_SLOT_RELEASE, RT_SLOT_EMPTY},
    {RT_SLOT_FETCHING, RT_SLOT_FETCHED, RT_SLOT_HELD},
    {RT_SLOT_HELD,     RT_SLOT_RELEASE, RT_SLOT_EMPTY},
};
/* clang-format on */

static const slot_rule *slot_rule_find(uint8_t state, rt_slot_event what)
{
    for (size_t index = 0; index < sizeof slot_table / sizeof slot_table[0]; index++) {
        if (slot_table[index].state == (rt_slot_state)state && slot_table[index].what == what)
            return &slot_table[index];
    }
    return NULL;
}

const char *rt_slot_state_name(rt_slot_state state)
{
    static const char *const names[] =
        {[RT_SLOT_EMPTY] = "empty", [RT_SLOT_ARRIVED] = "arrived", [RT_SLOT_FETCHING] = "fetching", [RT_SLOT_HELD] = "held"};
    return names[state];
}

/* ---- the sender ---- */

void rt_edge_sender_begin(rt_edge_sender *sender, uint32_t slots, rt_edge_flow flow, bool credit_words_whole)
{
    assert(slots > 0 && slots <= RT_EDGE_SLOTS_MAX);
    *sender = (rt_edge_sender){.slots = slots, .flow = (uint8_t)flow, .credit_words_whole = credit_words_whole};
}

int rt_edge_sender_next(const rt_edge_sender *sender, uint64_t *sequence_out)
{
    if (sender->state != RT_EDGE_OPEN)
        return sender->state == RT_EDGE_LENT ? RT_E_AGAIN : sender->failure;
    assert(sender->sent < UINT64_MAX); /* at a thousand million a second, after 584 years */
    if (sender->flow == RT_EDGE_FLOW_CREDIT && sender->sent - sender->released >= sender->slots)
        return RT_E_AGAIN;
    *sequence_out = sender->sent + 1;
    return RT_OK;
}

void rt_edge_sender_lend(rt_edge_sender *sender)
{
    assert(sender->state == RT_EDGE_OPEN);
    rule_follow(SENDER, EVENT_LEND, RT_OK, &sender->state, &sender->failure);
}

void rt_edge_sender_take_back(rt_edge_sender *sender)
{
    if (sender->state == RT_EDGE_LENT)
        rule_follow(SENDER, EVENT_TAKEN_BACK, RT_OK, &sender->state, &sender->failure);
}

void rt_edge_sender_sent(rt_edge_sender *sender, uint64_t sequence)
{
    assert(sequence == sender->sent + 1);
    sender->sent = sequence;
}

static void sender_settle(rt_edge_sender *sender)
{
    if (sender->state == RT_EDGE_DRAINING && (sender->flow == RT_EDGE_FLOW_LOOP || sender->released == sender->sent))
        rule_follow(SENDER, EVENT_DRAINED, RT_E_CLOSED, &sender->state, &sender->failure);
}

/* A word seen half written differs from the word that was meant by a multiple of 256, and every
 * word that can be meant lies in a window of at most 128. So a torn word is outside the window, and
 * a later look sees it whole. */
int rt_edge_sender_credit(rt_edge_sender *sender, uint64_t word, rt_detail *detail)
{
    if (sender->state == RT_EDGE_OVER || sender->flow == RT_EDGE_FLOW_LOOP)
        return RT_OK;
    if (word > sender->sent && !sender->credit_words_whole)
        return RT_OK;
    if (word > sender->sent) {
        rule_follow(SENDER, EVENT_BROKEN, RT_E_PROTOCOL, &sender->state, &sender->failure);
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer released tensor %" PRIu64 " and the last that was sent is %" PRIu64,
                       word, sender->sent);
    }
    if (word > sender->released)
        sender->released = word;
    sender_settle(sender);
    return RT_OK;
}

bool rt_edge_sender_keeps(const rt_edge_sender *sender, uint64_t sequence)
{
    return sender->state != RT_EDGE_OVER && sequence > sender->released;
}

void rt_edge_sender_give_up(rt_edge_sender *sender, uint64_t sequence)
{
    assert(sequence != 0 && sequence == sender->sent);
    if (sequence > sender->released) /* else the peer released a tensor that it cannot have: nothing is waited for */
        sender->sent = sequence - 1;
    sender_settle(sender);
}

void rt_edge_sender_close(rt_edge_sender *sender)
{
    if (sender->state != RT_EDGE_OPEN && sender->state != RT_EDGE_LENT)
        return;
    rule_follow(SENDER, EVENT_CLOSE, RT_E_CLOSED, &sender->state, &sender->failure);
    sender_settle(sender);
}

void rt_edge_sender_end(rt_edge_sender *sender, int status)
{
    rule_follow(SENDER, status == RT_E_PEER_CLOSED ? EVENT_PEER_CLOSED : EVENT_LOST, status, &sender->state, &sender->failure);
}

/* ---- the receiver ---- */

void rt_edge_receiver_begin(rt_edge_receiver *receiver, const rt_edge_receiver_options *options)
{
    assert(options->slots > 0 && options->slots <= RT_EDGE_SLOTS_MAX);
    assert(options->stripes > 0 && options->stripes <= RT_EDGE_STRIPES_MAX);
    *receiver = (rt_edge_receiver){.slots = options->slots,
                                   .stripes = (uint8_t)options->stripes,
                                   .flow = (uint8_t)options->flow,
                                   .final = UINT64_MAX,
                                   .flags_whole = options->flags_whole,
                                   .begun_whole = options->begun_whole,
                                   .loop_check = options->loop_check,
                                   .credits_serial = options->credits_serial};
}

static uint8_t *receiver_slot(rt_edge_receiver *receiver, uint64_t sequence)
{
    return &receiver->slot_state[sequence % receiver->slots];
}

/* The slot's BEGUN word names another tensor. */
static int tensor_overrun(rt_edge_receiver *receiver, uint64_t sequence, uint64_t found, const char *when, rt_detail *detail)
{
    int status = found > sequence ? RT_E_OVERRUN : RT_E_PROTOCOL;
    rule_follow(RECEIVER, EVENT_BROKEN, status, &receiver->state, &receiver->failure);
    if (status == RT_E_PROTOCOL)
        return rt_fail(detail, status, 0, "the peer flagged tensor %" PRIu64 " without having begun it (it says %" PRIu64 ")",
                       sequence, found);
    return rt_fail(detail, status, 0,
                   "the sender wrote tensor %" PRIu64 " over tensor %" PRIu64 " %s: the loop does not keep the order that "
                   "flow=\"loop\" promises; use flow=\"credit\" or more slots",
                   found, sequence, when);
}

static int tensor_ahead(rt_edge_receiver *receiver, uint64_t sequence, uint64_t found, rt_detail *detail)
{
    if (receiver->flow == RT_EDGE_FLOW_LOOP)
        return tensor_overrun(receiver, sequence, found, "before it was received", detail);
    rule_follow(RECEIVER, EVENT_BROKEN, RT_E_PROTOCOL, &receiver->state, &receiver->failure);
    return rt_fail(detail, RT_E_PROTOCOL, 0,
                   "the peer flagged tensor %" PRIu64 " where %" PRIu64 " is due and has no credit for it", found, sequence);
}

/* No tensor is there in this look: wait, unless none will come any more. */
static int tensor_missing(rt_edge_receiver *receiver, int status, rt_detail *detail)
{
    if (receiver->lost == RT_OK)
        return status;
    rule_follow(RECEIVER, EVENT_DRAINED, receiver->lost, &receiver->state, &receiver->failure);
    return rt_fail(detail, receiver->lost, 0,
                   "the channel ended (%s): what the sender sent after tensor %" PRIu64
                   ", or one that was being fetched, did not arrive",
                   rt_status_name(receiver->lost), receiver->received);
}

/* All tensors were taken. The end is reported once the last of them is fetched, so that it never
 * hides a loss. */
static int tensors_finished(rt_edge_receiver *receiver, rt_detail *detail)
{
    if (receiver->fetching > 0)
        return tensor_missing(receiver, RT_E_AGAIN, detail);
    rule_follow(RECEIVER, EVENT_DRAINED, RT_E_PEER_CLOSED, &receiver->state, &receiver->failure);
    return rt_fail(detail, RT_E_PEER_CLOSED, 0, "the sender closed the edge after tensor %" PRIu64, receiver->final);
}

uint64_t rt_edge_receiver_expects(const rt_edge_receiver *receiver)
{
    return receiver->received + 1;
}

int rt_edge_receiver_look(rt_edge_receiver *receiver, const uint64_t *flags, const uint64_t *begun, uint64_t *sequence_out,
                          rt_detail *detail)
{
    uint64_t sequence = rt_edge_receiver_expects(receiver);
    uint8_t *slot = receiver_slot(receiver, sequence);
    if (receiver->state == RT_EDGE_OVER)
        return rt_fail(detail, receiver->failure, 0, "the edge is over: %s", rt_status_name(receiver->failure));
    if (receiver->received == receiver->final)
        return tensors_finished(receiver, detail);
    const slot_rule *rule = slot_rule_find(*slot, RT_SLOT_FLAG);
    if (rule == NULL) /* no tensor can arrive in this slot, so a loss is final, even while a READ into the slot is under way */
        return tensor_missing(receiver, RT_E_BUSY, detail);
    /* Equality, never "at or past": a flag seen half written equals its sequence only if every byte
     * that differs has arrived. */
    bool whole = true;
    for (uint32_t stripe = 0; stripe < receiver->stripes; stripe++) {
        if (flags[stripe] > sequence && receiver->flags_whole)
            return tensor_ahead(receiver, sequence, flags[stripe], detail);
        whole = whole && flags[stripe] == sequence;
    }
    for (uint32_t stripe = 0; receiver->loop_check && stripe < receiver->stripes; stripe++) {
        if ((whole && begun[stripe] != sequence) || (begun[stripe] > sequence && receiver->begun_whole))
            return tensor_overrun(receiver, sequence, begun[stripe], "before it was received", detail);
    }
    if (!whole)
        return tensor_missing(receiver, RT_E_AGAIN, detail);
    *slot = (uint8_t)rule->next;
    receiver->received = sequence;
    *sequence_out = sequence;
    return RT_OK;
}

static bool tensor_is_taken(const rt_edge_receiver *receiver, uint64_t sequence)
{
    return sequence > receiver->released && sequence <= receiver->received;
}

int rt_edge_receiver_event(rt_edge_receiver *receiver, uint64_t sequence, rt_slot_event event)
{
    uint8_t *slot = receiver_slot(receiver, sequence);
    const slot_rule *rule = tensor_is_taken(receiver, sequence) ? slot_rule_find(*slot, event) : NULL;
    if (rule == NULL)
        return RT_E_INVALID;
    receiver->fetching = (uint8_t)(receiver->fetching + (rule->next == RT_SLOT_FETCHING) - (rule->state == RT_SLOT_FETCHING));
    *slot = (uint8_t)rule->next;
    return RT_OK;
}

int rt_edge_receiver_release(rt_edge_receiver *receiver, uint64_t sequence, const uint64_t *begun, rt_detail *detail)
{
    if (rt_edge_receiver_event(receiver, sequence, RT_SLOT_RELEASE) != RT_OK)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "tensor %" PRIu64 " of this edge is not held: it was released before, or is still read", sequence);
    while (receiver->released < receiver->received && *receiver_slot(receiver, receiver->released + 1) == RT_SLOT_EMPTY)
        receiver->released++;
    for (uint32_t stripe = 0; receiver->loop_check && stripe < receiver->stripes; stripe++) {
        if (begun[stripe] != sequence)
            return tensor_overrun(receiver, sequence, begun[stripe], "before it was released", detail);
    }
    return RT_OK;
}

bool rt_edge_receiver_credit_due(const rt_edge_receiver *receiver, uint64_t *word_out)
{
    bool broken = receiver->failure != RT_OK && receiver->failure != RT_E_PEER_CLOSED && receiver->failure != RT_E_CLOSED;
    bool heard = receiver->lost == RT_OK && !broken && !receiver->told;
    if (!heard || receiver->flow != RT_EDGE_FLOW_CREDIT || receiver->released == receiver->credited)
        return false;
    if (receiver->credits_serial && receiver->credit_posted)
        return false;
    *word_out = receiver->released;
    return true;
}

void rt_edge_receiver_credit_posted(rt_edge_receiver *receiver, uint64_t word)
{
    assert(word > receiver->credited && word <= receiver->released);
    receiver->credited = word;
    receiver->credit_posted = true;
}

void rt_edge_receiver_credit_done(rt_edge_receiver *receiver)
{
    receiver->credit_posted = false;
}

void rt_edge_receiver_told(rt_edge_receiver *receiver)
{
    receiver->told = true;
}

int rt_edge_receiver_finish(rt_edge_receiver *receiver, uint64_t final, rt_detail *detail)
{
    if (receiver->state == RT_EDGE_OVER)
        return RT_OK;
    if (final < receiver->received || receiver->final != UINT64_MAX) {
        rule_follow(RECEIVER, EVENT_BROKEN, RT_E_PROTOCOL, &receiver->state, &receiver->failure);
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer closed the edge after tensor %" PRIu64 ", but %" PRIu64 " had arrived",
                       final, receiver->received);
    }
    if (receiver->state == RT_EDGE_OPEN)
        rule_follow(RECEIVER, EVENT_PEER_CLOSED, RT_E_PEER_CLOSED, &receiver->state, &receiver->failure);
    receiver->final = final;
    return RT_OK;
}

void rt_edge_receiver_end(rt_edge_receiver *receiver, int status)
{
    if (receiver->state == RT_EDGE_OVER)
        return;
    if (status == RT_E_CLOSED) {
        rule_follow(RECEIVER, EVENT_CLOSE, status, &receiver->state, &receiver->failure);
        return;
    }
    if (receiver->lost == RT_OK)
        receiver->lost = status;
    rule_follow(RECEIVER, EVENT_LOST, status, &receiver->state, &receiver->failure);
}
