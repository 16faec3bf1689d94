/* copies.c: turns a tensor's stripe into copies: payload, words, trailer and flag, and places the
 * words. HOT. */
#include <string.h>
#include <unistd.h>

#include "channel/op.h"
#include "channel/remote.h"
#include "edge/copies.h"
#include "edge/edge.h"
#include "proto/edge_mode.h"

static uint64_t source_stride(const rt_edge *edge)
{
    if (edge->terms.edge_kind == RT_EDGE_STATIC)
        return RT_EDGE_SOURCE_SIZE;
    return RT_EDGE_SOURCE_EAGER + edge->eager_size;
}

uint64_t rt_edge_source_span(const rt_edge *edge, uint32_t slots, uint32_t stripes)
{
    return (uint64_t)slots * stripes * source_stride(edge);
}

uint8_t *rt_edge_source_of(const rt_edge *edge, uint32_t slot, uint32_t stripe)
{
    return edge->lines.address + ((uint64_t)slot * edge->wiring.layout.stripes + stripe) * source_stride(edge);
}

/* A copy from the edge's own memory. */
static rt_piece copy_of_own(const rt_edge *edge, const uint8_t *from, rt_remote *remote, uint64_t remote_offset, uint64_t size)
{
    return (rt_piece){.region = edge->lines.region,
                      .region_offset = edge->lines.offset + (uint64_t)(from - edge->lines.address),
                      .remote = remote,
                      .remote_offset = remote_offset,
                      .size = size,
                      .direction = RT_WRITE};
}

static uint32_t word_place(uint8_t part)
{
    return part == RT_EDGE_PART_BEGUN ? RT_EDGE_LINE_BEGUN : part == RT_EDGE_PART_NOTE ? RT_EDGE_LINE_NOTE : RT_EDGE_LINE_FLAG;
}

static void copy_speak(rt_piece *copy, enum rt_piece_flags flag, const rt_edge_plan *plan)
{
    copy->flags |= (uint16_t)flag;
    copy->immediate = plan->immediate;
}

/* Adds the copies of the payload: those given, with the immediate or followed by it, or joined to a
 * trailer. */
static uint32_t payload_add(const rt_edge *edge, const rt_edge_write *write, const rt_edge_plan *plan, uint8_t *source,
                            const rt_piece *payload, uint32_t payload_count, rt_piece *copies_out)
{
    uint32_t count = 0;
    for (; count < payload_count; count++) {
        copies_out[count] = payload[count];
        if (write->every_piece)
            copy_speak(&copies_out[count], RT_PIECE_IMMEDIATES, plan);
    }
    if (count == 0 && write->immediate)
        copies_out[count++] = copy_of_own(edge, source, edge->slots_remote, write->remote_offset, 0);
    if (write->apart)
        copies_out[count++] = copy_of_own(edge, source, edge->slots_remote, write->remote_offset, 0);
    if (write->immediate)
        copy_speak(&copies_out[count - 1], write->every_piece ? RT_PIECE_IMMEDIATES : RT_PIECE_IMMEDIATE, plan);
    if (write->trailer_size != 0) {
        if (count != 0)
            copies_out[count - 1].flags |= RT_PIECE_JOINED;
        copies_out[count++] = copy_of_own(edge, source + RT_EDGE_SOURCE_SIZE - write->trailer_size, edge->slots_remote,
                                          write->remote_offset + write->size, write->trailer_size);
    }
    return count;
}

uint32_t rt_edge_copies_of(const rt_edge *edge, const rt_edge_plan *plan, uint64_t sequence, uint32_t stripe, uint32_t crc,
                           const rt_piece *payload, uint32_t payload_count, rt_piece *copies_out)
{
    uint8_t *source = rt_edge_source_of(edge, rt_edge_slot(&edge->wiring.layout, sequence), stripe);
    uint8_t *line = source + RT_EDGE_SOURCE_LINE;
    rt_remote *lines = edge->lines_remote != NULL ? edge->lines_remote : edge->slots_remote;
    uint32_t count = 0;
    if (edge->wiring.mode == RT_EDGE_TAIL)
        rt_edge_line_fill(&edge->wiring, sequence, crc, line);
    for (uint32_t index = 0; index < plan->count; index++) {
        const rt_edge_write *write = &plan->writes[index];
        if (write->part == RT_EDGE_PART_PAYLOAD) {
            count += payload_add(edge, write, plan, source, payload, payload_count, copies_out + count);
            continue;
        }
        uint8_t *word = line + word_place(write->part);
        memcpy(word, &write->word, sizeof write->word);
        copies_out[count] = copy_of_own(edge, word, lines, write->remote_offset, sizeof write->word);
        if (write->every_piece)
            copy_speak(&copies_out[count], RT_PIECE_IMMEDIATES, plan);
        count++;
    }
    return count;
}
