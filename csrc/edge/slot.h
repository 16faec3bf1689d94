/* slot.h: a slot at the receiver. edge->turn held. */
#ifndef RT_EDGE_SLOT_H
#define RT_EDGE_SLOT_H

#include <stdint.h>

#include "edge/edge.h"

/* Tells the receiver when its channel has ended and the peer places nothing any more. edge->turn
 * held. */
void rt_edge_hear(rt_edge *edge);
/* The tensor of a dynamic edge is released. edge->turn held. */
void rt_edge_forget(rt_edge *edge, uint64_t sequence);
/* Checks the next slot once, edge->turn held: RT_OK with the sequence, or a status. */
int rt_edge_look_once(rt_edge *edge, uint64_t *sequence_out, rt_detail *detail);
int rt_edge_release_held(rt_edge *edge, uint64_t sequence, rt_detail *detail);
/* Posts the credit that is due, if it can be. edge->turn held. */
void rt_edge_give_credit(rt_edge *edge);
/* Notes a credit as posted by an operation; number 0: it has ended. edge->turn held. */
static inline void rt_edge_credit_posted(rt_edge *edge, uint64_t word, int64_t number)
{
    rt_edge_receiver_credit_posted(&edge->rx, word);
    edge->stats.credits++;
    edge->credit_op = number;
    if (number == 0)
        rt_edge_receiver_credit_done(&edge->rx);
}

/* The addresses of a slot's bytes here, and of its flag lines. */
uint8_t *rt_edge_slot_address(const rt_edge *edge, uint32_t slot);
uint8_t *rt_edge_line_address(const rt_edge *edge, uint32_t slot, uint32_t stripe);

#endif
