/* large.h: large copies from memory to memory, each made the way that was fastest for its size so far: large.c. */
#ifndef RT_BASE_LARGE_H
#define RT_BASE_LARGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    RT_LARGE_SIZE_MIN = 512 << 10, /* below it, memcpy is as good */
    RT_LARGE_PACES = 7,            /* powers of two from there; the last stands for all above */
    RT_LARGE_WAYS = 4,
};

/* The costs of large copies of one power of two, by the way they were made; 0: not tried. Threads
 * share it without a lock. */
typedef struct rt_large_pace {
    _Atomic uint32_t copies;
    _Atomic uint32_t cost[RT_LARGE_WAYS]; /* ps per KiB */
} rt_large_pace;

/* Copies at least RT_LARGE_SIZE_MIN bytes, and orders the copy before later stores as ordinary
 * stores are. `paces` points to RT_LARGE_PACES entries, zero at first, for copies of one kind, such
 * as writes to a peer. Any thread. */
void rt_large_copy(rt_large_pace *paces, uint8_t *to, const uint8_t *from, uint64_t size);

/* The same for a copy that is made in parts, by one thread or by several. A part may be small. A
 * copy whose time says nothing about its way needs no end. */
typedef struct rt_large_run {
    rt_large_pace *pace;
    uint32_t way;
    bool trying;
    int64_t begin_ns;
} rt_large_run;
void rt_large_begin(rt_large_run *run_out, rt_large_pace *paces, uint64_t size);
void rt_large_part(const rt_large_run *run, uint8_t *to, const uint8_t *from, uint64_t size);
void rt_large_end(const rt_large_run *run, uint64_t size);

#endif
