/* explore.c: every order in which members, and messages, can go on in small programs of collective calls.
 *
 *     calls            all explorations of the table, one line each; exit status 1 when one is not as expected
 *     calls NAME       those whose name contains NAME
 *
 * Breadth first; a state is reached again by its way: tests/model/search.h. */
#include <stdio.h>

#include "calls.h"

/* ---- the table ---- */

#define ALL(...) .calls = {{__VA_ARGS__}, {__VA_ARGS__}, {__VA_ARGS__}}
#define MEMORY(first, second, third) .memory = {(first), (second), (third)}
#define MAPS .maps = true
#define LARGE .large = true
#define ALONE .alone = true
#define GIVES_UP(rank) .gives_up = (rank) + 1
#define MUTANT(what) .mutant = TC_##what
#define FINDS(what) .expected = TC_##what

/* clang-format off */
#define TO_ALL(bytes) {'a', -1, (bytes)}
#define TO_ROOT(root, bytes) {'r', (root), (bytes)}
#define SCATTER(bytes) {'s', -1, (bytes)}
#define GATHER(bytes) {'g', -1, (bytes)}
#define BROADCAST(root, bytes) {'b', (root), (bytes)}
#define EXCHANGE(bytes) {'x', -1, (bytes)}
#define BARRIER {'|', -1, 0}

static const tc_model models[] = {
    {"whole", 3, 4, MAPS, ALL(TO_ALL(TC_SMALL), TO_ROOT(1, TC_SMALL))},
    {"whole, messages under way", 2, 4, ALL(TO_ALL(TC_SMALL), TO_ROOT(1, TC_SMALL))},
    {"in steps", 2, 4, MAPS, ALL(TO_ALL(TC_STEPS))},
    {"in steps, messages under way", 2, 4, ALL(TO_ALL(TC_STEPS))},
    {"in steps, 3 members", 3, 4, MAPS, ALL(TO_ALL(TC_STEPS))},
    {"scatter and gather in chunks", 2, 4, MAPS, ALL(SCATTER(48), GATHER(48))},
    {"broadcast down a chain", 3, 4, MAPS, ALL(BROADCAST(1, 48), BARRIER)},
    {"exchange in chunks", 2, 4, MAPS, ALL(EXCHANGE(48), EXCHANGE(16))},
    {"exchange in chunks, messages under way", 2, 4, ALL(EXCHANGE(48))},
    {"spread: into the others' outputs", 2, 4, MAPS, MEMORY('w', 'w', 'w'), ALL(TO_ALL(TC_LARGE), TO_ALL(TC_LARGE))},
    {"pieces: read by the others", 2, 4, MAPS, MEMORY('r', 'w', 'r'), ALL(TO_ALL(TC_LARGE), TO_ALL(TC_LARGE))},
    {"pieces, 3 members", 3, 4, MAPS, MEMORY('r', 'r', 'r'), ALL(TO_ALL(TC_LARGE))},
    {"spread, 3 members", 3, 4, MAPS, MEMORY('w', 'w', 'w'), ALL(TO_ALL(TC_LARGE))},
    {"deliver: into the root's output", 2, 4, MAPS, MEMORY('w', 'w', 'w'), ALL(TO_ROOT(1, TC_LARGE), TO_ROOT(0, TC_LARGE))},
    {"collect: the root reads all", 2, 4, MAPS, MEMORY('r', 'r', 'r'), ALL(TO_ROOT(1, TC_LARGE), TO_ROOT(0, TC_LARGE))},
    {"one member's memory is ordinary", 2, 4, MAPS, LARGE, MEMORY('w', 'o', 'w'), ALL(SCATTER(TC_LARGE))},
    {"scatter and gather where it lies", 2, 4, MAPS, MEMORY('r', 'r', 'r'), ALL(SCATTER(TC_LARGE), GATHER(TC_LARGE))},
    {"broadcast where it lies", 3, 4, MAPS, MEMORY('r', 'o', 'r'), ALL(BROADCAST(0, TC_LARGE))},
    {"exchange where it lies", 2, 4, MAPS, MEMORY('r', 'w', 'r'), ALL(EXCHANGE(TC_LARGE), EXCHANGE(TC_LARGE))},
    {"exchange where it lies, 1 slot", 2, 1, MAPS, MEMORY('r', 'w', 'r'), ALL(EXCHANGE(TC_LARGE))},
    {"different calls", 2, 4, MAPS, ALONE, .calls = {{TO_ALL(TC_SMALL)}, {GATHER(16)}}},
    {"two roots", 3, 4, MAPS, ALONE, .calls = {{TO_ROOT(0, TC_SMALL)}, {TO_ROOT(1, TC_SMALL)}, {TO_ROOT(0, TC_SMALL)}}},
    {"different sizes where it lies", 2, 4, MAPS, ALONE, MEMORY('w', 'w', 'w'), .calls = {{TO_ALL(TC_LARGE)}, {TO_ALL(TC_SMALL)}}},
    {"given up, whole", 3, 4, MAPS, GIVES_UP(0), ALL(TO_ALL(TC_SMALL), BARRIER)},
    {"given up, pieces", 2, 4, MAPS, GIVES_UP(0), MEMORY('r', 'r', 'r'), ALL(TO_ALL(TC_LARGE), BARRIER)},
    {"given up, spread", 2, 4, MAPS, GIVES_UP(0), MEMORY('w', 'w', 'w'), ALL(TO_ALL(TC_LARGE), BARRIER)},
    {"given up, exchange where it lies", 2, 4, MAPS, GIVES_UP(0), MEMORY('r', 'r', 'r'), ALL(EXCHANGE(TC_LARGE), BARRIER)},
    {"given up, collect", 2, 4, MAPS, GIVES_UP(1), MEMORY('r', 'r', 'r'), ALL(TO_ROOT(0, TC_LARGE), BARRIER)},
    {"given up, deliver", 2, 4, MAPS, GIVES_UP(1), MEMORY('w', 'w', 'w'), ALL(TO_ROOT(0, TC_LARGE), BARRIER)},
    {"given up, scatter where it lies", 2, 4, MAPS, GIVES_UP(0), MEMORY('r', 'r', 'r'), ALL(SCATTER(TC_LARGE), BARRIER)},
    {"given up, broadcast where it lies", 3, 4, MAPS, GIVES_UP(0), MEMORY('r', 'r', 'r'), ALL(BROADCAST(0, TC_LARGE), BARRIER)},
    {"given up, gather where it lies", 2, 4, MAPS, GIVES_UP(0), MEMORY('r', 'r', 'r'), ALL(GATHER(TC_LARGE), BARRIER)},
    /* what a rule that is left out breaks: found, and kept found */
    {"a direct call without an end, read", 2, 4, MAPS, MUTANT(NO_FINISH), FINDS(VALUE), MEMORY('r', 'r', 'r'), ALL(GATHER(TC_LARGE))},
    {"a direct call without an end, written", 2, 4, MAPS, MUTANT(NO_FINISH), FINDS(VALUE), MEMORY('w', 'w', 'w'), ALL(TO_ALL(TC_LARGE))},
    {"read after its member gave up", 2, 4, MAPS, GIVES_UP(0), MUTANT(NO_CHECK), FINDS(VALUE), MEMORY('r', 'r', 'r'), ALL(GATHER(TC_LARGE))},
    {"a slot used again too early", 2, 1, MAPS, MUTANT(NO_ROOM), FINDS(VALUE), ALL(GATHER(32))},
    {"one slot where steps need more", 2, 1, MAPS, FINDS(DEADLOCK), ALL(TO_ALL(TC_STEPS))},
    {"two roots that tell nobody", 3, 4, MAPS, ALONE, MUTANT(NO_WORD), FINDS(DEADLOCK), .calls = {{TO_ROOT(0, TC_SMALL)}, {TO_ROOT(1, TC_SMALL)}, {TO_ROOT(0, TC_SMALL)}}},
};
/* clang-format on */

static const char *violation_name(int violation)
{
    static const char *const names[] = {[TC_NONE] = "none",
                                        [TC_VALUE] = "a result that is not the right one",
                                        [TC_TOUCHED] = "memory was written after it was its caller's again",
                                        [TC_BLAMED] = "a call failed and nobody was at fault",
                                        [TC_DEADLOCK] = "somebody waits for ever"};
    return names[violation];
}

static uint32_t count_calls(const tc_model *model)
{
    uint32_t count = 0;
    while (count < TC_CALLS && model->calls[0][count].kind != 0)
        count++;
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

/* Nobody may count on a signal. */
static bool is_optional(search_step step)
{
    return step.kind == TC_INTERRUPT;
}

static const search_world world = {
    .begin = begin,
    .steps = members_actions,
    .is_optional = is_optional,
    .go = members_do,
    .violation = violation,
    .settled = settled,
    .digest = members_digest,
    .describe = members_describe,
    .violation_name = violation_name,
};

static bool run(const void *given)
{
    const tc_model *model = given;
    char bounds[80];
    snprintf(bounds, sizeof bounds, "%u members %u slots %u calls", model->members, model->slots, count_calls(model));
    return search_explore(&world, model, model->name, bounds, (int)model->expected);
}

int main(int argument_count, char **arguments)
{
    return search_main(argument_count, arguments, models, sizeof models[0], sizeof models / sizeof models[0], run);
}
