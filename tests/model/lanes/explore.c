/* explore.c: every order in which members and WRITEs can go on in small programs of messages.
 *
 *     lanes            all explorations of the table, one line each; exit status 1 when one is not as expected
 *     lanes NAME       those whose name contains NAME
 *
 * Breadth first; a state is reached again by its way: tests/model/search.h. */
#include <stdio.h>

#include "lanes.h"

/* ---- the table ---- */

#define MAPS .maps = true
#define DISORDER .disorder = true
#define FENCES .disorder = true, .fences = true
#define MUTANT(what) .mutant = LN_##what
#define FINDS(what) .expected = LN_##what

enum { I = LN_INLINE, L = LN_LARGE };

/* clang-format off */
static const ln_model models[] = {
    {"in slots, mapped", 4, 4, MAPS, .sizes = {{{I, I, I, I, I, I}}, {{I, I}}}},
    {"in chunks, mapped", 4, 4, MAPS, .sizes = {{{L, L, L, L, L, L}}, {{L, I}}}},
    {"two lanes that share chunks, mapped", 4, 4, MAPS, .sizes = {{{L, L, L, L}, {L, L, L, L}}}},
    {"in slots", 4, 4, .sizes = {{{I, I, I, I, I, I}}}},
    {"in slots, both ways", 2, 4, .sizes = {{{I, I, I}}, {{I, I}}}},
    {"in chunks", 4, 4, .sizes = {{{L, I, L, L, L}}}},
    {"in chunks, 2 slots", 2, 4, .sizes = {{{L, L, L, L}}}},
    {"two lanes that share chunks", 4, 4, .sizes = {{{L, L, L}, {L, L}}}},
    {"in parts, mapped", 4, 1, MAPS, .sizes = {{{L, I, L, L}}, {{L}}}},
    {"in parts, more than wait", 2, 1, MAPS, .sizes = {{{L, L, L, L, L, L}}}},
    {"in parts", 2, 1, .sizes = {{{L, I, L}}}},
    {"in parts, both ways", 2, 1, .sizes = {{{L}}, {{L}}}},
    {"in chunks and in parts", 4, 2, .sizes = {{{L, L, L}, {L}}}},
    {"WRITEs without order, in slots", 2, 4, FENCES, .sizes = {{{I, I, I, I}}}},
    {"WRITEs without order, in chunks", 4, 4, FENCES, .sizes = {{{L, I, L, L}}}},
    {"WRITEs without order, both ways", 2, 4, FENCES, .sizes = {{{I, L}}, {{L, I}}}},
    {"WRITEs without order, two lanes", 4, 4, FENCES, .sizes = {{{L, L}, {L}}}},
    {"WRITEs without order, in parts", 2, 1, FENCES, .sizes = {{{L, I}}}},
    /* what a rule or a promise that is left out breaks: found, and kept found */
    {"WRITEs without order, no fences", 4, 4, DISORDER, FINDS(TORN), .sizes = {{{L, I}}}},
    {"chunks that are not told of", 4, 2, MAPS, MUTANT(NO_SETTLE), FINDS(DEADLOCK), .sizes = {{{L}, {L, L}}}},
    {"taken before it is used, mapped", 2, 4, MAPS, MUTANT(TAKE_FIRST), FINDS(TORN), .sizes = {{{I, I, I}}}},
    {"taken before it is used", 2, 4, MUTANT(TAKE_FIRST), FINDS(TORN), .sizes = {{{L, L, L}}}},
};
/* clang-format on */

static const char *violation_name(int violation)
{
    static const char *const names[] = {[LN_NONE] = "none",
                                        [LN_TORN] = "a message that was not sent so",
                                        [LN_BLAMED] = "an honest peer was blamed",
                                        [LN_DEADLOCK] = "messages that never arrive"};
    return names[violation];
}

static uint32_t count_messages(const ln_model *model)
{
    uint32_t count = 0;
    for (uint32_t lane = 0; lane < 4; lane++) {
        for (uint32_t number = 0; number < LN_MESSAGES; number++)
            count += model->sizes[lane / 2][lane % 2][number] != 0;
    }
    return count;
}

static void begin(const void *model)
{
    members_begin(model);
}

static int violation(void)
{
    return (int)members_violation();
}

static int settled(void)
{
    return (int)members_settled();
}

static const search_world world = {
    .begin = begin,
    .steps = members_actions,
    .go = members_do,
    .violation = violation,
    .settled = settled,
    .digest = members_digest,
    .describe = members_describe,
    .violation_name = violation_name,
};

static bool run(const void *given)
{
    const ln_model *model = given;
    char bounds[80];
    snprintf(bounds, sizeof bounds, "%u chunks %u slots %u messages", model->chunks, model->slots, count_messages(model));
    return search_explore(&world, model, model->name, bounds, (int)model->expected);
}

int main(int argument_count, char **arguments)
{
    return search_main(argument_count, arguments, models, sizeof models[0], sizeof models / sizeof models[0], run);
}
