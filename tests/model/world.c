/* world.c: how a world begins, what may happen next in it, and what must be true when nothing may happen any more. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

uint8_t model_tag(uint64_t sequence)
{
    assert(sequence > MODEL_BASE);
    return (uint8_t)(sequence - MODEL_BASE);
}

uint64_t model_sequence(uint8_t tag)
{
    return (uint64_t)MODEL_BASE + tag;
}

void model_complain(mc_world *world, mc_violation violation)
{
    if (world->violation == NO_VIOLATION)
        world->violation = (uint8_t)violation;
}

const char *violation_name(mc_violation violation)
{
    static const char *const names[] = {[NO_VIOLATION] = "none",
                                        [VIOLATION_TORN] = "the receiver saw bytes that were not sent",
                                        [VIOLATION_OVERWRITE] = "a slot was written before it was released",
                                        [VIOLATION_DEADLOCK] = "somebody waits for ever",
                                        [VIOLATION_END] = "an end that is not the stated one",
                                        [VIOLATION_REFUSED] = "an honest peer's tensor was refused",
                                        [VIOLATION_MISSED] = "a damaged tensor was released without a word"};
    return names[violation];
}

rt_edge_wiring model_wiring(const mc_model *model)
{
    rt_edge_wiring wiring = {.mode = model->mode,
                             .verify = model->verify,
                             .loop_check = model->loop_check,
                             .orders_writes = model->orders_writes,
                             .record = model->dynamic,
                             .number = 7,
                             .piece_size = model->in_pieces ? MODEL_UNIT : 1u << 20};
    uint64_t size = model->dynamic ? rt_edge_record_slot_size(64) : 2u * MODEL_UNIT * model->stripes;
    int status = rt_edge_lay_out(size, model->slots, model->stripes, 64, model->mode == RT_EDGE_TAIL, &wiring.layout, NULL);
    assert(status == RT_OK);
    return wiring;
}

/* In the middle of an edge's life: MODEL_BASE tensors were sent, received and released. */
void world_begin(const mc_model *model, mc_world *world_out)
{
    const rt_edge_receiver_options options = {.slots = model->slots,
                                              .stripes = model->stripes,
                                              .flow = (rt_edge_flow)model->flow,
                                              .flags_whole = model->mode == RT_EDGE_IMMEDIATE ||
                                                             (model->words_whole && model->mode != RT_EDGE_TAIL),
                                              .begun_whole = model->words_whole,
                                              .loop_check = model->loop_check,
                                              .credits_serial = !model->orders_writes && !model->hasty_credits};
    rt_edge_wiring wiring = model_wiring(model);
    assert(model->expected != NO_VIOLATION || rt_edge_wiring_check(&wiring, NULL) == RT_OK);
    memset(world_out, 0, sizeof *world_out);
    rt_edge_sender_begin(&world_out->sender, model->slots, (rt_edge_flow)model->flow, model->words_whole);
    rt_edge_receiver_begin(&world_out->receiver, &options);
    world_out->sender.sent = world_out->sender.released = MODEL_BASE;
    world_out->receiver.received = world_out->receiver.released = world_out->receiver.credited = MODEL_BASE;
    world_out->credit[0] = MODEL_BASE;
    for (uint32_t sequence = MODEL_BASE + 1u - model->slots; sequence <= MODEL_BASE; sequence++) {
        for (uint32_t stripe = 0; stripe < model->stripes; stripe++)
            world_out->lines[sequence % model->slots][stripe].flag[0] = (uint8_t)sequence;
    }
}

/* ---- what may happen ---- */

typedef struct mc_choices {
    mc_action *actions;
    uint32_t count;
} mc_choices;

static void add(mc_choices *choices, mc_action_kind kind, uint32_t index, uint32_t piece)
{
    assert(choices->count < MODEL_ACTIONS);
    choices->actions[choices->count++] = (mc_action){(uint8_t)kind, (uint8_t)index, (uint8_t)piece};
}

/* Adds what changes the world: looking at a flag that is not there is no step, or nobody would ever be stuck. */
static void add_if_effective(const mc_model *model, const mc_world *now, mc_choices *choices, mc_action_kind kind)
{
    mc_world after = *now;
    world_do(model, &after, (mc_action){.kind = (uint8_t)kind});
    if (memcmp(&after, now, sizeof after) != 0)
        add(choices, kind, 0, 0);
}

static bool all_sent(const mc_model *model, const mc_world *world)
{
    return world->sender.sent == model_sequence(model->messages);
}

static bool may_send(const mc_model *model, const mc_world *world)
{
    uint64_t sequence = 0;
    if (all_sent(model, world) || rt_edge_sender_next(&world->sender, &sequence) != RT_OK)
        return false;
    bool loop_allows = model->breaks_loop || sequence <= world->receiver.released + model->slots;
    return model->flow == RT_EDGE_FLOW_CREDIT || loop_allows;
}

static void add_sender(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    if (may_send(model, world))
        add(choices, ACT_SEND, 0, 0);
    if (all_sent(model, world) && world->sender.state == RT_EDGE_OPEN)
        add(choices, ACT_CLOSE, 0, 0);
    add_if_effective(model, world, choices, ACT_TAKE_CREDIT);
    for (uint32_t slot = 0; model->dynamic && slot < model->slots; slot++) {
        uint8_t tag = world->tensor[slot];
        if (tag != 0 && tag != TAG_GARBAGE && !rt_edge_sender_keeps(&world->sender, model_sequence(tag)))
            add(choices, ACT_FREE, slot, 0);
    }
}

static void add_receiver(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    add_if_effective(model, world, choices, ACT_LOOK);
    for (uint64_t sequence = world->receiver.released + 1; sequence <= world->receiver.received; sequence++) {
        if (world->receiver.slot_state[sequence % model->slots] == RT_SLOT_HELD)
            add(choices, ACT_RELEASE, model_tag(sequence), 0);
    }
    /* One completion queue: in order where the provider orders WRITEs, which then complete in order. */
    for (uint32_t index = 0; index < world->arrival_count && (index == 0 || !model->orders_writes); index++)
        add(choices, ACT_POLL, index, 0);
    for (uint32_t slot = 0; slot < model->slots; slot++) {
        const mc_read *read = &world->reads[slot];
        for (uint32_t half = 0; read->tag != 0 && !world->sender_dead && !world->shut && half < 2; half++) {
            if ((read->done & 1u << half) == 0)
                add(choices, ACT_READ, slot, half);
        }
        if (read->tag != 0 && (world->sender_dead || world->cut))
            add(choices, ACT_READ_FAILS, slot, 0);
    }
}

static void add_network(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    for (uint32_t index = 0; index < MODEL_FLIGHTS; index++) {
        for (uint32_t piece = 0; piece < world->flights[index].pieces; piece++) {
            if (network_may_place(model, world, index, piece))
                add(choices, ACT_PLACE, index, piece);
        }
    }
    for (uint32_t index = 0; index < world->credit_count; index++) {
        for (uint32_t piece = model->words_whole ? 1 : 0; piece < 2; piece++) {
            if (network_may_place_credit(model, world, index, model->words_whole ? 0 : piece))
                add(choices, ACT_PLACE_CREDIT, index, model->words_whole ? 0 : piece);
        }
    }
    if (world->close_under_way)
        add(choices, ACT_DELIVER_CLOSE, 0, 0);
}

static void add_deaths(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    if (model->crash && !world->sender_dead && !world->receiver_dead) {
        add(choices, ACT_KILL_SENDER, 0, 0);
        add(choices, ACT_KILL_RECEIVER, 0, 0);
    }
    if (model->cut && !world->cut)
        add(choices, ACT_CUT, 0, 0);
    bool under_way = world->flights[0].part != 0 || world->close_under_way;
    if ((world->sender_dead && under_way) || (world->cut && !world->dropped))
        add(choices, ACT_DROP, 0, 0);
    if ((world->sender_dead || world->cut) && world->receiver.lost == RT_OK && world->receiver.state != RT_EDGE_OVER)
        add(choices, ACT_TELL_RECEIVER, 0, 0);
    bool broken = world->receiver.state == RT_EDGE_OVER && world->receiver.failure != RT_E_PEER_CLOSED;
    if ((world->receiver_dead || broken || world->cut) && !world->sender_dead && world->sender.state != RT_EDGE_OVER)
        add(choices, ACT_TELL_SENDER, 0, 0);
}

uint32_t world_actions(const mc_model *model, const mc_world *world, mc_action actions_out[MODEL_ACTIONS])
{
    mc_choices choices = {.actions = actions_out};
    if (!world->sender_dead)
        add_sender(model, world, &choices);
    if (!world->receiver_dead)
        add_receiver(model, world, &choices);
    add_network(model, world, &choices);
    add_deaths(model, world, &choices);
    return choices.count;
}

/* ---- doing it ---- */

static void kill_receiver(mc_world *world)
{
    world->receiver_dead = true;
    network_drop(world);
    memset(world->reads, 0, sizeof world->reads);
    memset(world->arrivals, 0, sizeof world->arrivals);
    world->arrival_count = 0;
}

/* A link that lost something carries nothing after it. */
static void drop(mc_world *world)
{
    network_drop(world);
    if (!world->cut)
        return;
    world->dropped = true;
    memset(world->credits, 0, sizeof world->credits);
    memset(world->credit_placed, 0, sizeof world->credit_placed);
    world->credit_count = 0;
}

/* Core shuts the links of a lost channel before it tells its edges. */
static void tell_sender(const mc_model *model, mc_world *world)
{
    if (world->cut && !model->late_shut) {
        drop(world);
        world->shut = true;
    }
    rt_edge_sender_end(&world->sender, RT_E_PEER_LOST);
}

static void take_credit(mc_world *world)
{
    uint64_t word = (uint64_t)world->credit[1] << 8 | world->credit[0];
    if (rt_edge_sender_credit(&world->sender, word, NULL) != RT_OK)
        model_complain(world, VIOLATION_REFUSED);
}

void world_do(const mc_model *model, mc_world *world, mc_action action)
{
    switch ((mc_action_kind)action.kind) {
    case ACT_SEND:
        sender_send(model, world);
        if (world->receiver_dead || world->dropped)
            network_drop(world);
        break;
    case ACT_TAKE_CREDIT: take_credit(world); break;
    case ACT_CLOSE:
        rt_edge_sender_close(&world->sender);
        world->close_under_way = !world->receiver_dead && !world->dropped;
        break;
    case ACT_FREE: world->tensor[action.index] = TAG_GARBAGE; break;
    case ACT_LOOK: receiver_look(model, world); break;
    case ACT_RELEASE: receiver_release(model, world, action.index); break;
    case ACT_PLACE: network_place(model, world, action.index, action.piece); break;
    case ACT_POLL: receiver_poll(model, world, action.index); break;
    case ACT_PLACE_CREDIT: network_place_credit(model, world, action.index, action.piece); break;
    case ACT_DELIVER_CLOSE:
        world->close_under_way = false;
        if (rt_edge_receiver_finish(&world->receiver, model_sequence(model->messages), NULL) != RT_OK)
            model_complain(world, VIOLATION_REFUSED);
        break;
    case ACT_READ: receiver_read(model, world, action.index, action.piece); break;
    case ACT_READ_FAILS:
        world->reads[action.index] = (mc_read){.tag = 0};
        rt_edge_receiver_end(&world->receiver, RT_E_PEER_LOST);
        break;
    case ACT_KILL_SENDER: world->sender_dead = true; break;
    case ACT_KILL_RECEIVER: kill_receiver(world); break;
    case ACT_CUT: world->cut = true; break;
    case ACT_DROP: drop(world); break;
    case ACT_TELL_RECEIVER: rt_edge_receiver_end(&world->receiver, RT_E_PEER_LOST); break;
    case ACT_TELL_SENDER: tell_sender(model, world); break;
    }
}

/* ---- the end ---- */

static bool all_delivered(const mc_model *model, const mc_world *world)
{
    return (world->delivered | world->refused) == (1u << (model->messages + 1)) - 2;
}

static mc_violation receiver_ended(const mc_model *model, const mc_world *world)
{
    if (world->receiver.state != RT_EDGE_OVER)
        return VIOLATION_DEADLOCK;
    switch (world->receiver.failure) {
    case RT_E_PEER_CLOSED: return all_delivered(model, world) ? NO_VIOLATION : VIOLATION_END;
    case RT_E_PEER_LOST: return world->sender_dead || world->cut ? NO_VIOLATION : VIOLATION_END;
    case RT_E_OVERRUN: return model->breaks_loop ? NO_VIOLATION : VIOLATION_END;
    default: return VIOLATION_END;
    }
}

static mc_violation sender_ended(const mc_model *model, const mc_world *world)
{
    if (world->sender.state != RT_EDGE_OVER)
        return VIOLATION_DEADLOCK;
    bool released = model->flow == RT_EDGE_FLOW_LOOP || world->sender.released == model_sequence(model->messages);
    if (world->sender.failure == RT_E_CLOSED)
        return released ? NO_VIOLATION : VIOLATION_END;
    bool right = world->receiver_dead || world->cut || world->receiver.failure == RT_E_OVERRUN;
    return world->sender.failure == RT_E_PEER_LOST && right ? NO_VIOLATION : VIOLATION_END;
}

mc_violation world_ended(const mc_model *model, const mc_world *world)
{
    mc_violation found = NO_VIOLATION;
    if (!world->receiver_dead)
        found = receiver_ended(model, world);
    if (found == NO_VIOLATION && !world->sender_dead)
        found = sender_ended(model, world);
    /* A CRC refuses only where the flag could come early. */
    bool sound = model->mode != RT_EDGE_TAIL || model->orders_bytes;
    if (found == NO_VIOLATION && sound && world->refused != 0)
        found = VIOLATION_REFUSED;
    return found;
}

/* ---- in words ---- */

static void describe_place(const mc_world *world, mc_action action, char *text_out, size_t capacity)
{
    static const char *const parts[] = {"", "the begun word", "the note", "bytes", "the flag"};
    const mc_flight *flight = &world->flights[action.index];
    const char *part = parts[flight->part], *half = "";
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.piece >= flight->units)
        part = action.piece == flight->units ? "the begun word and the note" : "the flag";
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.piece > flight->units)
        half = action.piece == flight->units + 1 ? " (low byte)" : " (high byte)";
    else if (flight->part != RT_EDGE_PART_PAYLOAD && flight->pieces == 2)
        half = action.piece == 0 ? " (low byte)" : " (high byte)";
    int size = snprintf(text_out, capacity, "network: places %s%s", part, half);
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.piece < flight->units) {
        int from = (flight->unit + action.piece) * MODEL_UNIT;
        size += snprintf(text_out + size, capacity - (size_t)size, " %d to %d", from, from + MODEL_UNIT - 1);
    }
    snprintf(text_out + size, capacity - (size_t)size, " of tensor %u in slot %u, QP %u", flight->tag, flight->slot,
             flight->stripe);
}

void world_describe(const mc_model *model, const mc_world *world, mc_action action, char *text_out, size_t capacity)
{
    static const char *const fixed[] = {[ACT_SEND] = "sender:   posts the WRITEs of tensor %u",
                                        [ACT_TAKE_CREDIT] = "sender:   takes the credit word",
                                        [ACT_CLOSE] = "sender:   closes the edge",
                                        [ACT_FREE] = "sender:   writes over its tensor in buffer %u",
                                        [ACT_LOOK] = "receiver: looks for tensor %u",
                                        [ACT_RELEASE] = "receiver: releases tensor %u",
                                        [ACT_PLACE] = "",
                                        [ACT_POLL] = "receiver: polls an immediate",
                                        [ACT_PLACE_CREDIT] = "network:  places credit %u",
                                        [ACT_DELIVER_CLOSE] = "network:  delivers CLOSE_EDGE",
                                        [ACT_READ] = "network:  READs half of the tensor of slot %u",
                                        [ACT_READ_FAILS] = "receiver: its READ into slot %u fails",
                                        [ACT_KILL_SENDER] = "sender:   dies",
                                        [ACT_KILL_RECEIVER] = "receiver: dies",
                                        [ACT_CUT] = "network:  the links fail",
                                        [ACT_DROP] = "network:  drops what was under way",
                                        [ACT_TELL_RECEIVER] = "receiver: hears that the sender is lost",
                                        [ACT_TELL_SENDER] = "sender:   hears that the receiver is lost"};
    unsigned number = action.index;
    if (action.kind == ACT_PLACE) {
        describe_place(world, action, text_out, capacity);
        return;
    }
    if (action.kind == ACT_SEND)
        number = model_tag(world->sender.sent + 1);
    if (action.kind == ACT_LOOK)
        number = model_tag(rt_edge_receiver_expects(&world->receiver));
    if (action.kind == ACT_PLACE_CREDIT)
        number = (uint8_t)(world->credits[action.index][0] - MODEL_BASE);
    (void)model;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text_out, capacity, fixed[action.kind], number);
#pragma GCC diagnostic pop
}
