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
                                        [VIOLATION_MISSED] = "a damaged tensor was released without a word",
                                        [VIOLATION_GIVEN] = "memory was touched that its owner had given back"};
    return names[violation];
}

rt_edge_wiring model_wiring(const mc_model *model)
{
    rt_edge_wiring wiring = {.mode = model->mode,
                             .verify = model->verify,
                             .loop_check = model->loop_check,
                             .orders_writes = model->orders_writes,
                             .covers_earlier = model->covers,
                             .apart_min = model->apart ? 0 : 1u << 20,
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
                                              .credits_serial = !model->orders_writes && model->mutant != MUTANT_HASTY_CREDITS};
    rt_edge_wiring wiring = model_wiring(model);
    assert(model->expected != NO_VIOLATION || rt_edge_wiring_check(&wiring, NULL) == RT_OK);
    memset(world_out, 0, sizeof *world_out);
    rt_edge_sender_begin(&world_out->sender, model->slots, (rt_edge_flow)model->flow, model->words_whole);
    rt_edge_receiver_begin(&world_out->receiver, &options);
    world_out->sender.sent = world_out->sender.released = MODEL_BASE;
    world_out->receiver.received = world_out->receiver.released = world_out->receiver.credited = MODEL_BASE;
    world_out->credit[0] = MODEL_BASE;
    keys_begin(model, world_out);
    for (uint32_t sequence = MODEL_BASE + 1u - model->slots; sequence <= MODEL_BASE; sequence++) {
        for (uint32_t stripe = 0; stripe < model->stripes; stripe++)
            world_out->lines[sequence % model->slots][stripe].flag[0] = (uint8_t)sequence;
    }
}

/* ---- what may happen ---- */

void choices_add(mc_choices *choices, mc_action_kind kind, uint32_t index, uint32_t piece)
{
    assert(choices->count < MODEL_ACTIONS);
    choices->actions[choices->count++] = (search_step){(uint8_t)kind, (uint8_t)index, (uint8_t)piece};
}

/* Adds what changes the world: looking at a flag that is not there is no step, or nobody would ever be stuck. */
static void add_if_effective(const mc_model *model, const mc_world *now, mc_choices *choices, mc_action_kind kind)
{
    mc_world after = *now;
    world_do(model, &after, (search_step){.kind = (uint8_t)kind});
    if (memcmp(&after, now, sizeof after) != 0)
        choices_add(choices, kind, 0, 0);
}

static bool all_sent(const mc_model *model, const mc_world *world)
{
    return world->sender.sent == model_sequence(model->messages);
}

static bool may_send(const mc_model *model, const mc_world *world)
{
    uint64_t sequence = 0;
    rt_edge_sender next = world->sender;
    if (model->mutant == MUTANT_LENT_EARLY)
        next.released = next.sent;
    if (all_sent(model, world) || rt_edge_sender_next(&next, &sequence) != RT_OK)
        return false;
    bool loop_allows = model->breaks_loop || sequence <= world->receiver.released + model->slots;
    bool staging_allows = model->ring == 0 || stage_is_idle(world);
    return (model->flow == RT_EDGE_FLOW_CREDIT || loop_allows) && staging_allows && keys_allow(model, world, sequence);
}

static void add_sender(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    if (may_send(model, world))
        choices_add(choices, ACT_SEND, 0, 0);
    lend_actions(model, world, choices);
    if (!model->closes && all_sent(model, world) && world->sender.state == RT_EDGE_OPEN && world->chunks.sequence == 0)
        choices_add(choices, ACT_CLOSE, 0, 0);
    add_if_effective(model, world, choices, ACT_TAKE_CREDIT);
    for (uint32_t slot = 0; model->dynamic && slot < model->slots; slot++) {
        uint8_t tag = world->tensor[slot];
        if (tag != 0 && tag != TAG_GARBAGE && !rt_edge_sender_keeps(&world->sender, model_sequence(tag)))
            choices_add(choices, ACT_FREE, slot, 0);
    }
}

static bool reads_pass(const mc_world *world)
{
    return !world->sender_dead && !world->shut && !world->ends[SENDER_END].lost && !world->ends[RECEIVER_END].lost;
}

static void add_receiver(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    add_if_effective(model, world, choices, ACT_LOOK);
    for (uint64_t sequence = world->receiver.released + 1; sequence <= world->receiver.received; sequence++) {
        if (world->receiver.slot_state[sequence % model->slots] == RT_SLOT_HELD)
            choices_add(choices, ACT_RELEASE, model_tag(sequence), 0);
    }
    /* One completion queue: in order where the provider orders WRITEs, which then complete in order. */
    for (uint32_t index = 0; index < world->arrival_count && (index == 0 || !(model->orders_writes || model->covers)); index++)
        choices_add(choices, ACT_POLL, index, 0);
    for (uint32_t slot = 0; slot < model->slots; slot++) {
        const mc_read *read = &world->reads[slot];
        for (uint32_t half = 0; read->tag != 0 && reads_pass(world) && half < 2; half++) {
            if ((read->done & 1u << half) == 0)
                choices_add(choices, ACT_READ, slot, half);
        }
        if (read->tag != 0 && (world->sender_dead || world->cut))
            choices_add(choices, ACT_READ_FAILS, slot, 0);
    }
}

static void add_network(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    for (uint32_t index = 0; index < MODEL_FLIGHTS; index++) {
        for (uint32_t piece = 0; piece < world->flights[index].pieces; piece++) {
            if (network_may_place(model, world, index, piece))
                choices_add(choices, ACT_PLACE, index, piece);
        }
    }
    for (uint32_t index = 0; index < world->credit_count; index++) {
        for (uint32_t piece = model->words_whole ? 1 : 0; piece < 2; piece++) {
            if (network_may_place_credit(model, world, index, model->words_whole ? 0 : piece))
                choices_add(choices, ACT_PLACE_CREDIT, index, model->words_whole ? 0 : piece);
        }
    }
    if (world->close_under_way)
        choices_add(choices, ACT_DELIVER_CLOSE, 0, 0);
}

static void add_deaths(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    if (model->crash && !world->sender_dead && !world->receiver_dead) {
        choices_add(choices, ACT_KILL_SENDER, 0, 0);
        choices_add(choices, ACT_KILL_RECEIVER, 0, 0);
    }
    if (model->cut && !world->cut)
        choices_add(choices, ACT_CUT, 0, 0);
    const mc_end *ends = world->ends;
    bool under_way = world->flights[0].part != 0 || world->close_under_way || ends[RECEIVER_END].inbox_count != 0;
    if ((world->sender_dead && under_way) || (world->cut && !world->dropped))
        choices_add(choices, ACT_DROP, 0, 0);
    bool receiver_open = world->receiver.lost == RT_OK && world->receiver.state != RT_EDGE_OVER;
    bool unaware = model->closes ? !ends[RECEIVER_END].lost : receiver_open;
    if ((world->sender_dead || world->cut) && !world->receiver_dead && unaware)
        choices_add(choices, ACT_TELL_RECEIVER, 0, 0);
    bool broken = !model->closes && world->receiver.state == RT_EDGE_OVER && world->receiver.failure != RT_E_PEER_CLOSED;
    unaware = model->closes ? !ends[SENDER_END].lost : world->sender.state != RT_EDGE_OVER;
    if ((world->receiver_dead || broken || world->cut) && !world->sender_dead && unaware)
        choices_add(choices, ACT_TELL_SENDER, 0, 0);
}

uint32_t world_actions(const mc_model *model, const mc_world *world, search_step actions_out[MODEL_ACTIONS])
{
    mc_choices choices = {.actions = actions_out};
    if (!world->sender_dead)
        add_sender(model, world, &choices);
    if (!world->receiver_dead)
        add_receiver(model, world, &choices);
    add_network(model, world, &choices);
    ends_actions(model, world, &choices);
    keys_actions(model, world, &choices);
    stage_actions(model, world, &choices);
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
    world->borrowed = 0;
}

static void drop_credits(mc_world *world)
{
    memset(world->credits, 0, sizeof world->credits);
    memset(world->credit_placed, 0, sizeof world->credit_placed);
    world->credit_count = 0;
}

/* A link that lost something carries nothing after it. */
static void drop(mc_world *world)
{
    network_drop(world);
    if (!world->cut)
        return;
    world->dropped = true;
    drop_credits(world);
    for (uint32_t which = 0; which < 2; which++) {
        memset(world->ends[which].inbox, 0, sizeof world->ends[which].inbox);
        world->ends[which].inbox_count = 0;
    }
}

/* Core shuts the links of a lost channel before it tells its edges. */
static void tell_sender(const mc_model *model, mc_world *world)
{
    if (world->cut && model->mutant != MUTANT_LATE_SHUT) {
        drop(world);
        world->shut = true;
    }
    if (model->closes) {
        network_drop(world);
        drop_credits(world);
        end_lost(world, SENDER_END);
    }
    rt_edge_sender_end(&world->sender, RT_E_PEER_LOST);
}

static void tell_receiver(const mc_model *model, mc_world *world)
{
    if (model->closes) {
        network_drop(world);
        end_lost(world, RECEIVER_END);
    }
    rt_edge_receiver_end(&world->receiver, RT_E_PEER_LOST);
}

static void take_credit(mc_world *world)
{
    uint64_t word = (uint64_t)world->credit[1] << 8 | world->credit[0];
    if (rt_edge_sender_credit(&world->sender, word, NULL) != RT_OK)
        model_complain(world, VIOLATION_REFUSED);
}

static void act(const mc_model *model, mc_world *world, search_step action)
{
    switch ((mc_action_kind)action.kind) {
    case ACT_SEND:
        if (model->lends && world->lent == 0) {
            lend_begin(model, world);
            break;
        }
        sender_send(model, world);
        if (world->receiver_dead || world->dropped || world->ends[RECEIVER_END].lost)
            network_drop(world);
        break;
    case ACT_TAKE_CREDIT: take_credit(world); break;
    case ACT_LENT_WRITE: lend_write(model, world, action.first); break;
    case ACT_LENT_SEND: lend_send(model, world); break;
    case ACT_LENT_BACK: lend_back(world); break;
    case ACT_CHUNK: stage_chunk(model, world); break;
    case ACT_CLOSE:
        stage_close(model, world);
        rt_edge_sender_close(&world->sender);
        world->close_under_way = !world->receiver_dead && !world->dropped;
        break;
    case ACT_FREE: world->tensor[action.first] = TAG_GARBAGE; break;
    case ACT_LOOK: receiver_look(model, world); break;
    case ACT_RELEASE: receiver_release(model, world, action.first); break;
    case ACT_PLACE: network_place(model, world, action.first, action.second); break;
    case ACT_POLL: receiver_poll(model, world, action.first); break;
    case ACT_PLACE_CREDIT: network_place_credit(model, world, action.first, action.second); break;
    case ACT_DELIVER_CLOSE:
        world->close_under_way = false;
        if (rt_edge_receiver_finish(&world->receiver, model_sequence(model->messages), NULL) != RT_OK)
            model_complain(world, VIOLATION_REFUSED);
        break;
    case ACT_READ: receiver_read(model, world, action.first, action.second); break;
    case ACT_READ_FAILS:
        world->reads[action.first] = (mc_read){.tag = 0};
        rt_edge_receiver_end(&world->receiver, RT_E_PEER_LOST);
        break;
    case ACT_KILL_SENDER: world->sender_dead = true; break;
    case ACT_KILL_RECEIVER: kill_receiver(world); break;
    case ACT_CUT: world->cut = true; break;
    case ACT_DROP: drop(world); break;
    case ACT_TELL_RECEIVER: tell_receiver(model, world); break;
    case ACT_TELL_SENDER: tell_sender(model, world); break;
    case ACT_WANT: end_close(model, world, action.first); break;
    case ACT_STEP: end_step(model, world, action.first); break;
    case ACT_HEAR: end_hear(model, world, action.first, action.second != 0); break;
    case ACT_ASK_KEY: keys_ask(model, world); break;
    case ACT_REGION: keys_region_anew(world, action.first); break;
    case ACT_ANSWER: end_answer(world, action.first); break;
    }
}

/* An end that came is told once, and stays what it is. */
void world_do(const mc_model *model, mc_world *world, search_step action)
{
    const rt_edge_sender sender = world->sender;
    const uint8_t state = world->receiver.state;
    const int32_t failure = world->receiver.failure;
    act(model, world, action);
    bool changed =
        sender.state == RT_EDGE_OVER && (world->sender.state != sender.state || world->sender.failure != sender.failure);
    changed |= state == RT_EDGE_OVER && (world->receiver.state != state || world->receiver.failure != failure);
    if (changed)
        model_complain(world, VIOLATION_END);
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
    mc_violation found = model->closes ? ends_settled(model, world) : NO_VIOLATION;
    if (!model->closes && !world->receiver_dead)
        found = receiver_ended(model, world);
    if (!model->closes && found == NO_VIOLATION && !world->sender_dead)
        found = sender_ended(model, world);
    /* A CRC refuses only where the flag could come early. */
    bool sound = model->mode != RT_EDGE_TAIL || model->orders_bytes;
    if (found == NO_VIOLATION && sound && world->refused != 0)
        found = VIOLATION_REFUSED;
    return found;
}

/* ---- in words ---- */

static void describe_place(const mc_world *world, search_step action, char *text_out, size_t capacity)
{
    static const char *const parts[] = {"", "the begun word", "the note", "bytes", "the flag"};
    const mc_flight *flight = &world->flights[action.first];
    const char *part = parts[flight->part], *half = "";
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.second >= flight->units)
        part = action.second == flight->units ? "the begun word and the note" : "the flag";
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.second > flight->units)
        half = action.second == flight->units + 1 ? " (low byte)" : " (high byte)";
    else if (flight->part != RT_EDGE_PART_PAYLOAD && flight->pieces == 2)
        half = action.second == 0 ? " (low byte)" : " (high byte)";
    int size = snprintf(text_out, capacity, "network: places %s%s", part, half);
    if (flight->part == RT_EDGE_PART_PAYLOAD && action.second < flight->units) {
        int from = (flight->unit + action.second) * MODEL_UNIT;
        size += snprintf(text_out + size, capacity - (size_t)size, " %d to %d", from, from + MODEL_UNIT - 1);
    }
    snprintf(text_out + size, capacity - (size_t)size, " of tensor %u in slot %u, QP %u", flight->tag, flight->slot,
             flight->stripe);
}

void world_describe(const mc_model *model, const mc_world *world, search_step action, char *text_out, size_t capacity)
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
                                        [ACT_TELL_SENDER] = "sender:   hears that the receiver is lost",
                                        [ACT_LENT_WRITE] = "sender:   writes unit %u in the slot that is lent",
                                        [ACT_LENT_SEND] = "sender:   sends the tensor of the slot that is lent",
                                        [ACT_LENT_BACK] = "sender:   gives the slot back that is lent",
                                        [ACT_CHUNK] = "sender:   goes on staging",
                                        [ACT_ASK_KEY] = "sender:   asks for a key of the region that its next tensor lies in",
                                        [ACT_REGION] = "sender:   closes region %u and makes it anew",
                                        [ACT_WANT] = "%s closes its end",
                                        [ACT_STEP] = "%s takes the step that is due of its close",
                                        [ACT_HEAR] = "%s hears %s",
                                        [ACT_ANSWER] = "%s answers the close"};
    static const char *const messages[] = {[0] = "",
                                           [MESSAGE_CLOSE] = "CLOSE_EDGE",
                                           [MESSAGE_CLOSED] = "EDGE_CLOSED",
                                           [MESSAGE_ADD_KEY] = "ADD_KEY",
                                           [MESSAGE_KEY_ADDED] = "KEY_ADDED",
                                           [MESSAGE_KEY_REFUSED] = "that the key is refused"};
    unsigned number = action.first;
    if (action.kind == ACT_PLACE) {
        describe_place(world, action, text_out, capacity);
        return;
    }
    const char *text = fixed[action.kind];
    if (action.kind == ACT_SEND && model->lends && world->lent == 0)
        text = "sender:   lends the slot of tensor %u";
    if (action.kind == ACT_SEND)
        number = model_tag(world->sender.sent + 1);
    if (action.kind == ACT_LOOK)
        number = model_tag(rt_edge_receiver_expects(&world->receiver));
    if (action.kind == ACT_PLACE_CREDIT)
        number = (uint8_t)(world->credits[action.first][0] - MODEL_BASE);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (action.kind >= ACT_WANT)
        snprintf(text_out, capacity, text,
                 action.first == SENDER_END ? "sender:  " : "receiver:", messages[world->ends[action.first].inbox[0]]);
    else
        snprintf(text_out, capacity, text, number);
#pragma GCC diagnostic pop
}
