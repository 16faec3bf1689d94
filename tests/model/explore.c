/* explore.c: every state that the edges' code can reach over a network that does whatever its promises allow, for small bounds.
 *
 *     explore            all explorations of the table, one line each; exit status 1 when one is not as expected
 *     explore NAME       those whose name contains NAME
 *
 * Breadth first, over the states themselves: search.h has the set of those that were seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* ---- breadth first ---- */

typedef struct mc_level {
    mc_world *worlds;
    uint32_t *numbers;
    size_t count, capacity;
} mc_level;

static void push(mc_level *level, const mc_world *pushed, uint32_t number)
{
    if (level->count == level->capacity) {
        level->capacity = level->capacity == 0 ? 256 : 2 * level->capacity;
        level->worlds = search_must(realloc(level->worlds, level->capacity * sizeof *level->worlds));
        level->numbers = search_must(realloc(level->numbers, level->capacity * sizeof *level->numbers));
    }
    level->worlds[level->count] = *pushed;
    level->numbers[level->count++] = number;
}

static uint64_t hash_of(const mc_world *world)
{
    return search_mix(1, world, sizeof *world);
}

/* Nothing may happen but a death or a close, which nobody may count on. */
static bool is_stuck(const search_step *actions, uint32_t count)
{
    uint32_t choices = 0;
    for (uint32_t index = 0; index < count; index++) {
        mc_action_kind kind = (mc_action_kind)actions[index].kind;
        choices += kind == ACT_KILL_SENDER || kind == ACT_KILL_RECEIVER || kind == ACT_CUT || kind == ACT_WANT;
    }
    return choices == count;
}

/* All steps from one state. True when one of them, or that there is none, breaks something. */
static bool expand(const mc_model *model, search_seen *seen, const mc_world *now, uint32_t number, mc_level *next,
                   search_outcome *outcome)
{
    search_step actions[MODEL_ACTIONS];
    uint32_t count = world_actions(model, now, actions);
    outcome->last = number;
    if (is_stuck(actions, count)) {
        outcome->ends++;
        outcome->found = (int)world_ended(model, now);
        if (outcome->found != NO_VIOLATION)
            return true;
    }
    for (uint32_t index = 0; index < count; index++) {
        mc_world after = *now;
        world_do(model, &after, actions[index]);
        outcome->steps++;
        if (!search_enter(seen, hash_of(&after), number, actions[index]))
            continue;
        outcome->last = (uint32_t)(seen->count - 1);
        if (after.violation != NO_VIOLATION) {
            outcome->found = after.violation;
            return true;
        }
        push(next, &after, outcome->last);
    }
    return false;
}

static search_outcome explore(const mc_model *model, search_seen *seen)
{
    search_outcome outcome = {.found = NO_VIOLATION};
    mc_level now = {.count = 0}, next = {.count = 0};
    mc_world start;
    world_begin(model, &start);
    search_enter(seen, hash_of(&start), 0, (search_step){.kind = 0});
    push(&now, &start, 0);
    bool broken = false;
    for (; now.count > 0 && !broken; outcome.depth++) {
        for (size_t at = 0; at < now.count && !broken; at++)
            broken = expand(model, seen, &now.worlds[at], now.numbers[at], &next, &outcome);
        mc_level swapped = now;
        now = next;
        next = swapped;
        next.count = 0;
    }
    free(now.worlds);
    free(now.numbers);
    free(next.worlds);
    free(next.numbers);
    outcome.states = seen->count;
    return outcome;
}

/* Walks the way to a state again, in words. */
static void print_schedule(const mc_model *model, const search_seen *seen, uint32_t last)
{
    static search_step way[SEARCH_DEPTH_MAX];
    uint32_t size = search_way(seen, last, way);
    mc_world world;
    world_begin(model, &world);
    for (uint32_t step = 0; step < size; step++) {
        char text[SEARCH_TEXT];
        world_describe(model, &world, way[step], text, sizeof text);
        printf("    %2u. %s\n", step + 1, text);
        world_do(model, &world, way[step]);
    }
}

/* ---- the table ---- */

#define STATIC .dynamic = false
#define DYNAMIC .dynamic = true
#define TAIL .mode = RT_EDGE_TAIL
#define CHAINED .mode = RT_EDGE_CHAINED
#define IMMEDIATE .mode = RT_EDGE_IMMEDIATE
#define CREDIT .flow = RT_EDGE_FLOW_CREDIT
#define LOOP .flow = RT_EDGE_FLOW_LOOP
#define ORDERED .orders_writes = true
#define COVERS .covers = true
#define APART .covers = true, .apart = true
#define ASCENDING .orders_bytes = true
#define WHOLE .words_whole = true
#define CRASH .crash = true
#define CUT .cut = true
#define VERIFY .verify = true
#define CHECKED .loop_check = true
#define BROKEN .breaks_loop = true
#define SIZES(slot_count, stripe_count, message_count)                                                                           \
    .slots = (slot_count), .stripes = (stripe_count), .messages = (message_count)
#define CLOSES .closes = true
#define BORROWS .borrows = true
#define KEYS(region_count, number_count) .regions = (region_count), .key_numbers = (number_count)
#define REGIONS_END .regions_end = true
#define RING(places) .ring = (places)
#define LENDS .lends = true
#define MUTANT(what) .mutant = MUTANT_##what
#define FINDS(what) .expected = VIOLATION_##what

/* clang-format off */
static const mc_model models[] = {
    /* what holds */
    {"static chained credit, 1 slot",             STATIC, CHAINED, CREDIT, SIZES(1, 1, 6), ORDERED, WHOLE, CRASH},
    {"static chained credit, 2 slots",            STATIC, CHAINED, CREDIT, SIZES(2, 1, 6), ORDERED, WHOLE, CRASH},
    {"static chained credit, 3 slots",            STATIC, CHAINED, CREDIT, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH},
    {"static chained credit, 3 slots, 2 QPs",     STATIC, CHAINED, CREDIT, SIZES(3, 2, 5), ORDERED, WHOLE, CRASH},
    {"static chained credit, 2 QPs, verify",      STATIC, CHAINED, CREDIT, SIZES(2, 2, 5), ORDERED, WHOLE, CRASH, VERIFY},
    {"static chained credit, torn words",         STATIC, CHAINED, CREDIT, SIZES(3, 1, 6), ORDERED, CRASH},
    {"static tail credit, 1 slot",                STATIC, TAIL, CREDIT, SIZES(1, 1, 6), ORDERED, ASCENDING, WHOLE, CRASH},
    {"static tail credit, 2 slots",               STATIC, TAIL, CREDIT, SIZES(2, 1, 6), ORDERED, ASCENDING, WHOLE, CRASH},
    {"static tail credit, 3 slots",               STATIC, TAIL, CREDIT, SIZES(3, 1, 6), ORDERED, ASCENDING, WHOLE, CRASH},
    {"static tail credit, 3 slots, torn words",   STATIC, TAIL, CREDIT, SIZES(3, 1, 6), ORDERED, ASCENDING, CRASH},
    {"static tail credit, no promise, verify",    STATIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, VERIFY},
    {"static immediate credit, 1 slot",           STATIC, IMMEDIATE, CREDIT, SIZES(1, 1, 6), ORDERED, WHOLE, CRASH},
    {"static immediate credit, 2 slots, 2 QPs",   STATIC, IMMEDIATE, CREDIT, SIZES(2, 2, 4), ORDERED, WHOLE, CRASH},
    {"static immediate credit, 3 slots",          STATIC, IMMEDIATE, CREDIT, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH},
    {"static immediate credit, unordered",        STATIC, IMMEDIATE, CREDIT, SIZES(3, 1, 5), CRASH},
    {"static immediate credit, unordered, 2 QPs", STATIC, IMMEDIATE, CREDIT, SIZES(2, 2, 4), CRASH},
    {"static immediate credit, unordered pieces", STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), CRASH, VERIFY, .in_pieces = true},
    {"static immediate credit, covering",         STATIC, IMMEDIATE, CREDIT, SIZES(3, 1, 5), WHOLE, CRASH, COVERS},
    {"static immediate credit, apart",            STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, CRASH, VERIFY, APART, .in_pieces = true},
    {"static immediate credit, apart, 2 QPs",     STATIC, IMMEDIATE, CREDIT, SIZES(2, 2, 3), WHOLE, CRASH, APART},
    {"static chained loop, kept",                 STATIC, CHAINED, LOOP, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH},
    {"static chained loop, kept, checked",        STATIC, CHAINED, LOOP, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH, CHECKED},
    {"static tail loop, kept, checked",           STATIC, TAIL, LOOP, SIZES(2, 1, 5), ORDERED, ASCENDING, WHOLE, CRASH, CHECKED},
    {"static immediate loop, kept, checked",      STATIC, IMMEDIATE, LOOP, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH, CHECKED},
    {"static chained loop, broken, 1 slot",       STATIC, CHAINED, LOOP, SIZES(1, 1, 6), ORDERED, WHOLE, CHECKED, BROKEN},
    {"static chained loop, broken, 3 slots",      STATIC, CHAINED, LOOP, SIZES(3, 1, 6), ORDERED, WHOLE, CHECKED, BROKEN},
    {"static chained loop, broken, 2 QPs",        STATIC, CHAINED, LOOP, SIZES(2, 2, 4), ORDERED, WHOLE, CHECKED, BROKEN},
    {"static tail loop, broken",                  STATIC, TAIL, LOOP, SIZES(2, 1, 5), ORDERED, ASCENDING, WHOLE, CHECKED, BROKEN},
    {"static immediate loop, broken",             STATIC, IMMEDIATE, LOOP, SIZES(2, 1, 5), ORDERED, WHOLE, CHECKED, BROKEN},
    {"dynamic chained, 1 slot",                   DYNAMIC, CHAINED, CREDIT, SIZES(1, 1, 6), ORDERED, WHOLE, CRASH},
    {"dynamic chained, 2 slots",                  DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 6), ORDERED, WHOLE, CRASH},
    {"dynamic chained, 3 slots",                  DYNAMIC, CHAINED, CREDIT, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH},
    {"dynamic tail, 2 slots, verify",             DYNAMIC, TAIL, CREDIT, SIZES(2, 1, 5), ORDERED, ASCENDING, CRASH, VERIFY},
    {"dynamic tail, no promise, verify",          DYNAMIC, TAIL, CREDIT, SIZES(1, 1, 4), ORDERED, WHOLE, VERIFY},
    {"dynamic immediate, 2 slots, unordered",     DYNAMIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), CRASH},
    {"dynamic immediate, 2 slots, covering",      DYNAMIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, CRASH, COVERS},
    {"links fail, static chained, 2 slots",       STATIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, CUT},
    {"links fail, static chained, 2 QPs",         STATIC, CHAINED, CREDIT, SIZES(2, 2, 4), ORDERED, WHOLE, CUT},
    {"links fail, static loop, checked",          STATIC, CHAINED, LOOP, SIZES(2, 1, 5), ORDERED, WHOLE, CUT, CHECKED},
    {"links fail, static immediate, unordered",   STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), CUT},
    {"links fail, dynamic chained, 2 slots",      DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, CUT},
    {"links fail, dynamic chained, 3 slots",      DYNAMIC, CHAINED, CREDIT, SIZES(3, 1, 4), ORDERED, WHOLE, CUT},
    /* either end closes at any moment, with anything outstanding */
    {"close, static chained, 1 slot",             STATIC, CHAINED, CREDIT, SIZES(1, 1, 4), ORDERED, WHOLE, CRASH, CLOSES},
    {"close, static chained, 3 slots",            STATIC, CHAINED, CREDIT, SIZES(3, 1, 4), ORDERED, WHOLE, CRASH, CLOSES},
    {"close, static chained, 2 QPs",              STATIC, CHAINED, CREDIT, SIZES(2, 2, 3), ORDERED, WHOLE, CRASH, CLOSES},
    {"close, static chained, verify",             STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CRASH, VERIFY, CLOSES},
    {"close, static tail, 2 slots",               STATIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, ASCENDING, WHOLE, CRASH, CLOSES},
    {"close, static immediate, unordered",        STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, CRASH, CLOSES},
    {"close, static immediate, apart",            STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 3), WHOLE, CRASH, CLOSES, APART},
    {"close, static loop, checked",               STATIC, CHAINED, LOOP, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, CHECKED, CLOSES},
    {"close, dynamic chained, 2 slots",           DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, CLOSES},
    {"close, dynamic chained, 3 slots",           DYNAMIC, CHAINED, CREDIT, SIZES(3, 1, 3), ORDERED, WHOLE, CRASH, CLOSES},
    {"close, dynamic borrowed, 2 slots",          DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, CLOSES, BORROWS},
    {"close, links fail, static chained",         STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CUT, CLOSES},
    {"close, links fail, static immediate",       STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 3), WHOLE, CUT, CLOSES},
    {"close, links fail, dynamic chained",        DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CUT, CLOSES},
    /* tensors from more regions than there are keys */
    {"keys, 3 regions, 2 numbers",                DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, KEYS(3, 2)},
    {"keys, 4 regions, 3 numbers",                DYNAMIC, CHAINED, CREDIT, SIZES(3, 1, 6), ORDERED, WHOLE, CRASH, KEYS(4, 3)},
    {"keys, 4 regions, 3 numbers, unordered",     DYNAMIC, IMMEDIATE, CREDIT, SIZES(3, 1, 5), WHOLE, CRASH, KEYS(4, 3)},
    {"keys, regions end",                         DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, KEYS(3, 3), REGIONS_END},
    {"keys, regions end, borrowed",               DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, KEYS(3, 2), REGIONS_END, BORROWS},
    {"keys, regions end, close",                  DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, KEYS(3, 2), REGIONS_END,
                                                  CLOSES},
    {"keys, links fail",                          DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, KEYS(3, 2), CUT},
    /* static tensors are copied through a ring of chunks */
    {"staged, chained, ring of 1",                STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, RING(1)},
    {"staged, chained, ring of 2, verify",        STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, VERIFY, RING(2)},
    {"staged, chained, ring of 3, 2 QPs",         STATIC, CHAINED, CREDIT, SIZES(2, 2, 4), ORDERED, WHOLE, CRASH, RING(3)},
    {"staged, tail, ring of 2",                   STATIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, ASCENDING, WHOLE, CRASH, RING(2)},
    {"staged, immediate, ring of 2",              STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, RING(2)},
    {"staged, immediate, unordered pieces",       STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, CRASH, VERIFY, RING(2), .in_pieces = true},
    {"staged, loop, checked",                     STATIC, CHAINED, LOOP, SIZES(2, 1, 4), ORDERED, WHOLE, CRASH, CHECKED, RING(2)},
    {"staged, close, ring of 1",                  STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CRASH, RING(1), CLOSES},
    {"staged, close, ring of 2, 2 QPs",           STATIC, CHAINED, CREDIT, SIZES(2, 2, 2), ORDERED, WHOLE, CRASH, RING(2), CLOSES},
    {"staged, close, unordered pieces",           STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 2), WHOLE, CRASH, VERIFY, RING(2), CLOSES,
                                                  .in_pieces = true},
    {"staged, close, links fail",                 STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CUT, RING(2), CLOSES},
    /* static tensors are written in the receiver's slots, or given up half way */
    {"lent, chained, 1 slot",                     STATIC, CHAINED, CREDIT, SIZES(1, 1, 5), ORDERED, WHOLE, CRASH, LENDS},
    {"lent, chained, 3 slots",                    STATIC, CHAINED, CREDIT, SIZES(3, 1, 5), ORDERED, WHOLE, CRASH, LENDS},
    {"lent, chained, 2 QPs, verify",              STATIC, CHAINED, CREDIT, SIZES(2, 2, 4), ORDERED, WHOLE, CRASH, VERIFY, LENDS},
    {"lent, tail, 2 slots",                       STATIC, TAIL, CREDIT, SIZES(2, 1, 5), ORDERED, ASCENDING, WHOLE, CRASH, LENDS},
    {"lent, links fail",                          STATIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, CUT, LENDS},
    {"lent, close, 1 slot",                       STATIC, CHAINED, CREDIT, SIZES(1, 1, 3), ORDERED, WHOLE, CRASH, LENDS, CLOSES},
    {"lent, close, 2 slots",                      STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CRASH, LENDS, CLOSES},
    {"lent, close, links fail",                   STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CUT, LENDS, CLOSES},
    /* what a broken premise breaks: found, and kept found */
    {"tail without ascending bytes",              STATIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, FINDS(TORN)},
    {"tail of a record without ascending bytes",  DYNAMIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, FINDS(TORN)},
    {"tail without ordered writes",               STATIC, TAIL, CREDIT, SIZES(1, 1, 4), ASCENDING, WHOLE, FINDS(DEADLOCK)},
    {"immediate that covers nothing",             STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, COVERS, .in_pieces = true, MUTANT(UNCOVERED), FINDS(TORN)},
    {"chained without ordered writes",            STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), WHOLE, FINDS(TORN)},
    {"loop, broken, not checked",                 STATIC, CHAINED, LOOP, SIZES(1, 1, 4), ORDERED, WHOLE, BROKEN, FINDS(TORN)},
    {"tensors freed before the links are shut",   DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CUT, MUTANT(LATE_SHUT),
                                                  FINDS(TORN)},
    {"several credits without ordered writes",    STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, MUTANT(HASTY_CREDITS),
                                                  FINDS(DEADLOCK)},
    {"close told while WRITEs are under way",     STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES, MUTANT(HASTY_TELL),
                                                  FINDS(GIVEN)},
    {"close answered while WRITEs are under way", STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES, MUTANT(HASTY_ANSWER),
                                                  FINDS(GIVEN)},
    {"close while a credit is under way",         STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES,
                                                  MUTANT(CREDITS_FORGOTTEN), FINDS(GIVEN)},
    {"credit after the close was told",           STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES,
                                                  MUTANT(CREDIT_AFTER_CLOSE), FINDS(GIVEN)},
    {"close while a READ is under way",           DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES,
                                                  MUTANT(READS_FORGOTTEN), FINDS(TORN)},
    {"sender leaves before the release",          STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES, MUTANT(HASTY_LEAVE),
                                                  FINDS(GIVEN)},
    {"receiver closes second and says nothing",   STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CLOSES,
                                                  MUTANT(SILENT_RECEIVER), FINDS(DEADLOCK)},
    {"close, credit words torn",                  STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, CLOSES, FINDS(GIVEN)},
    {"key used before it was answered",           DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, KEYS(3, 3), MUTANT(HASTY_KEY),
                                                  FINDS(REFUSED)},
    {"key used again before the release",         DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, KEYS(3, 2), MUTANT(KEY_IN_USE),
                                                  FINDS(REFUSED)},
    {"key of a region that was made anew",        DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, KEYS(2, 2), REGIONS_END,
                                                  MUTANT(KEY_BY_NUMBER), FINDS(TORN)},
    {"chunk filled again before its WRITE ended", STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, RING(1), MUTANT(HASTY_CHUNK),
                                                  FINDS(TORN)},
    {"flag with the first chunk",                 STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, RING(2), MUTANT(FLAG_FIRST),
                                                  FINDS(TORN)},
    {"staging goes on after the close",           STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, RING(1), CLOSES,
                                                  MUTANT(STAGING_GOES_ON), FINDS(TORN)},
    {"slot lent before its release",              STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, LENDS, MUTANT(LENT_EARLY),
                                                  FINDS(OVERWRITE)},
    {"sent beside a loan",                        STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, LENDS, MUTANT(SENT_BESIDE),
                                                  FINDS(OVERWRITE)},
    {"close answered while a slot is lent",       STATIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, LENDS, CLOSES,
                                                  MUTANT(LOANS_FORGOTTEN), FINDS(GIVEN)},
    {"borrowed, links fail",                      DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 3), ORDERED, WHOLE, CUT, BORROWS, FINDS(TORN)},
};
/* clang-format on */

static const char *found_name(int violation)
{
    return violation_name((mc_violation)violation);
}

static bool run(const void *given)
{
    const mc_model *model = given;
    search_seen seen = {.count = 0};
    search_outcome outcome = explore(model, &seen);
    char bounds[80];
    snprintf(bounds, sizeof bounds, "%u slots %u QPs %u tensors", model->slots, model->stripes, model->messages);
    bool right = search_tell(model->name, bounds, &outcome, (int)model->expected, found_name);
    if (outcome.found != NO_VIOLATION || !right)
        print_schedule(model, &seen, outcome.last);
    search_free(&seen);
    return right;
}

int main(int argument_count, char **arguments)
{
    return search_main(argument_count, arguments, models, sizeof models[0], sizeof models / sizeof models[0], run);
}
