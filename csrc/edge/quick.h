/* quick.h: the usual case of a send, without waiting. */
#ifndef RT_EDGE_QUICK_H
#define RT_EDGE_QUICK_H

#include <stdbool.h>
#include <stdint.h>

#include "edge/edge.h"

/* The fast path for a small contiguous tensor and its flag, where posting is copying. A tensor that
 * is sent again from the same place reuses its last copies; only the sequence is new. False: take
 * the general path. edge->turn held. */
bool rt_edge_post_plain(rt_edge *edge, uint64_t sequence, uint64_t address, uint64_t size, rt_region *region, bool at_once,
                        int64_t *result_out);
void rt_edge_count_sent(rt_edge *edge, uint64_t sequence, uint64_t size);

#endif
