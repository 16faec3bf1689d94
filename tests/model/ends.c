/* ends.c: either end closes the edge at any moment, and both part by the code of proto/edge_close: CLOSE_EDGE and its answer cross the
 * channel in order, a round of each end's service takes the step that is due, and memory is given back. */
#include <assert.h>
#include <string.h>

#include "model.h"
#include "proto/edge_close.h"

void ends_post(mc_world *world, uint32_t to, mc_message message)
{
    mc_end *end = &world->ends[to];
    bool arrives = to == SENDER_END ? !world->sender_dead : !world->receiver_dead;
    if (!arrives || world->dropped || end->lost)
        return;
    assert(end->inbox_count < MODEL_INBOX);
    end->inbox[end->inbox_count++] = (uint8_t)message;
}

static rt_edge_closing closing_of(const mc_model *model, const mc_world *world, uint32_t which)
{
    const mc_end *end = &world->ends[which];
    rt_edge_closing closing = {.sender = which == SENDER_END,
                               .joined = true,
                               .wanted = end->wanted,
                               .told = end->told,
                               .peer_knows = end->peer_knows,
                               .asking = end->asking,
                               .lost = end->lost};
    if (model->mutant == MUTANT_SILENT_RECEIVER && which == RECEIVER_END)
        closing.told = closing.told || closing.peer_knows;
    return closing;
}

/* Whether this end is quiet, as core knows it from its own operations (of tensors, credits and
 * READs), and from the tensors that are read in place, or written. */
static bool is_quiet(const mc_model *model, const mc_world *world, uint32_t which)
{
    if (which == SENDER_END)
        return world->flights[0].part == 0 && (world->lent == 0 || model->mutant == MUTANT_LOANS_FORGOTTEN);
    bool quiet = world->borrowed == 0 && (world->credit_count == 0 || model->mutant == MUTANT_CREDITS_FORGOTTEN);
    for (uint32_t slot = 0; slot < model->slots; slot++)
        quiet = quiet && (world->reads[slot].tag == 0 || model->mutant == MUTANT_READS_FORGOTTEN);
    return quiet;
}

static rt_edge_close_step due(const mc_model *model, const mc_world *world, uint32_t which)
{
    const rt_edge_closing closing = closing_of(model, world, which);
    rt_edge_sender tx = world->sender;
    if (model->mutant == MUTANT_HASTY_LEAVE)
        tx.state = RT_EDGE_OVER;
    rt_edge_close_step step = rt_edge_close_due(&closing, &tx, &world->receiver);
    bool hasty = model->mutant == MUTANT_HASTY_TELL && step == RT_EDGE_CLOSE_TELL;
    return hasty || is_quiet(model, world, which) ? step : RT_EDGE_CLOSE_WAIT;
}

void ends_actions(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    for (uint32_t which = 0; which < 2; which++) {
        const mc_end *end = &world->ends[which];
        bool dead = which == SENDER_END ? world->sender_dead : world->receiver_dead;
        if (!dead && end->inbox_count != 0)
            choices_add(choices, ACT_HEAR, which, 0);
        if (!dead && end->inbox_count != 0 && end->inbox[0] == MESSAGE_ADD_KEY && keys_may_be_refused(world))
            choices_add(choices, ACT_HEAR, which, 1);
        if (!model->closes)
            continue;
        bool may = end->left || is_quiet(model, world, which) || model->mutant == MUTANT_HASTY_ANSWER;
        if (!dead && end->asked && may) /* an edge that this device does not have any more is closed */
            choices_add(choices, ACT_ANSWER, which, 0);
        if (dead || end->left)
            continue;
        if (!end->wanted)
            choices_add(choices, ACT_WANT, which, 0);
        if (due(model, world, which) != RT_EDGE_CLOSE_WAIT)
            choices_add(choices, ACT_STEP, which, 0);
    }
}

void end_close(const mc_model *model, mc_world *world, uint32_t which)
{
    world->ends[which].wanted = true;
    if (which == RECEIVER_END) {
        rt_edge_receiver_end(&world->receiver, RT_E_CLOSED);
        return;
    }
    stage_close(model, world);
    rt_edge_sender_close(&world->sender);
}

void end_step(const mc_model *model, mc_world *world, uint32_t which)
{
    mc_end *end = &world->ends[which];
    switch (due(model, world, which)) {
    case RT_EDGE_CLOSE_WAIT: break;
    case RT_EDGE_CLOSE_TELL:
        end->told = end->asking = true;
        if (which == RECEIVER_END && model->mutant != MUTANT_CREDIT_AFTER_CLOSE)
            rt_edge_receiver_told(&world->receiver);
        ends_post(world, 1 - which, MESSAGE_CLOSE);
        break;
    case RT_EDGE_CLOSE_LEAVE:
        end->left = true;
        for (uint32_t slot = 0; which == SENDER_END && slot < model->slots; slot++)
            world->tensor[slot] = world->tensor[slot] != 0 ? TAG_GARBAGE : 0;
        break;
    }
}

static void hear_close(const mc_model *model, mc_world *world, uint32_t which)
{
    mc_end *end = &world->ends[which];
    if (end->left) {
        ends_post(world, 1 - which, MESSAGE_CLOSED);
        return;
    }
    const rt_edge_closing closing = closing_of(model, world, which);
    uint64_t final = which == RECEIVER_END ? world->sender.sent : 0; /* nothing is sent after the close */
    if (rt_edge_close_heard(&closing, &world->sender, &world->receiver, final, NULL) != RT_OK)
        model_complain(world, VIOLATION_REFUSED);
    end->asked = true;
    if (!rt_edge_close_answer_waits(&closing))
        end_answer(world, which);
}

void end_hear(const mc_model *model, mc_world *world, uint32_t which, bool refused)
{
    mc_end *end = &world->ends[which];
    mc_message message = (mc_message)end->inbox[0];
    memmove(end->inbox, end->inbox + 1, MODEL_INBOX - 1);
    end->inbox[--end->inbox_count] = 0;
    switch (message) {
    case MESSAGE_CLOSE: hear_close(model, world, which); break;
    case MESSAGE_CLOSED:
        end->peer_knows = true;
        end->asking = false;
        break;
    case MESSAGE_ADD_KEY: keys_hear_ask(model, world, refused); break;
    case MESSAGE_KEY_ADDED: keys_hear_answer(world, true); break;
    case MESSAGE_KEY_REFUSED: keys_hear_answer(world, false); break;
    }
}

void end_answer(mc_world *world, uint32_t which)
{
    mc_end *end = &world->ends[which];
    end->asked = false;
    end->peer_knows = true;
    ends_post(world, 1 - which, MESSAGE_CLOSED);
}

/* The channel is gone: its links are shut, so nothing more comes in, and every request has its end. */
void end_lost(mc_world *world, uint32_t which)
{
    mc_end *end = &world->ends[which];
    end->lost = end->peer_knows = true;
    end->asking = end->asked = false;
    memset(end->inbox, 0, sizeof end->inbox);
    end->inbox_count = 0;
}

/* ---- nothing more happens by itself ---- */

static mc_violation sender_settled(const mc_model *model, const mc_world *world)
{
    const mc_end *end = &world->ends[SENDER_END];
    bool over = world->sender.state == RT_EDGE_OVER;
    if (end->wanted ? !end->left : !over && world->sender.sent != model_sequence(model->messages))
        return VIOLATION_DEADLOCK;
    if (!over)
        return NO_VIOLATION;
    bool released = model->flow == RT_EDGE_FLOW_LOOP || world->sender.released == world->sender.sent;
    switch (world->sender.failure) {
    case RT_E_CLOSED: return end->wanted && released ? NO_VIOLATION : VIOLATION_END;
    case RT_E_PEER_CLOSED: return world->ends[RECEIVER_END].wanted ? NO_VIOLATION : VIOLATION_END;
    case RT_E_PEER_LOST: return world->receiver_dead || world->cut ? NO_VIOLATION : VIOLATION_END;
    default: return VIOLATION_END;
    }
}

static mc_violation receiver_settled(const mc_world *world)
{
    const mc_end *end = &world->ends[RECEIVER_END];
    bool over = world->receiver.state == RT_EDGE_OVER, lost = world->sender_dead || world->cut;
    if (end->wanted && !end->left)
        return VIOLATION_DEADLOCK;
    uint64_t sent = world->sender.sent;
    if (!over) { /* it waits for a tensor that may still be sent */
        bool waits = world->receiver.received == sent && world->receiver.released == sent;
        return waits && !lost && !world->ends[SENDER_END].wanted ? NO_VIOLATION : VIOLATION_DEADLOCK;
    }
    bool all = (world->delivered | world->refused) == (1u << (sent - MODEL_BASE + 1)) - 2;
    switch (world->receiver.failure) {
    case RT_E_CLOSED: return end->wanted ? NO_VIOLATION : VIOLATION_END;
    case RT_E_PEER_CLOSED: return all && world->ends[SENDER_END].wanted ? NO_VIOLATION : VIOLATION_END;
    case RT_E_PEER_LOST: return lost ? NO_VIOLATION : VIOLATION_END;
    default: return VIOLATION_END;
    }
}

mc_violation ends_settled(const mc_model *model, const mc_world *world)
{
    mc_violation found = world->receiver_dead ? NO_VIOLATION : receiver_settled(world);
    return found == NO_VIOLATION && !world->sender_dead ? sender_settled(model, world) : found;
}
