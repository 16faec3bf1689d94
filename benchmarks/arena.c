/* arena.c: what allocating and freeing a block costs in C, without Python: the arena itself, one thread, its turn not contended.
 * Compiled by measure.py together with csrc/memory/arena.c. Both give the seconds of a pair, or a negative number for no memory. */
#include "base/clock.h"
#include "base/status.h"
#include "memory/arena.h"

enum { LIVE = 1024, SIZE_MIN = 64, SIZE_SPAN = 65536 };

/* A block of 4 KiB, and at once back again. */
double arena_one_size(uint32_t count)
{
    rt_arena *arena;
    if (rt_arena_create((uint64_t)1 << 30, &arena) != RT_OK)
        return -1;
    int64_t begin = rt_clock_now_ns();
    for (uint32_t index = 0; index < count; index++)
        rt_arena_free(arena, rt_arena_allocate(arena, 4096, 64));
    int64_t end = rt_clock_now_ns();
    rt_arena_destroy(arena);
    return (double)(end - begin) * 1e-9 / count;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* A block at random of 1024 that live is freed, and one of a random size takes its place. */
double arena_random(uint32_t count)
{
    static int64_t live[LIVE];
    uint64_t random = 1;
    rt_arena *arena;
    if (rt_arena_create((uint64_t)1 << 30, &arena) != RT_OK)
        return -1;
    for (uint32_t index = 0; index < LIVE; index++)
        live[index] = rt_arena_allocate(arena, SIZE_MIN + next_random(&random) % SIZE_SPAN, 64);
    int64_t begin = rt_clock_now_ns();
    for (uint32_t index = 0; index < count; index++) {
        int64_t *block = &live[next_random(&random) % LIVE];
        rt_arena_free(arena, *block);
        *block = rt_arena_allocate(arena, SIZE_MIN + next_random(&random) % SIZE_SPAN, 64);
    }
    int64_t end = rt_clock_now_ns();
    rt_arena_destroy(arena);
    return (double)(end - begin) * 1e-9 / count;
}
