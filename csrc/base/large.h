/* large.h: large copies from memory to memory, each made the way that was fastest for its size so far: large.c. */
#ifndef RT_BASE_LARGE_H
#define RT_BASE_LARGE_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    RT_LARGE_SIZE_MIN = 512 << 10, /* below it, memcpy is as good */
    RT_LARGE_PACES = 7,            /* powers of two from there; the last stands for all above */
    RT_LARGE_WAYS = 4,
};

/* What large copies of one power of two cost, by the way they were made; 0: not tried. Threads share it without a lock. */
typedef struct rt_large_pace {
    _Atomic uint32_t copies;
    _Atomic uint32_t cost[RT_LARGE_WAYS]; /* ps a KiB */
} rt_large_pace;

/* Copies at least RT_LARGE_SIZE_MIN bytes, and orders the copy before later stores as ordinary stores are. `paces` are
 * RT_LARGE_PACES, zero at first: of copies of one kind, as writes to a peer. Any thread. */
void rt_large_copy(rt_large_pace *paces, uint8_t *to, const uint8_t *from, uint64_t size);

#endif
