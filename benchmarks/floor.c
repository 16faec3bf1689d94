/* floor.c: the physical limit that transfers between two processes of one host are measured against: memcpy into memory that
 * the other process maps, then a release store of a flag. No protocol, no checks, no wake-up. Built by make bench. */
#include <stdint.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Copies `count` times and returns the nanoseconds of all. */
int64_t floor_copies(void *to, const void *from, uint64_t size, uint64_t *flag, uint64_t count)
{
    int64_t begin = now_ns();
    for (uint64_t index = 1; index <= count; index++) {
        memcpy(to, from, size);
        __atomic_store_n(flag, index, __ATOMIC_RELEASE);
    }
    return now_ns() - begin;
}

/* Copies `count` ranges of `size` bytes that lie side by side, each with a flag store after it. */
int64_t floor_many(char *to, const char *from, uint64_t size, uint64_t *flag, uint64_t count)
{
    int64_t begin = now_ns();
    for (uint64_t index = 0; index < count; index++) {
        memcpy(to + index * size, from + index * size, size);
        __atomic_store_n(flag, index, __ATOMIC_RELEASE);
    }
    return now_ns() - begin;
}
