/* edge_plan.c: the WRITEs of one tensor in each mode, and the flags that arriving immediates stand
 * for (EDGES.md sections 3 to 6).
 *
 * The words precede the payload, all but FLAG, which follows it on the same QP. Where the provider
 * does not order WRITEs, an immediate that covers the earlier WRITEs says that all are there; where
 * it does not cover them, each work item carries one, and the receiver counts them: both ends
 * compute the same number from the same wiring.
 *
 * An immediate has no room for a whole sequence. It names the edge, the slot and the low 8 bits of
 * sequence / slots; the line's own FLAG gives the rest, since only one sequence is due in a slot at
 * a time. */
#include "proto/edge_plan.h"
#include "proto/edge_mode.h"

#include <assert.h>
#include <inttypes.h>

#include "base/bytes.h"

_Static_assert(RT_EDGE_SLOTS_MAX <= 256, "a slot is 8 bits of an immediate");
_Static_assert(RT_EDGES_MAX == UINT16_MAX, "an edge's number is 16 bits of an immediate");

static uint64_t pieces_of_write(const rt_edge_wiring *wiring, uint64_t size)
{
    return size == 0 ? 1 : (size - 1) / wiring->piece_size + 1;
}

/* Bytes behind the payload in a tail WRITE that ends at `end` in the slot: up to the line, and the line. */
static uint64_t trailer_of(const rt_edge_wiring *wiring, uint64_t end)
{
    return rt_edge_line_offset(&wiring->layout, 0, 0) + RT_EDGE_LINE_SIZE - end;
}

int rt_edge_wiring_check(const rt_edge_wiring *wiring, rt_detail *detail)
{
    uint64_t whole = wiring->layout.payload_size;
    if (wiring->mode == RT_EDGE_TAIL)
        whole += trailer_of(wiring, whole);
    if (wiring->record && whole > wiring->piece_size)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "records of %" PRIu64 " bytes over a provider whose work items have at most %" PRIu64
                       ": make the eager area smaller",
                       whole, wiring->piece_size);
    if (wiring->orders_writes)
        return RT_OK;
    if (wiring->mode == RT_EDGE_CHAINED)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0, "a flag in a WRITE of its own over a provider that does not order WRITEs");
    if (wiring->mode == RT_EDGE_TAIL && whole > wiring->piece_size)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "a tensor of %" PRIu64 " bytes with its flag in the tail needs several WRITEs of at most %" PRIu64
                       " bytes, and the provider does not order them",
                       wiring->layout.payload_size, wiring->piece_size);
    if (wiring->loop_check)
        return rt_fail(
            detail, RT_E_UNSUPPORTED, 0,
            "the check of flow=\"loop\" needs a provider that orders WRITEs: it would miss a tensor that overtakes it");
    return RT_OK;
}

/* ---- the WRITEs ---- */

static rt_edge_write *write_add(rt_edge_plan *plan, rt_edge_part part)
{
    assert(plan->count < RT_EDGE_WRITES_MAX);
    rt_edge_write *write = &plan->writes[plan->count++];
    *write = (rt_edge_write){.part = (uint8_t)part};
    return write;
}

static rt_edge_write *word_add(rt_edge_plan *plan, rt_edge_part part, uint64_t line, uint64_t place, uint64_t word)
{
    rt_edge_write *write = write_add(plan, part);
    write->remote_offset = line + place;
    write->size = 8;
    write->word = word;
    return write;
}

static uint32_t immediate_of(const rt_edge_wiring *wiring, uint64_t sequence)
{
    uint64_t round = sequence / wiring->layout.slots;
    return (uint32_t)wiring->number << 16 | rt_edge_slot(&wiring->layout, sequence) << 8 | (uint32_t)(round & 0xff);
}

void rt_edge_plan_make(const rt_edge_wiring *wiring, uint64_t sequence, uint32_t stripe, uint64_t from, uint64_t size,
                       uint32_t crc, rt_edge_plan *plan_out)
{
    const rt_edge_layout *layout = &wiring->layout;
    uint32_t slot = rt_edge_slot(layout, sequence);
    uint64_t line = rt_edge_line_offset(layout, slot, stripe);
    bool scattered = wiring->mode == RT_EDGE_IMMEDIATE && rt_edge_counts_pieces(wiring);
    assert(sequence != 0 && from <= layout->payload_size && size <= layout->payload_size - from);
    *plan_out = (rt_edge_plan){.immediate = wiring->mode == RT_EDGE_IMMEDIATE ? immediate_of(wiring, sequence) : 0};
    if (wiring->loop_check)
        word_add(plan_out, RT_EDGE_PART_BEGUN, line, RT_EDGE_LINE_BEGUN, sequence);
    if (wiring->verify && wiring->mode != RT_EDGE_TAIL) {
        rt_edge_write *note = word_add(plan_out, RT_EDGE_PART_NOTE, line, RT_EDGE_LINE_NOTE, rt_edge_note(sequence, crc));
        note->immediate = note->every_piece = scattered;
    }
    bool tail = wiring->mode == RT_EDGE_TAIL, chained = wiring->mode == RT_EDGE_CHAINED;
    if (size > 0 || !chained) {
        rt_edge_write *payload = write_add(plan_out, RT_EDGE_PART_PAYLOAD);
        payload->remote_offset = rt_edge_slot_offset(layout, slot) + from;
        payload->from = from;
        payload->size = size;
        payload->trailer_size = tail ? trailer_of(wiring, from + size) : 0;
        payload->immediate = !tail && !chained;
        payload->every_piece = scattered;
        payload->apart = payload->immediate && !wiring->orders_writes && !scattered && size > wiring->apart_min;
    }
    if (chained)
        word_add(plan_out, RT_EDGE_PART_FLAG, line, RT_EDGE_LINE_FLAG, sequence);
}

void rt_edge_line_fill(const rt_edge_wiring *wiring, uint64_t sequence, uint32_t crc, uint8_t line_out[RT_EDGE_LINE_SIZE])
{
    static const uint8_t zeros[RT_EDGE_LINE_FLAG - RT_EDGE_LINE_COUNT];
    rt_writer writer = rt_writer_of(line_out, RT_EDGE_LINE_SIZE);
    rt_write_uint(&writer, wiring->loop_check ? sequence : 0, 8);
    rt_write_uint(&writer, wiring->verify ? rt_edge_note(sequence, crc) : 0, 8);
    rt_write_bytes(&writer, zeros, sizeof zeros);
    rt_write_uint(&writer, sequence, 8);
    assert(!writer.failed && writer.size == RT_EDGE_LINE_SIZE);
}

/* ---- notes ---- */

uint64_t rt_edge_note(uint64_t sequence, uint32_t crc)
{
    return sequence << 32 | crc;
}

int rt_edge_note_check(uint64_t note, uint64_t sequence, uint32_t crc, rt_detail *detail)
{
    if (note == rt_edge_note(sequence, crc))
        return RT_OK;
    return rt_fail(detail, RT_E_CORRUPT, 0,
                   "tensor %" PRIu64 " does not fit its CRC: its bytes make 0x%08" PRIx32 " and the sender said 0x%08" PRIx32
                   "%s",
                   sequence, crc, (uint32_t)note, note >> 32 == (uint32_t)sequence ? "" : " of another tensor");
}

/* ---- immediates ---- */

uint16_t rt_edge_immediate_number(uint32_t immediate)
{
    return (uint16_t)(immediate >> 16);
}

uint32_t rt_edge_immediate_count(const rt_edge_wiring *wiring, uint32_t stripe)
{
    uint64_t from = 0, count = 1;
    if (rt_edge_counts_pieces(wiring)) {
        uint64_t size = rt_edge_stripe(&wiring->layout, wiring->layout.payload_size, stripe, &from);
        count = (wiring->record ? 1 : pieces_of_write(wiring, size)) + (wiring->verify ? 1 : 0);
    }
    assert(count <= UINT32_MAX);
    return (uint32_t)count;
}

int rt_edge_immediate_slot(const rt_edge_wiring *wiring, uint32_t immediate, uint32_t *slot_out, rt_detail *detail)
{
    uint32_t slot = immediate >> 8 & 0xff;
    if (rt_edge_immediate_number(immediate) != wiring->number || slot >= wiring->layout.slots)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the peer's immediate 0x%08" PRIx32 " names slot %" PRIu32 " of edge %" PRIu32
                       ": this is edge %u of %" PRIu32 " slots",
                       immediate, slot, immediate >> 16, (unsigned)wiring->number, wiring->layout.slots);
    *slot_out = slot;
    return RT_OK;
}

int rt_edge_immediate_take(const rt_edge_wiring *wiring, uint32_t immediate, uint32_t stripe, uint64_t flag, uint64_t count,
                           uint64_t *flag_out, uint64_t *count_out, rt_detail *detail)
{
    uint32_t slot = 0;
    int status = rt_edge_immediate_slot(wiring, immediate, &slot, detail);
    if (status != RT_OK)
        return status;
    uint64_t first = slot == 0 ? wiring->layout.slots : slot; /* no tensor has sequence 0 */
    uint64_t sequence = flag == 0 ? first : flag + wiring->layout.slots;
    uint32_t due = rt_edge_immediate_count(wiring, stripe);
    if (immediate_of(wiring, sequence) != immediate || count >= due)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the peer's immediate 0x%08" PRIx32 " is not of tensor %" PRIu64 ", which is due in slot %" PRIu32
                       " of edge %u",
                       immediate, sequence, slot, (unsigned)wiring->number);
    *count_out = count + 1 == due ? 0 : count + 1;
    *flag_out = count + 1 == due ? sequence : flag;
    return count + 1 == due ? RT_OK : RT_E_AGAIN;
}
