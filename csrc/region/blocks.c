/* blocks.c: blocks of a region: taking, giving back, and the quarantine of a block that was freed
 * while an operation uses it (RDMA-RULES 16). The arena, arena.c, finds the room. */
#include <assert.h>

#include "device/device.h"
#include "device/fork.h"
#include "memory/arena.h"
#include "region/region.h"

/* Whether the region was made by a process of which this one is a child. A region outlives its
 * device, so the child may have devices of its own beside it, and a thread that the child does not
 * have may hold the region's locks. */
bool rt_region_foreign(const rt_region *region)
{
    return rt_forked() || region->born != rt_fork_number();
}

int64_t rt_region_allocate(rt_region *region, uint64_t size, uint64_t alignment)
{
    if (rt_region_foreign(region))
        return RT_E_FORKED;
    if (region->device == NULL)
        return RT_E_CLOSED;
    if (region->arena == NULL)
        return RT_E_UNSUPPORTED; /* adopted memory is the caller's to divide */
    int64_t block = rt_arena_allocate(region->arena, size, alignment);
    if (block == RT_E_NO_MEMORY && atomic_load_explicit(&region->deferred_count, memory_order_acquire) > 0) {
        rt_region_settle(region);
        block = rt_arena_allocate(region->arena, size, alignment);
    }
    return block;
}

/* Whether an operation that has not ended uses the block. region->settling held. */
static bool block_busy(rt_region *region, int64_t block)
{
    uint64_t offset, size;
    if (atomic_load_explicit(&region->operations, memory_order_acquire) == 0)
        return false;
    int status = rt_arena_range(region->arena, block, &offset, &size);
    assert(status == RT_OK);
    return status == RT_OK && region->device->upcalls->range_busy(region, offset, size);
}

/* Gives a quarantined block back to the arena. region->settling held. */
static void block_reclaim(rt_region *region, int64_t block)
{
    int status = rt_arena_reclaim(region->arena, block);
    assert(status == RT_OK);
    (void)status;
    atomic_fetch_sub_explicit(&region->deferred_count, 1, memory_order_relaxed);
}

/* Decides about every quarantined block. region->settling held. */
static void blocks_settle(rt_region *region)
{
    int64_t next, block = rt_arena_next_deferred(region->arena, 0);
    for (; block != 0; block = next) {
        next = rt_arena_next_deferred(region->arena, block);
        if (!block_busy(region, block))
            block_reclaim(region, block);
    }
}

void rt_region_settle_now(rt_region *region)
{
    if (atomic_load_explicit(&region->deferred_count, memory_order_acquire) == 0 || pthread_mutex_trylock(&region->settling) != 0)
        return;
    blocks_settle(region);
    pthread_mutex_unlock(&region->settling);
}

int rt_region_free(rt_region *region, int64_t block)
{
    if (rt_region_foreign(region))
        return RT_E_FORKED;
    if (region->arena == NULL)
        return RT_E_UNSUPPORTED;
    if (atomic_load_explicit(&region->operations, memory_order_acquire) == 0) {
        rt_region_settle_now(region);
        return rt_arena_free(region->arena, block);
    }
    /* Defer first, then check: an operation found busy ends after this count, and settles the
     * block. */
    bool asks = pthread_mutex_trylock(&region->settling) == 0;
    atomic_fetch_add_explicit(&region->deferred_count, 1, memory_order_release);
    int status = rt_arena_defer(region->arena, block);
    if (status != RT_OK)
        atomic_fetch_sub_explicit(&region->deferred_count, 1, memory_order_relaxed);
    else if (asks && !block_busy(region, block))
        block_reclaim(region, block);
    if (asks)
        pthread_mutex_unlock(&region->settling);
    return status;
}

void rt_region_settle(rt_region *region)
{
    if (region->arena == NULL || atomic_load_explicit(&region->deferred_count, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&region->settling);
    blocks_settle(region);
    pthread_mutex_unlock(&region->settling);
}
