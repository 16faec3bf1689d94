/* edge_open.h: the decision whether an edge is opened, and on which terms. The full protocol:
 * EDGES.md section 9.
 *
 * The sender states its tensor, its modes and its limits in OPEN_EDGE. The receiver compares them
 * with the terms of the edge that its owner made, and answers EDGE_OPENED with the terms that both
 * can keep, or EDGE_REFUSED with the reason and both sides' words. The sender checks that the
 * answer grants what it asked for and no more.
 *
 * Invariant: after EDGE_OPENED both ends have the same mode, stripes, slots and shape, and each
 * term is one that both can keep.
 *
 * Driver: pure and without state; messages in, messages out. edge/admit.c asks at the receiver and
 * adds number and handles, edge/wire.c at the sender, each on the service's thread. */
#ifndef RT_PROTO_EDGE_OPEN_H
#define RT_PROTO_EDGE_OPEN_H

#include "proto/edge_message.h"

/* The terms with which the receiver made the edge. */
typedef struct rt_edge_terms {
    uint8_t edge_kind; /* rt_edge_kind */
    uint8_t flow;      /* rt_edge_flow */
    bool verify, loop_check;
    bool has_sender;
    uint8_t stripes; /* at most this many */
    uint8_t modes;   /* bits that this end may use: rt_edge_mode_offer */
    uint8_t slots, alignment_log;
    uint32_t eager_size;   /* dynamic */
    rt_tensor_shape shape; /* as in rt_edge_message */
} rt_edge_terms;

/* Fills the answer to an OPEN_EDGE: EDGE_REFUSED with its reason and text, or EDGE_OPENED without
 * number and handles, which core adds. True when the edge is opened. */
bool rt_edge_admit(const rt_edge_terms *terms, const rt_edge_message *open, rt_edge_message *answer_out);

/* EDGE_REFUSED with this text, made printable. */
void rt_edge_refuse(const rt_edge_message *request, rt_edge_refusal refusal, const char *text, rt_edge_message *answer_out);

/* The sender's check of EDGE_OPENED: it must grant the terms that were asked for and no more. RT_OK
 * with the layout of the slots, RT_E_PROTOCOL with the detail. The caller, which attaches the
 * handles, checks that they reach slots_out->payload_span and flag_span bytes. */
int rt_edge_answer_check(const rt_edge_message *open, const rt_edge_message *opened, rt_edge_layout *layout_out,
                         rt_detail *detail);

#endif
