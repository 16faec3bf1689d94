/* explore.c: every state that the edges' code can reach over a network that does whatever its promises allow, for small bounds.
 *
 *     explore            all explorations of the table, one line each; exit status 1 when one is not as expected
 *     explore NAME       those whose name contains NAME
 *
 * Breadth first, so a schedule that breaks something is a shortest one; it is printed. Equal states are explored once: they are
 * told apart by 64 bits of a hash, so among a million states two different ones are taken for one with a chance of 1 in 30 million. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* ---- the set of states seen, and how each was reached ---- */

typedef struct mc_arrival {
    uint32_t from; /* the state before; its own number at the start */
    mc_action by;
} mc_arrival;

typedef struct mc_seen {
    uint64_t *hashes; /* open addressing; 0 is free */
    uint64_t capacity, count;
    mc_arrival *arrivals;
    uint64_t arrival_capacity;
} mc_seen;

static void *must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "explore: no memory\n");
        exit(2);
    }
    return memory;
}

static uint64_t hash_of(const mc_world *world)
{
    const unsigned char *bytes = (const unsigned char *)world;
    uint64_t hash = 0x9e3779b97f4a7c15ull;
    for (size_t at = 0; at < sizeof *world; at += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + at, sizeof *world - at < 8 ? sizeof *world - at : 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdull;
        hash ^= hash >> 32;
    }
    return hash == 0 ? 1 : hash;
}

static uint64_t *find(uint64_t *hashes, uint64_t capacity, uint64_t hash)
{
    uint64_t at = hash & (capacity - 1);
    while (hashes[at] != 0 && hashes[at] != hash)
        at = (at + 1) & (capacity - 1);
    return &hashes[at];
}

static void grow(mc_seen *seen)
{
    uint64_t capacity = seen->capacity == 0 ? 1u << 16 : 2 * seen->capacity;
    uint64_t *hashes = must(calloc(capacity, sizeof *hashes));
    for (uint64_t at = 0; at < seen->capacity; at++) {
        if (seen->hashes[at] != 0)
            *find(hashes, capacity, seen->hashes[at]) = seen->hashes[at];
    }
    free(seen->hashes);
    seen->hashes = hashes;
    seen->capacity = capacity;
    seen->arrivals = must(realloc(seen->arrivals, capacity * sizeof *seen->arrivals));
}

/* True when the state is new; it then has the number seen->count - 1. */
static bool enter(mc_seen *seen, const mc_world *world, uint32_t from, mc_action by)
{
    if (2 * seen->count >= seen->capacity)
        grow(seen);
    uint64_t hash = hash_of(world), *place = find(seen->hashes, seen->capacity, hash);
    if (*place != 0)
        return false;
    *place = hash;
    seen->arrivals[seen->count++] = (mc_arrival){from, by};
    return true;
}

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
        level->worlds = must(realloc(level->worlds, level->capacity * sizeof *level->worlds));
        level->numbers = must(realloc(level->numbers, level->capacity * sizeof *level->numbers));
    }
    level->worlds[level->count] = *pushed;
    level->numbers[level->count++] = number;
}

typedef struct mc_outcome {
    mc_violation found;
    uint64_t states, steps, ends;
    uint32_t depth;
    uint32_t last; /* the state that broke something */
} mc_outcome;

/* Nothing may happen but a death, which nobody may count on. */
static bool is_stuck(const mc_action *actions, uint32_t count)
{
    uint32_t deaths = 0;
    for (uint32_t index = 0; index < count; index++)
        deaths +=
            actions[index].kind == ACT_KILL_SENDER || actions[index].kind == ACT_KILL_RECEIVER || actions[index].kind == ACT_CUT;
    return deaths == count;
}

/* All steps from one state. True when one of them, or that there is none, breaks something. */
static bool expand(const mc_model *model, mc_seen *seen, const mc_world *now, uint32_t number, mc_level *next,
                   mc_outcome *outcome)
{
    mc_action actions[MODEL_ACTIONS];
    uint32_t count = world_actions(model, now, actions);
    outcome->last = number;
    if (is_stuck(actions, count)) {
        outcome->ends++;
        outcome->found = world_ended(model, now);
        if (outcome->found != NO_VIOLATION)
            return true;
    }
    for (uint32_t index = 0; index < count; index++) {
        mc_world after = *now;
        world_do(model, &after, actions[index]);
        outcome->steps++;
        if (!enter(seen, &after, number, actions[index]))
            continue;
        outcome->last = (uint32_t)(seen->count - 1);
        if (after.violation != NO_VIOLATION) {
            outcome->found = (mc_violation)after.violation;
            return true;
        }
        push(next, &after, outcome->last);
    }
    return false;
}

static mc_outcome explore(const mc_model *model, mc_seen *seen)
{
    mc_outcome outcome = {.found = NO_VIOLATION};
    mc_level now = {.count = 0}, next = {.count = 0};
    mc_world start;
    world_begin(model, &start);
    enter(seen, &start, 0, (mc_action){.kind = 0});
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
static void print_schedule(const mc_model *model, const mc_seen *seen, uint32_t last)
{
    static uint32_t way[4096];
    uint32_t size = 0;
    for (uint32_t at = last; at != 0 && size < 4096; at = seen->arrivals[at].from)
        way[size++] = at;
    mc_world world;
    world_begin(model, &world);
    for (uint32_t step = 1; size > 0; step++) {
        char text[160];
        mc_action by = seen->arrivals[way[--size]].by;
        world_describe(model, &world, by, text, sizeof text);
        printf("    %2u. %s\n", step, text);
        world_do(model, &world, by);
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
#define ASCENDING .orders_bytes = true
#define WHOLE .words_whole = true
#define CRASH .crash = true
#define CUT .cut = true
#define VERIFY .verify = true
#define CHECKED .loop_check = true
#define BROKEN .breaks_loop = true
#define SIZES(slot_count, stripe_count, message_count)                                                                           \
    .slots = (slot_count), .stripes = (stripe_count), .messages = (message_count)
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
    {"links fail, static chained, 2 slots",       STATIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, CUT},
    {"links fail, static chained, 2 QPs",         STATIC, CHAINED, CREDIT, SIZES(2, 2, 4), ORDERED, WHOLE, CUT},
    {"links fail, static loop, checked",          STATIC, CHAINED, LOOP, SIZES(2, 1, 5), ORDERED, WHOLE, CUT, CHECKED},
    {"links fail, static immediate, unordered",   STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), CUT},
    {"links fail, dynamic chained, 2 slots",      DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 5), ORDERED, WHOLE, CUT},
    {"links fail, dynamic chained, 3 slots",      DYNAMIC, CHAINED, CREDIT, SIZES(3, 1, 4), ORDERED, WHOLE, CUT},
    /* what a broken premise breaks: found, and kept found */
    {"tail without ascending bytes",              STATIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, FINDS(TORN)},
    {"tail of a record without ascending bytes",  DYNAMIC, TAIL, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, FINDS(TORN)},
    {"tail without ordered writes",               STATIC, TAIL, CREDIT, SIZES(1, 1, 4), ASCENDING, WHOLE, FINDS(DEADLOCK)},
    {"chained without ordered writes",            STATIC, CHAINED, CREDIT, SIZES(2, 1, 4), WHOLE, FINDS(TORN)},
    {"loop, broken, not checked",                 STATIC, CHAINED, LOOP, SIZES(1, 1, 4), ORDERED, WHOLE, BROKEN, FINDS(TORN)},
    {"tensors freed before the links are shut",   DYNAMIC, CHAINED, CREDIT, SIZES(2, 1, 4), ORDERED, WHOLE, CUT, .late_shut = true,
                                                  FINDS(TORN)},
    {"several credits without ordered writes",    STATIC, IMMEDIATE, CREDIT, SIZES(2, 1, 4), WHOLE, .hasty_credits = true,
                                                  FINDS(DEADLOCK)},
};
/* clang-format on */

static bool run(const mc_model *model)
{
    mc_seen seen = {.count = 0};
    mc_outcome outcome = explore(model, &seen);
    bool right = outcome.found == model->expected;
    printf("%s %-42s %8llu states %9llu steps %6llu ends, depth %u", right ? "ok  " : "BAD ", model->name,
           (unsigned long long)outcome.states, (unsigned long long)outcome.steps, (unsigned long long)outcome.ends,
           outcome.depth);
    if (outcome.found == NO_VIOLATION && right) {
        printf(": holds\n");
    } else {
        printf(": %s, %s\n", outcome.found == NO_VIOLATION ? "nothing found" : violation_name(outcome.found),
               right ? "as it must be found" : violation_name(model->expected));
        print_schedule(model, &seen, outcome.last);
    }
    free(seen.hashes);
    free(seen.arrivals);
    return right;
}

int main(int argument_count, char **arguments)
{
    size_t ran = 0, wrong = 0;
    for (size_t index = 0; index < sizeof models / sizeof models[0]; index++) {
        if (argument_count > 1 && strstr(models[index].name, arguments[1]) == NULL)
            continue;
        ran++;
        wrong += !run(&models[index]);
        fflush(stdout);
    }
    printf("%zu explorations, %zu not as expected\n", ran, wrong);
    return wrong != 0 || ran == 0;
}
