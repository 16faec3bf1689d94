/* edge_chunks.c: a tensor in chunks (EDGES.md section 4).
 *
 * A cursor of stripe and bytes done walks over the tensor. `rt_edge_plan_cut` reduces the plan of a
 * whole stripe to one chunk: BEGUN stays with the first chunk, NOTE and FLAG with the last, and a
 * tail's trailer with the last too.
 *
 * Giving up is possible only while bytes are missing: when the last chunk was posted, its flag will
 * arrive, and the tensor counts as sent. Otherwise the sender's side is told that the sequence was
 * not sent after all, since no flag of it was posted for its last stripe. */
#include "proto/edge_chunks.h"

#include <assert.h>

void rt_edge_chunks_begin(rt_edge_chunks *chunks, uint64_t sequence, uint64_t size)
{
    assert(chunks->sequence == 0 && sequence != 0);
    chunks->sequence = sequence;
    chunks->size = size;
    chunks->done = 0;
    chunks->stripe = chunks->count = 0;
}

bool rt_edge_chunks_next(const rt_edge_chunks *chunks, const rt_edge_layout *layout, uint64_t chunk_size, uint32_t places,
                         rt_edge_chunk *chunk_out)
{
    if (chunks->sequence == 0 || chunks->stripe == layout->stripes)
        return false;
    uint64_t start, size = rt_edge_stripe(layout, chunks->size, chunks->stripe, &start);
    uint64_t left = size - chunks->done, part = left < chunk_size ? left : chunk_size;
    *chunk_out = (rt_edge_chunk){.stripe = chunks->stripe,
                                 .place = chunks->count % places,
                                 .from = start + chunks->done,
                                 .size = part,
                                 .start = start,
                                 .stripe_size = size,
                                 .first = chunks->done == 0,
                                 .last = part == left};
    return true;
}

void rt_edge_chunks_posted(rt_edge_chunks *chunks, const rt_edge_chunk *chunk)
{
    assert(chunk->stripe == chunks->stripe && chunk->from == chunk->start + chunks->done);
    chunks->count++;
    chunks->stripe += chunk->last;
    chunks->done = chunk->last ? 0 : chunks->done + chunk->size;
}

void rt_edge_chunks_end(rt_edge_chunks *chunks)
{
    chunks->sequence = 0;
}

void rt_edge_chunks_give_up(rt_edge_chunks *chunks, const rt_edge_layout *layout, rt_edge_sender *tx)
{
    if (chunks->sequence != 0 &&
        chunks->stripe < layout->stripes) { /* else all of it is posted, and the operations end by themselves */
        chunks->given_up = chunks->sequence;
        rt_edge_sender_give_up(tx, chunks->sequence);
    }
    chunks->sequence = 0;
}

void rt_edge_plan_cut(rt_edge_plan *plan, const rt_edge_chunk *chunk)
{
    uint32_t kept = 0;
    for (uint32_t index = 0; index < plan->count; index++) {
        rt_edge_write write = plan->writes[index];
        bool payload = write.part == RT_EDGE_PART_PAYLOAD;
        if (!payload && !(write.part == RT_EDGE_PART_BEGUN ? chunk->first : chunk->last))
            continue;
        if (payload) {
            write.remote_offset += chunk->from - chunk->start;
            write.from = chunk->from;
            write.size = chunk->size;
            write.trailer_size = chunk->last ? write.trailer_size : 0;
            write.immediate = write.immediate && (chunk->last || write.every_piece);
        }
        plan->writes[kept++] = write;
    }
    plan->count = kept;
}
