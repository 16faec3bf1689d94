/* quiet.h: whether an edge may end. device->lock held. */
#ifndef RT_EDGE_QUIET_H
#define RT_EDGE_QUIET_H

#include <stdbool.h>

#include "edge/edge.h"
#include "proto/edge_close.h"

/* Whether nothing that this end posted for the edge is under way, and nothing is read in place.
 * Takes edge->turn. */
bool rt_edge_quiet(rt_edge *edge);
/* The part of the edge's state that its end depends on. */
rt_edge_closing rt_edge_closing_of(const rt_edge *edge);

#endif
