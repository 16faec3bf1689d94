/* parties.c: the sender and the receiver, as core will drive them: words of memory into the code of edge_flow, edge_plan and
 * edge_record, and what that decides into the network. */
#include <assert.h>
#include <string.h>

#include "model.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"

static uint64_t word_of(const uint8_t bytes[2])
{
    return (uint64_t)bytes[1] << 8 | bytes[0];
}

/* ---- what tensors are made of ---- */

static bool is_eager(const mc_model *model, uint8_t tag)
{
    return tag % 2 == 1 && model->regions == 0;
}

/* Of a dynamic edge's tensor whose halves are of these tensors. */
static uint32_t crc_of_halves(uint8_t first, uint8_t second, uint64_t sequence)
{
    uint8_t bytes[48];
    memset(bytes, first, 24);
    memset(bytes + 24, second, 24);
    return rt_edge_crc(rt_crc32c(0, bytes, sizeof bytes), sequence);
}

/* Every tensor has as many bytes as the others in other dimensions: a torn record is well-formed. */
rt_edge_record model_record(const mc_model *model, const mc_world *world, uint8_t tag)
{
    static const uint64_t dims[3][2] = {{2, 6}, {3, 4}, {1, 12}};
    rt_edge_record record = {.shape = {.dtype = RT_DTYPE_FLOAT32, .rank = 2, .dims = {dims[tag % 3][0], dims[tag % 3][1]}},
                             .sequence = model_sequence(tag),
                             .size = 48,
                             .eager = is_eager(model, tag),
                             .verified = model->verify};
    record.key = world->key_of[tag];
    record.offset = record.eager ? 0 : 4096u * (tag % model->slots);
    record.payload_crc = model->verify ? crc_of_halves(tag, tag, record.sequence) : 0;
    return record;
}

/* The bytes of units [from, from + count) of a static tensor, as the tags say. */
static uint32_t crc_of_units(const uint8_t *tags, uint32_t from, uint32_t count, uint64_t sequence)
{
    uint32_t crc = 0;
    for (uint32_t unit = from; unit < from + count; unit++) {
        uint8_t bytes[MODEL_UNIT];
        memset(bytes, tags[unit] * 16 + (int)unit, sizeof bytes);
        crc = rt_crc32c(crc, bytes, sizeof bytes);
    }
    return rt_edge_crc(crc, sequence);
}

uint32_t model_stripe_crc(const mc_model *model, uint8_t tag, uint32_t stripe)
{
    uint8_t tags[MODEL_UNITS];
    memset(tags, tag, sizeof tags);
    return model->dynamic ? 0 : crc_of_units(tags, 2 * stripe, 2, model_sequence(tag));
}

/* ---- the sender ---- */

void sender_send(const mc_model *model, mc_world *world)
{
    rt_edge_wiring wiring = model_wiring(model);
    uint64_t sequence = 0;
    int status = rt_edge_sender_next(&world->sender, &sequence);
    assert(status == RT_OK);
    uint8_t tag = model_tag(sequence);
    world->tensor[sequence % model->slots] = tag;
    if (model->ring != 0)
        stage_begin(world, sequence, wiring.layout.payload_size);
    for (uint32_t stripe = 0; model->ring == 0 && stripe < model->stripes; stripe++) {
        rt_edge_plan plan;
        uint64_t from = 0, size = rt_edge_stripe(&wiring.layout, wiring.layout.payload_size, stripe, &from);
        if (model->dynamic) {
            uint64_t eager = is_eager(model, tag) ? 48 : 0;
            from = rt_edge_eager_offset(64, eager);
            size = wiring.layout.payload_size - from;
        }
        rt_edge_plan_make(&wiring, sequence, stripe, from, size, model_stripe_crc(model, tag, stripe), &plan);
        network_post(model, world, tag, stripe, &plan, 0);
    }
    keys_sent(model, world, sequence);
    rt_edge_sender_sent(&world->sender, sequence);
}

/* ---- the receiver ---- */

void receiver_poll(const mc_model *model, mc_world *world, uint32_t index)
{
    rt_edge_wiring wiring = model_wiring(model);
    uint8_t tag = world->arrivals[index][0], stripe = world->arrivals[index][1];
    world->arrival_count--;
    memmove(world->arrivals[index], world->arrivals[index + 1], 2u * (world->arrival_count - index));
    memset(world->arrivals[world->arrival_count], 0, 2);
    if (world->ends[RECEIVER_END].left)
        return; /* of an edge that this device does not have any more */
    rt_edge_plan plan;
    rt_edge_plan_make(&wiring, model_sequence(tag), stripe, 0, 0, 0, &plan);
    uint32_t slot = 0;
    int status = rt_edge_immediate_slot(&wiring, plan.immediate, &slot, NULL);
    mc_line *line = &world->lines[slot][stripe];
    uint64_t flag = 0, count = 0;
    if (status == RT_OK)
        status = rt_edge_immediate_take(&wiring, plan.immediate, stripe, word_of(line->flag), line->count, &flag, &count, NULL);
    if (status == RT_E_PROTOCOL) {
        model_complain(world, VIOLATION_REFUSED);
        return;
    }
    line->flag[0] = (uint8_t)flag;
    line->flag[1] = (uint8_t)(flag >> 8);
    line->count = (uint8_t)count;
}

/* The tensor is given to the user. Its units, or halves, must be its own. */
static void deliver(const mc_model *model, mc_world *world, uint8_t tag, const uint8_t *tags, uint32_t count)
{
    bool excused = model->loop_check && (world->damaged & 1u << tag) != 0; /* release will have to say so */
    for (uint32_t index = 0; index < count; index++) {
        if (tags[index] != tag && !excused)
            model_complain(world, VIOLATION_TORN);
    }
    bool twice = (world->delivered & 1u << tag) != 0;
    if (twice || world->chunks.given_up == model_sequence(tag)) /* its sender was told that it does not arrive */
        model_complain(world, VIOLATION_END);
    world->delivered |= (uint8_t)(1u << tag);
}

static void load_begun(const mc_model *model, const mc_world *world, uint8_t tag, uint64_t begun[MODEL_STRIPES])
{
    for (uint32_t stripe = 0; stripe < model->stripes; stripe++)
        begun[stripe] = word_of(world->lines[model_sequence(tag) % model->slots][stripe].begun);
}

/* Drops a tensor that was refused: its slot is free again. */
static void drop(const mc_model *model, mc_world *world, uint8_t tag)
{
    uint64_t begun[MODEL_STRIPES];
    load_begun(model, world, tag, begun);
    world->refused |= (uint8_t)(1u << tag);
    world->released |= (uint8_t)(1u << tag);
    rt_edge_receiver_release(&world->receiver, model_sequence(tag), begun, NULL);
    network_post_credit(model, world);
}

static void take_static(const mc_model *model, mc_world *world, uint8_t tag, uint32_t slot)
{
    uint64_t sequence = model_sequence(tag);
    for (uint32_t stripe = 0; model->verify && stripe < model->stripes; stripe++) {
        uint8_t noted = world->lines[slot][stripe].note;
        uint64_t note = noted == 0 ? 0 : rt_edge_note(model_sequence(noted), model_stripe_crc(model, noted, stripe));
        uint32_t crc = crc_of_units(world->unit[slot], 2 * stripe, 2, sequence);
        if (rt_edge_note_check(note, sequence, crc, NULL) != RT_OK) {
            drop(model, world, tag);
            return;
        }
    }
    if (rt_edge_receiver_event(&world->receiver, sequence, RT_SLOT_USE) != RT_OK)
        model_complain(world, VIOLATION_END);
    deliver(model, world, tag, world->unit[slot], 2u * model->stripes);
}

/* The record's bytes, made of its two units. */
static void load_record(const mc_model *model, const mc_world *world, const uint8_t *units,
                        uint8_t bytes_out[RT_EDGE_RECORD_SIZE])
{
    memset(bytes_out, 0, RT_EDGE_RECORD_SIZE);
    for (uint32_t unit = UNIT_FIELDS; unit <= UNIT_DIMS; unit++) {
        uint8_t whole[RT_EDGE_RECORD_SIZE];
        if (units[unit] == 0)
            continue;
        rt_edge_record record = model_record(model, world, units[unit]);
        int status = rt_edge_record_encode(&record, whole, NULL);
        assert(status == RT_OK);
        size_t start = unit == UNIT_FIELDS ? 0 : 64, end = unit == UNIT_FIELDS ? 64 : RT_EDGE_RECORD_SIZE;
        memcpy(bytes_out + start, whole + start, end - start);
    }
}

/* It is used where it lies until its release, and must not change meanwhile. */
static void borrow(const mc_model *model, mc_world *world, uint8_t tag, uint32_t slot)
{
    keys_check(model, world, tag);
    deliver(model, world, tag, &world->tensor[slot], 1);
    world->borrowed |= (uint8_t)(1u << slot);
}

static void give_back(const mc_model *model, mc_world *world, uint8_t tag)
{
    uint32_t slot = (uint32_t)(model_sequence(tag) % model->slots);
    if ((world->borrowed & 1u << slot) != 0 && world->tensor[slot] != tag)
        model_complain(world, world->ends[SENDER_END].left ? VIOLATION_GIVEN : VIOLATION_TORN);
    world->borrowed &= (uint8_t) ~(1u << slot);
}

static void take_dynamic(const mc_model *model, mc_world *world, uint8_t tag, uint32_t slot)
{
    static const uint64_t key_sizes[MODEL_REGIONS] = {1 << 20, 1 << 20, 1 << 20, 1 << 20};
    const uint8_t *units = world->unit[slot];
    uint8_t bytes[RT_EDGE_RECORD_SIZE];
    rt_edge_expected expected = {.dtype = RT_DTYPE_FLOAT32,
                                 .rank = 2,
                                 .verify = model->verify,
                                 .sequence = model_sequence(tag),
                                 .eager_size = 64,
                                 .key_count = model->regions == 0 ? 1 : world->keys[RECEIVER_END].count,
                                 .key_sizes = key_sizes};
    rt_edge_record record = {.eager = false};
    load_record(model, world, units, bytes);
    int status = rt_edge_record_decode(bytes, &expected, &record, NULL);
    uint32_t crc = crc_of_halves(units[UNIT_EAGER], units[UNIT_EAGER], expected.sequence);
    if (status == RT_OK && record.eager && model->verify && crc != record.payload_crc)
        status = RT_E_CORRUPT;
    if (status == RT_E_PROTOCOL && model->regions != 0)
        model_complain(world, VIOLATION_REFUSED);
    if (status != RT_OK) { /* world_ended says where that is right */
        drop(model, world, tag);
        return;
    }
    if (units[UNIT_DIMS] != tag)
        model_complain(world, VIOLATION_TORN);
    bool used = record.eager || model->borrows;
    if (rt_edge_receiver_event(&world->receiver, record.sequence, used ? RT_SLOT_USE : RT_SLOT_FETCH) != RT_OK)
        model_complain(world, VIOLATION_END);
    if (record.eager)
        deliver(model, world, tag, &units[UNIT_EAGER], 1);
    else if (model->borrows)
        borrow(model, world, tag, slot);
    else
        world->reads[slot] = (mc_read){.tag = tag, .done = 0};
}

void receiver_look(const mc_model *model, mc_world *world)
{
    uint64_t expected = rt_edge_receiver_expects(&world->receiver), sequence = 0;
    uint32_t slot = (uint32_t)(expected % model->slots);
    uint64_t flags[MODEL_STRIPES], begun[MODEL_STRIPES];
    for (uint32_t stripe = 0; stripe < model->stripes; stripe++)
        flags[stripe] = word_of(world->lines[slot][stripe].flag);
    load_begun(model, world, model_tag(expected), begun);
    bool open = world->receiver.state != RT_EDGE_OVER, whole = world->receiver.slot_state[slot] == RT_SLOT_EMPTY;
    for (uint32_t stripe = 0; stripe < model->stripes; stripe++)
        whole = whole && flags[stripe] == expected;
    int status = rt_edge_receiver_look(&world->receiver, flags, begun, &sequence, NULL);
    if ((status == RT_E_OVERRUN && !model->breaks_loop) || status == RT_E_PROTOCOL)
        model_complain(world, VIOLATION_REFUSED);
    if (open && whole && status == RT_E_PEER_LOST)
        model_complain(world, VIOLATION_END); /* what has arrived whole is delivered before the loss is told */
    if (status != RT_OK)
        return;
    uint8_t tag = model_tag(sequence);
    if (model->dynamic)
        take_dynamic(model, world, tag, slot);
    else
        take_static(model, world, tag, slot);
}

void receiver_read(const mc_model *model, mc_world *world, uint32_t slot, uint32_t half)
{
    mc_read *read = &world->reads[slot];
    if (world->ends[SENDER_END].left || world->ends[RECEIVER_END].left)
        model_complain(world, VIOLATION_GIVEN);
    keys_check(model, world, read->tag);
    read->got[half] = world->tensor[slot];
    read->done |= (uint8_t)(1u << half);
    if (read->done != 3)
        return;
    if (rt_edge_receiver_event(&world->receiver, model_sequence(read->tag), RT_SLOT_FETCHED) != RT_OK)
        model_complain(world, VIOLATION_END);
    if (model->verify && crc_of_halves(read->got[0], read->got[1], model_sequence(read->tag)) !=
                             crc_of_halves(read->tag, read->tag, model_sequence(read->tag)))
        model_complain(world, VIOLATION_REFUSED);
    deliver(model, world, read->tag, read->got, 2);
    *read = (mc_read){.tag = 0};
}

void receiver_release(const mc_model *model, mc_world *world, uint8_t tag)
{
    uint64_t begun[MODEL_STRIPES];
    load_begun(model, world, tag, begun);
    give_back(model, world, tag);
    int status = rt_edge_receiver_release(&world->receiver, model_sequence(tag), begun, NULL);
    bool damaged = (world->damaged & 1u << tag) != 0;
    world->released |= (uint8_t)(1u << tag);
    if (status == RT_E_OVERRUN && !model->breaks_loop)
        model_complain(world, VIOLATION_REFUSED);
    if (status == RT_OK && damaged)
        model_complain(world, VIOLATION_MISSED);
    if (status != RT_OK && status != RT_E_OVERRUN)
        model_complain(world, VIOLATION_END);
    network_post_credit(model, world);
}
