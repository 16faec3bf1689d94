/* post.h: operations of edges, alone and with one doorbell. */
#ifndef RT_EDGE_POST_H
#define RT_EDGE_POST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "rdmatensor.h"

typedef struct rt_piece rt_piece;
typedef struct rt_link rt_link;
typedef struct rt_op rt_op;

/* Whether each of the links has a free operation. */
bool rt_edge_may_post(rt_link *const *links, uint32_t count);
/* Takes an operation of each of the links, or of none: RT_E_BUSY, after a poll for some that have
 * ended. An operation that ends well gives itself back, so that tensors nobody asks about hold
 * none; one that failed waits for rt_edge_collect. */
int rt_edge_reserve(rt_link *const *links, uint32_t count, rt_op **ops_out);
/* Posts copies as an operation that was reserved. */
int rt_edge_post_reserved(rt_link *link, rt_op *op, const rt_piece *copies, uint64_t count, int64_t end_ns, int64_t *number_out);

/* As rt_link_post_small, and settles the operation. link->turn held on entry, left on return. */
bool rt_edge_post_small(rt_link *link, const rt_piece *copies, uint32_t count, int64_t *number_out);

/* Operations of one link that will share a doorbell. */
typedef struct rt_edge_together {
    rt_link *link;
    uint32_t count, copies;
    rt_op *ops[RT_POST_BATCH];
} rt_edge_together;
/* Adds copies as an operation with a number; when necessary, posts those gathered before.
 * RT_E_BUSY: no operation is free. */
int rt_edge_together_add(rt_edge_together *together, rt_link *link, const rt_piece *copies, uint32_t count, int64_t *number_out);
void rt_edge_together_flush(rt_edge_together *together);

/* Posts copies as one operation of a link: RT_OK, and *number_out is 0 when it is finished. RT_E_BUSY: no operation is free. */
int rt_edge_post(rt_link *link, const rt_piece *copies, uint64_t count, int64_t end_ns, int64_t *number_out);
/* Collects operations that have ended. RT_OK: all have. The status of one that failed, once,
 * whether or not others are under way. Else RT_E_AGAIN. */
int rt_edge_collect(rt_channel *channel, int64_t *ops, uint32_t count);
/* Collects likewise, and tells whether any is still under way, however the others ended. */
bool rt_edge_pending(rt_channel *channel, int64_t *ops, uint32_t count);

#endif
