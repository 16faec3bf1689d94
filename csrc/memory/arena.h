/* arena.h: an arena serves blocks of a region in constant time. Its bookkeeping lies outside the region, where no peer can reach.
 * All functions are thread-safe through a turn of the arena. */
#ifndef RT_MEMORY_ARENA_H
#define RT_MEMORY_ARENA_H

#include <stdint.h>

typedef struct rt_arena rt_arena;

int rt_arena_create(uint64_t size, rt_arena **arena_out);
void rt_arena_destroy(rt_arena *arena);
/* Block as in rt_region_allocate, or RT_E_NO_MEMORY, RT_E_INVALID. */
int64_t rt_arena_allocate(rt_arena *arena, uint64_t size, uint64_t alignment);
/* RT_E_INVALID for a block that is not allocated: nothing is changed. */
int rt_arena_free(rt_arena *arena, int64_t block);
/* Offset and size of an allocated or deferred block. */
int rt_arena_range(rt_arena *arena, int64_t block, uint64_t *offset_out, uint64_t *size_out);
/* Takes an allocated block into quarantine: its caller gave it up, but its bytes are not served again before
 * rt_arena_reclaim. RT_E_INVALID for a block that is not allocated. */
int rt_arena_defer(rt_arena *arena, int64_t block);
/* RT_E_INVALID for a block that is not in quarantine. */
int rt_arena_reclaim(rt_arena *arena, int64_t block);
/* The quarantined block after this one, in no order; 0 asks for the first and is the answer at the end. */
int64_t rt_arena_next_deferred(rt_arena *arena, int64_t block);
typedef struct rt_arena_stats {
    uint64_t allocated_bytes, allocations, peak_bytes; /* without quarantined blocks; allocations: the present number of blocks */
    uint64_t largest_free_bytes;                       /* the size that an allocation aligned to 64 is sure to get */
    uint64_t deferred_bytes, deferred;
} rt_arena_stats;
void rt_arena_get_stats(rt_arena *arena, rt_arena_stats *stats_out);

#endif
