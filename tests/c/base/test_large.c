/* test_large.c: large copies are exact whichever way they are made, and the fastest way is the one that is taken.
 *
 * Needs the whole library. */
#include "base/large.h"
#include "check.h"

#include <stdlib.h>

enum { LARGEST = RT_LARGE_SIZE_MIN << (RT_LARGE_PACES - 1), AROUND = 4096 };

typedef struct copies {
    rt_large_pace paces[RT_LARGE_PACES];
    uint8_t *from, *to;
} copies;

static void copies_begin(copies *c)
{
    memset(c->paces, 0, sizeof c->paces);
    c->from = malloc(LARGEST + AROUND);
    c->to = malloc(LARGEST + AROUND);
    CHECK(c->from != NULL && c->to != NULL);
    for (size_t at = 0; at < LARGEST + AROUND; at++)
        c->from[at] = (uint8_t)(at * 2654435761u >> 24);
}

static void copies_end(copies *c)
{
    free(c->from);
    free(c->to);
}

/* Copies between these offsets and compares, with what lies on either side. */
static void check_copy(copies *c, size_t to, size_t from, size_t size)
{
    memset(c->to, 0xee, to + size + 64);
    rt_large_copy(c->paces, c->to + to, c->from + from, size);
    CHECK_BYTES(c->to + to, c->from + from, size);
    for (size_t at = 0; at < to; at++)
        CHECK_INT(c->to[at], 0xee);
    for (size_t at = to + size; at < to + size + 64; at++)
        CHECK_INT(c->to[at], 0xee);
}

/* Each way is taken in turn at first. */
static void every_way_copies_exactly_at_every_alignment_and_odd_sizes(void)
{
    copies c;
    copies_begin(&c);
    for (size_t turn = 0; turn < 4 * RT_LARGE_WAYS; turn++)
        check_copy(&c, 61 - turn, 7 * turn, RT_LARGE_SIZE_MIN + 4097 * turn + 13);
#if defined(__x86_64__)
    for (uint32_t way = 0; way < RT_LARGE_WAYS; way++)
        CHECK(c.paces[0].cost[way] != 0); /* it was taken */
#endif
    copies_end(&c);
}

static void sizes_of_each_power_of_two_are_learned_apart(void)
{
    copies c;
    copies_begin(&c);
    uint32_t class = 0;
    for (size_t size = RT_LARGE_SIZE_MIN; size <= LARGEST; size *= 2, class ++) {
        check_copy(&c, 0, 1, size);
        CHECK_INT(c.paces[class].copies, 1);
    }
    CHECK_INT(class, RT_LARGE_PACES);
    check_copy(&c, 3, 0, 2 * RT_LARGE_SIZE_MIN - 1);
    CHECK_INT(c.paces[0].copies, 2);
    copies_end(&c);
}

/* The costs are set so that no measurement can change which is least: the one that is taken moves up by a fourth of its double
 * at most. */
static void the_fastest_way_is_taken_and_others_once_in_a_while(void)
{
    copies c;
    copies_begin(&c);
    rt_large_pace *pace = &c.paces[0];
    const uint32_t dear = UINT32_MAX - 1;
    pace->copies = 1000; /* all were tried */
    for (uint32_t way = 0; way < RT_LARGE_WAYS; way++)
        pace->cost[way] = dear;
    pace->cost[RT_LARGE_WAYS - 1] = 1;
    uint32_t other_before = pace->cost[0];
    check_copy(&c, 0, 0, RT_LARGE_SIZE_MIN);
#if defined(__x86_64__)
    CHECK_INT(pace->cost[0], other_before); /* it was not taken */
    uint32_t changed = 0;
    for (uint32_t copy = 0; copy < 64 * RT_LARGE_WAYS; copy++)
        rt_large_copy(c.paces, c.to, c.from, RT_LARGE_SIZE_MIN);
    for (uint32_t way = 0; way + 1 < RT_LARGE_WAYS; way++)
        changed += pace->cost[way] < dear;
    CHECK_INT(changed, RT_LARGE_WAYS - 1); /* each was tried again, and is far cheaper than was believed */
#else
    (void)other_before;
#endif
    copies_end(&c);
}

static const check_test tests[] = {
    CHECK_TEST(every_way_copies_exactly_at_every_alignment_and_odd_sizes),
    CHECK_TEST(sizes_of_each_power_of_two_are_learned_apart),
    CHECK_TEST(the_fastest_way_is_taken_and_others_once_in_a_while),
};

CHECK_MAIN(tests)
