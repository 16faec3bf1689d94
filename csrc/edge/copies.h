/* copies.h: turns a tensor's stripe into copies. */
#ifndef RT_EDGE_COPIES_H
#define RT_EDGE_COPIES_H

#include <stdint.h>

#include "edge/edge.h"

typedef struct rt_piece rt_piece;
typedef struct rt_edge_plan rt_edge_plan;

/* Makes the copies of one stripe. `payload` describes the bytes. Returns the number of copies. */
uint32_t rt_edge_copies_of(const rt_edge *edge, const rt_edge_plan *plan, uint64_t sequence, uint32_t stripe, uint32_t crc,
                           const rt_piece *payload, uint32_t payload_count, rt_piece *copies_out);
uint8_t *rt_edge_source_of(const rt_edge *edge, uint32_t slot, uint32_t stripe);

/* Bytes of `lines` at a sender. */
uint64_t rt_edge_source_span(const rt_edge *edge, uint32_t slots, uint32_t stripes);

#endif
