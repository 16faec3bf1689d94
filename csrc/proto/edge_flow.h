/* edge_flow.h: the owner of each slot over time: the sender's and the receiver's side of an edge,
 * static or dynamic. The full protocol: EDGES.md sections 5 to 8.
 *
 * A sender writes sequence q into slot q mod slots and then sets the slot's flag to q; a receiver
 * takes sequences in order, releases them in any order, and reports the highest sequence up to
 * which all are released as the sender's credit. Both sides count; no message is needed.
 *
 * States: an edge is open, draining or over on either side, and a sender's also lent; a slot is empty, arrived, fetching or
 * held at the receiver. The tables in edge_flow.c list all transitions.
 *
 * Invariant: a slot has one owner at a time. The sender owns a slot from the release of its
 * previous tensor until the flag of the next one is set; the receiver owns it from that flag until
 * the next release. With RT_EDGE_FLOW_LOOP the caller promises this order, and the loop check finds
 * broken promises.
 *
 * Driver: pure; words of memory in, decisions out. One thread at a time drives a side: core holds
 * the edge's turn, loads the words with acquire (edge/credit.h, edge/slot.c) and posts the WRITEs
 * that edge_plan defines. */
#ifndef RT_PROTO_EDGE_FLOW_H
#define RT_PROTO_EDGE_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/limits.h"

typedef enum rt_edge_flow {
    RT_EDGE_FLOW_CREDIT = 1, /* nothing is overwritten before it is released */
    RT_EDGE_FLOW_LOOP = 2,   /* the sender promises it: the training loop keeps the order */
} rt_edge_flow;

/* The life of an edge, on either side. */
typedef enum rt_edge_state {
    RT_EDGE_OPEN = 0,
    RT_EDGE_DRAINING = 1, /* nothing new is sent; operations under way still count */
    RT_EDGE_OVER = 2,     /* `failure` says why */
    RT_EDGE_LENT = 3,     /* the sender's: its caller writes the next tensor, and nothing else is sent meanwhile */
} rt_edge_state;

/* The life of a slot, at the receiver. */
typedef enum rt_slot_state {
    RT_SLOT_EMPTY = 0,    /* the sender's: it may be written any moment */
    RT_SLOT_ARRIVED = 1,  /* flagged and taken in order; not looked at yet */
    RT_SLOT_FETCHING = 2, /* a READ of the tensor that its record names is under way */
    RT_SLOT_HELD = 3,     /* in use: the slot's bytes, the sender's tensor in place, or the fetched tensor */
} rt_slot_state;

typedef enum rt_slot_event {
    RT_SLOT_FLAG = 0, /* made by rt_edge_receiver_look */
    RT_SLOT_USE,      /* static, eager or borrowed: the tensor is used where it lies */
    RT_SLOT_FETCH,    /* dynamic: the READ is posted */
    RT_SLOT_FETCHED,  /* the READ has completed */
    RT_SLOT_RELEASE,  /* made by rt_edge_receiver_release */
} rt_slot_event;

/* "open", "held", …: for dumps. */
const char *rt_edge_state_name(rt_edge_state state);
const char *rt_slot_state_name(rt_slot_state state);

/* ---- the sender ---- */

typedef struct rt_edge_sender {
    uint64_t sent;     /* newest sequence begun; the first is 1 */
    uint64_t released; /* newest that the receiver is known to have released, as all before it */
    uint32_t slots;
    uint8_t flow;            /* rt_edge_flow */
    uint8_t state;           /* rt_edge_state */
    bool credit_words_whole; /* limits.places_words_whole of the receiver's provider */
    int32_t failure;         /* why it is DRAINING or OVER */
} rt_edge_sender;

void rt_edge_sender_begin(rt_edge_sender *sender, uint32_t slots, rt_edge_flow flow, bool credit_words_whole);
/* RT_OK: *sequence_out may be sent, into slot sequence mod slots. RT_E_AGAIN: no credit, wait for
 * the credit word. Else the reason why the edge is at its end. Nothing changes. */
int rt_edge_sender_next(const rt_edge_sender *sender, uint64_t *sequence_out);
/* The sequence that may be sent is lent to a caller, who writes its tensor; rt_edge_sender_next returns RT_E_AGAIN until it is
 * given back. Only where rt_edge_sender_next has returned RT_OK. */
void rt_edge_sender_lend(rt_edge_sender *sender);
/* The caller has written the tensor, which is sent next, or gives up. Nothing when the edge has ended meanwhile. */
void rt_edge_sender_take_back(rt_edge_sender *sender);
/* The tensor was posted, all of it; a post that fails half way ends the channel instead. */
void rt_edge_sender_sent(rt_edge_sender *sender, uint64_t sequence);
/* Takes in the credit word, whenever it was loaded. RT_E_PROTOCOL, and the edge is over: the peer
 * released a tensor that was never sent. */
int rt_edge_sender_credit(rt_edge_sender *sender, uint64_t word, rt_detail *detail);
/* Whether the receiver may still READ or borrow this tensor: until then a dynamic edge's tensor stays alive and unchanged. */
bool rt_edge_sender_keeps(const rt_edge_sender *sender, uint64_t sequence);
/* The newest tensor is not sent after all, because the edge closes or is over: its flag was not written and never will be. */
void rt_edge_sender_give_up(rt_edge_sender *sender, uint64_t sequence);
/* This side sends no more. OVER when no release is outstanding, else DRAINING until everything is
 * released. */
void rt_edge_sender_close(rt_edge_sender *sender);
/* The channel failed (RT_E_PEER_LOST …), or the receiver closed the edge (RT_E_PEER_CLOSED). */
void rt_edge_sender_end(rt_edge_sender *sender, int status);

/* ---- the receiver ---- */

typedef struct rt_edge_receiver {
    uint64_t received; /* newest sequence taken; they are taken in order */
    uint64_t released; /* all up to this one are released */
    uint64_t credited; /* the value of the last credit WRITE */
    uint64_t final;    /* the last sequence of the sender, once it closed; else UINT64_MAX */
    uint32_t slots;
    uint8_t flow;  /* rt_edge_flow */
    uint8_t state; /* rt_edge_state */
    uint8_t stripes;
    bool flags_whole;    /* a flag word is seen whole: every mode but tail, with places_words_whole */
    bool begun_whole;    /* a BEGUN word is: places_words_whole */
    bool loop_check;     /* BEGUN words are passed to look and release */
    bool credits_serial; /* the provider does not order WRITEs: one credit WRITE at a time */
    bool credit_posted;
    bool told;                             /* the sender knows that this end closes, and may have given its credit word away */
    uint8_t fetching;                      /* slots that are FETCHING */
    int32_t lost;                          /* why nothing more will come, or RT_OK */
    int32_t failure;                       /* why it is OVER */
    uint8_t slot_state[RT_EDGE_SLOTS_MAX]; /* rt_slot_state */
} rt_edge_receiver;

typedef struct rt_edge_receiver_options {
    uint32_t slots, stripes;
    rt_edge_flow flow;
    bool flags_whole, begun_whole, loop_check, credits_serial;
} rt_edge_receiver_options;

void rt_edge_receiver_begin(rt_edge_receiver *receiver, const rt_edge_receiver_options *options);
/* The sequence to look for, in slot sequence mod slots. */
uint64_t rt_edge_receiver_expects(const rt_edge_receiver *receiver);
/* One look: the slot's FLAG words, one per stripe, loaded after any call of
 * rt_edge_receiver_end, and with a loop check its BEGUN words, loaded after them. RT_OK: the
 * tensor has arrived, *sequence_out. RT_E_AGAIN: not yet. RT_E_BUSY: every slot is held, release
 * one. Else the edge is over, with the detail: RT_E_PEER_LOST and the like, RT_E_PEER_CLOSED,
 * RT_E_OVERRUN, RT_E_PROTOCOL. */
int rt_edge_receiver_look(rt_edge_receiver *receiver, const uint64_t *flags, const uint64_t *begun, uint64_t *sequence_out,
                          rt_detail *detail);
/* USE, FETCH or FETCHED of a tensor that was taken. RT_E_INVALID, and nothing changed, where the table has no such row. */
int rt_edge_receiver_event(rt_edge_receiver *receiver, uint64_t sequence, rt_slot_event event);
/* Nobody uses the tensor any more; releases come in any order. With a loop check, `begun` are the
 * slot's words, loaded after the last use: RT_E_OVERRUN with the detail, and the edge is over, if
 * the sender began to overwrite it before. RT_E_INVALID, and nothing changed: it was released
 * before, never taken, or a READ into it is under way. */
int rt_edge_receiver_release(rt_edge_receiver *receiver, uint64_t sequence, const uint64_t *begun, rt_detail *detail);
/* Whether a credit WRITE is due, of *word_out into the sender's credit word. The caller then posts
 * it and calls rt_edge_receiver_credit_posted. */
bool rt_edge_receiver_credit_due(const rt_edge_receiver *receiver, uint64_t *word_out);
void rt_edge_receiver_credit_posted(rt_edge_receiver *receiver, uint64_t word);
/* The completion of the credit WRITE came. */
void rt_edge_receiver_credit_done(rt_edge_receiver *receiver);
/* The sender is being told, or was, that this end closes: it gets no credit any more. */
void rt_edge_receiver_told(rt_edge_receiver *receiver);
/* The sender closed the edge after this sequence. RT_E_PROTOCOL, and the edge is over, when more had arrived. */
int rt_edge_receiver_finish(rt_edge_receiver *receiver, uint64_t final, rt_detail *detail);
/* The channel failed: tensors that have arrived whole are still delivered, then `status`.
 * RT_E_CLOSED: this side closes, and no more tensors are delivered. */
void rt_edge_receiver_end(rt_edge_receiver *receiver, int status);

#endif
