/* test_arena.c: the arena against a bitmap that knows every granule, over many seeds, and by single claims.
 *
 * Needs csrc/memory/arena.c, csrc/base/status.c and threads. RT_SEED=n runs the random tests with that one seed. */
#include <pthread.h>
#include <stdlib.h>

#include "base/status.h"
#include "check.h"
#include "memory/arena.h"
#include "rdmatensor.h"

enum { GRANULE = 64, MODEL_GRANULES = 3000, MODEL_BLOCKS = 400, SEEDS = 150, STEPS = 1500 };

/* ---- random numbers: splitmix64 ---- */

static uint64_t random_state;

static uint64_t random_next(uint64_t *state)
{
    uint64_t mixed = *state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

static uint64_t below(uint64_t bound)
{
    return random_next(&random_state) % bound;
}

/* As CHECK, with what reproduces it. */
#define CHECK_SEEDED(condition)                                                                                                  \
    do {                                                                                                                         \
        bool check_holds = (condition);                                                                                          \
        if (!check_holds)                                                                                                        \
            printf("RT_SEED=%" PRIu64 " reproduces it, step %" PRIu64 ": %s\n", model.seed, model.step, #condition);             \
        CHECK(check_holds);                                                                                                      \
    } while (0)

/* ---- the model ---- */

static struct {
    uint64_t seed, step;
    uint64_t granules;
    uint8_t taken[MODEL_GRANULES]; /* by an allocated or a deferred block */
    struct {
        int64_t number;
        uint64_t first, count;
        bool deferred;
    } blocks[MODEL_BLOCKS];
    uint64_t block_count;
} model;

/* How many free runs there are, the longest, and whether one holds `count` granules at the alignment. */
static bool model_look(uint64_t count, uint64_t alignment, uint64_t *runs_out, uint64_t *longest_out)
{
    bool fits = false;
    *runs_out = *longest_out = 0;
    for (uint64_t at = 0; at < model.granules; at++) {
        if (model.taken[at])
            continue;
        uint64_t first = at;
        while (at < model.granules && !model.taken[at])
            at++;
        uint64_t start = (first + alignment - 1) / alignment * alignment;
        fits = fits || start + count <= at;
        *runs_out += 1;
        if (at - first > *longest_out)
            *longest_out = at - first;
    }
    return fits;
}

static void model_mark(uint64_t first, uint64_t count, uint8_t value)
{
    for (uint64_t at = first; at < first + count; at++) {
        CHECK_SEEDED(model.taken[at] != value);
        model.taken[at] = value;
    }
}

static void model_forget(uint64_t index)
{
    model_mark(model.blocks[index].first, model.blocks[index].count, 0);
    model.blocks[index] = model.blocks[--model.block_count];
}

/* ---- the steps of the random test ---- */

static uint64_t random_size(void)
{
    switch (below(4)) {
    case 0: return 1 + below(GRANULE * 4);
    case 1: return GRANULE * (1 + below(64));
    case 2: return 1 + below(GRANULE * 300);
    default: return 1 + below(model.granules * GRANULE);
    }
}

static void step_allocate(rt_arena *arena)
{
    uint64_t size = random_size(), alignment = 1ull << below(below(3) == 0 ? 18 : 8), runs, longest;
    uint64_t count = (size + GRANULE - 1) / GRANULE, spacing = alignment > GRANULE ? alignment / GRANULE : 1;
    bool fits = model_look(count, spacing, &runs, &longest);
    if (model.block_count == MODEL_BLOCKS)
        return;
    int64_t number = rt_arena_allocate(arena, size, alignment);
    if (number < 0) {
        CHECK_SEEDED(number == RT_E_NO_MEMORY);
        CHECK_SEEDED(!fits || runs > 64);                        /* exact while there are few free runs */
        CHECK_SEEDED(longest < (count + spacing) * 33 / 32 + 1); /* and never far from it */
        return;
    }
    uint64_t offset = UINT64_MAX, taken = 0;
    CHECK_SEEDED(rt_arena_range(arena, number, &offset, &taken) == RT_OK);
    CHECK_SEEDED(number > 0 && (uint64_t)number >> RT_BLOCK_INDEX_BITS == offset / GRANULE);
    CHECK_SEEDED(offset % GRANULE == 0 && offset % alignment == 0 && taken == count * GRANULE);
    CHECK_SEEDED(offset / GRANULE + count <= model.granules);
    model_mark(offset / GRANULE, count, 1);
    model.blocks[model.block_count].number = number;
    model.blocks[model.block_count].first = offset / GRANULE;
    model.blocks[model.block_count].count = count;
    model.blocks[model.block_count++].deferred = false;
}

static void step_end(rt_arena *arena)
{
    if (model.block_count == 0)
        return;
    uint64_t index = below(model.block_count);
    int64_t number = model.blocks[index].number;
    if (model.blocks[index].deferred) {
        CHECK_SEEDED(rt_arena_free(arena, number) == RT_E_INVALID);
        CHECK_SEEDED(rt_arena_defer(arena, number) == RT_E_INVALID);
        CHECK_SEEDED(rt_arena_reclaim(arena, number) == RT_OK);
        model_forget(index);
    } else if (below(4) == 0) {
        CHECK_SEEDED(rt_arena_defer(arena, number) == RT_OK);
        model.blocks[index].deferred = true;
        return;
    } else {
        CHECK_SEEDED(rt_arena_reclaim(arena, number) == RT_E_INVALID);
        CHECK_SEEDED(rt_arena_free(arena, number) == RT_OK);
        model_forget(index);
    }
    CHECK_SEEDED(rt_arena_free(arena, number) == RT_E_INVALID);
}

/* A number that was never given: nothing happens, as the other checks then show. */
static void step_foreign(rt_arena *arena)
{
    int64_t number = (int64_t)random_next(&random_state);
    if (model.block_count > 0 && below(2) == 0)
        number = model.blocks[below(model.block_count)].number ^ (1ll << below(63));
    for (uint64_t index = 0; index < model.block_count; index++)
        if (model.blocks[index].number == number)
            return;
    CHECK_SEEDED(rt_arena_free(arena, number) == RT_E_INVALID);
    CHECK_SEEDED(rt_arena_defer(arena, number) == RT_E_INVALID);
    CHECK_SEEDED(rt_arena_reclaim(arena, number) == RT_E_INVALID);
}

static void check_statistics(rt_arena *arena)
{
    uint64_t allocated = 0, allocations = 0, deferred = 0, quarantined = 0, runs, longest;
    for (uint64_t index = 0; index < model.block_count; index++) {
        bool waits = model.blocks[index].deferred;
        allocations += !waits;
        quarantined += waits;
        allocated += waits ? 0 : model.blocks[index].count * GRANULE;
        deferred += waits ? model.blocks[index].count * GRANULE : 0;
    }
    model_look(1, 1, &runs, &longest);
    rt_arena_stats stats;
    rt_arena_get_stats(arena, &stats);
    CHECK_SEEDED(stats.allocated_bytes == allocated && stats.allocations == allocations);
    CHECK_SEEDED(stats.deferred_bytes == deferred && stats.deferred == quarantined);
    CHECK_SEEDED(stats.peak_bytes >= allocated && stats.peak_bytes <= model.granules * GRANULE);
    CHECK_SEEDED(stats.largest_free_bytes <= longest * GRANULE && stats.largest_free_bytes >= longest * GRANULE / 33 * 32);
    CHECK_SEEDED(runs > 64 || stats.largest_free_bytes == longest * GRANULE);
    uint64_t found = 0;
    for (int64_t number = 0; (number = rt_arena_next_deferred(arena, number)) != 0;)
        found++;
    CHECK_SEEDED(found == quarantined);
}

static void run_seed(uint64_t seed)
{
    memset(&model, 0, sizeof model);
    random_state = model.seed = seed;
    model.granules = 1 + below(MODEL_GRANULES);
    rt_arena *arena;
    CHECK_SEEDED(rt_arena_create(model.granules * GRANULE + below(GRANULE), &arena) == RT_OK);
    for (; model.step < STEPS; model.step++) {
        bool filling = model.step / 250 % 2 == 0;
        uint64_t kind = below(10);
        if (kind == 0)
            step_foreign(arena);
        else if (kind < (filling ? 7u : 4u))
            step_allocate(arena);
        else
            step_end(arena);
        if (model.step % 50 == 0)
            check_statistics(arena);
    }
    while (model.block_count > 0)
        step_end(arena);
    check_statistics(arena);
    CHECK_SEEDED(rt_arena_allocate(arena, model.granules * GRANULE, 1) > 0); /* one block again */
    rt_arena_destroy(arena);
}

static void an_arena_agrees_with_a_bitmap_over_many_seeds(void)
{
    const char *only = getenv("RT_SEED");
    if (only != NULL)
        run_seed(strtoull(only, NULL, 0));
    for (uint64_t seed = 1; only == NULL && seed <= SEEDS; seed++)
        run_seed(seed);
}

/* ---- single claims ---- */

static uint64_t offset_of(int64_t number)
{
    return ((uint64_t)number >> RT_BLOCK_INDEX_BITS) * GRANULE;
}

static rt_arena *arena_of(uint64_t size)
{
    rt_arena *arena = NULL;
    CHECK_INT(rt_arena_create(size, &arena), RT_OK);
    return arena;
}

static void an_arena_smaller_than_a_granule_is_refused(void)
{
    rt_arena *arena;
    CHECK_INT(rt_arena_create(0, &arena), RT_E_INVALID);
    CHECK_INT(rt_arena_create(63, &arena), RT_E_INVALID);
    CHECK_INT(rt_arena_create(1ull << 47, &arena), RT_E_INVALID);
    CHECK_INT(rt_arena_create((1ull << 47) - 64, &arena), RT_OK);
    CHECK(rt_arena_allocate(arena, (1ull << 47) - 64, 1) > 0);
    rt_arena_destroy(arena);
}

static void wrong_sizes_and_alignments_are_refused(void)
{
    rt_arena *arena = arena_of(8 << 20);
    CHECK_INT(rt_arena_allocate(arena, 0, 64), RT_E_INVALID);
    CHECK_INT(rt_arena_allocate(arena, 64, 0), RT_E_INVALID);
    CHECK_INT(rt_arena_allocate(arena, 64, 96), RT_E_INVALID);
    CHECK_INT(rt_arena_allocate(arena, 64, 4 << 20), RT_E_INVALID);
    CHECK_INT(rt_arena_allocate(arena, (8 << 20) + 1, 64), RT_E_NO_MEMORY);
    CHECK_INT(rt_arena_allocate(arena, UINT64_MAX, 64), RT_E_NO_MEMORY);
    CHECK_INT(rt_arena_free(arena, 0), RT_E_INVALID);
    CHECK_INT(rt_arena_free(arena, RT_E_NO_MEMORY), RT_E_INVALID);
    rt_arena_destroy(arena);
}

static void every_power_of_two_up_to_2_mib_aligns(void)
{
    rt_arena *arena = arena_of(64 << 20);
    CHECK(rt_arena_allocate(arena, 1, 1) > 0); /* so that nothing is aligned by being first */
    for (uint64_t alignment = 1; alignment <= 2 << 20; alignment *= 2) {
        int64_t number = rt_arena_allocate(arena, 100, alignment);
        CHECK(number > 0);
        CHECK_INT(offset_of(number) % alignment, 0);
    }
    rt_arena_destroy(arena);
}

static void a_freed_block_serves_the_next_of_its_size_and_alignment(void)
{
    rt_arena *arena = arena_of(64 << 20);
    int64_t first = rt_arena_allocate(arena, 1000000, 4096), fence = rt_arena_allocate(arena, 64, 64);
    CHECK(first > 0 && fence > 0);
    CHECK_INT(rt_arena_free(arena, first), RT_OK);
    CHECK_INT(offset_of(rt_arena_allocate(arena, 1000000, 4096)), offset_of(first));
    rt_arena_destroy(arena);
}

static void fragments_coalesce_to_one_block_in_any_order_of_freeing(void)
{
    enum { COUNT = 1000 };
    static int64_t numbers[COUNT];
    for (int order = 0; order < 3; order++) {
        rt_arena *arena = arena_of(COUNT * GRANULE);
        for (int index = 0; index < COUNT; index++)
            CHECK((numbers[index] = rt_arena_allocate(arena, GRANULE, 1)) > 0);
        CHECK_INT(rt_arena_allocate(arena, 1, 1), RT_E_NO_MEMORY);
        for (int index = 0; index < COUNT; index++) { /* upwards, downwards, every 7th */
            int at = order == 0 ? index : order == 1 ? COUNT - 1 - index : index * 7 % COUNT;
            CHECK_INT(rt_arena_free(arena, numbers[at]), RT_OK);
        }
        rt_arena_stats stats;
        rt_arena_get_stats(arena, &stats);
        CHECK_INT(stats.largest_free_bytes, COUNT * GRANULE);
        CHECK_INT(stats.allocated_bytes, 0);
        CHECK_INT(stats.peak_bytes, COUNT * GRANULE);
        rt_arena_destroy(arena);
    }
}

static void a_quarantined_block_is_not_served_until_it_is_reclaimed(void)
{
    rt_arena *arena = arena_of(4096);
    int64_t number = rt_arena_allocate(arena, 4096, 64);
    CHECK_INT(rt_arena_defer(arena, number), RT_OK);
    CHECK_INT(rt_arena_allocate(arena, 64, 64), RT_E_NO_MEMORY);
    CHECK_INT(rt_arena_next_deferred(arena, 0), number);
    CHECK_INT(rt_arena_free(arena, number), RT_E_INVALID);
    CHECK_INT(rt_arena_reclaim(arena, number), RT_OK);
    CHECK(rt_arena_allocate(arena, 4096, 64) > 0);
    rt_arena_destroy(arena);
}

static void blocks_end_at_the_most_a_number_can_index_and_go_on_after_a_free(void)
{
    uint64_t count = 0, most = 1u << RT_BLOCK_INDEX_BITS;
    rt_arena *arena = arena_of((most + 1000) * GRANULE);
    int64_t number = 0, last = 0;
    while ((number = rt_arena_allocate(arena, 1, 1)) > 0) {
        last = number;
        count++;
    }
    CHECK_INT(number, RT_E_NO_MEMORY);
    CHECK_INT(count, most - 2); /* index 0 is never used, and one descriptor is the rest's */
    CHECK_INT(rt_arena_free(arena, last), RT_OK);
    CHECK(rt_arena_allocate(arena, 1, 1) > 0);
    rt_arena_destroy(arena);
}

/* ---- threads ---- */

enum { THREADS = 4, HELD = 40, ROUNDS = 4000, SHARED_SIZE = 1 << 20 };

static rt_arena *shared_arena;
static uint8_t shared_bytes[SHARED_SIZE];

/* Fills each block with a value of its own and looks for another's before giving it back. Returns how many were wrong. */
static void *use_blocks(void *argument)
{
    uint64_t state = (uintptr_t)argument, wrong = 0;
    struct {
        int64_t number;
        uint64_t size;
        uint8_t value;
    } held[HELD] = {{0, 0, 0}};
    for (uint64_t round = 0; round < ROUNDS + HELD; round++) {
        uint64_t at = round < ROUNDS ? random_next(&state) % HELD : round - ROUNDS;
        if (held[at].number > 0) {
            const uint8_t *bytes = shared_bytes + offset_of(held[at].number);
            for (uint64_t byte = 0; byte < held[at].size; byte += GRANULE / 2)
                wrong += bytes[byte] != held[at].value;
            wrong += rt_arena_free(shared_arena, held[at].number) != RT_OK;
        }
        held[at].number = 0;
        if (round >= ROUNDS)
            continue;
        held[at].size = 1 + random_next(&state) % 8000;
        held[at].value = (uint8_t)random_next(&state);
        held[at].number = rt_arena_allocate(shared_arena, held[at].size, 1ull << random_next(&state) % 10);
        if (held[at].number > 0)
            memset(shared_bytes + offset_of(held[at].number), held[at].value, held[at].size);
    }
    return (void *)(uintptr_t)wrong;
}

static void threads_never_share_a_block(void)
{
    pthread_t threads[THREADS];
    shared_arena = arena_of(SHARED_SIZE);
    for (uintptr_t index = 0; index < THREADS; index++)
        CHECK_INT(pthread_create(&threads[index], NULL, use_blocks, (void *)(index + 1)), 0);
    uintptr_t wrong = 0;
    for (int index = 0; index < THREADS; index++) {
        void *result;
        CHECK_INT(pthread_join(threads[index], &result), 0);
        wrong += (uintptr_t)result;
    }
    CHECK_INT(wrong, 0);
    rt_arena_stats stats;
    rt_arena_get_stats(shared_arena, &stats);
    CHECK_INT(stats.allocations, 0);
    CHECK_INT(stats.largest_free_bytes, SHARED_SIZE);
    rt_arena_destroy(shared_arena);
}

static const check_test tests[] = {
    CHECK_TEST(an_arena_agrees_with_a_bitmap_over_many_seeds),
    CHECK_TEST(an_arena_smaller_than_a_granule_is_refused),
    CHECK_TEST(wrong_sizes_and_alignments_are_refused),
    CHECK_TEST(every_power_of_two_up_to_2_mib_aligns),
    CHECK_TEST(a_freed_block_serves_the_next_of_its_size_and_alignment),
    CHECK_TEST(fragments_coalesce_to_one_block_in_any_order_of_freeing),
    CHECK_TEST(a_quarantined_block_is_not_served_until_it_is_reclaimed),
    CHECK_TEST(blocks_end_at_the_most_a_number_can_index_and_go_on_after_a_free),
    CHECK_TEST(threads_never_share_a_block),
};
CHECK_MAIN(tests)
