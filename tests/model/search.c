/* search.c: exhaustive exploration, breadth first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search.h"

void *search_must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "no memory for what is found\n");
        exit(2);
    }
    return memory;
}

static uint64_t *place_of(uint64_t *hashes, uint64_t capacity, uint64_t hash)
{
    uint64_t at = hash & (capacity - 1);
    while (hashes[at] != 0 && hashes[at] != hash)
        at = (at + 1) & (capacity - 1);
    return &hashes[at];
}

static void grow(search_seen *seen)
{
    uint64_t capacity = seen->capacity == 0 ? 1u << 16 : 2 * seen->capacity;
    uint64_t *hashes = search_must(calloc(capacity, sizeof *hashes));
    for (uint64_t at = 0; at < seen->capacity; at++) {
        if (seen->hashes[at] != 0)
            *place_of(hashes, capacity, seen->hashes[at]) = seen->hashes[at];
    }
    free(seen->hashes);
    seen->hashes = hashes;
    seen->capacity = capacity;
    seen->states = search_must(realloc(seen->states, capacity * sizeof *seen->states));
}

bool search_enter(search_seen *seen, uint64_t hash, uint32_t from, search_step by)
{
    if (2 * seen->count >= seen->capacity)
        grow(seen);
    uint64_t *place = place_of(seen->hashes, seen->capacity, hash);
    if (*place != 0)
        return false;
    *place = hash;
    seen->states[seen->count++] = (search_state){from, by};
    return true;
}

uint32_t search_way(const search_seen *seen, uint32_t number, search_step way_out[SEARCH_DEPTH_MAX])
{
    uint32_t size = 0;
    for (uint32_t at = number; at != 0; at = seen->states[at].from)
        size++;
    if (size > SEARCH_DEPTH_MAX) {
        fprintf(stderr, "a way of more than %d steps\n", SEARCH_DEPTH_MAX);
        exit(2);
    }
    uint32_t left = size;
    for (uint32_t at = number; at != 0; at = seen->states[at].from)
        way_out[--left] = seen->states[at].by;
    return size;
}

void search_free(search_seen *seen)
{
    free(seen->hashes);
    free(seen->states);
    *seen = (search_seen){.count = 0};
}

uint64_t search_mix(uint64_t hash, const void *bytes, uint64_t size)
{
    const uint8_t *from = bytes;
    for (uint64_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        memcpy(&word, from + at, size - at < 8 ? size - at : 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 29;
    }
    return hash == 0 ? 1 : hash;
}

/* ---- a world that is reached again ---- */

static void world_reach(const search_world *world, const void *model, const search_step *way, uint32_t size)
{
    world->begin(model);
    for (uint32_t step = 0; step < size; step++)
        world->go(way[step]);
}

static void world_leave(const search_world *world)
{
    if (world->end != NULL)
        world->end();
}

/* A fault is a state of its own, so that it is looked at even where the rest of the world is known. */
static uint64_t world_digest(const search_world *world)
{
    int violation = world->violation();
    return search_mix(world->digest(), &violation, sizeof violation);
}

/* All steps from one state. */
static void expand(const search_world *world, const void *model, search_seen *seen, uint32_t number, search_outcome *outcome)
{
    static search_step way[SEARCH_DEPTH_MAX];
    search_step steps[SEARCH_STEPS_MAX];
    uint32_t size = search_way(seen, number, way), moves = 0;
    world_reach(world, model, way, size);
    uint64_t here = world_digest(world);
    uint32_t count = world->steps(steps);
    world_leave(world);
    outcome->depth = size;
    for (uint32_t index = 0; index < count && outcome->found == 0; index++) {
        world_reach(world, model, way, size);
        world->go(steps[index]);
        outcome->steps++;
        uint64_t there = world_digest(world);
        moves += there != here && (world->is_optional == NULL || !world->is_optional(steps[index]));
        if (search_enter(seen, there, number, steps[index])) {
            outcome->found = world->violation();
            outcome->last = (uint32_t)(seen->count - 1);
        }
        world_leave(world);
    }
    if (outcome->found != 0 || moves > 0)
        return;
    outcome->ends++;
    outcome->last = number;
    world_reach(world, model, way, size);
    outcome->found = world->settled();
    world_leave(world);
}

static void print_way(const search_world *world, const void *model, const search_seen *seen, uint32_t last)
{
    static search_step way[SEARCH_DEPTH_MAX];
    uint32_t size = search_way(seen, last, way);
    world->begin(model);
    for (uint32_t step = 0; step < size; step++) {
        char text[SEARCH_TEXT];
        world->describe(way[step], text);
        printf("    %2u. %s\n", step + 1, text);
        world->go(way[step]);
    }
    world_leave(world);
}

bool search_explore(const search_world *world, const void *model, const char *name, const char *bounds, int expected)
{
    search_seen seen = {.count = 0};
    search_outcome outcome = {.found = 0};
    world->begin(model);
    search_enter(&seen, world_digest(world), 0, (search_step){.kind = 0});
    world_leave(world);
    for (uint32_t number = 0; number < seen.count && outcome.found == 0; number++)
        expand(world, model, &seen, number, &outcome);
    outcome.states = seen.count;
    bool right = search_tell(name, bounds, &outcome, expected, world->violation_name);
    if (outcome.found != 0 || !right)
        print_way(world, model, &seen, outcome.last);
    search_free(&seen);
    return right;
}

/* ---- the table ---- */

bool search_tell(const char *name, const char *bounds, const search_outcome *outcome, int expected,
                 const char *(*violation_name)(int))
{
    bool right = outcome->found == expected;
    printf("%s %-44s %s %8llu states %9llu steps %6llu ends, depth %u: ", right ? "ok  " : "BAD ", name, bounds,
           (unsigned long long)outcome->states, (unsigned long long)outcome->steps, (unsigned long long)outcome->ends,
           outcome->depth);
    if (right && outcome->found == 0)
        printf("holds\n");
    else
        printf("%s, %s\n", outcome->found == 0 ? "nothing found" : violation_name(outcome->found),
               right ? "as it must be found" : violation_name(expected));
    return right;
}

int search_main(int argument_count, char **arguments, const void *models, size_t size, size_t count, bool (*run)(const void *))
{
    size_t ran = 0, wrong = 0;
    for (size_t index = 0; index < count; index++) {
        const void *model = (const char *)models + index * size;
        if (argument_count > 1 && strstr(*(const char *const *)model, arguments[1]) == NULL)
            continue;
        ran++;
        wrong += !run(model);
        fflush(stdout);
    }
    printf("%zu explorations, %zu not as expected\n", ran, wrong);
    return wrong != 0 || ran == 0;
}
