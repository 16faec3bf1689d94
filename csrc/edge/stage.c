/* stage.c: a static tensor that the provider cannot take from its place is copied through a ring of
 * registered chunks: while one is under way the next is filled. Its flag goes behind the last
 * chunk. Every byte copied here is counted. */
#include <stdlib.h>

#include "channel/op.h"
#include "device/device.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/source.h"
#include "edge/stage.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"
#include "proto/edge_mode.h"
#include "region/pool.h"

/* Where the receiver counts pieces, a tensor is cut into the same ones as one that lies in a region;
 * without ordered WRITEs a tail is one WRITE. */
static uint64_t chunk_size_of(const rt_edge *edge)
{
    const rt_edge_wiring *wiring = &edge->wiring;
    uint64_t whole = wiring->layout.payload_size, piece = wiring->piece_size;
    bool tail = !wiring->orders_writes && wiring->mode == RT_EDGE_TAIL;
    if (tail || (rt_edge_counts_pieces(wiring) && piece >= RT_EDGE_STAGE_SIZE))
        return whole < piece ? whole : piece;
    uint64_t size = piece < RT_EDGE_STAGE_SIZE ? RT_EDGE_STAGE_SIZE / piece * piece : RT_EDGE_STAGE_SIZE;
    return size < whole ? size : whole;
}

int rt_edge_stage_prepare(rt_edge *edge, rt_detail *detail)
{
    bool registered = false;
    rt_edge_stage *stage = calloc(1, sizeof *stage);
    if (stage == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to stage tensors of edge \"%s\"", edge->name);
    stage->chunk_size = chunk_size_of(edge);
    uint64_t stride = (stage->chunk_size + RT_EDGE_LINE_SIZE - 1) & ~(uint64_t)(RT_EDGE_LINE_SIZE - 1);
    int status = rt_pool_take(edge->device, NULL, RT_POOL_LOCAL, RT_EDGE_STAGES * (stride + RT_EDGE_LINE_SIZE), 4096,
                              &stage->memory, &registered, detail);
    if (status != RT_OK) {
        free(stage);
        return status;
    }
    rt_turn_take(&edge->turn);
    bool first = edge->stage == NULL;
    if (first)
        edge->stage = stage;
    edge->stats.registrations += first && registered;
    rt_turn_leave(&edge->turn);
    if (!first) { /* another thread was faster */
        rt_pool_give(&stage->memory);
        free(stage);
    }
    return RT_OK;
}

int rt_edge_stage_begin(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, uint64_t sequence)
{
    rt_edge_stage *stage = edge->stage;
    if (stage == NULL)
        return RT_E_NOT_FOUND;
    int status = rt_edge_collect(edge->channel, stage->ops, RT_EDGE_STAGES);
    if (status != RT_OK)
        return status;
    rt_edge_sent *sent = &edge->sent[sequence % edge->tx.slots];
    sent->sequence = sequence;
    stage->tensor = *tensor;
    stage->crc = 0;
    rt_edge_chunks_begin(&stage->chunks, sequence, size);
    rt_edge_sender_sent(&edge->tx, sequence);
    edge->stats.transfers++;
    edge->stats.bytes += size;
    edge->stats.copies++;
    edge->stats.copied_bytes += size;
    return RT_OK;
}

/* Copies and posts a chunk, with the words that go before the first chunk of its stripe, or behind
 * the last. */
static int chunk_post(rt_edge *edge, const rt_edge_chunk *chunk, int64_t end_ns)
{
    rt_edge_stage *stage = edge->stage;
    const rt_edge_layout *layout = &edge->wiring.layout;
    uint32_t item = rt_dtype_size(stage->tensor.dtype);
    uint64_t stride = stage->memory.size / RT_EDGE_STAGES, sequence = stage->chunks.sequence;
    uint8_t *room = stage->memory.address + chunk->place * stride;
    rt_edge_gather(&stage->tensor, item == 0 ? 1 : item, chunk->from, chunk->size, room);
    uint32_t crc = edge->wiring.verify ? rt_crc32c(chunk->first ? 0 : stage->crc, room, chunk->size) : 0;
    rt_edge_plan plan;
    rt_edge_plan_make(&edge->wiring, sequence, chunk->stripe, chunk->start, chunk->stripe_size, rt_edge_crc(crc, sequence),
                      &plan);
    rt_edge_plan_cut(&plan, chunk);
    const rt_piece bytes = {.region = stage->memory.region,
                            .region_offset = stage->memory.offset + chunk->place * stride,
                            .remote = edge->slots_remote,
                            .remote_offset = rt_edge_slot_offset(layout, rt_edge_slot(layout, sequence)) + chunk->from,
                            .size = chunk->size,
                            .direction = RT_WRITE};
    rt_piece *copies = stage->copies[chunk->place];
    uint32_t count =
        rt_edge_copies_of(edge, &plan, sequence, chunk->stripe, rt_edge_crc(crc, sequence), &bytes, chunk->size != 0, copies);
    int status = rt_edge_post(edge->links[chunk->stripe], copies, count, end_ns, &stage->ops[chunk->place]);
    if (status != RT_OK)
        return status;
    stage->crc = crc;
    rt_edge_chunks_posted(&stage->chunks, chunk);
    return RT_OK;
}

void rt_edge_stage_give_up(rt_edge *edge)
{
    rt_edge_stage *stage = edge->stage;
    if (stage == NULL || stage->chunks.sequence == 0)
        return;
    rt_edge_chunks_give_up(&stage->chunks, &edge->wiring.layout, &edge->tx);
    edge->stage_owed = false;
}

static int stage_run(rt_edge *edge, int64_t end_ns)
{
    rt_edge_stage *stage = edge->stage;
    const rt_edge_layout *layout = &edge->wiring.layout;
    rt_edge_chunk chunk;
    bool late = false;
    while (rt_edge_chunks_next(&stage->chunks, layout, stage->chunk_size, RT_EDGE_STAGES, &chunk)) {
        if (edge->tx.state == RT_EDGE_OVER) { /* the receiver closed, or is lost: nobody wants the rest */
            rt_edge_stage_give_up(edge);
            return edge->tx.failure;
        }
        if (late)
            return RT_E_AGAIN;
        int status = rt_edge_collect(edge->channel, &stage->ops[chunk.place], 1);
        if (status == RT_E_AGAIN)
            rt_edge_step(edge);
        if (status == RT_OK)
            status = chunk_post(edge, &chunk, end_ns);
        if (status != RT_OK)
            return status == RT_E_BUSY ? RT_E_AGAIN : status;
        late = rt_device_time(edge->device) >= end_ns;
    }
    for (uint32_t place = 0; stage->chunks.sequence != 0 && place < RT_EDGE_STAGES; place++) {
        if (stage->ops[place] != 0 && !rt_op_posted(edge->channel, stage->ops[place])) {
            rt_edge_step(edge);
            return RT_E_AGAIN; /* no other thread may be polling for it */
        }
    }
    rt_edge_chunks_end(&stage->chunks); /* all is with the provider: the tensor itself is free */
    return RT_OK;
}

int rt_edge_stage_run(rt_edge *edge, int64_t end_ns)
{
    int status = stage_run(edge, end_ns);
    edge->stage_owed = edge->stage->chunks.sequence != 0;
    if (edge->stage_owed)
        rt_edge_call(edge);
    return status;
}
