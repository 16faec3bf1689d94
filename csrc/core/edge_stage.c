/* edge_stage.c: a static tensor that the provider cannot take from where it lies is copied through a ring of registered chunks: while
 * one is under way the next is filled. Its flag goes behind the last chunk. Every byte copied here is counted. */
#include <stdlib.h>
#include <string.h>

#include "core/edge.h"

/* A provider that does not order WRITEs gets the same pieces that it would from a tensor in a region, and a tail is one WRITE. */
static uint64_t chunk_size_of(const rt_edge *edge)
{
    const rt_edge_wiring *wiring = &edge->wiring;
    uint64_t whole = wiring->layout.payload_size, piece = wiring->piece_size;
    if (!wiring->orders_writes && (wiring->mode == RT_EDGE_TAIL || piece >= RT_EDGE_STAGE_SIZE))
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
    int status = rt_edge_memory_take(edge->device, RT_RIGHT_REMOTE_READ, RT_EDGE_STAGES * (stride + RT_EDGE_LINE_SIZE), 4096,
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
        rt_edge_memory_give(&stage->memory);
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
    stage->sequence = sequence;
    stage->size = size;
    stage->stripe = 0;
    stage->done = 0;
    stage->crc = 0;
    stage->chunks = 0;
    rt_edge_sender_sent(&edge->tx, sequence);
    edge->stats.transfers++;
    edge->stats.bytes += size;
    edge->stats.copies++;
    edge->stats.copied_bytes += size;
    return RT_OK;
}

/* Copies and posts the next chunk of the stripe [from, from + size), of which `stage->done` bytes are posted; with it all that goes
 * before the first, or behind the last. */
static int post_chunk(rt_edge *edge, uint64_t from, uint64_t size, int64_t end_ns)
{
    rt_edge_stage *stage = edge->stage;
    uint32_t place = stage->chunks % RT_EDGE_STAGES, item = rt_dtype_size(stage->tensor.dtype);
    uint64_t left = size - stage->done, part = left < stage->chunk_size ? left : stage->chunk_size;
    uint64_t stride = stage->memory.size / RT_EDGE_STAGES;
    uint8_t *chunk = stage->memory.address + place * stride;
    bool first = stage->done == 0, last = part == left;
    rt_edge_gather(&stage->tensor, item == 0 ? 1 : item, from + stage->done, part, chunk);
    stage->crc = edge->wiring.verify ? rt_crc32c(stage->crc, chunk, part) : 0;
    rt_edge_plan plan;
    rt_edge_plan_make(&edge->wiring, stage->sequence, stage->stripe, from, size, rt_edge_crc(stage->crc, stage->sequence), &plan);
    uint32_t kept = 0;
    for (uint32_t index = 0; index < plan.count; index++) {
        rt_edge_write *write = &plan.writes[index];
        bool payload = write->part == RT_EDGE_PART_PAYLOAD;
        if (!payload && !(write->part == RT_EDGE_PART_BEGUN ? first : last))
            continue;
        if (payload) {
            write->remote_offset += stage->done;
            write->size = part;
            write->trailer_size = last ? write->trailer_size : 0;
            write->immediate = write->immediate && (last || write->every_piece);
        }
        plan.writes[kept++] = *write;
    }
    plan.count = kept;
    const rt_copy bytes = {.region = (uint64_t)(uintptr_t)stage->memory.region,
                           .region_offset = stage->memory.offset + place * stride,
                           .remote = (uint64_t)(uintptr_t)edge->slots_remote,
                           .remote_offset =
                               rt_edge_slot_offset(&edge->wiring.layout, rt_edge_slot(&edge->wiring.layout, stage->sequence)) +
                               from + stage->done,
                           .size = part,
                           .direction = RT_WRITE};
    uint32_t count = rt_edge_copies_of(edge, &plan, stage->sequence, stage->stripe, rt_edge_crc(stage->crc, stage->sequence),
                                       &bytes, part != 0, stage->copies[place]);
    int status = rt_edge_post(edge->links[stage->stripe], stage->copies[place], count, end_ns, &stage->ops[place]);
    if (status != RT_OK)
        return status;
    stage->done += part;
    stage->chunks++;
    return RT_OK;
}

/* Moves what is under way: a chunk's place may be held by one of another stripe. */
static void step(const rt_edge *edge)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
        rt_queue_step(edge->links[stripe]->queue);
}

void rt_edge_stage_give_up(rt_edge *edge)
{
    rt_edge_stage *stage = edge->stage;
    if (stage == NULL || stage->sequence == 0)
        return;
    if (stage->stripe < edge->wiring.layout.stripes) { /* else all of it is in operations, which end by themselves */
        stage->given_up = stage->sequence;
        rt_edge_sender_give_up(&edge->tx, stage->sequence);
    }
    stage->sequence = 0;
    edge->stage_owed = false;
}

static int run(rt_edge *edge, int64_t end_ns)
{
    rt_edge_stage *stage = edge->stage;
    const rt_edge_layout *layout = &edge->wiring.layout;
    while (stage->sequence != 0 && stage->stripe < layout->stripes) {
        if (edge->tx.state == RT_EDGE_OVER) { /* the receiver closed, or is lost: nobody wants the rest */
            rt_edge_stage_give_up(edge);
            return edge->tx.failure;
        }
        uint64_t from, size = rt_edge_stripe(layout, stage->size, stage->stripe, &from);
        int status = rt_edge_collect(edge->channel, &stage->ops[stage->chunks % RT_EDGE_STAGES], 1);
        if (status == RT_E_AGAIN)
            step(edge);
        if (status == RT_OK)
            status = post_chunk(edge, from, size, end_ns);
        if (status != RT_OK)
            return status == RT_E_BUSY ? RT_E_AGAIN : status;
        if (stage->done == size) {
            stage->stripe++;
            stage->done = 0;
            stage->crc = 0;
        }
        if (stage->stripe < layout->stripes && rt_device_time(edge->device) >= end_ns)
            return RT_E_AGAIN;
    }
    for (uint32_t place = 0; stage->sequence != 0 && place < RT_EDGE_STAGES; place++) {
        if (stage->ops[place] != 0 && !rt_op_posted(edge->channel, stage->ops[place])) {
            step(edge);
            return RT_E_AGAIN; /* nobody else might move it on */
        }
    }
    stage->sequence = 0; /* all is with the provider: the tensor itself is free */
    return RT_OK;
}

int rt_edge_stage_run(rt_edge *edge, int64_t end_ns)
{
    int status = run(edge, end_ns);
    edge->stage_owed = edge->stage->sequence != 0;
    return status;
}
