/* lend.c: the sender's caller writes the next tensor in the receiver's slot itself, unit by unit at any moment, and then sends it, or gives the
 * slot back. Only words are posted. */
#include <assert.h>

#include "model.h"

static uint32_t units_of(const mc_model *model)
{
    return 2u * model->stripes;
}

void lend_actions(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    if (!model->lends || world->sender_dead || world->lent == 0)
        return;
    uint32_t units = units_of(model);
    for (uint32_t unit = 0; unit < units; unit++) {
        if ((world->written & 1u << unit) == 0)
            choices_add(choices, ACT_LENT_WRITE, unit, 0);
    }
    if (world->written == (1u << units) - 1 && world->sender.state == RT_EDGE_LENT)
        choices_add(choices, ACT_LENT_SEND, 0, 0);
    choices_add(choices, ACT_LENT_BACK, 0, 0);
}

void lend_begin(const mc_model *model, mc_world *world)
{
    uint64_t sequence = 0;
    rt_edge_sender next = world->sender;
    if (model->mutant == MUTANT_LENT_EARLY)
        next.released = next.sent;
    int status = rt_edge_sender_next(&next, &sequence);
    assert(status == RT_OK);
    world->lent = model_tag(sequence);
    world->written = 0;
    if (model->mutant != MUTANT_SENT_BESIDE)
        rt_edge_sender_lend(&world->sender);
}

void lend_write(const mc_model *model, mc_world *world, uint32_t unit)
{
    uint8_t tag = world->lent;
    const mc_end *receiver = &world->ends[RECEIVER_END];
    world->written |= (uint8_t)(1u << unit);
    if (world->receiver_dead)
        return;
    bool held = tag > model->slots && (world->released & 1u << (tag - model->slots)) == 0;
    if (held || model_sequence(tag) <= world->sender.sent)
        model_complain(world, VIOLATION_OVERWRITE);
    if (receiver->left && !receiver->lost) /* the memory of a channel that is lost is given to nobody else */
        model_complain(world, VIOLATION_GIVEN);
    world->unit[model_sequence(tag) % model->slots][unit] = tag;
}

static void lend_end(mc_world *world)
{
    world->lent = world->written = 0;
    rt_edge_sender_take_back(&world->sender);
}

void lend_send(const mc_model *model, mc_world *world)
{
    rt_edge_wiring wiring = model_wiring(model);
    uint8_t tag = world->lent;
    uint64_t sequence = 0;
    lend_end(world);
    int status = rt_edge_sender_next(&world->sender, &sequence);
    assert(status == RT_OK && model_tag(sequence) == tag);
    for (uint32_t stripe = 0; stripe < model->stripes; stripe++) {
        rt_edge_plan plan, words = {.count = 0};
        uint64_t from = 0, size = rt_edge_stripe(&wiring.layout, wiring.layout.payload_size, stripe, &from);
        rt_edge_plan_make(&wiring, sequence, stripe, from, size, model_stripe_crc(model, tag, stripe), &plan);
        for (uint32_t index = 0; index < plan.count; index++) {
            rt_edge_write write = plan.writes[index];
            if (write.part == RT_EDGE_PART_PAYLOAD) { /* its bytes are there: a tail's line is left */
                write.from += write.size;
                write.remote_offset += write.size;
                write.size = 0;
            }
            if (write.part != RT_EDGE_PART_PAYLOAD || write.trailer_size != 0)
                words.writes[words.count++] = write;
        }
        network_post(model, world, tag, stripe, &words, 0);
    }
    rt_edge_sender_sent(&world->sender, sequence);
    if (world->receiver_dead || world->dropped || world->ends[RECEIVER_END].lost)
        network_drop(world);
}

void lend_back(mc_world *world)
{
    lend_end(world);
}
