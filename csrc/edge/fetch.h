/* fetch.h: tensors that the receiver READs, or reads in place. */
#ifndef RT_EDGE_FETCH_H
#define RT_EDGE_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "edge/edge.h"

/* Decodes the record of a tensor that has arrived on a dynamic edge, and fills in the arrival.
 * edge->turn held. */
int rt_edge_take_record(rt_edge *edge, uint64_t sequence, rt_edge_arrival *arrival_out, rt_detail *detail);

/* Borrows a tensor that was taken; as rt_edge_borrow. edge->turn held. */
int rt_edge_borrow_held(rt_edge *edge, uint64_t sequence, uint64_t *address_out, rt_detail *detail);
/* Whether a tensor that has arrived seems to need no READ. edge->turn held. */
bool rt_edge_may_hand_over(const rt_edge *edge, uint64_t sequence, bool borrow);

/* Collects the ended parts of a READ. RT_E_AGAIN, RT_OK, or the status of the first part that
 * failed, each time it is asked. edge->turn held. */
int rt_edge_fetched(const rt_edge *edge, rt_edge_got *got);

#endif
