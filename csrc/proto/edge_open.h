/* edge_open.h: whether an edge is opened, and as what (EDGES.md section 9). Pure: the receiver's terms and the sender's OPEN_EDGE in,
 * EDGE_OPENED or EDGE_REFUSED out; and the sender's check of the answer. */
#ifndef RT_PROTO_EDGE_OPEN_H
#define RT_PROTO_EDGE_OPEN_H

#include "proto/edge_message.h"

/* What the receiver made the edge with. */
typedef struct rt_edge_terms {
    uint8_t edge_kind; /* rt_edge_kind */
    uint8_t flow;      /* rt_edge_flow */
    bool verify, loop_check;
    bool has_sender;
    uint8_t stripes; /* at most so many */
    uint8_t modes;   /* bits that this end may use: rt_edge_mode_offer */
    uint8_t slots, alignment_log;
    uint32_t eager_size;   /* dynamic */
    rt_tensor_shape shape; /* as in rt_edge_message */
} rt_edge_terms;

/* Fills the answer to an OPEN_EDGE: EDGE_REFUSED with its reason and words, or EDGE_OPENED without number and handles, which core
 * adds. True when it is opened. */
bool rt_edge_admit(const rt_edge_terms *terms, const rt_edge_message *open, rt_edge_message *answer_out);

/* EDGE_REFUSED with these words, made printable. */
void rt_edge_refuse(const rt_edge_message *request, rt_edge_refusal refusal, const char *text, rt_edge_message *answer_out);

/* The sender's look at EDGE_OPENED: it grants what was asked and no more. RT_OK with the layout of the slots, RT_E_PROTOCOL with the
 * detail. That the handles reach slots_out->payload_span and flag_span bytes is checked by who attaches them. */
int rt_edge_answer_check(const rt_edge_message *open, const rt_edge_message *opened, rt_edge_layout *layout_out,
                         rt_detail *detail);

#endif
