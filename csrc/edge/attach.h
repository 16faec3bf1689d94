/* attach.h: attaches memory that the other end of an edge gives for it. */
#ifndef RT_EDGE_ATTACH_H
#define RT_EDGE_ATTACH_H

#include <stdint.h>

#include "edge/edge.h"
#include "rdmatensor.h"

typedef struct rt_edge_bytes rt_edge_bytes;

/* Memory of the peer, and how much of it and which right the edge needs. */
typedef struct rt_edge_need {
    const rt_edge_bytes *handle;
    uint64_t size; /* 0: the edge needs none */
    uint32_t right;
} rt_edge_need;

/* The end of a wait whose caller holds device->lock: one try, without a wait. */
#define RT_EDGE_LOCKED INT64_MIN

/* Attaches the memory through the channel, which need not be the edge's yet, unless *remote is attached; checks that it
 * reaches what the edge needs. RT_E_AGAIN: try later. The caller owns *remote, also after a failure. Takes device->lock,
 * except with RT_EDGE_LOCKED. */
int rt_edge_attach(const rt_edge *edge, rt_channel *channel, const rt_edge_need *need, int64_t end_ns, rt_remote **remote,
                   rt_detail *detail);

#endif
