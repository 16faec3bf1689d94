/* explore.c: every order in which an initiator, its caller, helpers that may be stopped, and a reader
 * can go on in a few WRITEs into one slot.
 *
 *     help             all explorations of the table, one line each; exit status 1 when one is not as expected
 *     help NAME        those whose name contains NAME
 *
 * Breadth first; a state is reached again by its way: tests/model/search.h. */
#include <stdio.h>

#include "help.h"

#define OF(write_count, piece_count, helper_count) .writes = write_count, .pieces = piece_count, .helpers = helper_count
#define STOPS .stops = true
#define RELEASES .releases = true
#define GIVES_UP .gives_up = true
#define MUTANT(what) .mutant = HP_##what
#define FINDS(what) .expected = HP_##what

/* of WRITEs, pieces, helpers */
/* clang-format off */
static const hp_model models[] = {
    {"one helper", OF(3, 3, 1)},
    {"two helpers", OF(3, 3, 2)},
    {"helpers that are stopped", OF(3, 3, 2), STOPS},
    {"a region that is released", OF(2, 3, 2), STOPS, RELEASES},
    {"WRITEs that are given up", OF(3, 3, 2), STOPS, GIVES_UP},
    {"all of it", OF(2, 3, 2), STOPS, RELEASES, GIVES_UP},
    /* what a rule that is left out breaks: found, and kept found */
    {"a flag before the helpers have finished", OF(1, 2, 1), MUTANT(EARLY), FINDS(TORN)},
    {"a piece that is taken back", OF(2, 2, 1), STOPS, MUTANT(TAKEN_BACK), FINDS(TORN)},
    {"a piece counted before it is copied", OF(1, 2, 1), MUTANT(DONE_FIRST), FINDS(TORN)},
    {"offers without a sequence", OF(2, 2, 1), MUTANT(NO_SEQUENCE), FINDS(TORN)},
    {"a claim by what the words are now", OF(2, 2, 1), MUTANT(UNCHECKED), FINDS(TORN)},
    {"a flag that overtakes a late helper", OF(1, 2, 1), STOPS, MUTANT(OVERTAKEN), FINDS(TORN)},
    {"a region released under a helper", OF(1, 2, 1), RELEASES, MUTANT(NO_WAIT_OUT), FINDS(OUTSIDE)},
    {"an offer after a WRITE was given up", OF(2, 2, 1), STOPS, GIVES_UP, MUTANT(GIVEN_UP_ENDS), FINDS(TORN)},
};
/* clang-format on */

static const char *violation_name(int violation)
{
    static const char *const names[] = {[HP_NONE] = "none",
                                        [HP_TORN] = "a WRITE that was not made so",
                                        [HP_OUTSIDE] = "memory that was released is written",
                                        [HP_BLAMED] = "an honest peer was blamed",
                                        [HP_DEADLOCK] = "a WRITE that never ends"};
    return names[violation];
}

static void begin(const void *model)
{
    ends_begin(model);
}

static const search_world world = {
    .begin = begin,
    .steps = ends_steps,
    .is_optional = ends_is_optional,
    .go = ends_go,
    .violation = ends_violation,
    .settled = ends_settled,
    .digest = ends_digest,
    .describe = ends_describe,
    .violation_name = violation_name,
};

static bool run(const void *given)
{
    const hp_model *model = given;
    char bounds[80];
    snprintf(bounds, sizeof bounds, "%u WRITEs %u pieces %u helpers", model->writes, model->pieces, model->helpers);
    return search_explore(&world, model, model->name, bounds, (int)model->expected);
}

int main(int argument_count, char **arguments)
{
    return search_main(argument_count, arguments, models, sizeof models[0], sizeof models / sizeof models[0], run);
}
