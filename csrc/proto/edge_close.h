/* edge_close.h: the close of an edge at either end: when an end sends CLOSE_EDGE, when it answers
 * the other end's, and when it gives its memory back. The full protocol: EDGES.md section 9.
 *
 * Each end moves from open through *told* (its CLOSE_EDGE is sent) and *peer knows* (the other end
 * closed too, or answered) to *left*. Its owner, the other end or the loss of the channel starts
 * the close.
 *
 * Invariant: an end gives memory back only when the other end has no operation under way to it and
 * will post none.
 *
 * Driver: pure; the facts known about both ends in, the next step out. The service's round
 * (edge/round.c) asks for the step, sends the messages of edge_message, and knows whether an end is
 * quiet; edge/admit.c passes in the other end's CLOSE_EDGE. */
#ifndef RT_PROTO_EDGE_CLOSE_H
#define RT_PROTO_EDGE_CLOSE_H

#include "proto/edge_flow.h"

/* The facts that one end knows. */
typedef struct rt_edge_closing {
    bool sender;     /* which end it is */
    bool joined;     /* tensors may travel, or may have */
    bool wanted;     /* its owner closed it */
    bool told;       /* CLOSE_EDGE went to the other end */
    bool peer_knows; /* the other end closed, or answered the close */
    bool asking;     /* a request of this end has no answer yet */
    bool lost;       /* the channel is gone, and its links are shut */
} rt_edge_closing;

typedef enum rt_edge_close_step {
    RT_EDGE_CLOSE_WAIT = 0,
    RT_EDGE_CLOSE_TELL,  /* send CLOSE_EDGE */
    RT_EDGE_CLOSE_LEAVE, /* give the edge's memory back: the other end does not touch it any more */
} rt_edge_close_step;

/* The next step of an end. TELL and LEAVE are taken only while the end is quiet: no operation that
 * it posted for the edge is under way, and it reads nothing in place. `tx` is a sender's side,
 * after a look at the credit, and `rx` a receiver's. */
rt_edge_close_step rt_edge_close_due(const rt_edge_closing *closing, const rt_edge_sender *tx, const rt_edge_receiver *rx);

/* CLOSE_EDGE came from the other end: passes it to this end's side. RT_E_PROTOCOL with the detail:
 * more arrived than was sent. */
int rt_edge_close_heard(const rt_edge_closing *closing, rt_edge_sender *tx, rt_edge_receiver *rx, uint64_t final,
                        rt_detail *detail);
/* Whether the answer waits until this end is quiet: WRITEs that a sender has under way go to memory
 * that the receiver gives back upon the answer. */
bool rt_edge_close_answer_waits(const rt_edge_closing *closing);

#endif
