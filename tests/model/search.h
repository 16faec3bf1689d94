/* search.h: exhaustive exploration, breadth first: the states that were found, the steps that led to each, and the line that
 * tells how an exploration came out. A schedule that breaks something is a shortest one. Equal states are explored once: they
 * are told apart by 64 bits of a hash, so among a million states two different ones are taken for one with a chance of 1 in 30
 * million. search.c.
 *
 * Edges (explore.c) keep their states and use the set alone. Members of teams cannot be copied, so a state of theirs is reached
 * again by the same steps from the start: search_world. */
#ifndef RT_TESTS_SEARCH_H
#define RT_TESTS_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SEARCH_DEPTH_MAX = 4096,
    SEARCH_STEPS_MAX = 48, /* from one state */
    SEARCH_TEXT = 160,
};

typedef struct search_step {
    uint8_t kind, first, second; /* with the meanings that the exploration gives them */
} search_step;

typedef struct search_state {
    uint32_t from; /* the state before; its own number at the start */
    search_step by;
} search_state;

/* All zero: nothing is found yet. */
typedef struct search_seen {
    uint64_t *hashes; /* open addressing; 0 is free */
    uint64_t capacity, count;
    search_state *states; /* by number, in the order of their finding */
} search_seen;

/* The memory, or the end of the program without it. */
void *search_must(void *memory);
/* True when the state is new; it then has the number seen->count - 1. */
bool search_enter(search_seen *seen, uint64_t hash, uint32_t from, search_step by);
/* The steps that lead to a state. Returns how many. */
uint32_t search_way(const search_seen *seen, uint32_t number, search_step way_out[SEARCH_DEPTH_MAX]);
void search_free(search_seen *seen);
/* Mixes bytes into a hash; never 0. */
uint64_t search_mix(uint64_t hash, const void *bytes, uint64_t size);

/* How an exploration came out. Violations are numbers of an exploration's own; 0: none. */
typedef struct search_outcome {
    int found;
    uint64_t states, steps, ends;
    uint32_t depth;
    uint32_t last; /* the state that broke something */
} search_outcome;

/* Prints the line of an exploration, up to its way. True when it came out as expected. */
bool search_tell(const char *name, const char *bounds, const search_outcome *outcome, int expected,
                 const char *(*violation_name)(int));
/* Runs all explorations, or those whose name contains the argument. `models` are `count` structs of `size` bytes, each of which
 * begins with its name, a const char *. The exit status. */
int search_main(int argument_count, char **arguments, const void *models, size_t size, size_t count, bool (*run)(const void *));

/* A world that is reached again by steps. */
typedef struct search_world {
    void (*begin)(const void *model);
    void (*end)(void); /* NULL: nothing is to be freed */
    uint32_t (*steps)(search_step steps_out[SEARCH_STEPS_MAX]);
    /* Steps that nobody may count on, such as giving up; NULL: all may be. */
    bool (*is_optional)(search_step step);
    void (*go)(search_step step);
    int (*violation)(void);
    /* The fault in a state from which no step leads to another, but optional ones. */
    int (*settled)(void);
    uint64_t (*digest)(void);
    void (*describe)(search_step step, char text_out[SEARCH_TEXT]);
    const char *(*violation_name)(int violation);
} search_world;

/* Explores one model, prints its line, and the way to what broke something. True when it came out as expected. */
bool search_explore(const search_world *world, const void *model, const char *name, const char *bounds, int expected);

#endif
