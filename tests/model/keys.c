/* keys.c: tensors of a dynamic edge that lie in several regions, of which the receiver learns by ADD_KEY: the code of proto/edge_keys with
 * fewer numbers than regions, over messages that cross the records on another QP; regions that are closed and made anew. */
#include <assert.h>

#include "model.h"

/* A region and how often it was made anew; 0 is none. */
static uint8_t identity(const mc_world *world, uint32_t region)
{
    return (uint8_t)(1 + region + MODEL_REGIONS * world->incarnation[region]);
}

static bool is_alive(const mc_world *world, uint8_t id)
{
    return id != 0 && identity(world, (id - 1u) % MODEL_REGIONS) == id;
}

static uint32_t region_of(const mc_model *model, uint64_t sequence)
{
    return model_tag(sequence) % model->regions;
}

void keys_begin(const mc_model *model, mc_world *world)
{
    if (model->regions == 0)
        return;
    for (uint32_t end = 0; end < 2; end++) {
        rt_edge_keys_begin(&world->keys[end], model->key_numbers);
        world->key_region[end][0] = identity(world, 0);
    }
}

/* The number of the region that a tensor lies in now, as the sender knows it. */
static bool find(const mc_model *model, const mc_world *world, uint64_t sequence, uint32_t *key_out)
{
    uint32_t region = region_of(model, sequence);
    for (uint32_t key = 0; key < world->keys[SENDER_END].count; key++) {
        uint8_t id = world->key_region[SENDER_END][key];
        bool by_number = model->mutant == MUTANT_KEY_BY_NUMBER && id != 0 && (id - 1u) % MODEL_REGIONS == region;
        if (id == identity(world, region) || by_number) {
            *key_out = key;
            return true;
        }
    }
    *key_out = world->asked_key;
    return model->mutant == MUTANT_HASTY_KEY && world->ends[SENDER_END].asking && world->asked_region == identity(world, region);
}

bool keys_allow(const mc_model *model, const mc_world *world, uint64_t sequence)
{
    uint32_t key;
    return model->regions == 0 || find(model, world, sequence, &key);
}

void keys_sent(const mc_model *model, mc_world *world, uint64_t sequence)
{
    uint32_t key = 0;
    if (model->regions == 0)
        return;
    bool found = find(model, world, sequence, &key);
    assert(found);
    world->key_of[model_tag(sequence)] = (uint8_t)key;
    world->place_of[model_tag(sequence)] = identity(world, region_of(model, sequence));
    if (key < world->keys[SENDER_END].count)
        rt_edge_keys_used(&world->keys[SENDER_END], key, sequence);
}

static int choose(const mc_model *model, const mc_world *world, uint32_t *key_out)
{
    const rt_edge_keys *keys = &world->keys[SENDER_END];
    rt_edge_sender tx = world->sender;
    uint64_t idle = 0;
    if (model->mutant == MUTANT_KEY_IN_USE)
        tx.released = tx.sent;
    for (uint32_t key = 0; key < keys->count; key++)
        idle |= (uint64_t)!is_alive(world, world->key_region[SENDER_END][key]) << key;
    return rt_edge_keys_choose(keys, &tx, idle, key_out);
}

/* Whether a tensor that is not released lies in a region: then it cannot be closed. */
static bool is_needed(const mc_model *model, const mc_world *world, uint32_t region)
{
    for (uint8_t tag = 1; tag <= model->messages; tag++) {
        if (world->place_of[tag] == identity(world, region) && rt_edge_sender_keeps(&world->sender, model_sequence(tag)))
            return true;
    }
    return false;
}

void keys_actions(const mc_model *model, const mc_world *world, mc_choices *choices)
{
    uint64_t sequence = 0;
    uint32_t key;
    const mc_end *end = &world->ends[SENDER_END];
    if (model->regions == 0 || world->sender_dead)
        return;
    if (model->regions_end && world->incarnation[1] == 0 && !is_needed(model, world, 1))
        choices_add(choices, ACT_REGION, 1, 0);
    bool due = world->sender.sent != model_sequence(model->messages) && rt_edge_sender_next(&world->sender, &sequence) == RT_OK;
    if (due && !end->asking && !find(model, world, sequence, &key) && choose(model, world, &key) == RT_OK)
        choices_add(choices, ACT_ASK_KEY, 0, 0);
}

void keys_ask(const mc_model *model, mc_world *world)
{
    uint32_t key = 0;
    int status = choose(model, world, &key);
    assert(status == RT_OK);
    if (key < world->keys[SENDER_END].count)
        world->key_region[SENDER_END][key] = 0; /* no record names it from here on */
    world->asked_key = (uint8_t)key;
    world->asked_region = identity(world, region_of(model, world->sender.sent + 1));
    world->ends[SENDER_END].asking = true;
    ends_post(world, RECEIVER_END, MESSAGE_ADD_KEY);
}

void keys_region_anew(mc_world *world, uint32_t region)
{
    world->incarnation[region]++;
}

/* The registration may have ended meanwhile: then some providers refuse it. */
void keys_hear_ask(const mc_model *model, mc_world *world, bool refused)
{
    uint32_t key = world->asked_key;
    bool held = false;
    for (uint32_t slot = 0; slot < model->slots; slot++) {
        uint8_t tag = (world->borrowed & 1u << slot) != 0 ? world->tensor[slot] : world->reads[slot].tag;
        held = held || (tag != 0 && tag != TAG_GARBAGE && world->key_of[tag] == key);
    }
    if (world->ends[RECEIVER_END].left || refused) {
        ends_post(world, SENDER_END, MESSAGE_KEY_REFUSED);
        return;
    }
    if (!rt_edge_keys_may_add(&world->keys[RECEIVER_END], key, held)) {
        model_complain(world, VIOLATION_REFUSED);
        return;
    }
    rt_edge_keys_added(&world->keys[RECEIVER_END], key, 0);
    world->key_region[RECEIVER_END][key] = world->asked_region;
    ends_post(world, SENDER_END, MESSAGE_KEY_ADDED);
}

bool keys_may_be_refused(const mc_world *world)
{
    return !is_alive(world, world->asked_region);
}

void keys_hear_answer(mc_world *world, bool added)
{
    world->ends[SENDER_END].asking = false;
    if (added) {
        rt_edge_keys_added(&world->keys[SENDER_END], world->asked_key, world->sender.released);
        world->key_region[SENDER_END][world->asked_key] = world->asked_region;
    }
    world->asked_key = world->asked_region = 0;
}

/* The memory that the receiver reaches by the number in the record must be where the tensor lies. */
void keys_check(const mc_model *model, mc_world *world, uint8_t tag)
{
    if (model->regions == 0)
        return;
    uint8_t reached = world->key_region[RECEIVER_END][world->key_of[tag]];
    if (reached != world->place_of[tag])
        model_complain(world, VIOLATION_TORN);
    else if (!is_alive(world, reached))
        model_complain(world, VIOLATION_GIVEN);
}
