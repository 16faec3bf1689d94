/* network.c: places what was posted, piece by piece, in any order that the model's promises allow. */
#include <assert.h>
#include <string.h>

#include "model.h"

enum { TRAILER_PIECES = 3 }; /* of a tail: the line's other words, the flag's low byte, its high byte */

static bool is_word(const mc_flight *flight)
{
    return flight->part != RT_EDGE_PART_PAYLOAD;
}

static void add_flight(mc_world *world, mc_flight added)
{
    size_t index = 0;
    while (world->flights[index].part != 0)
        index++;
    assert(index < MODEL_FLIGHTS - 1);
    world->flights[index] = added;
}

/* The plan's offsets are taken apart here, so a wrong one shows. */
void network_post(const mc_model *model, mc_world *world, uint8_t tag, uint32_t stripe, const rt_edge_plan *plan, uint8_t place)
{
    rt_edge_wiring wiring = model_wiring(model);
    uint32_t slot = rt_edge_slot(&wiring.layout, model_sequence(tag));
    for (uint32_t index = 0; index < plan->count; index++) {
        const rt_edge_write *write = &plan->writes[index];
        mc_flight base = {.part = write->part, .tag = tag, .slot = (uint8_t)slot, .stripe = (uint8_t)stripe};
        base.immediate = write->immediate;
        base.place = place;
        if (write->part != RT_EDGE_PART_PAYLOAD) {
            static const uint64_t places[] = {[RT_EDGE_PART_BEGUN] = RT_EDGE_LINE_BEGUN,
                                              [RT_EDGE_PART_NOTE] = RT_EDGE_LINE_NOTE,
                                              [RT_EDGE_PART_FLAG] = RT_EDGE_LINE_FLAG};
            assert(write->size == 8);
            assert(write->remote_offset == rt_edge_line_offset(&wiring.layout, slot, stripe) + places[write->part]);
            assert(write->part == RT_EDGE_PART_NOTE || write->word == model_sequence(tag));
            base.pieces = model->words_whole || write->part == RT_EDGE_PART_NOTE ? 1 : 2;
            add_flight(world, base);
            continue;
        }
        assert(write->remote_offset / wiring.layout.slot_stride == slot);
        assert(write->remote_offset % wiring.layout.slot_stride == write->from && write->from % MODEL_UNIT == 0);
        uint64_t from = write->from, end = write->from + write->size;
        do { /* work items of at most piece_size */
            uint64_t size = end - from < wiring.piece_size ? end - from : wiring.piece_size;
            bool last = from + size == end;
            mc_flight item = base;
            item.unit = (uint8_t)(from / MODEL_UNIT);
            item.units = (uint8_t)(size / MODEL_UNIT);
            if (model->dynamic) { /* the record is two units, whatever its size */
                item.unit = write->from == wiring.layout.payload_size - RT_EDGE_RECORD_SIZE ? UNIT_FIELDS : UNIT_EAGER;
                item.units = (uint8_t)(UNIT_DIMS + 1 - item.unit);
            }
            item.pieces = (uint8_t)(item.units + (last && write->trailer_size > 0 ? TRAILER_PIECES : 0));
            item.immediate = write->immediate && !write->apart && (last || write->every_piece);
            add_flight(world, item);
            from += size;
        } while (from < end);
        if (write->apart) {
            base.pieces = 1;
            add_flight(world, base);
        }
    }
}

bool network_may_place(const mc_model *model, const mc_world *world, uint32_t index, uint32_t piece)
{
    const mc_flight *flight = &world->flights[index];
    if (flight->part == 0 || piece >= flight->pieces || (flight->placed & 1u << piece) != 0)
        return false;
    for (uint32_t before = 0; model->orders_writes && before < index; before++) {
        if (world->flights[before].stripe == flight->stripe)
            return false; /* it is not placed, or it would be gone */
    }
    bool covers = model->covers && flight->immediate && model->mutant != MUTANT_UNCOVERED;
    bool completes = (flight->placed | 1u << piece) == (1u << flight->pieces) - 1;
    for (uint32_t before = 0; covers && completes && before < index; before++) {
        if (world->flights[before].stripe == flight->stripe)
            return false; /* its bytes may be there, and it completes later */
    }
    bool ascending = model->orders_bytes && !is_word(flight);
    return !ascending || piece == 0 || (flight->placed & 1u << (piece - 1)) != 0;
}

/* The bytes of a tensor that is not released yet are written over. */
static void note_damage(const mc_model *model, mc_world *world, const mc_flight *flight)
{
    if (flight->tag <= model->slots || (world->released & 1u << (flight->tag - model->slots)) != 0)
        return;
    if (model->flow == RT_EDGE_FLOW_CREDIT)
        model_complain(world, VIOLATION_OVERWRITE);
    else if (flight->part == RT_EDGE_PART_PAYLOAD)
        world->damaged |= (uint8_t)(1u << (flight->tag - model->slots));
}

static void place_word(uint8_t word[2], uint8_t tag, bool low, bool high)
{
    uint64_t sequence = model_sequence(tag);
    if (low)
        word[0] = (uint8_t)sequence;
    if (high)
        word[1] = (uint8_t)(sequence >> 8);
}

/* The bytes of a unit of payload when it is placed: the tensor's own bytes, or what lies in the ring now. */
static uint8_t bytes_of(const mc_world *world, const mc_flight *flight, uint32_t unit)
{
    if (flight->place == 0)
        return flight->tag;
    const uint8_t *chunk = world->ring[flight->place - 1];
    return chunk[1] == unit ? chunk[0] : TAG_GARBAGE;
}

void network_place(const mc_model *model, mc_world *world, uint32_t index, uint32_t piece)
{
    mc_flight *flight = &world->flights[index];
    mc_line *line = &world->lines[flight->slot][flight->stripe];
    bool low = piece == 0 || flight->pieces == 1, high = piece == 1 || flight->pieces == 1;
    note_damage(model, world, flight);
    if (world->ends[RECEIVER_END].left)
        model_complain(world, VIOLATION_GIVEN);
    switch ((rt_edge_part)flight->part) {
    case RT_EDGE_PART_BEGUN: place_word(line->begun, flight->tag, low, high); break;
    case RT_EDGE_PART_FLAG: place_word(line->flag, flight->tag, low, high); break;
    case RT_EDGE_PART_NOTE: line->note = flight->tag; break;
    case RT_EDGE_PART_PAYLOAD:
        if (flight->units == 0 && flight->pieces == 1) {
            assert(flight->immediate); /* no byte, and no trailer */
        } else if (piece < flight->units) {
            world->unit[flight->slot][flight->unit + piece] = bytes_of(world, flight, flight->unit + piece);
        } else if (piece == flight->units) {
            line->note = model->verify ? flight->tag : 0;
            place_word(line->begun, model->loop_check ? flight->tag : 0, true, true);
        } else {
            place_word(line->flag, flight->tag, piece == flight->units + 1u, piece == flight->units + 2u);
        }
        break;
    }
    flight->placed |= (uint8_t)(1u << piece);
    if (flight->placed != (1u << flight->pieces) - 1)
        return;
    if (flight->immediate) {
        assert(world->arrival_count < MODEL_ARRIVALS);
        world->arrivals[world->arrival_count][0] = flight->tag;
        world->arrivals[world->arrival_count++][1] = flight->stripe;
    }
    memmove(flight, flight + 1, sizeof *flight * (MODEL_FLIGHTS - index - 1));
    memset(&world->flights[MODEL_FLIGHTS - 1], 0, sizeof *flight);
}

void network_drop(mc_world *world)
{
    memset(world->flights, 0, sizeof world->flights);
    world->close_under_way = false;
    memset(world->ends[RECEIVER_END].inbox, 0, sizeof world->ends[RECEIVER_END].inbox);
    world->ends[RECEIVER_END].inbox_count = 0;
}

/* ---- credits ---- */

void network_post_credit(const mc_model *model, mc_world *world)
{
    uint64_t word;
    if (world->ends[RECEIVER_END].left || world->ends[RECEIVER_END].lost)
        return; /* it has let go of the sender's memory */
    while (rt_edge_receiver_credit_due(&world->receiver, &word)) {
        rt_edge_receiver_credit_posted(&world->receiver, word);
        if (world->dropped)
            continue;
        assert(world->credit_count < MODEL_CREDITS);
        uint8_t at = world->credit_count++;
        world->credits[at][0] = (uint8_t)word;
        world->credits[at][1] = (uint8_t)(word >> 8);
        world->credit_placed[at] = model->words_whole ? 2 : 0; /* whole words have one piece */
    }
}

bool network_may_place_credit(const mc_model *model, const mc_world *world, uint32_t index, uint32_t piece)
{
    return index < world->credit_count && (index == 0 || !model->orders_writes) &&
           (world->credit_placed[index] & 1u << piece) == 0;
}

void network_place_credit(const mc_model *model, mc_world *world, uint32_t index, uint32_t piece)
{
    if (world->ends[SENDER_END].left)
        model_complain(world, VIOLATION_GIVEN);
    if (piece == 0 || model->words_whole)
        world->credit[0] = world->credits[index][0];
    if (piece == 1 || model->words_whole)
        world->credit[1] = world->credits[index][1];
    world->credit_placed[index] |= (uint8_t)(1u << piece);
    if (world->credit_placed[index] != 3)
        return;
    uint32_t left = MODEL_CREDITS - index - 1;
    memmove(world->credits[index], world->credits[index + 1], 2 * left);
    memmove(&world->credit_placed[index], &world->credit_placed[index + 1], left);
    memset(world->credits[MODEL_CREDITS - 1], 0, 2);
    world->credit_placed[MODEL_CREDITS - 1] = 0;
    world->credit_count--;
    if (world->credit_count == 0) {
        rt_edge_receiver_credit_done(&world->receiver);
        if (!world->receiver_dead)
            network_post_credit(model, world);
    }
}
