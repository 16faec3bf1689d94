/* dynamic.h: sends on dynamic edges. */
#ifndef RT_EDGE_DYNAMIC_H
#define RT_EDGE_DYNAMIC_H

#include <stdbool.h>
#include <stdint.h>

#include "edge/edge.h"

/* A dynamic tensor on its way out. */
typedef struct rt_edge_dynamic {
    rt_edge *edge;
    const rt_edge_tensor *tensor;
    uint64_t size, item_size;
    uint64_t sequence;
    int64_t end_ns;
    bool waited;
    bool eager;
    bool at_once;          /* no turn of a link is waited for, and no region announced; where posting is copying */
    bool written;          /* eager: the bytes lie in the receiver's slot already */
    rt_region *region;     /* the source of the bytes; NULL for an eager tensor that is copied behind the source words */
    uint64_t offset;       /* in the region */
    uint32_t key;          /* for a fetched tensor */
    rt_pool_block staging; /* for a fetched tensor whose place is a buffer of the edge's */
} rt_edge_dynamic;

/* Finds registered memory that the receiver can READ, as the tensor's place or for a copy of it. Without any turn. */
int rt_edge_room_find(rt_edge_dynamic *send);
/* As rt_edge_room_find, among the buffers of earlier tensors that were released, so that consecutive tensors register nothing.
 * edge->turn held. */
bool rt_edge_room_again(rt_edge_dynamic *send);
/* The key of a region that the receiver knows; edge->turn held. */
bool rt_edge_key_find(const rt_edge *edge, const rt_region *region, uint32_t *key_out);
/* Ensures that the receiver knows the region that a tensor lies in. Without any turn. */
int rt_edge_region_announce(rt_edge_dynamic *send);
/* Keeps a large buffer for the next tensor, since the receiver knows it; gives others back. Without any turn. */
void rt_edge_staged_give(rt_edge *edge, rt_pool_block *memory);
/* Posts the record: the sequence, or a negative status. *old_out is the buffer to give back, set where the sequence is
 * returned. edge->turn held. */
int64_t rt_edge_record_send(rt_edge_dynamic *send, rt_pool_block *old_out);
/* Waits until the record is wholly posted, or leaves the rest to the service. Gives the result of the send. Without any turn. */
int64_t rt_edge_record_await(rt_edge_dynamic *send, int64_t result);
/* Whether the record of this sequence is wholly posted, so that nobody needs to post more of it.
 * Takes edge->turn. */
bool rt_edge_record_posted(rt_edge *edge, uint64_t sequence);
int64_t rt_edge_send_dynamic(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, int64_t end_ns);

#endif
