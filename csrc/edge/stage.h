/* stage.h: staging of static tensors from unregistered memory through a ring of chunks. */
#ifndef RT_EDGE_STAGE_H
#define RT_EDGE_STAGE_H

#include <stdint.h>

#include "edge/edge.h"

/* Makes the ring of chunks, which may register memory: without any turn. */
int rt_edge_stage_prepare(rt_edge *edge, rt_detail *detail);
/* Takes the next sequence for a tensor to be staged. RT_E_NOT_FOUND: there is no ring yet. edge->turn held. */
int rt_edge_stage_begin(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, uint64_t sequence);
/* Continues staging. RT_OK: all is posted. RT_E_AGAIN: chunks are under way, or time is up; then
 * edge->stage_owed is set, and the service, once it is kicked, continues too: the receiver may wait
 * for this tensor while its sender waits for something else. edge->turn held. */
int rt_edge_stage_run(rt_edge *edge, int64_t end_ns);
/* The edge closes, or is over: nothing more is posted of a half-staged tensor. edge->turn held. */
void rt_edge_stage_give_up(rt_edge *edge);

#endif
