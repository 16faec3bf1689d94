/* edge_chunks.h: the progress of a static tensor that is copied through a ring of registered
 * buffers and sent chunk by chunk, because its own memory is not registered. EDGES.md section 4 has
 * the order of the words.
 *
 * The tensor is cut stripe by stripe; chunk n of the tensor uses place n mod places of the ring.
 * The states of a tensor: begun, partly posted, all posted, or given up.
 *
 * Invariant: the flag of a stripe, or the immediate in its place, goes with the last chunk of the
 * stripe. So a receiver never sees a tensor that was given up half way.
 *
 * Driver: pure; which bytes come next, into which place of the ring, by which WRITEs. Core
 * (edge/stage.c, with the edge's turn held) copies and posts, and reuses a place only when the
 * operation that was made from it has ended. */
#ifndef RT_PROTO_EDGE_CHUNKS_H
#define RT_PROTO_EDGE_CHUNKS_H

#include "proto/edge_flow.h"
#include "proto/edge_plan.h"

typedef struct rt_edge_chunks {
    uint64_t sequence;   /* of the tensor that is being sent, or 0 */
    uint64_t size, done; /* of the tensor; how much of the stripe was posted */
    uint64_t given_up;   /* a sequence that was given up half way, or 0 */
    uint32_t stripe, count;
} rt_edge_chunks;

typedef struct rt_edge_chunk {
    uint32_t stripe, place;      /* in a ring of `places` places */
    uint64_t from, size;         /* bytes of the tensor */
    uint64_t start, stripe_size; /* of the stripe that they belong to */
    bool first, last;            /* of the stripe */
} rt_edge_chunk;

void rt_edge_chunks_begin(rt_edge_chunks *chunks, uint64_t sequence, uint64_t size);
/* The next chunk to post, of at most `chunk_size` bytes, from a ring of `places`. False: the whole
 * tensor was posted. */
bool rt_edge_chunks_next(const rt_edge_chunks *chunks, const rt_edge_layout *layout, uint64_t chunk_size, uint32_t places,
                         rt_edge_chunk *chunk_out);
void rt_edge_chunks_posted(rt_edge_chunks *chunks, const rt_edge_chunk *chunk);
/* The tensor itself is needed no longer: the provider has all of its bytes. */
void rt_edge_chunks_end(rt_edge_chunks *chunks);
/* The edge closes, or is over: chunks that were not posted never will be, and the sender is told if
 * the tensor is not whole. */
void rt_edge_chunks_give_up(rt_edge_chunks *chunks, const rt_edge_layout *layout, rt_edge_sender *tx);

/* Reduces the WRITEs of a stripe to those of one chunk: words that precede the payload stay with
 * the first chunk, those that follow it with the last. `crc` of the plan must be right by the last
 * chunk. */
void rt_edge_plan_cut(rt_edge_plan *plan, const rt_edge_chunk *chunk);

#endif
