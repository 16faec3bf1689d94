/* report.h: reports of an edge. */
#ifndef RT_EDGE_REPORT_H
#define RT_EDGE_REPORT_H

#include <stddef.h>

#include "edge/edge.h"

/* Writes one line for dumps. edge->turn held. */
int rt_edge_describe(const rt_edge *edge, char *text_out, size_t capacity);

#endif
