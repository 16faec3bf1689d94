/* stage.c: a static tensor is copied chunk by chunk through a ring and sent from there, by the code of proto/edge_chunks. The network reads a
 * place of the ring when it places the bytes, so a place that is filled again too early shows. */
#include <assert.h>

#include "model.h"

void stage_begin(mc_world *world, uint64_t sequence, uint64_t size)
{
    rt_edge_chunks_begin(&world->chunks, sequence, size);
    world->staged = model_tag(sequence);
}

/* Whether an operation that a place's chunk went with is under way. */
static bool is_busy(const mc_world *world, uint32_t place)
{
    for (uint32_t index = 0; index < MODEL_FLIGHTS && world->flights[index].part != 0; index++) {
        if (world->flights[index].place == place + 1)
            return true;
    }
    return false;
}

/* Nothing is staged, and every place is free: the next tensor may begin. */
bool stage_is_idle(const mc_world *world)
{
    bool idle = world->chunks.sequence == 0;
    for (uint32_t place = 0; place < MODEL_RING; place++)
        idle = idle && !is_busy(world, place);
    return idle;
}

static bool next(const mc_model *model, const mc_world *world, rt_edge_chunk *chunk_out)
{
    const rt_edge_wiring wiring = model_wiring(model);
    return rt_edge_chunks_next(&world->chunks, &wiring.layout, MODEL_UNIT, model->ring, chunk_out);
}

void stage_actions(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    rt_edge_chunk chunk;
    if (model->ring == 0 || world->sender_dead || world->ends[SENDER_END].left || world->chunks.sequence == 0)
        return;
    bool more = next(model, world, &chunk), over = world->sender.state == RT_EDGE_OVER;
    if (!more || over || !is_busy(world, chunk.place) || model->mutant == MUTANT_HASTY_CHUNK)
        choices_add(choices, ACT_CHUNK, 0, 0);
}

void stage_chunk(const mc_model *model, mc_world *world)
{
    const rt_edge_wiring wiring = model_wiring(model);
    uint64_t sequence = world->chunks.sequence;
    rt_edge_chunk chunk;
    if (!next(model, world, &chunk)) {
        rt_edge_chunks_end(&world->chunks);
        world->staged = 0; /* the tensor itself is free */
        return;
    }
    if (world->sender.state == RT_EDGE_OVER) {
        stage_close(model, world);
        return;
    }
    rt_edge_plan plan;
    uint8_t tag = model_tag(sequence);
    rt_edge_plan_make(&wiring, sequence, chunk.stripe, chunk.start, chunk.stripe_size, model_stripe_crc(model, tag, chunk.stripe),
                      &plan);
    rt_edge_chunk cut = chunk;
    cut.last = cut.last || model->mutant == MUTANT_FLAG_FIRST;
    rt_edge_plan_cut(&plan, &cut);
    world->ring[chunk.place][0] = world->staged;
    world->ring[chunk.place][1] = (uint8_t)(chunk.from / MODEL_UNIT);
    network_post(model, world, tag, chunk.stripe, &plan, (uint8_t)(chunk.place + 1));
    rt_edge_chunks_posted(&world->chunks, &chunk);
    if (world->receiver_dead || world->dropped || world->ends[RECEIVER_END].lost)
        network_drop(world);
}

/* The sender closes, or finds that the edge is over: after this its owner may change the tensor. */
void stage_close(const mc_model *model, mc_world *world)
{
    const rt_edge_wiring wiring = model_wiring(model);
    world->staged = world->staged == 0 ? 0 : TAG_GARBAGE;
    if (model->ring != 0 && model->mutant != MUTANT_STAGING_GOES_ON)
        rt_edge_chunks_give_up(&world->chunks, &wiring.layout, &world->sender);
}
