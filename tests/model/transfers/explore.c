/* explore.c: every order in which callers, messages and those who drive can go on, for small programs of sends and receives.
 *
 *     transfers            all explorations of the table, one line each; exit status 1 when one is not as expected
 *     transfers NAME       those whose name contains NAME
 *
 * Breadth first; a state is reached again by its way: tests/model/search.h. */
#include <stdio.h>

#include "transfers.h"

/* ---- the table ---- */

#define SEND(peer, tag, size)                                                                                                    \
    {                                                                                                                            \
        's', (peer), (tag), (size)                                                                                               \
    }
#define RECEIVE(peer, tag, size)                                                                                                 \
    {                                                                                                                            \
        'r', (peer), (tag), (size)                                                                                               \
    }
#define DROPS .drops = true
#define BUDGET(messages) .budget = (messages)
#define OFFERS(sends) .offers = (sends)
#define MUTANT(what) .mutant = TX_##what
#define FINDS(what) .expected = TX_##what

enum { SMALL = 2, LARGE = 6 };

/* clang-format off */
static const tx_model models[] = {
    {"small, 2 tags", 2, 2, .calls = {{SEND(1, 1, SMALL), SEND(1, 2, SMALL), SEND(1, 1, SMALL)},
                                      {RECEIVE(0, 2, SMALL), RECEIVE(0, 1, SMALL), RECEIVE(0, 1, SMALL)}}},
    {"large and small, one tag", 2, 2, .calls = {{SEND(1, 1, LARGE), SEND(1, 1, SMALL), SEND(1, 2, LARGE)},
                                      {RECEIVE(0, 2, LARGE), RECEIVE(0, 1, LARGE), RECEIVE(0, 1, SMALL)}}},
    {"both ways, 1 slot", 2, 1, .calls = {{SEND(1, 1, LARGE), RECEIVE(1, 1, LARGE), SEND(1, 2, SMALL)},
                                      {SEND(0, 1, LARGE), RECEIVE(0, 1, LARGE), RECEIVE(0, 2, SMALL)}}},
    {"any source", 3, 2, .calls = {{SEND(2, 1, SMALL)}, {SEND(2, 1, SMALL)}, {RECEIVE(-1, 1, SMALL), RECEIVE(-1, 1, SMALL)}}},
    {"any source, large", 3, 2, .calls = {{SEND(2, 1, LARGE)}, {SEND(2, 1, LARGE)}, {RECEIVE(-1, 1, LARGE), RECEIVE(-1, 1, LARGE)}}},
    {"held back", 2, 2, BUDGET(1), .calls = {{SEND(1, 1, SMALL), SEND(1, 1, SMALL), SEND(1, 2, SMALL)},
                                      {RECEIVE(0, 1, SMALL), RECEIVE(0, 2, SMALL), RECEIVE(0, 1, SMALL)}}},
    {"given up, small", 2, 2, DROPS, .calls = {{SEND(1, 1, SMALL), SEND(1, 1, SMALL)}, {RECEIVE(0, 1, SMALL), RECEIVE(0, 1, SMALL)}}},
    {"given up, large", 2, 2, DROPS, .calls = {{SEND(1, 1, LARGE), SEND(1, 1, LARGE)}, {RECEIVE(0, 1, LARGE), RECEIVE(0, 1, LARGE)}}},
    {"given up, large, 1 slot", 2, 1, DROPS, .calls = {{SEND(1, 1, LARGE), RECEIVE(1, 2, LARGE)}, {RECEIVE(0, 1, LARGE), SEND(0, 2, LARGE)}}},
    {"given up, any source", 3, 2, DROPS, .calls = {{SEND(2, 1, LARGE)}, {SEND(2, 1, LARGE)}, {RECEIVE(-1, 1, LARGE)}}},
    {"given up, held back", 2, 2, DROPS, BUDGET(1), .calls = {{SEND(1, 1, SMALL), SEND(1, 1, SMALL)},
                                      {RECEIVE(0, 1, SMALL), RECEIVE(0, 1, SMALL)}}},
    {"many offered", 2, 2, OFFERS(1), .calls = {{SEND(1, 1, LARGE), SEND(1, 2, LARGE), SEND(1, 1, SMALL)},
                                      {RECEIVE(0, 1, LARGE), RECEIVE(0, 2, LARGE), RECEIVE(0, 1, SMALL)}}},
    {"given up, many offered", 2, 2, DROPS, OFFERS(1), .calls = {{SEND(1, 1, LARGE), SEND(1, 1, LARGE)},
                                      {RECEIVE(0, 1, LARGE), RECEIVE(0, 1, LARGE)}}},
    {"given up, both ways", 2, 2, DROPS, .calls = {{SEND(1, 1, LARGE), RECEIVE(1, 2, LARGE), SEND(1, 3, SMALL)},
                                      {SEND(0, 2, LARGE), RECEIVE(0, 1, LARGE), RECEIVE(0, 3, SMALL)}}},
    {"given up, sizes differ", 2, 2, DROPS, .calls = {{SEND(1, TX_MISFIT, LARGE), SEND(1, 2, SMALL)},
                                      {RECEIVE(0, TX_MISFIT, SMALL), RECEIVE(0, 2, SMALL)}}},
    {"given up, any source, 3 sends", 3, 2, DROPS, .calls = {{SEND(2, 1, LARGE)}, {SEND(2, 1, LARGE), SEND(2, 2, SMALL)},
                                      {RECEIVE(-1, 1, LARGE), RECEIVE(1, 2, SMALL)}}},
    /* what a rule that is left out breaks: found, and kept found */
    {"given up without a word", 2, 2, DROPS, MUTANT(SILENT_DROP), FINDS(DEADLOCK),
                                      .calls = {{SEND(1, 1, LARGE)}, {RECEIVE(0, 1, LARGE)}}},
    {"given up without a word, many offered", 2, 2, DROPS, OFFERS(1), MUTANT(SILENT_DROP), FINDS(BLAMED),
                                      .calls = {{SEND(1, 1, LARGE), SEND(1, 1, LARGE)}, {RECEIVE(0, 1, LARGE)}}},
    {"a slot used again too early", 2, 1, MUTANT(NO_ROOM), FINDS(ORDER),
                                      .calls = {{SEND(1, 1, SMALL), SEND(1, 1, SMALL)}, {RECEIVE(0, 1, SMALL), RECEIVE(0, 1, SMALL)}}},
};
/* clang-format on */

static const char *violation_name(int violation)
{
    static const char *const names[] = {[TX_NONE] = "none",
                                        [TX_TORN] = "a receive got bytes that are not its send's",
                                        [TX_ORDER] = "sends overtook each other",
                                        [TX_BLAMED] = "an honest member was blamed",
                                        [TX_TOUCHED] = "memory was written after it was its caller's again",
                                        [TX_DEADLOCK] = "somebody waits for ever",
                                        [TX_END] = "an end that is not the stated one"};
    return names[violation];
}

static uint32_t count_calls(const tx_model *model)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < TX_MEMBERS; rank++) {
        for (uint32_t call = 0; call < TX_CALLS; call++)
            count += model->calls[rank][call].kind != 0;
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

/* Nobody may count on a caller that gives up. */
static bool is_optional(search_step step)
{
    return step.kind == TX_DROP;
}

static const search_world world = {
    .begin = begin,
    .end = members_end,
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
    const tx_model *model = given;
    char bounds[80];
    snprintf(bounds, sizeof bounds, "%u members %u slots %u calls", model->members, model->slots, count_calls(model));
    return search_explore(&world, model, model->name, bounds, (int)model->expected);
}

int main(int argument_count, char **arguments)
{
    return search_main(argument_count, arguments, models, sizeof models[0], sizeof models / sizeof models[0], run);
}
